"""`plumb train`: an objective file to an aligned policy directory, with Ray Train."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import (
    PORT,
    Workers,
    as_json,
    interruptible,
    open_blobs,
    open_ledger,
    print_json,
    require_machine,
    stores,
    superseded_too,
)

if TYPE_CHECKING:
    from plumbline.records import Objective
    from plumbline.training.export import Form


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the policy to write.")
@click.option("--name", help="Name of the policy (default: the directory's).")
@click.option("--job", type=click.Path(path_type=Path), help="Job folder (default: OUT.job); resumes from it.")
@click.option("--adapter", type=click.Choice(["none", "lora", "qlora", "dora"]), help="Override the file's adapter.")
@click.option("--workers", type=Workers(), default="1", show_default=True, help="Ray Train workers: N, or MIN:MAX.")
@click.option("--gpu", is_flag=True, help="One GPU per worker.")
@click.option("--sharded", is_flag=True, help="Spread the weights over the workers (FSDP2) instead of copying them.")
@click.option("--in-process", is_flag=True, help="Without Ray, one rank in this process.")
@click.option("--form", type=click.Choice(["merged", "adapter"]), default="merged", help="What to export.")
@click.option("--metrics-port", type=PORT, help="Serve Prometheus metrics of the run on this port (0: any).")
@click.option("--prepare-only", is_flag=True, help="Only write the job folder, for a RayJob to run.")
@superseded_too
@as_json
@stores
def train(
    file: Path,
    out: Path | None,
    name: str | None,
    job: Path | None,
    adapter: str | None,
    workers: int | tuple[int, int],
    gpu: bool,
    sharded: bool,
    in_process: bool,
    form: "Form",
    metrics_port: int | None,
    prepare_only: bool,
    superseded: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Train the objective in FILE. Stopped anywhere and run again, it ends with the same policy.

    With --prepare-only, --job alone is enough: nothing is trained, and the RayJob names the policy. MLFLOW_TRACKING_URI
    sends metrics to MLflow; TensorBoard files lie in the job folder. With --workers MIN:MAX the run takes what there is
    and grows or shrinks between checkpoints.
    """
    import os

    folder = job or (out.with_name(out.name + ".job") if out else None)
    if folder is None or (out is None and not prepare_only):
        raise click.UsageError("--out is needed: the directory of the policy to write")

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rich.console import Console
    from transformers.utils import logging

    from plumbline.cli.objective import resolve_objective
    from plumbline.console.training_view import TrainingView
    from plumbline.evaluation.probes import judge_probes
    from plumbline.reconcile.provenance import code_digest
    from plumbline.training import prepare
    from plumbline.training import train as run
    from plumbline.training.follow import following
    from plumbline.training.runners import told

    store = open_ledger(ledger, must_exist=True)
    overrides = {"adapter": {"kind": adapter}} if adapter else {}
    kept = open_blobs(blobs, must_exist=True)
    found = resolve_objective(file, store, kept, superseded=superseded, **overrides)
    what: dict[str, Any] = {
        "base": found.base,
        "job_folder": folder,
        "replay": found.replay.train if found.replay else (),
        "template": found.template,
        "probe_items": found.probe_items,
    }
    if out is not None and not prepare_only:
        name = name or out.resolve().name
        require_free(out, found.objective, name)
        if gpu or not in_process:
            require_machine(workers if isinstance(workers, int) else workers[0], gpu=gpu)
    job_ready = prepare(found.objective, found.data.train, **what)
    if out is None or name is None or prepare_only:
        if json_out:
            print_json({"job": str(folder), "objective": found.objective.digest, "steps": job_ready.order.steps})
        else:
            click.echo(f"{folder} is ready: {job_ready.order.steps} steps, objective {found.objective.digest}")
        return
    logging.disable_progress_bar()
    terminal = Console(stderr=True)
    with (
        interruptible(),
        following(folder, run=name, objective=found.objective, metrics_port=metrics_port) as followers,
        TrainingView(name, terminal, enabled=not json_out) as view,
    ):
        for follower in followers if not json_out else []:
            click.echo(follower.where, err=True)
        trained = run(
            found.objective,
            found.data.train,
            **what,
            out=out,
            name=name,
            judge=judge_probes,
            runner="in-process" if in_process else "ray",
            workers=workers,
            use_gpu=gpu,
            sharded=sharded,
            form=form,
            code=code_digest(),
            on_progress=told(view.progress, *(follower.progress for follower in followers)),
            on_probe=told(view.probed, *(follower.probed for follower in followers)),
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
    cut = f"{total.truncated} truncated, {total.split} split, {total.dropped} dropped"
    click.echo(f"  {total.examples} examples in {total.rows} rows; {cut}")
    if record.stopped_by:
        click.echo(f"  stopped by {record.stopped_by}; the policy is that of step {record.chosen_step}")


def require_free(out: Path, objective: "Objective", name: str) -> None:
    """Refuse an --out that holds something else before the training, not after it."""
    from plumbline.errors import PlumblineError
    from plumbline.policies.files import read_manifest

    found = read_manifest(out)
    if not out.exists() or (found is not None and (found.objective, found.name) == (objective.digest, name)):
        return
    raise PlumblineError(
        f"{out} already holds {f'the policy {found.name}' if found else 'something else'}",
        consequence="nothing was trained; what is there is unchanged",
        remedy="name another --out, or move the old one away",
    )
