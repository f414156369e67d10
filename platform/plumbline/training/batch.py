"""From a global batch to what a forward pass takes: shares by rank, micro-batches by layout, tensors.

    padded, bucketed     ids  a a a a a .      targets  mark positions whose *next* token is supervised
                              b b b . . .
    packed               ids  a a a a a b b b  documents [0, 5, 8]; positions 0 1 2 3 4 0 1 2

Which rows share a micro-batch, or a rank, never changes the sum that the loss is: only time and rounding. The cut is
a function of the batch, the lengths and the number of ranks alone, so a resumed run repeats it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.records import Objective
from plumbline.training.store import TokenStore

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class MicroBatch:
    """ids [rows, length]; `targets` [rows, length - 1] marks the positions whose next token is supervised; `weights`,
    `kl` and `slices` give, for each supervised position, its weight, its share in the KL term (0 where the term is not
    for its slice), and its slice's index [supervised].
    Packed: one row, `positions` [1, length] restart at each document, `documents` [n + 1] says where they begin."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    kl: torch.Tensor
    slices: torch.Tensor
    positions: torch.Tensor | None = None
    documents: torch.Tensor | None = None
    longest: int = 0
    tokens: int = 0

    @property
    def labels(self) -> torch.Tensor:
        """The token ids to be predicted [supervised]."""
        return self.ids[:, 1:][self.targets]


def shares(batch: Rows, lengths: NDArray[np.int64], world: int) -> list[Rows]:
    """Each rank's rows of a global batch, dealt longest first, there and back, so that ranks get equal work."""
    if world == 1:
        return [batch]
    dealt: list[list[int]] = [[] for _ in range(world)]
    for place, row in enumerate(batch[np.argsort(-lengths[batch], kind="stable")]):
        turn, seat = divmod(place, world)
        dealt[seat if turn % 2 == 0 else world - 1 - seat].append(int(row))
    return [np.array(rows, dtype=np.int64) for rows in dealt]


def micro_batches(rows: Rows, lengths: NDArray[np.int64], objective: Objective) -> list[Rows]:
    """Cut a rank's rows into micro-batches: at most `micro_batch_tokens` tokens (padding included) and, unless packed,
    `micro_batch_examples` rows each."""
    packed = objective.layout == "packed"
    ordered = rows if objective.layout == "padded" else rows[np.argsort(lengths[rows], kind="stable")]
    cuts: list[list[int]] = []
    longest = tokens = 0
    for row in ordered:
        length = int(lengths[row])
        size = tokens + length if packed else max(longest, length) * (len(cuts[-1]) + 1 if cuts else 1)
        full = not packed and bool(cuts) and len(cuts[-1]) == objective.micro_batch_examples
        if not cuts or full or size > objective.micro_batch_tokens:
            cuts.append([])
            longest = tokens = 0
        cuts[-1].append(int(row))
        longest, tokens = max(longest, length), tokens + length
    return [np.array(cut, dtype=np.int64) for cut in cuts]


def collate(
    store: TokenStore, rows: Rows, weights: NDArray[np.float64], objective: Objective, device: Any
) -> MicroBatch:
    """A micro-batch's tensors. No rows give a batch in which nothing is supervised: sharded ranks step together."""
    lengths = store.lengths[rows]
    packed = objective.layout == "packed" and len(rows) > 0
    ids, mask = _packed(store, rows) if packed else _padded(store, rows, lengths)
    counts = store.targets[rows]
    anchored = np.array([float(store.slice_names[store.slices[i]] in objective.kl.slices) for i in rows])
    if objective.normaliser == "examples":
        anchored = anchored / np.maximum(counts, 1)
    on = {"device": device, "non_blocking": True}
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])[None] if packed else None
    return MicroBatch(
        ids=torch.from_numpy(ids).to(**on),
        targets=torch.from_numpy(mask[:, 1:]).to(**on),
        weights=torch.from_numpy(np.repeat(weights[rows], counts)).float().to(**on),
        kl=torch.from_numpy(np.repeat(anchored, counts)).float().to(**on),
        slices=torch.from_numpy(np.repeat(store.slices[rows].astype(np.int64), counts)).to(**on),
        positions=torch.from_numpy(positions).to(**on) if positions is not None else None,
        documents=torch.from_numpy(starts).to(**on) if packed else None,
        longest=int(lengths.max()) if len(rows) else 0,
        tokens=int(lengths.sum()),
    )


def _padded(store: TokenStore, rows: Rows, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Right-padded: padding follows the text, so a causal policy never sees it; it is no target by position, so a
    padding token that is also the end-of-turn token keeps its label where it is one (trl#976)."""
    longest = int(lengths.max()) if len(rows) else 2
    ids = np.zeros((max(1, len(rows)), longest), dtype=np.int64)
    mask = np.zeros(ids.shape, dtype=bool)
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[place, :length] = store.ids[store.row(row)]
        mask[place, :length] = store.supervised[store.row(row)]
    return ids, mask


def _packed(store: TokenStore, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """End to end in one row. The first token of a document is no target: there would be a label across the boundary."""
    ids = np.concatenate([store.ids[store.row(row)] for row in rows]).astype(np.int64)
    masks = [store.supervised[store.row(row)].copy() for row in rows]
    for mask in masks:
        mask[0] = False
    return ids[None], np.concatenate(masks)[None]
