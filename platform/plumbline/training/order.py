"""The exact order of global batches: a function of the objective alone, never of workers, devices or restarts.

Step k of a run is the same set of examples on one CPU, on eight GPUs, and after an elastic resize. Resuming at step
k computes the permutation of k's epoch and reads nothing of what was skipped.
"""

from dataclasses import dataclass, field
from itertools import chain

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
    _epochs: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

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
            parts.append(self._epoch(epoch)[offset : offset + taken])
            start += taken
        return np.concatenate(parts)

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """The shuffled indices of one epoch; the last two that were asked for are remembered."""
        if epoch not in self._epochs:
            count = self.replay_per_epoch
            drawn = (self.replay[i] for i in _cycled(len(self.replay), self.seed, epoch * count, count))
            indices = np.fromiter(chain(self.train, drawn), dtype=np.int64, count=self.epoch_size)
            shuffled = indices[np.random.default_rng([self.seed, 1, epoch]).permutation(len(indices))]
            for old in sorted(self._epochs)[:-1]:
                del self._epochs[old]
            self._epochs[epoch] = shuffled
        return self._epochs[epoch]


def _cycled(size: int, seed: int, start: int, count: int) -> list[int]:
    """`count` draws from position `start` of an endless sequence of permutations of range(size)."""
    drawn: list[int] = []
    while len(drawn) < count:
        cycle, offset = divmod(start + len(drawn), size)
        permutation = np.random.default_rng([seed, 2, cycle]).permutation(size)
        drawn += permutation[offset : offset + count - len(drawn)].tolist()
    return drawn
