"""`plumb objective preview`: what the loss sees, and what a run costs, before anybody pays for it."""

from pathlib import Path

import click

from plumbline.cli.options import AT_LEAST_ONE, as_json, open_blobs, open_ledger, print_json, stores, superseded_too


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--examples", type=click.IntRange(min=0), default=6, show_default=True, help="Rows to show.")
@click.option("--slice", "slices", multiple=True, metavar="NAME", help="Show rows of this slice only. Repeatable.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the page to this file.")
@click.option("--workers", type=AT_LEAST_ONE, default=1, show_default=True, help="Workers that the run would have.")
@click.option("--sharded", is_flag=True, help="Workers hold parts of the weights (FSDP), not copies.")
@click.option(
    "--flops-per-second",
    type=click.FloatRange(min=0, min_open=True),
    help="What one worker was measured to do, such as 1.2e14: adds the time that the run takes.",
)
@superseded_too
@as_json
@stores
def preview(
    file: Path,
    examples: int,
    slices: tuple[str, ...],
    html: Path | None,
    workers: int,
    sharded: bool,
    flops_per_second: float | None,
    superseded: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Show what the loss sees under the objective in FILE, and what the run would cost. Nothing is trained.

    Rows with their targets underlined, the mask ledger, truncation against its limit, lengths, each slice's share of
    the loss, steps, padding, FLOPs and memory. Too much truncation, which a run refuses, is shown and said.
    """
    from plumbline.cli.objective import resolve_objective
    from plumbline.console.preview import preview_page, print_preview, verdict
    from plumbline.training.preview import preview_objective

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    found = resolve_objective(file, store, kept, superseded=superseded)
    seen = preview_objective(
        found.objective,
        found.data.train,
        found.replay.train if found.replay else (),
        found.base,
        template=found.template,
        rows=examples,
        slices=slices,
        workers=workers,
        sharded=sharded,
        flops_per_second=flops_per_second,
    )
    if html is not None:
        from plumbline.policies.files import write_durably

        write_durably(html, preview_page(seen).encode("utf-8"))
    if json_out:
        print_json(seen.as_json())
    else:
        from rich.console import Console

        print_preview(seen, Console())
    if seen.cuts.refused:
        click.echo(verdict(seen), err=True)
    if html is not None:
        click.echo(f"The page is {html}.", err=True)
