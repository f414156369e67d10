"""`plumb report`: an evaluation report as one page that a sceptic can read, and the same as JSON."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.gate import own_margins, read_report, read_rubric
from plumbline.cli.options import as_json, print_json

if TYPE_CHECKING:
    from plumbline.records import EvaluationReport, GateDecision

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("report", type=FILE)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--rubric", type=FILE, help="Rubric YAML with the margins (default: the micro-world's).")
@click.option("--margins", type=FILE, help="YAML {area: {metric: margin}} in the rubric's place.")
@click.option("--margin", type=float, help="The same margin for everything that the report measures.")
@click.option(
    "--last-released",
    type=FILE,
    help="Report that compares the same aligned policy with the one released last, held to the same margins.",
)
@as_json
def report(
    report: Path,
    out: Path,
    rubric: Path | None,
    margins: Path | None,
    margin: float | None,
    last_released: Path | None,
    json_out: bool,
) -> None:
    """Write REPORT, and what the gate says of it, as one self-contained HTML page. --json prints the same for machines.

    The exit code is 0 once the page is written, whatever the verdict: `plumb gate` is what scripts ask. A report of
    another harness's tasks has no margins in a rubric; without --margins or --margin its page shows no verdict.
    """
    from plumbline.console.evaluation_page import evaluation_summary, render_evaluation, write_evaluation

    read = read_report(report)
    since = read_report(last_released) if last_released else None
    decision = _decide(read, rubric, margins, margin, since)
    page = render_evaluation(
        read, decision, last_released=since if decision else None, source=report.name
    )  # fmt: skip
    write_evaluation(page, out)
    if json_out:
        print_json(evaluation_summary(read, decision, last_released=since if decision else None))
        return
    said = (
        f"{decision.verdict.value} (exit code {decision.verdict.exit_code})" if decision else "no verdict: no margins"
    )
    click.echo(f"{said}; the page is {out}")


def _decide(
    read: "EvaluationReport",
    rubric: Path | None,
    margins: Path | None,
    margin: float | None,
    since: "EvaluationReport | None",
) -> "GateDecision | None":
    """The gate's decision, or None where nobody gave margins for another harness's tasks."""
    from plumbline.evaluation import decide
    from plumbline.records import AREAS

    foreign = bool(read.estimates) and not {estimate.area for estimate in read.estimates} & set(AREAS)
    if foreign and not (rubric or margins or margin is not None):
        return None
    own = own_margins(margins, margin, read)
    return decide(read, read_rubric(rubric), last_released=since, margins=own)
