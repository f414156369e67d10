"""What a rank of the distributed training tests does: the real loop over gloo, checkpoints in a plain folder.

Ranks are processes of their own, as many as the world has; what they saw and made goes to files.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from plumbline.training import loop
from plumbline.training.job import TrainingJob
from sharding_worker import process_group


@dataclass(frozen=True)
class Part:
    """One run of a job: by how many ranks, sharded or whole; killed after the step `dies_at`, where there is no
    checkpoint. `apart` gives every rank but the first a job folder of its own."""

    job: Path
    world: int
    sharded: bool = False
    dies_at: int | None = None
    apart: Path | None = None


@dataclass
class Ranked:
    """A rank whose checkpoints lie in folders that all ranks share."""

    part: Part
    rank: int
    device: str = "cpu"

    @property
    def world(self) -> int:
        return self.part.world

    @property
    def sharded(self) -> bool:
        return self.part.sharded

    @contextmanager
    def resume(self) -> Iterator[Path | None]:
        whole = sorted(self.part.job.glob("checkpoint-*/whole"))
        yield whole[-1].parent if whole else None

    def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
        folder = self.part.job / f"checkpoint-{int(metrics['step']):04d}"
        write(folder)
        dist.barrier()
        if self.rank == 0:
            (folder / "whole").touch()
            if probe == 4:
                (self.part.job / "probes" / "stop.json").write_text('{"step": 4, "good": 2, "breaches": {}}')
        dist.barrier()

    def preempted(self, step: int) -> bool:
        if step == self.part.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def work(rank: int, parts: list[Part], folder: Path) -> None:
    """This rank's place in each of the runs that have one for it. Notes, step by step, the global batch and which of
    its rows this rank took."""
    deal = loop.rank_cuts
    for number, part in enumerate(parts):
        if rank >= part.world:
            continue
        seen: list[Any] = []

        def noted(batch: Any, *args: Any, seen: list[Any] = seen) -> Any:
            cuts = deal(batch, *args)
            seen.append([batch.tolist(), [row for cut in cuts for row in cut.tolist()]])
            return cuts

        loop.rank_cuts = noted
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        with process_group(rank, part.world, place):
            job = part.apart if part.apart is not None and rank else part.job
            loop.train_rank(TrainingJob.load(job), Ranked(part, rank))
        (part.job / f"seen-{part.world}-{rank}.json").write_text(json.dumps(seen))
