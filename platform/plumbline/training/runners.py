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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.policies.files import read_lines
from plumbline.training.job import TrainingJob
from plumbline.training.probing import Judge, require_probes, waiting
from plumbline.training.probing import probe as run_probe

OnProgress = Callable[[dict[str, Any]], None]
PREEMPTION_EVERY = 10  # steps
SLIVER = 0.01  # of a GPU, for a probe beside the workers
NO_DATASETS = ("DatasetsCallback",)  # its actor hands out Ray Datasets: the order here is the job's own
NO_CLUSTER = ("PlacementGroupCleanerCallback",)  # its actor tidies a cluster that outlives the run


def told(*listeners: OnProgress) -> OnProgress:
    """One listener that tells all of them."""

    def tell(line: dict[str, Any]) -> None:
        for listener in listeners:
            listener(line)

    return tell


@dataclass
class InProcess:
    """One rank in this process; checkpoints in `job.folder`, the newest kept; probes on the training path. For tests,
    and machines without Ray."""

    job: TrainingJob
    judge: Judge | None = None
    device: str = "cpu"
    rank: int = 0
    world: int = 1
    sharded: bool = False

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        """The newest whole checkpoint: a kill between the two renames of `save` leaves it under `.old`."""
        places = (self.job.folder / "checkpoint", self.job.folder / "checkpoint.old")
        yield next((place for place in places if (place / "state.json").is_file()), None)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
        newest = self.job.folder / "checkpoint"
        fresh, old = newest.with_name("checkpoint.new"), newest.with_name("checkpoint.old")
        shutil.rmtree(fresh, ignore_errors=True)
        write(fresh)
        if newest.exists():
            shutil.rmtree(old, ignore_errors=True)
            newest.rename(old)
        fresh.rename(newest)
        if probe is not None and self.judge is not None:
            run_probe(self.job, probe, self.judge, self.device)

    def preempted(self, step: int) -> bool:
        return False


class RayRank:
    """A rank inside a Ray Train worker. Probes run as Ray Train's validation tasks, beside the run."""

    def __init__(self, job: TrainingJob, *, sharded: bool, watch_preemption: bool, probing: bool) -> None:
        from ray.train import get_context
        from ray.train.torch import get_device

        context = get_context()
        self.job = job
        self.rank: int = context.get_world_rank()
        self.world: int = context.get_world_size()
        self.device = str(get_device())
        self.sharded = sharded
        self.probing = probing
        self.watch_preemption = watch_preemption
        self._warned = False

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        from ray.train import get_checkpoint

        found = get_checkpoint()
        if found is None:
            yield None
            return
        with found.as_directory() as folder:
            yield Path(folder)

    def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
        """Every rank writes its shard; Ray Train merges them into one checkpoint."""
        from ray import train

        task: Any = False
        if probe is not None and self.probing:
            task = train.ValidationTaskConfig(fn_kwargs={"job": str(self.job.folder), "step": probe})
        with tempfile.TemporaryDirectory(prefix="plumbline-checkpoint-") as folder:
            write(Path(folder))
            train.report(metrics, checkpoint=train.Checkpoint.from_directory(folder), validation=task)

    def preempted(self, step: int) -> bool:
        """Whether a node is about to be taken away: once, so that a last checkpoint is saved. Asked every few steps,
        since asking is a barrier."""
        if not self.watch_preemption or self._warned or step % PREEMPTION_EVERY:
            return False
        from ray.train import get_preemption_info

        self._warned = get_preemption_info() is not None
        return self._warned


def run_in_process(
    job: TrainingJob,
    *,
    device: str = "cpu",
    judge: Judge | None = None,
    on_progress: OnProgress | None = None,
    on_probe: OnProgress | None = None,
) -> None:
    """Run the job here, one rank, or go on with it."""
    from plumbline.training.loop import train_rank

    require_probes(job, judge)
    with _watched(job, on_progress, on_probe):
        if judge is not None:
            for step in waiting(job):  # a kill came between a checkpoint and its probe
                run_probe(job, step, judge, device)
        train_rank(job, InProcess(job, judge=judge, device=device))


