"""`plumb smoke`: whether an installation works, by using it. The chart's start-up check and `helm test` run it."""

from functools import partial
from pathlib import Path

import click

from plumbline.cli.options import open_ledger, stores, tenant_key
from plumbline.cli.stores import WAIT, say


@click.command()
@click.option("--healthy", multiple=True, metavar="URL", help="An address that must answer 200 (repeatable).")
@click.option("--ask", multiple=True, metavar="URL", help="A policy's base, ending in /v1, to ask (repeatable).")
@click.option("--collector", metavar="URL", help="The collector to send an event through.")
@click.option(
    "--sources", type=click.Path(path_type=Path), envvar="PLUMBLINE_SOURCES", help="The collector's file of sources."
)
@click.option("--source", metavar="NAME", help="Who sends the event (default: the first that may send events).")
@WAIT
@stores
def smoke(
    healthy: tuple[str, ...],
    ask: tuple[str, ...],
    collector: str | None,
    sources: Path | None,
    source: str | None,
    wait: float,
    ledger: Path,
    blobs: Path,
) -> None:
    """Say whether an installation works: its stores, and what is named here.

    With --collector, an invented person consents to evaluation, sends one event and leaves; it must be in the ledger,
    and can reach no dataset. Each line is something that was seen. Exits 2 at the first thing that is not so, after
    trying for --wait seconds to reach it.
    """
    from plumbline.cli.collector import read_sources
    from plumbline.errors import PlumblineError
    from plumbline.reconcile import smoke as does
    from plumbline.stores.upkeep import check_blobs, check_ledger, patiently

    who = None
    if collector is not None:
        known = {name: one for name, one in read_sources(sources).items() if "events" in one.may}
        who = source or next(iter(known), None)
        if who is None or who not in known:
            raise PlumblineError(
                f"{sources} lets {'nobody' if who is None else repr(who)} send events",
                consequence="nothing was sent",
                remedy="name a --source that may, or give one the right",
            )
    click.echo(f"ledger: schema {patiently(lambda: check_ledger(ledger), wait, say=say)}")
    click.echo(f"blobs: {patiently(lambda: check_blobs(blobs), wait, say=say)} takes, gives back and erases")
    for url in [*healthy, *([f"{collector}/healthz"] if collector else [])]:
        click.echo(patiently(partial(does.healthy, url), wait, say=say))
    for base in ask:
        click.echo(patiently(partial(does.ask, base.rstrip("/")), wait, say=say))
    if collector is not None and who is not None:
        with open_ledger(ledger, must_exist=True) as store:
            for line in does.round_trip(store, tenant_key(ledger, store), collector.rstrip("/"), who, known[who]):
                click.echo(line)
    click.echo("all of this works")
