"""`plumb render`: Kubernetes manifests from an objective and the chart's GPU pools."""

from pathlib import Path

import click

from plumbline.cli.options import open_blobs, open_ledger, stores


@click.group()
def render() -> None:
    """Write manifests for `kubectl create -f`."""


@render.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--values", type=click.Path(path_type=Path, exists=True), required=True, help="The chart's values file.")
@click.option("--pool", "names", multiple=True, required=True, help="Training pool (may be repeated).")
@click.option("--image", required=True, help="Image of the job, best by digest.")
@click.option("--namespace")
@stores
def rayjob(
    file: Path, values: Path, names: tuple[str, ...], image: str, namespace: str | None, ledger: Path, blobs: Path
) -> None:
    """A ConfigMap with the objective and the RayJob that runs it; the run is named after the objective."""
    import yaml

    from plumbline.cli.objective import resolve_objective
    from plumbline.errors import PlumblineError
    from plumbline.reconcile.rayjob import NodePool, RayJobSettings, objective_config_map, run_name
    from plumbline.reconcile.rayjob import rayjob as make

    pools = {pool["name"]: pool for pool in (yaml.safe_load(values.read_text("utf-8")) or {}).get("pools", [])}
    for name in names:
        if name not in pools:
            raise PlumblineError(
                f"{values} has no pool {name!r}",
                consequence="no manifest was written",
                remedy="choose from " + (", ".join(sorted(pools)) or "none: add a pool with purpose train"),
            )
    objective = resolve_objective(file, open_ledger(ledger, must_exist=True), open_blobs(blobs)).objective
    run = run_name(objective)
    settings = RayJobSettings(image=image, objective_config_map=run, namespace=namespace)
    job = make(run, [NodePool.from_values(pools[name]) for name in names], settings)
    click.echo(yaml.safe_dump_all([objective_config_map(objective, settings), job], sort_keys=False).rstrip())
