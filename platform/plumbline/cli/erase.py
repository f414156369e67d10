"""`plumb erase`: withdraw and erase a person, in one call that may be made again after a kill.

Exit codes: 0 erased, 2 an error with a remedy (the withdrawal, if it was made, stands).
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import as_json, open_blobs, open_ledger, print_json, stores, tenant_key
from plumbline.cli.shadow import consent_for_evaluation

if TYPE_CHECKING:
    from plumbline.feedback import ErasureResult
    from plumbline.stores import BlobStore, Ledger

REMEDIATIONS = ("retrain", "adapter-removal", "retire", "no-action", "unsupported")


@click.command()
@click.argument("identity", required=False)
@click.option(
    "--remediation",
    type=click.Choice(REMEDIATIONS),
    default="retrain",
    show_default=True,
    help="What is to be done about policies trained on their words; recorded, and nothing is ever unlearned by it.",
)
@click.option("--reason", default="the subject withdrew consent", show_default=True)
@click.option("--actor", default="command line", show_default=True, help="Who decides the remediation.")
@click.option("--withdrawn", is_flag=True, help="Only if consent does not hold any more: withdraw nothing.")
@click.option("--unfinished", is_flag=True, help="Nobody new: only finish what a killed call left.")
@click.option(
    "--spool",
    "spools",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    multiple=True,
    help="Spool of a shadow experiment, whose records and pairs are erased with them. Repeatable.",
)
@click.option(
    "--spools-below",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder in which every spool is meant; one that is not there holds none.",
)
@as_json
@stores
def erase(
    identity: str | None,
    withdrawn: bool,
    unfinished: bool,
    spools: tuple[Path, ...],
    spools_below: Path | None,
    json_out: bool,
    ledger: Path,
    blobs: Path,
    **recorded: Any,
) -> None:
    """Withdraw everything IDENTITY consented to, publish the versions without them, and erase their words, salts and
    signatures from every version, the inbox, reviews and freed disk pages. Digests and roots verify as before.

    IDENTITY is the person as their source knows them, their pseudonym (s-...), or the digest of that pseudonym.

    Whatever a killed call left of an erasure, of this person or another, is finished too.
    """
    from plumbline.feedback import ConsentDesk
    from plumbline.feedback.erase import erase_or_withdraw
    from plumbline.stores.projections import resolve_subject

    if (identity is None) != unfinished:
        raise click.UsageError("name one IDENTITY, or pass --unfinished")
    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs)
    if spools_below is not None:
        spools = (*spools, *sorted(file.parent for file in spools_below.rglob("spool.sqlite")))
    forget(spools, [])  # a spool that is none is said before anything happens
    shown: dict[str, Any] = {}
    if identity is not None:
        identity = resolve_subject(store, identity)
        desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity))
        # Spools first where it may be: once the ledger says that somebody is erased, nobody starts a killed call again.
        gone = [] if not spools or consent_for_evaluation(ledger)(desk.subject(identity)) else [desk.subject(identity)]
        pairs = forget(spools, gone)
        done = erase_or_withdraw(store, kept, desk, identity, withdraw=not withdrawn, **recorded)
        pairs += forget(spools, [done.subject])
        shown = {**in_json(done, recorded["remediation"]), "requests": pairs}
        if not json_out:
            tell(done, recorded["remediation"], pairs)
    finished, waiting = finish(store, kept)
    forget(spools, finished)
    if json_out:
        print_json({**shown, "finished": finished, "waiting": waiting})
    elif unfinished and not finished and not waiting:
        click.echo("no erasure is unfinished")


def forget(spools: Sequence[Path], subjects: Sequence[str]) -> int:
    """Erase what these people said from spools, pairs included. How many requests that were."""
    from plumbline.shadow import Spool

    erased = 0
    for directory in spools:
        with contextlib.closing(Spool.existing(directory)) as spool:
            erased += sum(spool.forget(subject) for subject in subjects)
    return erased


def finish(store: "Ledger", blobs: "BlobStore") -> tuple[list[str], list[str]]:
    """Finish what killed erasures left, and say so on standard error. The subjects that are done, and that wait."""
    from plumbline.feedback.erase import finish_erasures

    finished, waiting = finish_erasures(store, blobs)
    for one in finished:
        click.echo(f"the erasure of {one.subject}, which had been cut short, is finished", err=True)
    for subject, error in waiting:
        click.echo(f"the erasure of {subject} is not finished: {error.fact} ({error.remedy})", err=True)
    return [one.subject for one in finished], [subject for subject, _ in waiting]


def in_json(done: "ErasureResult", remediation: str) -> dict[str, Any]:
    return {
        "subject": done.subject,
        "consent_sequence": done.consent_sequence,
        "versions": [{"dataset": one.dataset, "version": one.version, "digest": one.digest} for one in done.versions],
        "events": done.events,
        "payloads": done.payloads,
        "labels": done.labels,
        "policies": list(done.policies),
        "remediation": remediation,
        "copies": [{"location": one.location, "version": one.version} for one in done.copies],
        "remains": list(done.remains),
        "proof": done.proof,
    }


def tell(done: "ErasureResult", remediation: str, requests: int = 0) -> None:
    click.echo(f"{done.subject} is erased as of consent entry {done.consent_sequence}")
    click.echo(f"  overwritten: events {done.events}, payloads {done.payloads}, reasons of reviewers {done.labels}")
    if requests:
        click.echo(f"  recorded requests of shadow experiments: {requests}")
    for one in done.versions:
        click.echo(f"  {one.dataset} version {one.version} is without them: {one.digest}")
    for policy in done.policies:
        click.echo(f"  policy {policy} was trained on their words; recorded: {remediation} (nothing is unlearned)")
    for copy in done.copies:
        click.echo(f"  {copy.location} is a copy that holds them (version {copy.version}): delete it or export again")
    for place in done.remains:
        click.echo(f"  beyond reach: {place}")
    click.echo(f"  proof {done.proof}")
