"""`plumb evaluate`: two policies, suites, a paired report.

Only `--dataset` opens the stores: whoever just compares two policies needs no ledger.
"""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.gate import read_rubric
from plumbline.cli.options import (
    AT_LEAST_ONE,
    as_json,
    open_blobs,
    open_ledger,
    print_json,
    stores,
)

if TYPE_CHECKING:
    from plumbline.feedback import DatasetVersionData


@click.command()
@click.option("--reference", required=True, help="Policy directory or hub id.")
@click.option("--aligned", required=True, help="Policy directory or hub id.")
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
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Ask both policies every item of the suites, greedily, and write OUT/report.json. Resumable.

    A suite is our JSONL, XSTest's CSV, or HH preference pairs (plain or gzipped).
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from plumbline.evaluation import evaluate as compare
    from plumbline.evaluation import read_suite
    from plumbline.policies.files import write_durably
    from plumbline.policies.local import LocalPolicy
    from plumbline.records import DecoderSettings, Suite

    judged_by = read_rubric(rubric)
    read = [read_suite(path) for path in suites]
    suite = read[0]
    if len(read) > 1:
        items = tuple(item for one in read for item in one.items)
        suite = Suite(
            name="+".join(one.name for one in read), version="+".join(one.version for one in read), items=items
        )
    versions = read_versions(datasets, ledger, blobs)
    training = [example for version in versions for example in version.train]
    legs = LocalPolicy.load(reference), LocalPolicy.load(aligned)
    trained_on = [version.manifest for version in versions if version.digest == legs[1].manifest.dataset]
    out.mkdir(parents=True, exist_ok=True)
    terminal = Console(stderr=True)
    with Progress(console=terminal, transient=True, disable=not terminal.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            tasks.setdefault(name, progress.add_task(name, total=total))
            progress.update(tasks[name], completed=done)

        report = compare(
            *legs,
            suite,
            rubric=judged_by,
            decoder=DecoderSettings(max_tokens=max_tokens),
            dataset_manifest=trained_on[0] if trained_on and len(versions) == 1 else None,
            training_examples=training,
            cache_dir=out / "answers",
            on_progress=told,
        )
    write_durably(out / "report.json", report.model_dump_json(indent=2).encode() + b"\n")
    checked = f"{len(report.contaminated)} of {len(suite.items)} items excluded, being among {len(training)} examples"
    erased = sum(len(version.erased) for version in versions)
    checked += f" ({erased} more are erased and could not be compared)" if erased else ""
    unchecked = "not checked; name what the aligned policy was trained on with --dataset"
    click.echo(f"contamination: {checked if versions else unchecked}", err=json_out)
    if json_out:
        print_json(report.model_dump(mode="json"))
        return
    table = Table("area", "metric", "n", "reference", "aligned", "difference", "90 % interval")
    for e in report.estimates:
        table.add_row(
            e.area, e.metric, str(e.n), f"{e.reference.rate:.1%}", f"{e.aligned.rate:.1%}", f"{e.difference:+.1%}",
            f"{e.low:+.1%} to {e.high:+.1%}",
        )  # fmt: skip
    Console().print(table)
    click.echo(f"report {report.digest} in {out / 'report.json'}")


def read_versions(names: tuple[str, ...], ledger: Path, blobs: Path) -> "list[DatasetVersionData]":
    """Dataset versions by NAME or NAME@VERSION, also such as hold people who withdrew: the policy did see them."""
    from plumbline.feedback import load_version

    if not names:
        return []
    kept, found = open_blobs(blobs, must_exist=True), []
    with contextlib.closing(open_ledger(ledger, must_exist=True)) as store:
        for given in names:
            name, _, version = given.partition("@")
            found.append(load_version(store, kept, name, int(version) if version.isdecimal() else version or None))
    return found
