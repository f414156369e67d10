"""Who runs the loop: this process, or Ray Train (V2). The loop cannot tell them apart.

The Ray run's name is the caller's, never a timestamp: a retried RayJob with the same name finds its checkpoints,
with a default name it would start from zero. Storage must be shared by all nodes.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.training.job import TrainingJob

OnProgress = Callable[[dict[str, Any]], None]


@dataclass
class InProcess:
    """One rank in this process; checkpoints in `folder`, the newest kept. For tests, and machines without Ray."""

    folder: Path
    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        """The newest whole checkpoint: a kill between the two renames of `save` leaves it under `.old`."""
        places = (self.folder / "checkpoint", self.folder / "checkpoint.old")
        yield next((place for place in places if (place / "state.json").is_file()), None)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        fresh, newest = self.folder / "checkpoint.new", self.folder / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        write(fresh)
        old = self.folder / "checkpoint.old"
        shutil.rmtree(old, ignore_errors=True)
        if newest.exists():
            newest.rename(old)
        fresh.rename(newest)


class RayRank:
    """A rank inside a Ray Train worker."""

    def __init__(self) -> None:
        from ray.train import get_context

        context = get_context()
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device = self._device()

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        from ray.train import get_checkpoint

        found = get_checkpoint()
        if found is None:
            yield None
            return
        with found.as_directory() as folder:
            yield Path(folder)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        from ray import train

        if self.rank != 0:
            train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="plumbline-checkpoint-") as folder:
            write(Path(folder))
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder))

    @staticmethod
    def _device() -> str:
        from ray.train.torch import get_device

        return str(get_device())


def run_in_process(job: TrainingJob, *, device: str = "cpu") -> None:
    from plumbline.training.loop import train_rank

    train_rank(job, InProcess(job.folder, device=device))


def run_with_ray(
    job: TrainingJob,
    *,
    name: str,
    workers: int = 1,
    use_gpu: bool = False,
    storage: Path | None = None,
    max_failures: int = 2,
    on_progress: OnProgress | None = None,
) -> None:
    """Run the job with Ray Train and wait. A run of the same name and storage goes on where it stopped.

    Raises PlumblineError when Ray cannot place the workers or the run fails for good.
    """
    with ray_session():
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={"job": str(job.folder.resolve())},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu),
            run_config=RunConfig(
                name=name,
                storage_path=str((storage or job.folder / "ray").resolve()),
                failure_config=FailureConfig(max_failures=max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        with _watch(job.folder / "progress.jsonl", on_progress):
            try:
                trainer.fit()
            except Exception as error:
                raise PlumblineError(
                    f"the Ray Train run {name!r} failed: {_cause(error)}",
                    consequence="no policy was exported; its last checkpoint is kept",
                    remedy="put the cause right and run the same command: it resumes from the checkpoint",
                ) from error


def _ray_worker(config: dict[str, str]) -> None:
    from plumbline.training.loop import train_rank

    train_rank(TrainingJob.load(Path(config["job"])), RayRank())


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray: the caller's, the cluster's (RAY_ADDRESS), or a small local one that ends with the block.

    Local settings: no dashboard, no usage reports, quick health checks (they bound the start-up time of a run).
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import logging

    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
    else:
        ray.init(
            address="local",  # not whatever cluster somebody once started on this machine
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=128 * 1024 * 1024,
            configure_logging=True,
        )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _watch(path: Path, on_progress: OnProgress | None) -> Iterator[None]:
    """Hand each new line of the progress file to `on_progress`, from a thread, until the block ends."""
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def follow(report: OnProgress) -> None:
        offset = path.stat().st_size if path.exists() else 0
        while True:
            ending = done.is_set()
            if path.exists():
                with path.open() as stream:
                    stream.seek(offset)
                    while (line := stream.readline()).endswith("\n"):
                        offset = stream.tell()
                        report(json.loads(line))
            if ending:
                return
            time.sleep(0.2)

    thread = threading.Thread(target=follow, args=(on_progress,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _cause(error: BaseException) -> str:
    """The innermost line of a Ray failure: the rest is its own stack."""
    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    return text[-1] if text else type(error).__name__
