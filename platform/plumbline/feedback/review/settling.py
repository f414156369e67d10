"""Settling: what the words on a batch allow, as a pure function of items, labels and agreement.

    pass         unanimous items are settled; disputed ones once an adjudicator has decided them
    second_look  nothing, until every disputed item is adjudicated and so is a fifth of the unanimous ones; if an
                 adjudicator overturned one of those, all of them are adjudicated
    too_few      unanimous items are settled; the disputed wait until there are enough labels to tell
    blocked      nothing: the rubric is revised

A batch waits until each of its items that may still be shown has its words: a first glance at the labels that came in
early would be another, easier test. A batch too small to tell is judged by all labels under the same rule texts.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from plumbline.records import LABEL_SEVERITIES, LABEL_VERDICTS, Rubric, RubricRevision, policy_text_digest
from plumbline.statistics.agreement import Agreement, State, agreement
from plumbline.stores.reviews import Basis, GivenLabel, ReviewItem

SAMPLED = 0.2  # of unanimous items, in a second look
_EXAMPLES = 20  # disputed texts that a revision names
Labels = Mapping[int, Sequence[GivenLabel]]


@dataclass(frozen=True)
class BatchAgreement:
    """Agreement of one batch (None: of all batches): on verdicts, on severities (ordinal), and by rule at stake."""

    batch: int | None
    verdicts: Agreement
    severities: Agreement
    rules: dict[str, Agreement]


@dataclass(frozen=True)
class Outcome:
    item: ReviewItem
    approved: bool
    basis: Basis
    labels: tuple[GivenLabel, ...]


@dataclass(frozen=True)
class Plan:
    """`outcomes` may be settled now. `undecided` wait for an adjudicator. `blocked` is agreement by blocked batch.
    `waiting` counts what stays open: labels, batch (complete, others are not), adjudicator, agreement, rubric."""

    outcomes: tuple[Outcome, ...]
    undecided: tuple[ReviewItem, ...]
    blocked: dict[int, BatchAgreement]
    waiting: dict[str, int]


@dataclass(frozen=True)
class Docket:
    """The items under one policy text and all that is known of them. `shown` are those that may still be shown."""

    items: tuple[ReviewItem, ...]
    labels: Labels
    settled: frozenset[int]
    shown: frozenset[int]
    needed: Mapping[int, int]  # labels per item, by batch

    def complete(self, item: ReviewItem) -> bool:
        return len(words(self.labels, item)) >= self.needed[item.batch]

    def open(self, item: ReviewItem) -> bool:
        return item.item in self.shown and item.item not in self.settled

    def batches(self) -> dict[int, list[ReviewItem]]:
        found: dict[int, list[ReviewItem]] = {}
        for item in self.items:
            found.setdefault(item.batch, []).append(item)
        return dict(sorted(found.items()))


def words(labels: Labels, item: ReviewItem) -> list[GivenLabel]:
    """Reviewers' standing labels on an item; an adjudicator's is no part of agreement."""
    return [given for given in labels.get(item.item, ()) if given.role == "reviewer"]


def ruling(labels: Labels, item: ReviewItem) -> GivenLabel | None:
    return next((given for given in labels.get(item.item, ()) if given.role == "adjudicator"), None)


def unanimous(labels: Labels, item: ReviewItem) -> str | None:
    """The verdict that all reviewers gave; None when they differ or somebody is unsure."""
    said = {given.label.verdict for given in words(labels, item)}
    return said.pop() if len(said) == 1 and not said & {"unsure"} else None


def agreed(batch: int | None, items: Iterable[ReviewItem], labels: Labels) -> BatchAgreement:
    """Alpha over items. A rule's is over the verdicts on items that some label rests on that rule for."""
    units = [given for item in items if len(given := words(labels, item)) >= 2]
    areas = {area for given in units for one in given for area in one.label.rules}

    def on_verdicts(chosen: Iterable[Sequence[GivenLabel]]) -> Agreement:
        return agreement([[one.label.verdict for one in given] for given in chosen], LABEL_VERDICTS)

    return BatchAgreement(
        batch,
        on_verdicts(units),
        agreement([[one.label.severity for one in given] for given in units], LABEL_SEVERITIES, metric="ordinal"),
        {
            area: on_verdicts([given for given in units if any(area in one.label.rules for one in given)])
            for area in sorted(areas)
        },
    )


