"""One batch of items, asked: likelihoods where the item has choices to compare, a generated answer elsewhere."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from plumbline.errors import PlumblineError
from plumbline.evaluation.asking.records import ChoiceLikelihood, ItemAnswer
from plumbline.policies import Completion, Interrupted, LogLikelihood, NoLikelihood, Policy
from plumbline.records import DecoderSettings, PolicyManifest, SuiteItem

BATCH = 128
Batch = tuple[SuiteItem, ...]


@dataclass(frozen=True)
class Answered:
    """What came back of one batch. `fault` is why it is not all of it: the run ends there, and these are kept."""

    answers: tuple[ItemAnswer, ...]
    fault: PlumblineError | None = None


@runtime_checkable
class Asker(Protocol):
    """Whoever gets batches answered. They come back in any order; which batch an item is in never changes its answer.
    `place` names what beside the policy decides the last bits: `cpu`, `cuda`, `endpoint`."""

    @property
    def manifest(self) -> PolicyManifest: ...

    @property
    def place(self) -> str: ...

    @property
    def verified(self) -> bool: ...

    def ask(self, batches: Sequence[Batch], decoder: DecoderSettings) -> Iterator[Answered]: ...


class Hired(Asker, Protocol):
    """An asker that is sent home afterwards."""

    def close(self) -> None: ...


class Here:
    """Asks in this process, one batch after the other."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def manifest(self) -> PolicyManifest:
        return self.policy.manifest

    @property
    def place(self) -> str:
        return str(getattr(self.policy, "place", "cpu"))

    @property
    def verified(self) -> bool:
        return bool(getattr(self.policy, "verified", True))

    def ask(self, batches: Sequence[Batch], decoder: DecoderSettings) -> Iterator[Answered]:
        for batch in batches:
            yield ask_items(self.policy, batch, decoder)


def by_likelihood(item: SuiteItem) -> bool:
    return item.scorer.startswith("choice_loglik")


def deal(items: Sequence[SuiteItem], size: int = BATCH) -> list[Batch]:
    """Likelihood items first, then generated ones, alike lengths together, in batches of `size`."""
    ordered = sorted(items, key=lambda item: (not by_likelihood(item), -_length(item), item.id))
    dealt: list[Batch] = []
    for kind in (True, False):
        mine = [item for item in ordered if by_likelihood(item) is kind]
        dealt += [tuple(mine[start : start + size]) for start in range(0, len(mine), size)]
    return dealt


def ask_items(policy: Policy, items: Batch, decoder: DecoderSettings) -> Answered:
    """Answers to items of one kind. A likelihood that is not finite, or that the policy cannot give, is the item's
    `error`; an endpoint that is lost half-way leaves what it had answered, and the fault."""
    asked = [(item.messages, choice) for item in items for choice in item.choices]
    try:
        if by_likelihood(items[0]):
            values = iter(policy.log_likelihood(asked))
            return Answered(tuple(_compared(item, [next(values) for _ in item.choices]) for item in items))
        completions = policy.generate([item.messages for item in items], decoder)
        return Answered(tuple(_generated(item, answer) for item, answer in zip(items, completions, strict=True)))
    except NoLikelihood as fault:
        return Answered(tuple(ItemAnswer(item=item.id, error=fault.fact) for item in items))
    except Interrupted as fault:
        if not by_likelihood(items[0]):
            whole = [(item, done) for item, done in zip(items, fault.done, strict=True) if isinstance(done, Completion)]
            return Answered(tuple(_generated(item, done) for item, done in whole), fault)
        parts = iter(fault.done)
        gathered = [(item, [next(parts) for _ in item.choices]) for item in items]
        kept = [
            _compared(item, [value for value in values if isinstance(value, LogLikelihood)])
            for item, values in gathered
            if all(isinstance(value, LogLikelihood) for value in values)
        ]
        return Answered(tuple(kept), fault)


def _length(item: SuiteItem) -> int:
    return sum(len(message.content) for message in item.messages)


def _generated(item: SuiteItem, completion: Completion) -> ItemAnswer:
    return ItemAnswer(item=item.id, text=completion.text, finish=completion.finish)


def _compared(item: SuiteItem, values: Sequence[LogLikelihood]) -> ItemAnswer:
    if not all(math.isfinite(value.total) for value in values):
        return ItemAnswer(item=item.id, error="a log-likelihood is not a finite number")
    return ItemAnswer(
        item=item.id,
        choices=tuple(ChoiceLikelihood(total=v.total, tokens=v.tokens, bytes=v.bytes) for v in values),
    )
