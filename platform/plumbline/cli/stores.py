"""`plumb stores`: migrate the ledger, and look whether ledger and blobs work. The chart's Jobs run both."""

from pathlib import Path

import click

from plumbline.cli.options import as_json, print_json, stores

WAIT = click.option(
    "--wait", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Keep trying for so many seconds."
)


@click.group("stores")
def stores_() -> None:
    """The ledger and the blobs of an installation."""


@stores_.command()
@WAIT
@as_json
@stores
def migrate(wait: float, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Make the ledger, or bring it to this version's schema, all in one transaction.

    Killed at any point and run again, it ends the same; run twice, the second finds nothing to do. It is refused for
    a ledger that a newer version has migrated: there is no way back but a backup.
    """
    from plumbline.stores.upkeep import migrate, patiently

    done = patiently(lambda: migrate(ledger), wait, say=say)
    if json_out:
        print_json({"ledger": done.ledger, "before": done.before, "after": done.after})
    elif done.before == done.after:
        click.echo(f"{done.ledger}: schema {done.after}, nothing to do")
    else:
        click.echo(f"{done.ledger}: schema {done.before or 'none'} -> {done.after}")


@stores_.command()
@click.option("--ledger-only", is_flag=True, help="Do not try the blobs.")
@WAIT
@as_json
@stores
def check(ledger_only: bool, wait: float, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Whether the ledger has this version's schema, and the blobs can be written, read and erased.

    Changes no ledger, and makes none: that is `plumb stores migrate`.
    """
    from plumbline.stores.upkeep import check_blobs, check_ledger, patiently

    schema = patiently(lambda: check_ledger(ledger), wait, say=say)
    where = None if ledger_only else patiently(lambda: check_blobs(blobs), wait, say=say)
    if json_out:
        print_json({"schema": schema, "blobs": where})
        return
    click.echo(f"ledger: schema {schema}")
    if where is not None:
        click.echo(f"blobs: {where} takes, gives back and erases")


def say(text: str) -> None:
    click.echo(text, err=True)
