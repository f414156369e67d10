"""RayJob entry point for SFT: run a prepared job by Ray Train, then export the policy.

    python /app/jobs/sft.py --objective FILE --run-name NAME --storage DIR

DIR is shared by all nodes. DIR/jobs/NAME is what `plumb train FILE --prepare-only --job DIR/jobs/NAME` wrote where
the ledger is; workers need no ledger and no text, only the token store. Checkpoints go to DIR/ray/NAME and the policy
to DIR/NAME: the same name resumes. The environment sizes the run: PLUMBLINE_TRAIN_WORKERS (N, or MIN:MAX of an elastic
one), PLUMBLINE_TRAIN_GPUS_PER_WORKER, PLUMBLINE_TRAIN_SHARDED=1 (FSDP2). PLUMBLINE_METRICS_PORT serves Prometheus
metrics of the run; MLFLOW_TRACKING_URI sends them to MLflow.
"""

import argparse
import os
import re
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from plumbline.cli.main import explain
from plumbline.cli.options import Workers, first_fault, read_text
from plumbline.cli.train import require_free
from plumbline.errors import PlumblineError
from plumbline.evaluation.probes import judge_probes
from plumbline.reconcile.provenance import code_digest
from plumbline.records import Objective
from plumbline.training.export import export
from plumbline.training.follow import following
from plumbline.training.job import TrainingJob, alone, changed_objective
from plumbline.training.probing import settle
from plumbline.training.runners import run_with_ray, told

LOST_NODE_SECONDS = 120.0  # a retry may begin before the storage has noticed that the last head is gone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", type=Path, required=True)
    parser.add_argument("--run-name", required=True)
    parser.add_argument("--storage", type=Path, required=True)
    options = parser.parse_args()
    try:
        manifest = run(options.objective, options.run_name, options.storage)
    except (KeyboardInterrupt, SystemExit):  # Ray Train answers Ctrl-C with SystemExit(0)
        print("sft: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PLUMBLINE_TRACEBACK"):
            raise
        print(f"sft: {explain(error)}", file=sys.stderr)
        sys.exit(explain(error).exit_code)
    print(f"policy {manifest} at {options.storage / options.run_name}")


def run(objective_file: Path, name: str, storage: Path) -> str:
    """Run, or go on with, the run `name`. Returns the policy's digest.

    Everything that can be refused is refused before the training: GPUs are dear.
    """
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
        raise PlumblineError(
            f"{name!r} is no name for a run",
            consequence="nothing was trained",
            remedy="use letters, digits, dot, dash and underscore: it names folders below --storage",
        )
    objective = read_objective(objective_file)
    workers = workers_of(os.environ.get("PLUMBLINE_TRAIN_WORKERS", "1"))
    folder, out = storage / "jobs" / name, storage / name
    if not (folder / "plan.json").is_file():
        raise PlumblineError(
            f"there is no prepared job at {folder}",
            consequence="nothing was trained",
            remedy=f"where the ledger is: plumb train FILE --job {folder} --prepare-only",
        )
    job = TrainingJob.load(folder)
    if job.objective.digest != objective.digest:
        raise changed_objective(folder, job.objective, objective)
    require_free(out, objective, name)
    with alone(folder, patience=LOST_NODE_SECONDS):
        port = os.environ.get("PLUMBLINE_METRICS_PORT", "")
        if job.record is None:
            with following(
                folder,
                run=name,
                objective=objective,
                metrics_port=int(port) if port.isdecimal() else None,
                metrics_host="0.0.0.0",
            ) as followers:
                run_with_ray(
                    job,
                    name=name,
                    workers=workers,
                    use_gpu=os.environ.get("PLUMBLINE_TRAIN_GPUS_PER_WORKER", "0") != "0",
                    sharded=os.environ.get("PLUMBLINE_TRAIN_SHARDED", "0") == "1",
                    judge=judge_probes,
                    storage=storage / "ray",
                    on_progress=told(*(follower.progress for follower in followers)),
                    on_probe=told(*(follower.probed for follower in followers)),
                )
        settle(job)
        return export(job, out, name=name, code=code_digest()).digest


def workers_of(said: str) -> int | tuple[int, int]:
    """N or MIN:MAX."""
    try:
        return Workers().convert(said, None, None)
    except click.BadParameter as error:
        raise PlumblineError(
            f"PLUMBLINE_TRAIN_WORKERS is {said!r}",
            consequence="nothing was trained",
            remedy="give the number of Ray Train workers, 1 or more, or MIN:MAX",
        ) from error


def read_objective(file: Path) -> Objective:
    """The objective that the ConfigMap carries: the record, with digests where an objective file has names."""
    consequence = "nothing was trained"
    try:
        return Objective.model_validate_json(read_text(file, "an objective", consequence=consequence))
    except ValidationError as error:
        raise PlumblineError(
            f"{file} is not an objective: {first_fault(error)}",
            consequence=consequence,
            remedy="pass the job folder's objective.json, or what `plumb render rayjob` put into the ConfigMap",
        ) from error


if __name__ == "__main__":
    main()
