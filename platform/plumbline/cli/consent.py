"""`plumb consent`: give, withdraw, show, verify, head."""

from pathlib import Path

import click

from plumbline.cli.options import as_json, open_ledger, print_json, read_text, stores, tenant_key

PURPOSES = ("training", "evaluation", "service_improvement")


@click.group()
def consent() -> None:
    """The append-only, hash-chained ledger of who agreed to what, under which notice."""


@consent.command()
@click.argument("identity")
@click.option(
    "--purpose",
    "purposes",
    type=click.Choice(PURPOSES),
    multiple=True,
    default=("training", "evaluation"),
    show_default=True,
)
@click.option("--notice", required=True, help="ID@VERSION of a notice; registered with --notice-text when new.")
@click.option(
    "--notice-text", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="File with the notice's text."
)
@stores
def give(
    identity: str, purposes: tuple[str, ...], notice: str, notice_text: Path | None, ledger: Path, blobs: Path
) -> None:
    """Record that IDENTITY consents. The ledger keeps a keyed pseudonym only."""
    from plumbline.errors import PlumblineError
    from plumbline.feedback.consent import ConsentDesk

    name, _, version = notice.partition("@")
    if not identity.strip() or not name.strip():
        raise PlumblineError(
            "the identity or the notice is empty",
            consequence="no consent was recorded: it must say who agreed to what",
            remedy="name both: plumb consent give IDENTITY --notice ID@VERSION",
        )
    text = None
    if notice_text is not None:
        text = read_text(notice_text, "a notice's text", consequence="no consent was recorded")
    store = open_ledger(ledger, must_exist=text is None)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity, create=True))
    if text is None:
        found = store.consent.find_notice(name, version or "1")
    else:
        found = store.consent.register_notice(name, version or "1", text)
    entry = desk.give(identity, purposes, found, method="command line")  # type: ignore[arg-type]
    click.echo(f"{entry.sequence}: {entry.subject} gave consent to {', '.join(entry.purposes)} under {notice}")


@consent.command()
@click.argument("identity")
@stores
def withdraw(identity: str, ledger: Path, blobs: Path) -> None:
    """Withdraw everything IDENTITY consented to. Durable when this returns."""
    from plumbline.feedback.consent import ConsentDesk

    store = open_ledger(ledger, must_exist=True)
    desk = ConsentDesk(store, tenant_key(ledger, store, identity=identity))
    entry = desk.withdraw(identity, method="command line")
    click.echo(f"{entry.sequence}: {entry.subject} withdrew {', '.join(entry.purposes)}")
    click.echo("no version published from now on contains this subject; `plumb ingest DATASET` makes the removal")


@consent.command()
@click.argument("identity")
@as_json
@stores
def show(identity: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """All entries about IDENTITY, oldest first."""
    from plumbline.feedback.consent import ConsentDesk

    store = open_ledger(ledger, must_exist=True)
    entries = ConsentDesk(store, tenant_key(ledger, store, identity=identity)).show(identity)
    if json_out:
        print_json([entry.model_dump() for entry in entries])
        return
    for entry in entries:
        click.echo(f"{entry.sequence}  {entry.action:9}  {', '.join(entry.purposes)}  {entry.recorded_at}")
    if not entries:
        click.echo("no consent is recorded: nothing of theirs may be used")


@consent.command()
@stores
def verify(ledger: Path, blobs: Path) -> None:
    """Check the whole hash chain; exit 2 when an entry was changed, removed or reordered."""
    head = open_ledger(ledger, must_exist=True).consent.require_valid()
    click.echo(f"the chain of {head.sequence} entries verifies; head {head.digest}")


@consent.command()
@stores
def head(ledger: Path, blobs: Path) -> None:
    """The last sequence and digest: keep it elsewhere to notice a rewritten ledger."""
    found = open_ledger(ledger, must_exist=True).consent.head()
    click.echo(f"{found.sequence} {found.digest}")
