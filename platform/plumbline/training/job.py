"""A training job on disk: everything a worker needs, addressed by the objective id.

    job/
      objective.json      the objective
      tokens.safetensors  the token store (training examples, then replay examples)
      plan.json           which indices train, replay and validate; the base policy's directory; the mask ledger
      progress.jsonl      one line per reporting window, appended by rank 0 (people and the progress bar read it)
      result/             the chosen weights and the training record, written last

The driver prepares it; workers on other nodes read it from shared storage. Prepared twice, it is the same.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.policies.template import ChatTemplate
from plumbline.records import Example, MaskTotals, Objective
from plumbline.training.order import BatchOrder
from plumbline.training.prepare import TokenStore, prepare


@dataclass(frozen=True)
class TrainingJob:
    """A prepared job. `train`, `replay` and `validation` are index ranges or sets into the token store."""

    folder: Path
    objective: Objective
    base: Path
    train: tuple[int, ...]
    replay: tuple[int, ...]
    validation: tuple[int, ...]
    ledger: dict[str, MaskTotals]

    @property
    def store(self) -> TokenStore:
        return TokenStore.load(self.folder / "tokens.safetensors")

    @property
    def order(self) -> BatchOrder:
        o = self.objective
        return BatchOrder(self.train, self.replay, o.replay_share, o.batch_examples, o.epochs, o.seed, o.max_steps)

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @classmethod
    def load(cls, folder: Path) -> "TrainingJob":
        plan = json.loads((folder / "plan.json").read_text())
        return cls(
            folder=folder,
            objective=Objective.model_validate_json((folder / "objective.json").read_text()),
            base=(folder / plan["base"]).resolve(),
            train=tuple(plan["train"]),
            replay=tuple(plan["replay"]),
            validation=tuple(plan["validation"]),
            ledger={name: MaskTotals(**row) for name, row in plan["ledger"].items()},
        )


def prepare_job(
    folder: Path,
    objective: Objective,
    examples: Sequence[Example],
    replay: Sequence[Example],
    base: Path,
    template: ChatTemplate,
) -> TrainingJob:
    """Write the job folder, or reuse one that holds this very objective.

    Raises PlumblineError when the folder holds another objective, when the template is not the one the objective
    names, or when truncation would exceed its limit.
    """
    if template.digest != objective.template:
        raise PlumblineError(
            f"the base policy's chat template is {template.digest[:19]}, the objective names {objective.template[:19]}",
            consequence="the policy would be trained on another text than it is served with",
            remedy="use the base policy that the objective was written for, or write a new objective",
        )
    if (folder / "plan.json").is_file():
        job = TrainingJob.load(folder)
        if job.objective.digest != objective.digest:
            raise changed_objective(folder, job.objective, objective)
        return job
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare([*examples, *replay], template, objective.truncation, objective.slice_weights)
    aside = set(_validation(examples, objective))
    trained = [i for i, origin in enumerate(prepared.kept) if origin < len(examples) and origin not in aside]
    validation = [i for i, origin in enumerate(prepared.kept) if origin in aside]
    replayed = [i for i, origin in enumerate(prepared.kept) if origin >= len(examples)]
    if not trained:
        raise PlumblineError(
            f"all {len(validation)} examples that are left would be set aside for validation",
            consequence="there is nothing to train on",
            remedy="lower checkpoint.validation_share: whole clusters are set aside, and this data has few",
        )
    prepared.store.save(folder / "tokens.safetensors")
    write_durably(folder / "objective.json", objective.model_dump_json(indent=2).encode())
    plan: dict[str, Any] = {
        "base": os.path.relpath(base.resolve(), folder.resolve()),  # so that a run's directory may be moved
        "train": trained,
        "replay": replayed,
        "validation": validation,
        "tokens": prepared.store.digest,
        "ledger": {name: row.model_dump() for name, row in prepared.ledger.items()},
    }
    order = BatchOrder(tuple(trained), tuple(replayed), objective.replay_share, objective.batch_examples,
                       objective.epochs, objective.seed, objective.max_steps)  # fmt: skip
    for name, share in effective_shares(prepared.store, order, objective.slice_weights).items():
        plan["ledger"][name]["loss_share"] = share
    write_durably(folder / "plan.json", json.dumps(plan).encode())
    return TrainingJob.load(folder)


def effective_shares(store: TokenStore, order: BatchOrder, weights: dict[str, float]) -> dict[str, float]:
    """Share of each slice in the loss over the whole run: what is seen, how often, times its weight. Replay that is
    drawn in part and examples set aside count as what they are."""
    seen = np.zeros(len(store))
    for step in range(order.steps):
        np.add.at(seen, order.global_batch(step), 1)
    mass = seen * store.targets * store.example_weights(weights)
    total = mass.sum() or 1.0
    by_slice = np.bincount(store.slices, weights=mass, minlength=len(store.slice_names)) / total
    return {name: round(float(share), 6) for name, share in zip(store.slice_names, by_slice, strict=True)}


def _validation(examples: Sequence[Example], objective: Objective) -> tuple[int, ...]:
    """Indices set aside for the checkpoint rule: whole clusters, picked by a stable hash."""
    share = objective.checkpoint.validation_share
    if objective.checkpoint.rule == "last" or share == 0:
        return ()
    limit = int(share * 2**32)

    def aside(index: int, example: Example) -> bool:
        key = example.cluster or str(index)
        digest = hashlib.sha256(f"{objective.seed}:{key}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < limit

    return tuple(i for i, example in enumerate(examples) if aside(i, example))


def changed_objective(folder: Path, before: Objective, after: Objective) -> PlumblineError:
    """The refusal to resume, with what changed."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    changes = [f"{key}: {old[key]!r} -> {new[key]!r}" for key in old if old[key] != new[key]]
    return PlumblineError(
        f"{folder} was begun under another objective; changed: " + "; ".join(changes)[:600],
        consequence="resuming would mix two objectives in one policy, so nothing was trained",
        remedy="restore the objective, or train into another directory",
    )
