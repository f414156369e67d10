"""RayJob entry point for SFT: run a prepared job by Ray Train, then export the policy.

    python /app/jobs/sft.py --objective FILE --run-name NAME --storage DIR

DIR is shared by all nodes. DIR/jobs/NAME is what `plumb train FILE --prepare-only --job DIR/jobs/NAME` wrote where
the ledger is; workers need no ledger and no text, only the token store. Checkpoints go to DIR/ray/NAME and the policy
to DIR/NAME: the same name resumes. PLUMBLINE_TRAIN_WORKERS and PLUMBLINE_TRAIN_GPUS_PER_WORKER size the run.
"""

import argparse
import os
import sys
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.records import Objective
from plumbline.training.export import export, read_record
from plumbline.training.job import TrainingJob, changed_objective
from plumbline.training.runners import run_with_ray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", type=Path, required=True)
    parser.add_argument("--run-name", required=True)
    parser.add_argument("--storage", type=Path, required=True)
    options = parser.parse_args()
    try:
        manifest = run(options.objective, options.run_name, options.storage)
    except PlumblineError as error:
        print(f"sft: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"policy {manifest} at {options.storage / options.run_name}")


def run(objective_file: Path, name: str, storage: Path) -> str:
    """Run, or go on with, the run `name`. Returns the policy's digest."""
    folder = storage / "jobs" / name
    if not (folder / "plan.json").is_file():
        raise PlumblineError(
            f"there is no prepared job at {folder}",
            consequence="nothing was trained",
            remedy=f"where the ledger is: plumb train FILE --out {storage / name} --job {folder} --prepare-only",
        )
    job = TrainingJob.load(folder)
    objective = Objective.model_validate_json(objective_file.read_text("utf-8"))
    if job.objective.digest != objective.digest:
        raise changed_objective(folder, job.objective, objective)
    if read_record(job) is None:
        run_with_ray(
            job,
            name=name,
            workers=int(os.environ.get("PLUMBLINE_TRAIN_WORKERS", "1")),
            use_gpu=os.environ.get("PLUMBLINE_TRAIN_GPUS_PER_WORKER", "0") != "0",
            storage=storage / "ray",
        )
    return export(job, storage / name, name=name).digest


if __name__ == "__main__":
    main()
