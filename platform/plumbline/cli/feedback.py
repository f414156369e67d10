"""`plumb feedback`: events from a file, what was kept apart, and for how long words of people who never agreed stay."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from plumbline.cli.options import AT_LEAST_ONE, as_json, open_ledger, print_json, stores, tenant_key


class Age(click.ParamType[timedelta]):
    """A length of time: hours, days or weeks."""

    name = "30d, 12h, 4w"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9][0-9]{0,4})([hdw])", str(value))
        if found is None:
            self.fail(f"{value!r} is no length of time: give hours, days or weeks, such as 12h, 30d or 4w", param, ctx)
        number = int(found[1])
        return {"h": timedelta(hours=number), "d": timedelta(days=number), "w": timedelta(weeks=number)}[found[2]]


@click.group()
def feedback() -> None:
    """Feedback events outside the collector."""


@feedback.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--source", required=True, help="The events' source; others in the file are refused.")
@as_json
@stores
def import_events(file: Path, source: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Read CloudEvents (one JSON object a line) into the inbox, as the collector would. `-` reads standard input."""
    from plumbline.errors import PlumblineError
    from plumbline.feedback import import_file

    piped = str(file) == "-"
    store = open_ledger(ledger)
    names = tenant_key(ledger, store, create=True)
    with reading(None if piped else file.stat().st_size) as progress:
        counts = import_file(store, names, sys.stdin.buffer if piped else file, source, progress=progress)
    for line, reason in counts.refused:
        click.echo(f"{file}:{line}: refused: {reason}", err=True)
    refused = counts.reasons.total()
    if refused > len(counts.refused):
        click.echo(f"{file}: {refused - len(counts.refused)} more were refused", err=True)
    if refused and not counts.taken:
        raise PlumblineError(
            f"{file} holds no event that {source!r} may post",
            consequence="the inbox is unchanged",
            remedy="give one structured CloudEvent a line, with the --source that its events name",
        )
    if json_out:
        taken = {"accepted": counts.accepted, "duplicate": counts.duplicate, "conflict": counts.conflict}
        print_json({**taken, "refused": refused, "reasons": dict(counts.reasons)})
        return
    said = (f"{counts.accepted} accepted", f"{counts.duplicate} there already", f"{counts.conflict} in conflict")
    click.echo(", ".join((*said, f"{refused} refused")))
    for reason, number in counts.reasons.most_common():
        click.echo(f"  {number:8d}  {reason}")


@feedback.command()
@click.option("--bodies", is_flag=True, help="Show the newest events too, their words redacted.")
@click.option("--limit", type=AT_LEAST_ONE, default=20, show_default=True, help="How many events --bodies shows.")
@as_json
@stores
def quarantine(bodies: bool, limit: int, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Events that were kept apart, and how many were refused at the door, by reason."""
    inbox = open_ledger(ledger, must_exist=True).inbox
    kept = inbox.quarantined()
    refused = [{"source": s, "reason": r, "events": n} for (s, r), n in inbox.refused().items()]
    shown = [{**entry._asdict(), "body": redacted(entry.body)} for entry in inbox.quarantine_entries(limit)]
    if json_out:
        print_json({"quarantined": kept, "refused": refused, **({"events": shown} if bodies else {})})
        return
    for reason, number in kept.items():
        click.echo(f"{number:8d}  {reason}")
    if not kept:
        click.echo("no event is kept apart")
    for one in refused:
        click.echo(f"{one['events']:8d}  refused at the door: {one['reason']} ({one['source']})")
    for event in shown if bodies else ():
        click.echo(f"{event['sequence']}  {event['source']}/{event['id']}  {event['reason']}  {event['body']}")


@feedback.command()
@click.option("--older-than", type=Age(), required=True, help="How old words must be to go.")
@click.option("--dry-run", is_flag=True, help="Only count what would be erased.")
@as_json
@stores
def retention(older_than: timedelta, dry_run: bool, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Erase old words that no consent covered when they came: nothing may ever use them.

    Event keys stay, so that a late copy brings nothing back. What a consent covered once stays until it is erased.
    """
    from plumbline.cli.printing import many
    from plumbline.stores.retention import forget_unconsented

    found = forget_unconsented(open_ledger(ledger, must_exist=True), older_than, dry_run=dry_run)
    if json_out:
        counts = {"events": dict(found.events), "quarantined": dict(found.quarantined), "kept": found.kept}
        print_json({"before": found.before, "dry_run": dry_run, **counts})
        return
    total = found.events.total() + found.quarantined.total()
    did = "would be erased" if dry_run else "erased"
    click.echo(f"{many(total, 'event')} from before {found.before[:16]}Z that no consent covered: words {did}")
    for reason, number in found.events.most_common():
        click.echo(f"  {number:8d}  {reason}")
    for reason, number in found.quarantined.most_common():
        click.echo(f"  {number:8d}  {reason}, kept apart")
    click.echo(f"{many(found.kept, 'event')} of that time stay: a consent covered them when they came")


def redacted(body: str | None) -> str | None:
    """A stored event with what looks like personal data replaced; the subject is a pseudonym already."""
    from plumbline.feedback import redact

    return None if body is None else redact(body).text


@contextmanager
def reading(size: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error that counts the bytes read, while somebody looks on."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("events"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("events", total=size)
        yield lambda read: bar.advance(task, read)
