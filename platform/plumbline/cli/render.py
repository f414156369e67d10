"""`plumb render`: Kubernetes manifests from an objective and the chart's GPU pools."""

from pathlib import Path
from typing import Any

import click

from plumbline.cli.options import first_fault, open_blobs, open_ledger, read_yaml, stores, superseded_too


@click.group()
def render() -> None:
    """Write manifests for `kubectl create -f`."""


@render.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--values",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help="The chart's values file.",
)
@click.option("--pool", "names", multiple=True, required=True, help="Training pool (may be repeated).")
@click.option("--image", required=True, help="Image of the job, best by digest.")
@click.option("--namespace")
@click.option("--sharded", is_flag=True, help="Spread the weights over the workers (FSDP2) instead of copying them.")
@click.option("--elastic", is_flag=True, help="Between the pools' minCount and maxCount nodes, instead of count.")
@superseded_too
@stores
def rayjob(
    file: Path,
    values: Path,
    names: tuple[str, ...],
    image: str,
    namespace: str | None,
    sharded: bool,
    elastic: bool,
    superseded: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """A ConfigMap with the objective and the RayJob that runs it; the run is named after the objective.

    Of the values file it reads `pools` and `training.mlflow`. The ConfigMap holds the objective's record alone: items
    of probes and the template's text are in the job folder, which `plumb train FILE --prepare-only` writes.
    """
    import yaml

    from plumbline.cli.objective import resolve_objective
    from plumbline.errors import PlumblineError
    from plumbline.reconcile.rayjob import NodePool, RayJobSettings, objective_config_map, run_name
    from plumbline.reconcile.rayjob import rayjob as make

    given = read_yaml(values, "a values file", consequence="no manifest was written")
    listed = given.get("pools")
    listed = listed if isinstance(listed, list) else []
    pools = {str(pool["name"]): pool for pool in listed if isinstance(pool, dict) and "name" in pool}
    for name in names:
        if name not in pools:
            raise PlumblineError(
                f"{values} has no pool {name!r}",
                consequence="no manifest was written",
                remedy=f"choose from {', '.join(pools)}" if pools else "add one with purpose train under `pools:`",
            )
    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    objective = resolve_objective(file, store, kept, superseded=superseded).objective
    if sharded and objective.adapter.kind == "qlora":
        raise PlumblineError(
            "adapter.kind is qlora, and --sharded was asked for",
            consequence="no manifest was written: the run would end before its first step, on nodes that are paid for",
            remedy="leave --sharded out (in 4 bits the base policy is small), or choose adapter.kind lora",
        )
    run = run_name(objective)
    tracking = mlflow_of(given)
    settings = RayJobSettings(
        image=image,
        objective_config_map=run,
        namespace=namespace,
        sharded=sharded,
        elastic=elastic,
        mlflow_tracking_uri=tracking.get("trackingUri", ""),
        mlflow_secret=tracking.get("existingSecret", ""),
    )
    try:
        chosen = [NodePool.from_values(pools[name]) for name in names]
    except (KeyError, TypeError) as error:
        raise PlumblineError(
            f"a pool in {values} is not complete: {first_fault(error)} is missing or of another kind",
            consequence="no manifest was written",
            remedy="write every pool as the chart's values.yaml describes it",
        ) from error
    job = make(run, chosen, settings)
    click.echo(yaml.safe_dump_all([objective_config_map(objective, settings), job], sort_keys=False).rstrip())


def mlflow_of(values: dict[str, Any]) -> dict[str, str]:
    """The texts under `training.mlflow` of the chart's values; empty where there are none."""
    training = values.get("training")
    found = training.get("mlflow") if isinstance(training, dict) else None
    return {str(key): str(value or "") for key, value in found.items()} if isinstance(found, dict) else {}
