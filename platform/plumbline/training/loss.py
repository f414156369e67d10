"""The effective loss, and nothing else.

    L = ( sum over supervised tokens of  w * NLL  +  lambda * sum over KL slices of KL(ref || pi) ) / W
    W = sum over all supervised tokens of the *global* batch of w

W is computed from the token store before any forward pass, so that micro-batches and ranks simply add up: there is
no mean of means to get wrong (transformers#34191, verl PR#3332). Only supervised positions meet the output layer.
"""

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from plumbline.policies.local import treats_logits
from plumbline.records import Objective
from plumbline.training.attention import forward_arguments
from plumbline.training.batch import MicroBatch, Rows
from plumbline.training.head import head_loss, sums_from_logits

LOSS, KL, ANCHORED, SUPERVISED, TOKENS, SLICES = range(6)  # places in a tally


@dataclass
class Sums:
    """Running sums over a reporting window, over all ranks; ratios are taken once, at the end."""

    loss: float = 0.0
    kl: float = 0.0
    anchored: int = 0
    weight: float = 0.0
    supervised: int = 0
    tokens: int = 0
    seconds: float = 0.0
    slice_nll: list[float] = field(default_factory=list)
    slice_tokens: list[float] = field(default_factory=list)

    def add(self, tally: list[float], weight: float, seconds: float) -> None:
        """Add one global step's tally, its weight W and its duration."""
        names = (len(tally) - SLICES) // 2
        self.loss, self.weight = self.loss + tally[LOSS], self.weight + weight
        self.kl, self.anchored = self.kl + tally[KL], self.anchored + int(tally[ANCHORED])
        self.supervised, self.tokens = self.supervised + int(tally[SUPERVISED]), self.tokens + int(tally[TOKENS])
        self.seconds += seconds
        nll, seen = tally[SLICES : SLICES + names], tally[SLICES + names :]
        self.slice_nll = [a + b for a, b in zip(self.slice_nll or [0.0] * names, nll, strict=True)]
        self.slice_tokens = [a + b for a, b in zip(self.slice_tokens or [0.0] * names, seen, strict=True)]

    @property
    def mean(self) -> float:
        """Weighted loss per unit of weight, the KL term aside; 0 where nothing was supervised."""
        return self.loss / self.weight if self.weight else 0.0

    def by_slice(self, names: tuple[str, ...]) -> dict[str, float]:
        """Mean NLL per supervised token of each slice that the window saw, in nats."""
        rows = zip(names, self.slice_nll, self.slice_tokens, strict=True)
        return {name: nll / tokens for name, nll, tokens in rows if tokens}


def global_weight(batch: Rows, targets: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
    """W of a global batch: the denominator that all its ranks and micro-batches share."""
    return float((targets[batch] * weights[batch]).sum())


class WeightedLoss(torch.nn.Module):
    """A policy with its loss: a micro-batch in, its un-normalised loss (divide by W) and tally out.

    The tally is a float64 vector: weighted NLL, KL over the tokens of the KL slices, their number, supervised tokens,
    tokens, then NLL and supervised tokens by slice.
    It is a module, and everything happens inside `forward`, so that sharded parameters are gathered around it.
    Nothing supervised gives an exact zero with zero gradients.
    """

    def __init__(self, model: Any, objective: Objective, slices: int, reference: Any | None = None) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.slices = slices
        self.treated = treats_logits(model)  # tried out now, while the weights are whole
        self._reference = [reference]  # in a list: its parameters are not this module's, and are never trained

    @property
    def tally_size(self) -> int:
        return SLICES + 2 * self.slices

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        kl = self.objective.kl
        reference = self._reference[0] if kl.weight and bool(batch.kl.any()) else None
        half = self.objective.precision == "bfloat16"
        with torch.autocast(batch.ids.device.type, dtype=torch.bfloat16, enabled=half):
            if self.treated:
                loss, nll, divergence = self._through_logits(batch, reference)
            else:
                hidden = supervised_hidden(self.model, batch)
                anchor = None
                if reference is not None:
                    with torch.no_grad():
                        anchor = (reference.get_output_embeddings(), supervised_hidden(reference, batch))
                loss, nll, divergence = head_loss(
                    self.model.get_output_embeddings(),
                    hidden,
                    batch.labels,
                    batch.weights,
                    kl.weight * batch.kl,
                    anchor,
                    torch.bfloat16 if half else torch.float32,
                )
        return loss, self._tally(batch, nll.detach(), divergence.detach())

    def _through_logits(
        self, batch: MicroBatch, reference: Any | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For architectures that cap or scale their logits: their own forward pass makes all of them."""
        logits = _logits(self.model, batch)
        with torch.no_grad():
            wanted = None if reference is None else _logits(reference, batch)
        nll, divergence = sums_from_logits(logits, batch.labels, wanted)
        divergence = divergence * (batch.kl > 0)
        return (batch.weights * nll + self.objective.kl.weight * batch.kl * divergence).sum(), nll, divergence

    def _tally(self, batch: MicroBatch, nll: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
        tally = torch.zeros(self.tally_size, dtype=torch.float64, device=batch.ids.device)
        tally[LOSS] = (batch.weights * nll).double().sum()
        tally[KL] = divergence[batch.kl > 0].double().sum()
        tally[ANCHORED] = (batch.kl > 0).sum()
        tally[SUPERVISED], tally[TOKENS] = len(nll), batch.tokens
        tally[SLICES : SLICES + self.slices].index_add_(0, batch.slices, nll.double())
        tally[SLICES + self.slices :].index_add_(0, batch.slices, torch.ones_like(nll, dtype=torch.float64))
        return tally


def supervised_hidden(model: Any, batch: MicroBatch) -> torch.Tensor:
    """Last hidden states [supervised, hidden] at the positions that predict a supervised token."""
    states = model.base_model(batch.ids, **_arguments(batch)).last_hidden_state
    return cast(torch.Tensor, states[:, :-1][batch.targets])


def _logits(model: Any, batch: MicroBatch) -> torch.Tensor:
    return cast(torch.Tensor, model(batch.ids, **_arguments(batch)).logits[:, :-1][batch.targets].float())


def _arguments(batch: MicroBatch) -> dict[str, Any]:
    """No attention mask: padding is on the right, and packed documents are told apart by their boundaries."""
    if batch.positions is None or batch.documents is None:
        return {"use_cache": False}
    return {"use_cache": False, **forward_arguments(batch.positions, batch.documents, batch.longest)}
