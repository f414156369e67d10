"""`plumb train`: an objective file to an aligned policy directory, with Ray Train."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from plumbline.cli.options import (
    AT_LEAST_ONE,
    as_json,
    interruptible,
    open_blobs,
    open_ledger,
    print_json,
    require_machine,
    stores,
)

if TYPE_CHECKING:
    from plumbline.records import Objective


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the policy to write.")
@click.option("--name", help="Name of the policy (default: the directory's).")
@click.option("--job", type=click.Path(path_type=Path), help="Job folder (default: OUT.job); resumes from it.")
@click.option("--adapter", type=click.Choice(["none", "lora"]), help="Override the file's adapter.")
@click.option("--workers", type=AT_LEAST_ONE, default=1, show_default=True, help="Ray Train workers.")
@click.option("--gpu", is_flag=True, help="One GPU per worker.")
@click.option("--in-process", is_flag=True, help="Without Ray, one rank in this process.")
@click.option("--prepare-only", is_flag=True, help="Only write the job folder, for a RayJob to run.")
@as_json
@stores
def train(
    file: Path,
    out: Path | None,
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
    """Train the objective in FILE. Stopped anywhere and run again, it ends with the same policy.

    With --prepare-only, --job alone is enough: nothing is trained, and the RayJob names the policy.
    """
    import os

    folder = job or (out.with_name(out.name + ".job") if out else None)
    if folder is None or (out is None and not prepare_only):
        raise click.UsageError("--out is needed: the directory of the policy to write")

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils import logging

    from plumbline.cli.objective import resolve_objective
    from plumbline.policies.local import load_template
    from plumbline.reconcile.provenance import code_digest
    from plumbline.training import train as run
    from plumbline.training.job import prepare_job

    store = open_ledger(ledger, must_exist=True)
    overrides = {"adapter": {"kind": adapter}} if adapter else {}
    found = resolve_objective(file, store, open_blobs(blobs, must_exist=True), **overrides)
    replay = found.replay.train if found.replay else ()
    if out is None or prepare_only:
        prepared = prepare_job(folder, found.objective, found.data.train, replay, found.base, load_template(found.base))
        if json_out:
            print_json({"job": str(folder), "objective": found.objective.digest, "steps": prepared.order.steps})
        else:
            click.echo(f"{folder} is ready: {prepared.order.steps} steps, objective {found.objective.digest}")
        return
    require_free(out, found.objective, name or out.name)
    if gpu or not in_process:
        require_machine(workers, gpu=gpu)
    logging.disable_progress_bar()
    terminal = Console(stderr=True)
    progress = Progress(console=terminal, transient=True, disable=not terminal.is_terminal)
    with interruptible(), progress:
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
