"""From examples to a token store: rendered once, masked once, every truncation counted.

The store is four flat arrays, so that a rank can map it and read any example in O(1):

    ids         t t t t t | t t t | t t t t        int32, all examples end to end
    supervised  0 0 0 1 1 | 0 1 1 | 0 0 1 1        bool, is this token a target?
    starts      0           5       8          12  int64, one more than examples
    slices      0           2       0              int16, index into slice_names
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import PlumblineError
from plumbline.policies.template import ChatTemplate, Encoded
from plumbline.records import Example, MaskTotals, Truncation, digest_bytes

BLOCK = 2048


@dataclass(frozen=True)
class TokenStore:
    """Token ids with their masks; `lengths[i]` tokens and `targets[i]` supervised tokens in example i."""

    ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    starts: NDArray[np.int64]
    slices: NDArray[np.int16]
    slice_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.slices)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def targets(self) -> NDArray[np.int64]:
        """Supervised tokens that can be predicted: the first token of a document never is a target."""
        sums = np.concatenate([[0], np.cumsum(self.supervised, dtype=np.int64)])
        first = self.supervised[self.starts[:-1]].astype(np.int64) if len(self) else np.zeros(0, np.int64)
        return np.asarray(sums[self.starts[1:]] - sums[self.starts[:-1]] - first, dtype=np.int64)

    def example_weights(self, weights: dict[str, float]) -> NDArray[np.float64]:
        """Weight of each example by its slice; 1 where `weights` names none."""
        by_slice = np.array([weights.get(name, 1.0) for name in self.slice_names])
        return np.asarray(by_slice[self.slices])

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


@dataclass(frozen=True)
class Prepared:
    """A token store with its mask ledger: what the loss will see, by slice and in all. `kept[i]` is the index, among
    the examples given, of the store's example i: dropped ones are missing."""

    store: TokenStore
    ledger: dict[str, MaskTotals]
    kept: tuple[int, ...]


def prepare(
    examples: Sequence[Example], template: ChatTemplate, truncation: Truncation, weights: dict[str, float]
) -> Prepared:
    """Encode, mask and truncate. Raises PlumblineError when nothing is left to learn from, when a stop token is
    never supervised, or when more than `truncation.max_share` of the examples would be cut or dropped."""
    if not examples:
        raise PlumblineError(
            "the dataset version has no training examples",
            consequence="there is nothing to train on",
            remedy="publish a version with a train split",
        )
    names = tuple(sorted({example.slice for example in examples}))
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    kept: list[tuple[int, Encoded]] = []
    origins: list[int] = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        for origin, encoded in enumerate(template.encode([e.messages for e in block]), start):
            example = examples[origin]
            fitted = _truncate(encoded, truncation, counts[example.slice])
            if fitted is not None:
                kept.append((names.index(example.slice), fitted))
                origins.append(origin)
                _count(fitted, counts[example.slice])
    touched = sum(c["truncated"] + c["dropped"] for c in counts.values())
    if touched > truncation.max_share * len(examples):
        raise PlumblineError(
            f"{touched} of {len(examples)} examples are longer than {truncation.max_tokens} tokens",
            consequence=f"the run would cut more than the {truncation.max_share:.1%} that the objective allows",
            remedy="raise truncation.max_tokens, allow more with truncation.max_share, or shorten the examples",
        )
    stops = sum(c["stop_supervised"] for c in counts.values())
    if not stops:
        raise PlumblineError(
            f"the template of {template.name!r} writes no end-of-turn token after an answer",
            consequence="the policy would never learn to stop, so nothing was trained",
            remedy="end assistant turns with the tokenizer's eos token in the chat template",
        )
    return Prepared(_store(kept, names), _ledger(counts, weights), tuple(origins))


def _truncate(encoded: Encoded, truncation: Truncation, count: Counter[str]) -> Encoded | None:
    """The encoded example, cut from the left if the policy says so; None (and counted) when it must go."""
    if len(encoded.ids) > truncation.max_tokens:
        cut = len(encoded.ids) - truncation.max_tokens
        if truncation.policy == "drop" or any(encoded.supervised[:cut]):
            count["dropped"] += 1
            return None
        count["truncated"] += 1
        return Encoded(encoded.ids[cut:], encoded.supervised[cut:], encoded.content[cut:])
    if not any(encoded.supervised):
        count["dropped"] += 1
        return None
    return encoded


def _count(encoded: Encoded, count: Counter[str]) -> None:
    targets = sum(encoded.supervised)
    count["examples"] += 1
    count["prompt_tokens"] += len(encoded.ids) - targets
    count["supervised_tokens"] += targets
    count["stop_supervised"] += encoded.stop_supervised


def _store(kept: list[tuple[int, Encoded]], names: tuple[str, ...]) -> TokenStore:
    lengths = [len(encoded.ids) for _, encoded in kept]
    return TokenStore(
        ids=np.fromiter((t for _, e in kept for t in e.ids), dtype=np.int32, count=sum(lengths)),
        supervised=np.fromiter((s for _, e in kept for s in e.supervised), dtype=np.bool_, count=sum(lengths)),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        slices=np.array([index for index, _ in kept], dtype=np.int16),
        slice_names=names,
    )


def _ledger(counts: dict[str, Counter[str]], weights: dict[str, float]) -> dict[str, MaskTotals]:
    weighted = {name: c["supervised_tokens"] * weights.get(name, 1.0) for name, c in counts.items()}
    total = sum(weighted.values()) or 1.0
    rows = {name: (c, weighted[name] / total) for name, c in counts.items()}
    rows["all"] = (sum(counts.values(), Counter()), 1.0)
    fields = ("examples", "prompt_tokens", "supervised_tokens", "truncated", "dropped", "stop_supervised")
    return {
        name: MaskTotals(**{field: c[field] for field in fields}, loss_share=round(share, 6))
        for name, (c, share) in rows.items()
    }
