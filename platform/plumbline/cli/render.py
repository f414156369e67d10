"""`plumb render`: Kubernetes manifests from what a run is about, and the chart's node pools."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import AT_LEAST_ONE, open_blobs, open_ledger, read_yaml, stores, superseded_too

if TYPE_CHECKING:
    from plumbline.reconcile.plans import EvaluationPlan
    from plumbline.records import Objective, Record

NEEDED = {"train": ("FILE",), "evaluate": ("--reference", "--aligned", "--suite"), "backfill": ("FILE", "--source")}


@click.group()
def render() -> None:
    """Write manifests for `kubectl create -f`."""


@render.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["train", "evaluate", "backfill"]), default="train", show_default=True)
@click.option(
    "--values",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The chart's values file.",
)
@click.option("--release", default="plumbline", show_default=True, help="Name of the chart's release it belongs to.")
@click.option("--pool", "names", multiple=True, required=True, help="Training pool (may be repeated).")
@click.option("--image", help="Image of the job, best by digest (default: the values').")
@click.option("--namespace")
@click.option("--sharded", is_flag=True, help="train: spread the weights over the workers (FSDP2), no copies.")
@click.option("--elastic", is_flag=True, help="Between the pools' minCount and maxCount nodes, instead of count.")
@click.option("--reference", help="evaluate: the reference, a path below /policies or an endpoint.")
@click.option("--aligned", help="evaluate: the aligned policy, likewise.")
@click.option("--suite", "suites", multiple=True, help="evaluate: a suite's path below /policies. Repeatable.")
@click.option("--suite-digest", help="evaluate: refuse other items than those of this digest (`plumb suite show`).")
@click.option("--rubric", type=click.Path(path_type=Path, exists=True), help="evaluate: rubric YAML with the margins.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME@VERSION", help="evaluate: as in `plumb evaluate`.")
@click.option("--judge", help="evaluate: a fitted judge's path below /policies.")
@click.option("--labels", help="evaluate: people's labels, a path below /policies.")
@click.option("--variants", help="evaluate: `builtin`, or a path below /policies.")
@click.option("--max-tokens", type=AT_LEAST_ONE, default=64, show_default=True, help="evaluate: of an answer.")
@click.option("--record", is_flag=True, help="evaluate: keep report and decision where the ledger is.")
@click.option("--source", help="backfill: the events' source; others in the file are refused.")
@superseded_too
@stores
def rayjob(
    file: Path | None,
    kind: str,
    values: Path,
    release: str,
    names: tuple[str, ...],
    image: str | None,
    namespace: str | None,
    sharded: bool,
    elastic: bool,
    source: str | None,
    superseded: bool,
    ledger: Path,
    blobs: Path,
    **evaluated: Any,
) -> None:
    """A ConfigMap and the RayJob that reads it; the run is named after what it is about.

    train takes an objective FILE, whose record is in the ConfigMap: items of probes and the template's text are in the
    job folder, which `plumb train FILE --prepare-only` writes. evaluate takes policies and suites. backfill takes the
    FILE of events, as the pods see it below /policies. Names, labels, claims, stores and queue are those of RELEASE.
    """
    import yaml

    from plumbline.reconcile.plans import BackfillPlan
    from plumbline.reconcile.rayjob import BACKFILL, EVALUATE, TRAIN, config_map, run_name
    from plumbline.reconcile.rayjob import rayjob as make
    from plumbline.reconcile.rayjob_values import pools_of, settings_of

    _require(
        kind,
        {"FILE": file, "--source": source}
        | {f"--{key}": evaluated[key] for key in ("reference", "aligned")}
        | {"--suite": evaluated["suites"]},
    )
    given = read_yaml(values, "a values file", consequence="no manifest was written")
    pools = pools_of(given, names, values)
    document: Record
    if kind == "train":
        document = _objective(Path(str(file)), ledger, blobs, superseded, sharded)
        work, run = TRAIN, run_name(document)
    elif kind == "evaluate":
        document = _evaluation(evaluated)
        work, run = EVALUATE, document.run_name
    else:
        document = BackfillPlan(file=str(file), source=str(source))
        work, run = BACKFILL, document.run_name
    settings = settings_of(given, release, work, config_map=run)
    settings = replace(settings, namespace=namespace, sharded=sharded, elastic=elastic, image=image or settings.image)
    if work is EVALUATE and not (evaluated["datasets"] or evaluated["record"]):
        settings = replace(settings, stores=None)  # nothing is read from them
    job = make(run, pools, settings, work)
    click.echo(yaml.safe_dump_all([config_map(document, settings, work), job], sort_keys=False).rstrip())


def _require(kind: str, given: dict[str, object]) -> None:
    if missing := [name for name in NEEDED[kind] if not given[name]]:
        raise click.UsageError(f"--kind {kind} needs {' and '.join(missing)}")


def _objective(file: Path, ledger: Path, blobs: Path, superseded: bool, sharded: bool) -> "Objective":
    """The resolved objective, which the ConfigMap carries."""
    from plumbline.cli.objective import resolve_objective
    from plumbline.errors import PlumblineError

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    objective = resolve_objective(file, store, kept, superseded=superseded).objective
    if sharded and objective.adapter.kind == "qlora":
        raise PlumblineError(
            "adapter.kind is qlora, and --sharded was asked for",
            consequence="no manifest was written: the run would end before its first step, on nodes that are paid for",
            remedy="leave --sharded out (in 4 bits the base policy is small), or choose adapter.kind lora",
        )
    return objective


def _evaluation(asked: dict[str, Any]) -> "EvaluationPlan":
    from pydantic import ValidationError

    from plumbline.cli.gate import read_rubric
    from plumbline.errors import PlumblineError, first_fault
    from plumbline.reconcile.plans import EvaluationPlan

    more: Sequence[str] = (
        "reference",
        "aligned",
        "suites",
        "datasets",
        "judge",
        "labels",
        "variants",
        "max_tokens",
        "record",
    )
    try:
        return EvaluationPlan(
            rubric=read_rubric(asked["rubric"]), suite=asked["suite_digest"], **{name: asked[name] for name in more}
        )
    except ValidationError as error:
        raise PlumblineError(
            f"this is no evaluation: {first_fault(error)}",
            consequence="no manifest was written",
            remedy="give --suite-digest as sha256: and 64 hexadecimal digits",
        ) from error
