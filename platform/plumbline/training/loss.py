"""The effective loss, and nothing else.

    L = ( sum over supervised tokens of  w_slice * NLL  +  lambda * sum over KL slices of KL(ref || pi) ) / W
    W = sum over all supervised tokens of the *global* batch of w_slice

W is computed from the token store before any forward pass, so that micro-batches and ranks simply add up: there is
no mean of means to get wrong (transformers#34191, verl PR#3332). Only supervised positions meet the output layer.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.policies.local import logits_at
from plumbline.records import KlTerm
from plumbline.training.prepare import TokenStore

Precision = Literal["float32", "bfloat16"]


@dataclass
class Sums:
    """Running sums over a reporting window; ratios are taken once, at the end."""

    loss: float = 0.0
    kl: float = 0.0
    weight: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded ids [rows, length]; `targets` marks the positions whose *next* token is supervised [rows, length-1];
    `weights` and `kl` give each supervised position its slice weight and whether KL applies [supervised]."""

    ids: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    kl: torch.Tensor


def global_weight(batch: NDArray[np.int64], targets: NDArray[np.int64], example_weights: NDArray[np.float64]) -> float:
    """W of a global batch: the denominator that all its ranks and micro-batches share."""
    return float((targets[batch] * example_weights[batch]).sum())


def micro_batches(batch: NDArray[np.int64], lengths: NDArray[np.int64], rows: int) -> list[NDArray[np.int64]]:
    """Split a rank's examples into micro-batches of similar length: less padding, the same objective."""
    by_length = batch[np.argsort(lengths[batch], kind="stable")]
    return [by_length[i : i + rows] for i in range(0, len(by_length), rows)]


def collate(
    store: TokenStore, indices: NDArray[np.int64], example_weights: NDArray[np.float64], kl: KlTerm, device: Any
) -> MicroBatch:
    """Rows of the store as right-padded tensors. Padding follows the text, so a causal policy never sees it."""
    lengths = store.lengths[indices]
    longest = int(lengths.max())
    ids = np.zeros((len(indices), longest), dtype=np.int64)
    mask = np.zeros((len(indices), longest), dtype=bool)
    for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
        start = store.starts[index]
        ids[row, :length] = store.ids[start : start + length]
        mask[row, :length] = store.supervised[start : start + length]
    targets = mask[:, 1:]
    counts = targets.sum(1)
    in_kl = np.array([store.slice_names[store.slices[i]] in kl.slices for i in indices])
    return MicroBatch(
        ids=torch.from_numpy(ids).to(device),
        targets=torch.from_numpy(targets).to(device),
        weights=torch.from_numpy(np.repeat(example_weights[indices], counts)).float().to(device),
        kl=torch.from_numpy(np.repeat(in_kl, counts)).to(device),
    )


def weighted_loss(
    model: Any, batch: MicroBatch, kl: KlTerm, reference: Any | None, precision: Precision = "float32"
) -> tuple[torch.Tensor, Sums]:
    """Un-normalised loss of a micro-batch (divide by W) and its sums. Nothing supervised gives an exact zero."""
    logits = supervised_logits(model, batch, precision)
    labels = batch.ids[:, 1:][batch.targets]
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    loss = (nll * batch.weights).sum()
    sums = Sums(float(loss.detach()), 0.0, float(batch.weights.sum()), int(labels.numel()))
    if kl.weight and reference is not None and bool(batch.kl.any()):
        with torch.no_grad():
            wanted = torch.log_softmax(supervised_logits(reference, batch, precision)[batch.kl], -1)
        seen = torch.log_softmax(logits[batch.kl], -1)
        divergence = (wanted.exp() * (wanted - seen)).sum()
        sums.kl = float(divergence.detach())
        loss = loss + kl.weight * divergence
    return loss, sums


def supervised_logits(model: Any, batch: MicroBatch, precision: Precision = "float32") -> torch.Tensor:
    """float32 logits [supervised, vocabulary] at the positions that predict a supervised token. In bfloat16 the
    matrix products are autocast; parameters, optimiser and loss stay float32."""
    with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return logits_at(model, batch.ids, batch.targets).float()
