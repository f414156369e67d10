"""RayJob entry point for SFT: run a prepared job by Ray Train, then export the policy.

    python /app/jobs/sft.py --objective FILE --run-name NAME --storage DIR

DIR is shared by all nodes. DIR/jobs/NAME is what `plumb train FILE --prepare-only --job DIR/jobs/NAME` wrote where
the ledger is; workers need no ledger and no text, only the token store. Checkpoints go to DIR/ray/NAME and the policy
to DIR/NAME: the same name resumes. PLUMBLINE_TRAIN_WORKERS and PLUMBLINE_TRAIN_GPUS_PER_WORKER size the run.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from pydantic import ValidationError

from plumbline.cli.main import explain
from plumbline.cli.options import first_fault, read_text
from plumbline.cli.train import require_free
from plumbline.errors import PlumblineError
from plumbline.reconcile.provenance import code_digest
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
    workers = os.environ.get("PLUMBLINE_TRAIN_WORKERS", "1")
    if not workers.isdecimal() or int(workers) < 1:
        raise PlumblineError(
            f"PLUMBLINE_TRAIN_WORKERS is {workers!r}",
            consequence="nothing was trained",
            remedy="give the number of Ray Train workers, 1 or more",
        )
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
    if read_record(job) is None:
        run_with_ray(
            job,
            name=name,
            workers=int(workers),
            use_gpu=os.environ.get("PLUMBLINE_TRAIN_GPUS_PER_WORKER", "0") != "0",
            storage=storage / "ray",
        )
    return export(job, out, name=name, code=code_digest()).digest


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
