"""What the training tests share: examples, and the gradient of one global batch."""

from pathlib import Path

import numpy as np
import torch

from plumbline.policies.local import load_model
from plumbline.records import Example, KlTerm, Provenance, say
from plumbline.training.loss import collate, global_weight, micro_batches, weighted_loss
from plumbline.training.prepare import TokenStore


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


def gradients(policy: Path, store: TokenStore, *, rows: int) -> torch.Tensor:
    """The gradient of one global batch of everything in the store, computed in micro-batches of `rows`."""
    _, model = load_model(policy)
    weights = np.where(store.slices == store.slice_names.index("refusals"), 2.0, 1.0)
    batch = np.arange(len(store))
    denominator = global_weight(batch, store.targets, weights)
    for part in micro_batches(batch, store.lengths, rows):
        loss, _ = weighted_loss(model, collate(store, part, weights, KlTerm(), "cpu"), KlTerm(), None)
        (loss / denominator).backward()
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