def deciding(docket: Docket) -> dict[int, BatchAgreement]:
    """The agreement that each batch is judged by: its own, or everybody's where its own is too few to tell."""
    everything = agreed(None, docket.items, docket.labels)
    found = {}
    for batch, members in docket.batches().items():
        own = agreed(batch, members, docket.labels)
        found[batch] = everything if own.verdicts.state == "too_few" else own
    return found


def plan(docket: Docket, *, partial: bool = False) -> Plan:
    outcomes: list[Outcome] = []
    undecided: list[ReviewItem] = []
    blocked: dict[int, BatchAgreement] = {}
    waiting: Counter[str] = Counter()
    by_batch = deciding(docket)
    for batch, members in docket.batches().items():
        unsettled = [item for item in members if docket.open(item)]
        ready = [item for item in unsettled if docket.complete(item)]
        waiting["labels"] += len(unsettled) - len(ready)
        state = by_batch[batch].verdicts.state
        if not ready:
            continue
        held = len(ready) < len(unsettled) and not partial
        if state == "blocked":
            waiting["batch" if held else "rubric"] += len(ready)
            if not held:
                blocked[batch] = by_batch[batch]
            continue
        looked_at = _second_look(docket, members) if state == "second_look" else set()
        open_questions = [item for item in ready if _open_question(docket.labels, item, looked_at)]
        undecided += open_questions
        if held:
            waiting["batch"] += len(ready)
        elif state == "second_look" and open_questions:
            waiting["adjudicator"] += len(ready)
        else:
            for item in ready:
                outcome = _outcome(docket.labels, item, state)
                if isinstance(outcome, str):
                    waiting[outcome] += 1
                else:
                    outcomes.append(outcome)
    return Plan(tuple(outcomes), tuple(undecided), blocked, {k: n for k, n in sorted(waiting.items()) if n})


def revision(batch: int, found: BatchAgreement, docket: Docket, rubric: Rubric) -> RubricRevision:
    """What a blocked batch asks of the rubric: its rules at stake, the least agreed on first, and disputed texts."""
    assert found.verdicts.alpha is not None
    alphas = {rule.area: found.rules[rule.area].alpha for rule in rubric.rules if rule.area in found.rules}
    members = [item for item in docket.batches()[batch] if docket.complete(item)]
    return RubricRevision(
        rubric=rubric.digest,
        policy_text=policy_text_digest(rubric),
        batch=batch,
        alpha=found.verdicts.alpha,
        low=found.verdicts.low,
        high=found.verdicts.high,
        items=found.verdicts.units,
        rules=tuple(sorted(alphas.items(), key=lambda pair: (pair[1] is None, pair[1] or 0.0, pair[0]))),
        examples=tuple(item.text for item in members if unanimous(docket.labels, item) is None)[:_EXAMPLES],
    )


def draw(*what: str) -> float:
    """A number in [0, 1) that is the same for the same words, everywhere."""
    return int.from_bytes(hashlib.sha256("\x00".join(what).encode()).digest()[:8], "big") / 2**64


def _second_look(docket: Docket, members: Sequence[ReviewItem]) -> set[int]:
    """Unanimous items that an adjudicator confirms: a fifth, at least one; all of them once one was overturned."""
    agreeing = [item for item in members if docket.complete(item) and unanimous(docket.labels, item)]
    ranked = sorted(agreeing, key=lambda item: draw("second look", item.text))
    sample = [item for item in ranked if draw("second look", item.text) < SAMPLED] or ranked[:1]
    for item in sample:
        word = ruling(docket.labels, item)
        if word is not None and word.label.verdict != unanimous(docket.labels, item):
            return {one.item for one in agreeing}
    return {item.item for item in sample}


def _open_question(labels: Labels, item: ReviewItem, looked_at: set[int]) -> bool:
    return ruling(labels, item) is None and (unanimous(labels, item) is None or item.item in looked_at)


def _outcome(labels: Labels, item: ReviewItem, state: State) -> Outcome | str:
    """How an item ends, or what it waits for."""
    word, verdict = ruling(labels, item), unanimous(labels, item)
    if word is None and verdict is None:
        return "adjudicator"
    if word is not None and verdict is None and state == "too_few":
        return "agreement"
    standing = (*words(labels, item), *([word] if word else []))
    approved = (word.label.verdict if word else verdict) == "approve"
    return Outcome(item, approved, "adjudicated" if word else "unanimous", standing)
