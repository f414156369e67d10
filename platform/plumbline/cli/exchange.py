"""`plumb import` and `plumb tasks`: other harnesses' logs in, our suites out as their tasks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.gate import read_rubric
from plumbline.cli.options import F, as_json, print_json

if TYPE_CHECKING:
    from plumbline.evaluation.exchange import Exported, ForeignRun
    from plumbline.records import Suite

LOG = click.Path(path_type=Path, exists=True)
REPORT = click.Path(path_type=Path, dir_okay=False)


def pairing(command: F) -> F:
    """What every import of two logged runs takes beside the logs."""
    for option in (
        as_json,
        click.option(
            "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The report to write."
        ),
        click.option("--rubric", type=LOG, help="Rubric YAML that the report is made under."),
        click.option("--cluster-key", default="cluster", show_default=True, help="Field with a sample's cluster."),
        click.option("--slice-key", default="slice", show_default=True, help="Field with a sample's slice."),
    ):
        command = option(command)
    return command


@click.group(name="import")
def import_() -> None:
    """Pair two runs that another harness logged, and write a report for `plumb gate`."""


@import_.command("inspect-log")
@click.option("--reference", required=True, multiple=True, type=LOG, help="Log of the reference (.json, .eval).")
@click.option("--aligned", required=True, multiple=True, type=LOG, help="Log of the aligned policy. Repeatable.")
@pairing
def inspect_log(
    reference: tuple[Path, ...],
    aligned: tuple[Path, ...],
    slice_key: str,
    cluster_key: str,
    rubric: Path | None,
    out: Path,
    json_out: bool,
) -> None:
    """Logs of inspect_ai: one per task and side. Area: the task; metric: the scorer."""
    from plumbline.evaluation.exchange import read_inspect_log

    def read(path: Path) -> "list[ForeignRun]":
        return [read_inspect_log(path, slice_key=slice_key, cluster_key=cluster_key)]

    _import(reference, aligned, read, rubric, out, json_out)


@import_.command("lm-eval-samples")
@click.option("--reference", required=True, multiple=True, type=LOG, help="Output folder of the reference's run.")
@click.option("--aligned", required=True, multiple=True, type=LOG, help="Output folder of the aligned policy's run.")
@click.option("--metric", "metrics", multiple=True, help="Only these metrics (acc, or exact_match,strict-match).")
@pairing
def lm_eval_samples(
    reference: tuple[Path, ...],
    aligned: tuple[Path, ...],
    metrics: tuple[str, ...],
    slice_key: str,
    cluster_key: str,
    rubric: Path | None,
    out: Path,
    json_out: bool,
) -> None:
    """Folders of lm-evaluation-harness, written with --log_samples. Area: the task; metric: the metric."""
    from plumbline.evaluation.exchange import read_lm_eval_samples

    def read(path: Path) -> "list[ForeignRun]":
        return read_lm_eval_samples(path, slice_key=slice_key, cluster_key=cluster_key, metrics=metrics)

    _import(reference, aligned, read, rubric, out, json_out)


def _import(
    reference: Sequence[Path],
    aligned: Sequence[Path],
    read: "Callable[[Path], list[ForeignRun]]",
    rubric: Path | None,
    out: Path,
    json_out: bool,
) -> None:
    from plumbline.evaluation.exchange import paired_report
    from plumbline.policies.files import write_durably

    sides = [[run for path in paths for run in read(path)] for paths in (reference, aligned)]
    report = paired_report(sides[0], sides[1], read_rubric(rubric))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_durably(out, report.model_dump_json(indent=2).encode() + b"\n")
    if json_out:
        print_json(report.model_dump(mode="json"))
        return
    for one in report.estimates:
        click.echo(
            f"{one.area}.{one.metric}: {one.reference.rate:.1%} and {one.aligned.rate:.1%}, {one.difference:+.1%} "
            f"({one.low:+.1%} to {one.high:+.1%}; up is better), {one.n} samples in {one.clusters} clusters"
        )
    lost = f"; {report.missing} samples form no pair, which is an ERROR at the gate" if report.missing else ""
    click.echo(f"report {report.digest} in {out}{lost}\nhold it to a margin: plumb gate {out} --margin 0.02")


@click.group()
def tasks() -> None:
    """Write a suite as a task of another harness; what cannot be the same there is left out and counted."""


@tasks.command("inspect")
@click.argument("suite", type=LOG)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@as_json
def inspect_task(suite: Path, out: Path, json_out: bool) -> None:
    """A task of inspect_ai: generated answers, scored by Plumbline's scorers."""
    from plumbline.evaluation.exchange import export_inspect

    _export(suite, out, export_inspect, json_out)


@tasks.command("lm-eval")
@click.argument("suite", type=LOG)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False))
@as_json
def lm_eval_task(suite: Path, out: Path, json_out: bool) -> None:
    """Tasks of lm-evaluation-harness: choices by log-likelihood, and exact matches."""
    from plumbline.evaluation.exchange import export_lm_eval

    _export(suite, out, export_lm_eval, json_out)


def _export(suite: Path, out: Path, export: "Callable[[Suite, Path], Exported]", json_out: bool) -> None:
    from plumbline.evaluation import read_suite

    done = export(read_suite(suite), out)
    if json_out:
        print_json({"files": [str(path) for path in done.files], "items": done.items, "left_out": done.left_out})
        return
    for path in done.files:
        click.echo(path)
    click.echo(f"{done.items} items")
    for reason, number in sorted(done.left_out.items()):
        click.echo(f"left out: {number} {reason}")
