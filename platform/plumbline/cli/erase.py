"""`plumb erase`: withdraw and erase a person, in one call that may be made again after a kill.

Exit codes: 0 erased, 2 an error with a remedy (the withdrawal, if it was made, stands).
"""

from pathlib import Path

import click

from plumbline.cli.options import as_json, open_blobs, open_ledger, print_json, stores, tenant_key

REMEDIATIONS = ("retrain", "adapter-removal", "retire", "no-action", "unsupported")


@click.command()
@click.argument("identity")
@click.option(
    "--remediation",
    type=click.Choice(REMEDIATIONS),
    default="retrain",
    show_default=True,
    help="What is to be done about policies trained on their words; recorded, and nothing is ever unlearned by it.",
)
@click.option("--reason", default="the subject withdrew consent", show_default=True)
@click.option("--actor", default="command line", show_default=True, help="Who decides the remediation.")
@as_json
@stores
def erase(identity: str, remediation: str, reason: str, actor: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Withdraw everything IDENTITY consented to, publish the versions without them, and erase their words, salts and
    signatures from every version, the inbox, reviews and freed disk pages. Digests and roots verify as before.

    IDENTITY is the person as their source knows them, their pseudonym (s-...), or the digest of that pseudonym.
    """
    from plumbline.feedback import ConsentDesk
    from plumbline.feedback.erase import erase_or_withdraw
    from plumbline.stores.projections import resolve_subject

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs)
    identity = resolve_subject(store, identity)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity))
    done = erase_or_withdraw(store, kept, desk, identity, remediation=remediation, reason=reason, actor=actor)  # type: ignore[arg-type]
    if json_out:
        print_json(
            {
                "subject": done.subject,
                "consent_sequence": done.consent_sequence,
                "versions": [
                    {"dataset": one.dataset, "version": one.version, "digest": one.digest} for one in done.versions
                ],
                "events": done.events,
                "payloads": done.payloads,
                "labels": done.labels,
                "policies": list(done.policies),
                "remediation": remediation,
                "copies": [{"location": one.location, "version": one.version} for one in done.copies],
                "remains": list(done.remains),
                "proof": done.proof,
            }
        )
        return
    click.echo(f"{done.subject} is erased as of consent entry {done.consent_sequence}")
    click.echo(f"  overwritten: events {done.events}, payloads {done.payloads}, reasons of reviewers {done.labels}")
    for one in done.versions:
        click.echo(f"  {one.dataset} version {one.version} is without them: {one.digest}")
    for policy in done.policies:
        click.echo(f"  policy {policy} was trained on their words; recorded: {remediation} (nothing is unlearned)")
    for copy in done.copies:
        click.echo(f"  {copy.location} is a copy that holds them (version {copy.version}): delete it or export again")
    for place in done.remains:
        click.echo(f"  beyond reach: {place}")
    click.echo(f"  proof {done.proof}")
