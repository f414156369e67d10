"""What the training tests share: examples, and the gradient of one global batch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from plumbline.policies.local import load_model
from plumbline.records import Example, KlTerm, Objective, Optimiser, Provenance, digest_of, say
from plumbline.training.attention import use_document_attention
from plumbline.training.batch import collate, micro_batches, shares
from plumbline.training.loss import WeightedLoss, global_weight
from plumbline.training.store import TokenStore


def make_examples(n: int) -> list[Example]:
    """Facts and (every third) refusals, of ragged lengths, each its own cluster."""
    provenance = Provenance(origin="seed", author="tests", source="tests")
    names = ("ana", "ben", "cleo", "dora", "eli")
    return [
        Example(
            messages=(
                say("user", f"who is {names[i % 5]} number {i} ?" + " please" * (i % 4)),
                say("assistant", "ana is a baker ." if i % 3 else "i can not help with that , i am sorry ."),
            ),
            slice="facts" if i % 3 else "refusals",
            cluster=f"c{i}",
            provenance=provenance,
        )
        for i in range(n)
    ]


def an_objective(**changes: Any) -> Objective:
    """An objective whose digests stand for nothing: for tests of the loss alone."""
    nothing = digest_of("nothing")
    settings: dict[str, Any] = {
        "dataset": nothing,
        "base_policy": nothing,
        "template": nothing,
        "rubric": nothing,
        "optimiser": Optimiser(learning_rate=1e-3),
    }
    return Objective(**{**settings, **changes})


def with_kl(weight: float, *slices: str) -> KlTerm:
    return KlTerm(weight=weight, slices=slices)


def global_gradient(
    policy: Path | Any, store: TokenStore, objective: Objective, *, ranks: int = 1, reference: Any | None = None
) -> torch.Tensor:
    """The gradient of one global batch of everything in the store, cut as the objective says and dealt to `ranks`,
    whose shares are simply added up."""
    model = load_model(policy)[1] if isinstance(policy, Path) else policy
    model.zero_grad()
    if objective.layout == "packed":
        use_document_attention(model)
    root = WeightedLoss(model, objective, len(store.slice_names), reference)
    weights, batch = store.token_weights(objective), np.arange(len(store))
    denominator = global_weight(batch, store.targets, weights)
    for share in shares(batch, store.lengths, ranks):
        for rows in micro_batches(share, store.lengths, objective):
            loss, _ = root(collate(store, rows, weights, objective, "cpu"))
            (loss / denominator).backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
