"""RayJob entry point for SFT: run a prepared job by Ray Train, then export the policy.

    python /app/jobs/sft.py --objective FILE --run-name NAME --storage DIR

DIR is shared by all nodes. DIR/jobs/NAME is what `plumb train FILE --prepare-only --job DIR/jobs/NAME` wrote where
the ledger is; workers need no ledger and no text, only the token store. Checkpoints go to DIR/ray/NAME and the policy
to DIR/NAME: the same name resumes. The environment sizes the run: PLUMBLINE_TRAIN_WORKERS (N, or MIN:MAX of an elastic
one), PLUMBLINE_TRAIN_GPUS_PER_WORKER, PLUMBLINE_TRAIN_SHARDED=1 (FSDP2). PLUMBLINE_METRICS_PORT serves Prometheus
metrics of the run; MLFLOW_TRACKING_URI sends them to MLflow. A PLUMBLINE_LEDGER on a server is told of the policy;
beside an SQLite ledger the same `plumb train` without --prepare-only does that, and trains nothing again.
"""

import os
from contextlib import closing
from pathlib import Path

from plumbline.cli.entry import entry, read_record, workers_of
from plumbline.cli.options import open_ledger
from plumbline.cli.train import require_free
from plumbline.errors import PlumblineError
from plumbline.evaluation.probes import judge_probes
from plumbline.reconcile.provenance import code_digest
from plumbline.records import Objective
from plumbline.training.follow import following
from plumbline.training.job import TrainingJob, alone, changed_objective
from plumbline.training.probing import settle
from plumbline.training.runners import run_with_ray, told

LOST_NODE_SECONDS = 120.0  # a retry may begin before the storage has noticed that the last head is gone
WRITTEN_BY = "pass the job folder's objective.json, or what `plumb render rayjob` put into the ConfigMap"


def main() -> None:
    entry("sft", __doc__, "--objective", run)


def run(objective_file: Path, name: str, storage: Path) -> str:
    """Run, or go on with, the run `name`.

    Everything that can be refused is refused before the training: GPUs are dear.
    """
    objective = read_record(objective_file, Objective, "an objective", WRITTEN_BY)
    workers = workers_of("PLUMBLINE_TRAIN_WORKERS")
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
        from plumbline.training.export import export

        settle(job)
        manifest = export(job, out, name=name, code=code_digest())
    if "://" in (ledger := os.environ.get("PLUMBLINE_LEDGER", "")):
        with closing(open_ledger(ledger, must_exist=True)) as store:
            store.releases.record_policy(manifest, objective)
    return f"policy {manifest.digest} at {out}"


if __name__ == "__main__":
    main()
