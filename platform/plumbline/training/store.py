"""The token store: rows of token ids with their masks, as flat arrays that a rank maps and reads in O(1).

ids         t t t t t | t t t | t t t t        int32, all rows end to end
supervised  0 0 0 1 1 | 0 1 1 | 0 0 1 1        bool, is this token a target?
starts      0           5       8          12  int64, one more than rows
slices      0           2       0              int16, index into slice_names
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import PlumblineError
from plumbline.records import Objective, digest_bytes


@dataclass(frozen=True)
class TokenStore:
    """`len(store)` rows; row i has `lengths[i]` tokens, `targets[i]` of which are supervised."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    starts: NDArray[np.int64]
    slices: NDArray[np.int16]
    slice_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slices)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Supervised tokens that can be predicted: the first token of a row never is a target."""
        sums = np.concatenate([[0], np.cumsum(self.supervised, dtype=np.int64)])
        first = self.supervised[self.starts[:-1]].astype(np.int64) if len(self) else np.zeros(0, np.int64)
        return np.asarray(sums[self.starts[1:]] - sums[self.starts[:-1]] - first, dtype=np.int64)

    def row(self, index: int) -> slice:
        """Where row `index` lies in `ids` and `supervised`."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def token_weights(self, objective: Objective) -> NDArray[np.float64]:
        """The weight of each supervised token of each row [rows]: the row's slice weight (1 where the objective names
        none), shared among the row's targets when the normaliser is `examples`."""
        by_slice = np.array([objective.slice_weights.get(name, 1.0) for name in self.slice_names])
        weights = by_slice[self.slices]
        if objective.normaliser == "examples":
            weights = weights / np.maximum(self.targets, 1)
        return np.asarray(weights, dtype=np.float64)

    def require_slices(self, objective: Objective) -> None:
        """Raise when the objective weights, or anchors, a slice that no row belongs to (a misspelt name would silently
        weigh nothing), when nothing has a weight, or when KL is asked for where the loss has none: a batch of that
        slice alone would have no denominator."""
        for where, names in (("slice_weights", objective.slice_weights), ("kl.slices", objective.kl.slices)):
            if unknown := sorted(set(names) - set(self.slice_names)):
                raise PlumblineError(
                    f"{where} names {', '.join(unknown)}, and no example is of that slice",
                    consequence="the objective would not do what it says, so nothing was trained",
                    remedy=f"use the data's slices: {', '.join(self.slice_names)}",
                )

        weights = objective.slice_weights
        if all(weights.get(name, 1.0) == 0 for name in self.slice_names):
            raise PlumblineError(
                "slice_weights gives every slice the weight 0",
                consequence="there is nothing to learn from",
                remedy="leave the slices out that are to count as they are",
            )
        if idle := sorted(name for name in objective.kl.slices if weights.get(name, 1.0) == 0):
            raise PlumblineError(
                f"kl.slices names {', '.join(idle)}, whose slice weight is 0",
                consequence="the KL term is a share of the batch's weight, so nothing was trained",
                remedy="give the slice a small weight, such as 0.01",
            )

    @property
    def digest(self) -> str:
        parts = (self.ids.tobytes(), self.supervised.tobytes(), self.starts.tobytes(), self.slices.tobytes())
        return digest_bytes(b"".join(parts) + "\0".join(self.slice_names).encode())

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        arrays = {
            "ids": self.ids,
            "supervised": self.supervised,
            "starts": self.starts,
            "slices": self.slices,
            "slice_names": np.frombuffer("\0".join(self.slice_names).encode(), dtype=np.uint8).copy(),
        }
        save_file(arrays, path)

    @classmethod
    def load(cls, path: Path) -> "TokenStore":
        from safetensors.numpy import load_file

        arrays = load_file(path)
        names = tuple(arrays["slice_names"].tobytes().decode().split("\0"))
        return cls(arrays["ids"], arrays["supervised"], arrays["starts"], arrays["slices"], names)
