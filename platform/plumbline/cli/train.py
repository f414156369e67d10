"""`plumb train`: an objective file to an aligned policy directory, with Ray Train."""

from pathlib import Path

import click

from plumbline.cli.options import as_json, open_blobs, open_ledger, print_json, stores


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the policy to write.")
@click.option("--name", help="Name of the policy (default: the directory's).")
@click.option("--job", type=click.Path(path_type=Path), help="Job folder (default: OUT.job); resumes from it.")
@click.option("--adapter", type=click.Choice(["none", "lora"]), help="Override the file's adapter.")
@click.option("--workers", default=1, show_default=True)
@click.option("--gpu", is_flag=True, help="One GPU per worker.")
@click.option("--in-process", is_flag=True, help="Without Ray, one rank in this process.")
@click.option("--prepare-only", is_flag=True, help="Only write the job folder, for a RayJob to run.")
@as_json
@stores
def train(
    file: Path,
    out: Path,
    name: str | None,
    job: Path | None,
    adapter: str | None,
    workers: int,
    gpu: bool,
    in_process: bool,
    prepare_only: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Train the objective in FILE. Stopped anywhere and run again, it ends with the same policy."""
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rich.console import Console
    from rich.progress import Progress

    from plumbline.cli.objective import resolve_objective
    from plumbline.policies.local import load_template
    from plumbline.reconcile.provenance import code_digest
    from plumbline.training import train as run
    from plumbline.training.job import prepare_job

    store = open_ledger(ledger, must_exist=True)
    overrides = {"adapter": {"kind": adapter}} if adapter else {}
    found = resolve_objective(file, store, open_blobs(blobs), **overrides)
    replay = found.replay.train if found.replay else ()
    folder = job or out.with_name(out.name + ".job")
    if prepare_only:
        prepared = prepare_job(folder, found.objective, found.data.train, replay, found.base, load_template(found.base))
        click.echo(f"{folder} is ready: {prepared.order.steps} steps, objective {found.objective.digest}")
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"training {out.name}", total=None)
        trained = run(
            found.objective,
            found.data.train,
            base=found.base,
            out=out,
            name=name or out.name,
            job_folder=folder,
            replay=replay,
            runner="in-process" if in_process else "ray",
            workers=workers,
            use_gpu=gpu,
            code=code_digest(),
            on_progress=lambda p: progress.update(
                task, completed=p["step"], total=p["steps"], description=f"loss {p['loss']:.3f}"
            ),
        )
    store.releases.record_policy(trained.manifest, found.objective)
    record = trained.record
    if json_out:
        print_json({"policy": trained.manifest.digest, "path": str(out), "record": record.model_dump(mode="json")})
        return
    click.echo(f"policy {trained.manifest.digest} at {out}")
    click.echo(f"  {record.steps} steps, {record.supervised_tokens} supervised tokens, {record.wall_seconds:.1f} s")
    click.echo(f"  loss {record.first_loss:.3f} to {record.last_loss:.3f}; objective {record.objective}")
    total = record.mask_ledger["all"]
    click.echo(f"  {total.examples} examples; {total.truncated} truncated, {total.dropped} dropped")
