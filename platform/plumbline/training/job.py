"""A training job on disk: everything a worker needs, addressed by the objective id.

    job/
      objective.json      the objective
      tokens.safetensors  the token store (training rows, then replay rows)
      mask_ledger.jsonl   what became of each example's tokens
      plan.json           which rows train, replay and validate; the base policy's directory; the template; the totals
      probes/             items and weights for behaviour probes (probing.py)
      progress.jsonl      one line per reporting window, appended by rank 0 (people and the progress bar read it)
      result/             the chosen weights, trained.json, and the training record, written last

The driver prepares it; workers on other nodes read it from shared storage. Prepared twice, it is the same.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.policies.template import ChatTemplate
from plumbline.records import Example, MaskTotals, Objective, SuiteItem, TrainingRecord
from plumbline.training.order import BatchOrder
from plumbline.training.prepare import Prepared, ledger_lines, prepare
from plumbline.training.store import TokenStore


@dataclass(frozen=True)
class TrainingJob:
    """A prepared job. `train`, `replay` and `validation` are rows of the token store; `template` is the text of the
    chat template that it was encoded with."""

    folder: Path
    objective: Objective
    base: Path
    template: str
    train: tuple[int, ...]
    replay: tuple[int, ...]
    validation: tuple[int, ...]
    ledger: dict[str, MaskTotals]

    @property
    def store(self) -> TokenStore:
        return TokenStore.load(self.folder / "tokens.safetensors")

    @property
    def order(self) -> BatchOrder:
        return _order(self.objective, self.train, self.replay)

    @property
    def result(self) -> Path:
        return self.folder / "result"

    @property
    def probes(self) -> Path:
        return self.folder / "probes"

    @property
    def stop(self) -> Path:
        """Where a probe says that the run should stop."""
        return self.probes / "stop.json"

    @property
    def record(self) -> TrainingRecord | None:
        """The finished run's record; None while it has not finished."""
        file = self.result / "record.json"
        return TrainingRecord.model_validate_json(file.read_text()) if file.is_file() else None

    @classmethod
    def load(cls, folder: Path) -> "TrainingJob":
        plan = json.loads((folder / "plan.json").read_text())
        return cls(
            folder=folder,
            objective=Objective.model_validate_json((folder / "objective.json").read_text()),
            base=(folder / plan["base"]).resolve(),
            template=plan["template"],
            train=tuple(plan["train"]),
            replay=tuple(plan["replay"]),
            validation=tuple(plan["validation"]),
            ledger={name: MaskTotals(**row) for name, row in plan["ledger"].items()},
        )


@contextlib.contextmanager
def alone(folder: Path, *, patience: float = 0.0) -> Iterator[None]:
    """Hold a job folder for one driver. The lock is the system's and goes with the process, however that ends; on a
    network file system it may outlive a lost node for a while, hence `patience`, in seconds. A file system without
    locks has none.

    Raises PlumblineError when another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + patience
    with (folder / ".lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise PlumblineError(
                        f"another run is at work in {folder}",
                        consequence="nothing was trained: two runs would overwrite each other's checkpoints",
                        remedy="wait for it, or end it and go on from its checkpoint, or name another folder",
                    ) from error
                time.sleep(min(1.0, patience))
            except OSError:
                break
        yield


def prepare_job(
    folder: Path,
    objective: Objective,
    examples: Sequence[Example],
    replay: Sequence[Example],
    base: Path,
    template: ChatTemplate,
    *,
    probe_items: Sequence[SuiteItem] = (),
    refuse: bool = True,
) -> TrainingJob:
    """Write the job folder, or reuse one that holds this very objective.

    Raises PlumblineError when the folder holds another objective, when the template is not the one the objective
    names, when a slice is named that no example has, when a token or a row does not fit the base policy, or (unless
    `refuse` is false) when truncation would exceed its limit.
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
    # rows in an order that only the words decide: not who filtered them, or by what code
    places = by_content(examples)
    examples, replay = [examples[i] for i in places], [replay[i] for i in by_content(replay)]
    settings, weights = objective.truncation, objective.slice_weights
    prepared = prepare(
        [*examples, *replay], template, settings, weights, turns=objective.mask.turns, refuse=refuse
    )  # fmt: skip
    prepared.store.require_slices(objective)
    require_fit(prepared.store, base, len(template.tokenizer) if objective.added_tokens else 0)
    aside = set(_validation(examples, objective))
    train = tuple(i for i, origin in enumerate(prepared.kept) if origin < len(examples) and origin not in aside)
    if not train:
        if prepared.refusal is not None and not len(prepared.store):
            raise prepared.refusal
        raise PlumblineError(
            f"all {len(aside)} examples that are left would be set aside for validation",
            consequence="there is nothing to train on",
            remedy="lower checkpoint.validation_share: whole clusters are set aside, and this data has few",
        )
    replayed = tuple(i for i, origin in enumerate(prepared.kept) if origin >= len(examples))
    validation = tuple(i for i, origin in enumerate(prepared.kept) if origin in aside)
    return _write(folder, objective, prepared, train, replayed, validation, base, template, probe_items, places)


