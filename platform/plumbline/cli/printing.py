"""What several commands print: aligned columns, and a bar for those who wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click


def many(count: int, noun: str, plural: str = "") -> str:
    """ "1 example", "2 examples"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def table(head: list[str], rows: list[list[str]]) -> None:
    """Aligned columns on standard output; foreign text with its control characters made visible."""
    from plumbline.console.words import visible

    cells = [head, *([visible(cell).replace("\n", " ") for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while somebody looks on; nothing when nobody does."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns: tuple[Any, ...] = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        yield advance