def run_with_ray(
    job: TrainingJob,
    *,
    name: str,
    workers: int | tuple[int, int] = 1,
    use_gpu: bool = False,
    sharded: bool = False,
    judge: Judge | None = None,
    storage: Path | None = None,
    max_failures: int = 2,
    on_progress: OnProgress | None = None,
    on_probe: OnProgress | None = None,
) -> None:
    """Run the job with Ray Train and wait. A run of the same name and storage goes on where it stopped.

    `workers` may be (min, max): the run starts with what there is, and grows and shrinks between checkpoints, over
    the same sequence of global batches. Ray counts for this what the nodes have, not what others leave free: give such
    a run a cluster of its own, as a RayJob does, or it waits for workers that never fit. `sharded` spreads parameters
    over the workers (FSDP2). Raises PlumblineError when Ray cannot place the workers or the run fails for good; and
    before Ray starts, for what cannot be sharded.
    """
    _require_shardable(job, sharded)
    require_probes(job, judge)
    with ray_session():
        import ray
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, ValidationConfig
        from ray.train.torch import TorchTrainer

        probing = judge is not None and job.objective.probes.suite is not None
        # beside the workers, not in their place: a probe must not wait until they have ended
        beside: dict[str, Any] = {"num_cpus": 0, "num_gpus": SLIVER if use_gpu else 0, "max_retries": 2}
        asked: dict[str, Any] = {"judge": judge, "device": "cuda" if use_gpu else "cpu"}
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config={
                "job": str(job.folder.resolve()),
                "sharded": sharded,
                "probing": probing,
                "watch_preemption": bool(os.environ.get("RAY_ADDRESS")),
            },
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=use_gpu,
                # a probe needs a sliver of some GPU: with every one taken whole, it would wait for the run's end
                resources_per_worker={"GPU": 1 - SLIVER} if use_gpu and probing else None,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str((storage or job.folder / "ray").resolve()),
                failure_config=FailureConfig(max_failures=max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
            validation_config=ValidationConfig(partial(_ray_probe, **asked), ray_remote_kwargs=beside)
            if probing
            else None,
        )
        alone = not os.environ.get("RAY_ADDRESS") and len(ray.nodes()) == 1
        _spare(trainer, NO_DATASETS + (NO_CLUSTER if alone else ()))
        with _watched(job, on_progress, on_probe):
            try:
                trainer.fit()
                for step in waiting(job) if probing else []:  # Ray Train only logs a probe that failed
                    late = ray.remote(**beside)(_ray_probe)
                    ray.get(late.remote(None, job=str(job.folder.resolve()), step=step, **asked))
            except Exception as error:
                raise PlumblineError(
                    f"the Ray Train run {name!r} failed: {_cause(error)}",
                    consequence="no policy was exported; its last checkpoint is kept",
                    remedy="put the cause right and run the same command: it resumes from the checkpoint",
                ) from error


def _spare(trainer: Any, callbacks: Sequence[str]) -> None:
    """Do without some of Ray Train's own callbacks: each of these starts an actor, a process that imports Ray and
    pandas for seconds of every run. Another version of Ray that has no such method keeps them."""
    if made := getattr(trainer, "_create_default_callbacks", None):
        trainer._create_default_callbacks = lambda: [one for one in made() if type(one).__name__ not in callbacks]


def _require_shardable(job: TrainingJob, sharded: bool) -> None:
    if sharded and job.objective.adapter.kind == "qlora":
        raise PlumblineError(
            "adapter.kind is qlora, and --sharded was asked for",
            consequence="nothing was trained: 4-bit weights are packed in blocks that cannot be cut into rows",
            remedy="leave --sharded out (in 4 bits the base policy is small), or choose adapter.kind lora",
        )


def _ray_worker(config: dict[str, Any]) -> None:
    from plumbline.training.loop import train_rank

    job = TrainingJob.load(Path(config["job"]))
    rank = RayRank(
        job,
        sharded=config["sharded"],
        watch_preemption=config["watch_preemption"],
        probing=config["probing"],
    )
    train_rank(job, rank)


def _ray_probe(checkpoint: Any, *, job: str, step: int, judge: Judge | None, device: str) -> dict[str, float]:
    """Ray Train's validation function: the weights lie in the job folder, so the checkpoint itself is not needed."""
    assert judge is not None, "a run without a judge asks for no probes"
    line = run_probe(TrainingJob.load(Path(job)), step, judge, device)
    return dict(line["rates"]) if line is not None else {}


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray: the caller's, the cluster's (RAY_ADDRESS), or a small local one that ends with the block.

    Local settings: no dashboard, no usage reports, quick health checks (they bound the start-up time of a run), nobody
    who watches for nodes to be taken away, and no workers before they are asked for.
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
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
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
def _watched(job: TrainingJob, on_progress: OnProgress | None, on_probe: OnProgress | None) -> Iterator[None]:
    """Hand on what the run writes of its progress and its probes, while the block lasts."""
    with _watch(job.folder / "progress.jsonl", on_progress), _watch(job.folder / "probes.jsonl", on_probe):
        yield


@contextlib.contextmanager
def _watch(path: Path, on_progress: OnProgress | None) -> Iterator[None]:
    """Hand each new line of the progress file to `on_progress`, from a thread, until the block ends."""
    if on_progress is None:
        yield
        return
    done = threading.Event()

    def follow(report: OnProgress) -> None:
        offset, file, told_of = 0, 0, max((line["step"] for line in read_lines(path)), default=-1)
        while True:
            ending = done.is_set()
            if path.exists():
                with path.open() as stream:
                    # another file under this name: a resumed run takes back the lines of the steps that it does again
                    if (now := os.fstat(stream.fileno()).st_ino) != file:
                        offset, file = 0, now
                    stream.seek(offset)
                    while (text := stream.readline()).endswith("\n"):
                        offset, line = stream.tell(), json.loads(text)
                        if line["step"] > told_of:
                            told_of = line["step"]
                            report(line)
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