def _write(
    folder: Path,
    objective: Objective,
    prepared: Prepared,
    train: tuple[int, ...],
    replay: tuple[int, ...],
    validation: tuple[int, ...],
    base: Path,
    template: ChatTemplate,
    probe_items: Sequence[SuiteItem],
    places: list[int],
) -> TrainingJob:
    """The files, plan.json last."""
    order = _order(objective, train, replay)
    shares = effective_shares(prepared.store, order, objective)
    ledger = {
        name: row.model_copy(update={"loss_share": shares.get(name, 1.0)}) for name, row in prepared.ledger.items()
    }
    plan: dict[str, Any] = {
        "base": os.path.relpath(base.resolve(), folder.resolve()),  # so that a run's directory may be moved
        "template": template.text,
        "train": train,
        "replay": replay,
        "validation": validation,
        "tokens": prepared.store.digest,
        "ledger": {name: row.model_dump() for name, row in ledger.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    prepared.store.save(folder / "tokens.safetensors")
    lines = "".join(ledger_lines(prepared.examples, places))
    write_durably(folder / "mask_ledger.jsonl", lines.encode())
    if probe_items:
        (folder / "probes").mkdir(exist_ok=True)
        items = json.dumps([item.model_dump(mode="json") for item in probe_items])
        write_durably(folder / "probes" / "items.json", items.encode())
    write_durably(folder / "objective.json", objective.model_dump_json(indent=2).encode())
    write_durably(folder / "plan.json", json.dumps(plan).encode())
    return TrainingJob.load(folder)


def by_content(examples: Sequence[Example]) -> list[int]:
    """Indices of examples, ordered by a digest of their words and slice: the order of training must not move when
    provenance does (another reviewer, another release of the ingestion code)."""

    def key(index: int) -> bytes:
        example = examples[index]
        words = "\0".join(f"{m.role}\0{m.content}" for m in example.messages)
        return hashlib.sha256(f"{example.slice}\0{words}".encode()).digest()

    return sorted(range(len(examples)), key=key)


def require_fit(store: TokenStore, base: Path, vocabulary: int) -> None:
    """Raise when a token id is outside the base policy's vocabulary (grown to `vocabulary` where tokens are added), or
    a row is longer than its positions."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base).get_text_config()
    known = max(int(config.vocab_size), vocabulary)
    if len(store.ids) and int(store.ids.max()) >= known:
        raise PlumblineError(
            f"token {int(store.ids.max())} is outside the base policy's vocabulary of {known}",
            consequence="its label could not be predicted, so nothing was trained",
            remedy="use the tokenizer that belongs to these weights, or name new tokens in added_tokens",
        )
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and len(store) and int(store.lengths.max()) > positions:
        raise PlumblineError(
            f"a row has {int(store.lengths.max())} tokens, and the base policy has {positions} positions",
            consequence="nothing was trained: beyond its positions the policy is not defined",
            remedy=f"set truncation.max_tokens to {positions} or less",
        )


def effective_shares(store: TokenStore, order: BatchOrder, objective: Objective) -> dict[str, float]:
    """Share of each slice in the loss over the whole run: what is seen, how often, times its weight. Replay that is
    drawn in part and examples set aside count as what they are."""
    seen = np.zeros(len(store))
    for step in range(order.steps):
        np.add.at(seen, order.global_batch(step), 1)
    mass = seen * store.targets * store.token_weights(objective)
    total = mass.sum() or 1.0
    by_slice = np.bincount(store.slices, weights=mass, minlength=len(store.slice_names)) / total
    return {name: round(float(share), 6) for name, share in zip(store.slice_names, by_slice, strict=True)}


def _order(objective: Objective, train: tuple[int, ...], replay: tuple[int, ...]) -> BatchOrder:
    o = objective
    return BatchOrder(train, replay, o.replay_share, o.batch_examples, o.epochs, o.seed, o.max_steps)


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
