"""`plumb evaluate`: two policies, suites, a paired report.

Only `--dataset` and `--reviews` open the stores: whoever just compares two policies needs no ledger. What OUT holds is
described in docs/evaluation.md; every file in it but `answers/` is written at the end, whole.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.evaluating import Asked, Leg, carry_out
from plumbline.cli.gate import read_rubric
from plumbline.cli.options import (
    AT_LEAST_ONE,
    as_json,
    interruptible,
    print_json,
    require_machine,
    stores,
)

if TYPE_CHECKING:
    from plumbline.records import EvaluationReport, Suite

POLICY = "Directory, hub id, or endpoint as http://HOST:PORT/v1#MODEL."


@click.command()
@click.option("--reference", required=True, help=POLICY)
@click.option("--aligned", required=True, help=POLICY)
@click.option("--suite", "suites", type=click.Path(path_type=Path, exists=True), multiple=True, required=True)
@click.option(
    "--rubric", type=click.Path(path_type=Path, exists=True), help="Rubric YAML (default: the micro-world's)."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    metavar="NAME[@VERSION]",
    help="What the aligned policy was trained on; items found there count for nothing. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory for report and answers.")
@click.option("--max-tokens", type=AT_LEAST_ONE, default=64, show_default=True)
@click.option(
    "--judge",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A judge that `plumb judge fit` wrote, with a card for both policies (default: a list of refusal prefixes).",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What people said of these answers; corrects the judge's rates.",
)
@click.option(
    "--previous",
    multiple=True,
    metavar="NAME@VERSION",
    help="A dataset version before the first --dataset, to watch how feedback drifts. Repeatable.",
)
@click.option("--reviews", is_flag=True, help="Watch how reviewers agree, from the ledger's labels under this rubric.")
@click.option(
    "--variants",
    metavar="builtin|FILE",
    help="Also ask every canonical item in other words: two built-in templates, or those of a JSONL file.",
)
@click.option("--actor", help="Who reads, for a private suite's log (default: the user of this machine).")
@click.option("--workers", type=AT_LEAST_ONE, help="Ask with this many Ray actors (default: in this process).")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--fresh", is_flag=True, help="Ask everything again; earlier answers are set aside.")
@click.option("--check-batches", is_flag=True, help="Also ask a sample alone, together and turned, and compare.")
@click.option("--accept-missing", is_flag=True, help="Report although answers failed; each counts as a failure.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the endpoints' API key.")
@click.option("--reference-revision", default="", help="What you know of an endpoint's weights; part of its digest.")
@click.option("--aligned-revision", default="", help="The same for the aligned policy.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Directory with the endpoints' tokenizer and chat template, to ask them for likelihoods.",
)
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds a request.")
@click.option("--concurrency", type=AT_LEAST_ONE, default=8, show_default=True, help="Requests at a time.")
@as_json
@stores
def evaluate(
    reference: str,
    aligned: str,
    suites: tuple[Path, ...],
    rubric: Path | None,
    datasets: tuple[str, ...],
    out: Path,
    max_tokens: int,
    judge: Path | None,
    labels: Path | None,
    previous: tuple[str, ...],
    reviews: bool,
    variants: str | None,
    actor: str | None,
    workers: int | None,
    device: str,
    fresh: bool,
    check_batches: bool,
    accept_missing: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
    **remote: Any,
) -> None:
    """Ask both policies every item of the suites, greedily, and write OUT/report.json.

    Stopped half-way, the same command goes on. A suite is our JSONL or a public set as published.
    """
    legs = Leg.find("reference", reference, device, remote), Leg.find("aligned", aligned, device, remote)
    if workers and any(leg.endpoint is None for leg in legs):
        require_machine(workers, gpu=device == "cuda")
    with interruptible():
        done = carry_out(
            legs,
            Asked(suites, read_rubric(rubric), max_tokens, datasets, previous, judge, labels, variants, reviews, actor),
            out,
            (ledger, blobs),
            asking(workers),
            fresh=fresh,
            check_batches=check_batches,
            accept_missing=accept_missing,
        )
    for line in done.said:
        click.echo(line, err=json_out)
    if json_out:
        print_json(done.report.model_dump(mode="json"))
        return
    pressures = ["template_overfit"] * bool(variants) + ["policy_ambiguity"] * reviews
    show(done.report, done.suite, with_pressures=pressures)
    click.echo(f"report {done.report.digest} in {out / 'report.json'}")


@contextlib.contextmanager
def asking(workers: int | None) -> "Iterator[Any]":
    """Who asks local policies: None for this process, or what makes a crew of Ray actors."""
    if not workers:
        yield None
        return
    from plumbline.evaluation.asking.crew import RayCrew
    from plumbline.training.runners import ray_session

    with ray_session():
        yield lambda leg: RayCrew(leg.path, leg.manifest, workers=workers, device=leg.device)


def show(report: "EvaluationReport", suite: "Suite", with_pressures: Sequence[str] = ()) -> None:
    """The estimates by area with the diagnostics, and the pressures asked for; of a suite that measures no area, what
    all the pressures' monitors read."""
    from rich.console import Console
    from rich.table import Table

    if report.estimates:
        table = Table("area", "metric", "n", "reference", "aligned", "difference", "90 % interval")
        for e in report.estimates:
            table.add_row(
                e.area, e.metric, str(e.n), f"{e.reference.rate:.1%}", f"{e.aligned.rate:.1%}", f"{e.difference:+.1%}",
                f"{e.low:+.1%} to {e.high:+.1%}",
            )  # fmt: skip
        Console().print(table)
        for one in report.diagnostics:
            said = one.explanation
            if one.value is not None:
                bounds = f"{one.value:+.3f} {one.unit} ({one.low:+.3f} to {one.high:+.3f})"
                said = f"{bounds}, {one.state} the limit of {one.limit}; {said}"
            click.echo(f"{one.area}.{one.name}: {said}")
        for reading in report.pressures:
            if reading.pressure in with_pressures:
                click.echo(f"{reading.pressure}{' (ALARM)' if reading.alarm else ''}: {reading.explanation}")
        return
    asked = ", ".join(sorted({item.area for item in suite.items}))
    click.echo(f"no area was measured: the items are for {asked}. What the pressures' monitors read:")
    for reading in report.pressures:
        if reading.statistics:
            click.echo(f"  {reading.pressure}{' (ALARM)' if reading.alarm else ''}: {reading.explanation}")
            for name, value in sorted(reading.statistics.items()):
                click.echo(f"    {name}: {value:.4g}")
