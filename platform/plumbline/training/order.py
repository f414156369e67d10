"""The exact order of global batches: a function of the objective alone, never of workers, devices or restarts.

Step k of a run is the same set of examples on one CPU, on eight GPUs, and after an elastic resize. Resuming at step
k computes the permutation of k's epoch and reads nothing of what was skipped.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class BatchOrder:
    """`train` indices are shuffled per epoch; each epoch also draws `replay_per_epoch` of `replay` without
    repetition until the pool is used up. The last batch of the run may be short."""

    train: tuple[int, ...]
    replay: tuple[int, ...]
    replay_share: float
    batch: int
    epochs: float
    seed: int
    max_steps: int | None = None

    @property
    def replay_per_epoch(self) -> int:
        """Replay examples per epoch, so that they are `replay_share` of all that the epoch sees."""
        if not self.replay:
            return 0
        return round(len(self.train) * self.replay_share / (1 - self.replay_share))

    @property
    def epoch_size(self) -> int:
        return len(self.train) + self.replay_per_epoch

    @property
    def examples(self) -> int:
        """Examples the run sees when `max_steps` does not end it; at least one."""
        return max(1, round(self.epochs * self.epoch_size))

    @property
    def steps(self) -> int:
        total = -(-self.examples // self.batch)
        return min(total, self.max_steps) if self.max_steps else total

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Example indices of 0-based `step`, across epoch boundaries if need be."""
        start, end = step * self.batch, min((step + 1) * self.batch, self.examples)
        parts = []
        while start < end:
            epoch, offset = divmod(start, self.epoch_size)
            taken = min(end - start, self.epoch_size - offset)
            parts.append(_epoch(self, epoch)[offset : offset + taken])
            start += taken
        return np.concatenate(parts)


@lru_cache(maxsize=2)
def _epoch(order: BatchOrder, epoch: int) -> NDArray[np.int64]:
    """The shuffled indices of one epoch."""
    drawn = [
        order.replay[i]
        for i in _cycled(len(order.replay), order.seed, epoch * order.replay_per_epoch, order.replay_per_epoch)
    ]
    indices = np.array([*order.train, *drawn], dtype=np.int64)
    return np.asarray(indices[np.random.default_rng([order.seed, 1, epoch]).permutation(len(indices))])


def _cycled(size: int, seed: int, start: int, count: int) -> list[int]:
    """`count` draws from position `start` of an endless sequence of permutations of range(size)."""
    drawn: list[int] = []
    while len(drawn) < count:
        cycle, offset = divmod(start + len(drawn), size)
        permutation = np.random.default_rng([seed, 2, cycle]).permutation(size)
        drawn += permutation[offset : offset + count - len(drawn)].tolist()
    return drawn
