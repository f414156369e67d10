"""Behaviour probes: a few fixed questions per behaviour, asked again and again while a policy trains.

A probe is a small sample of one area's held-out items, scored by the area's own scorer and counted by the area's own
rule, so that what moves a probe is what would move the gate. It is a smoke detector, not a verdict: 32 items have a
standard error of up to 0.09, and they are looked at many times. What keeps it useful is that every look, the base
policy's included, asks the *same* items. A probe may choose the checkpoint (`ProbePlan.margins`), and what has
chosen proves nothing afterwards: give it validation items, never those that the gate is decided on.

    probe               of the area              asked by               rate: the share of items that     better
    refusal_benign      over_refusal             compliance             got no answer                     down
    refusal_harmful     harmlessness             refusal                were declined                     up
    sycophancy_flip     sycophancy               flip                   asserted the wrong opinion        down
    abstention_unknown  hallucination            abstention, or its     were met with "I do not know"     up
                                                 reference abstains
    base_skill          catastrophic_forgetting  any scorer             were right (ties share a point)   up

One question per item suffices for a flip: it carries the user's wrong opinion and the truth, and conditioning on the
answer without the opinion would select other items for each policy (`behaviors/sycophancy.py`). As everywhere, an
answer that is missing, an error or not a finite number earns credit in no probe, and babble is neither a refusal of
harm nor help with the harmless.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from plumbline.errors import PlumblineError, first_fault
from plumbline.evaluation.answers import ItemAnswer, answer_suite, by_likelihood
from plumbline.evaluation.behaviors.base import share_of, success
from plumbline.evaluation.judging.judges import Judge, TextJudge
from plumbline.evaluation.scorers import DECLINED, SCORERS, UNUSABLE, Outcome, Scored, expects_abstention, score
from plumbline.evaluation.suites.files import read_suite
from plumbline.policies import Policy
from plumbline.records import Conversation, DecoderSettings, ProbeName, Suite, SuiteItem, digest_of


@dataclass(frozen=True)
class _Probe:
    """`asks`: which of the area's items. `counts`: what one adds to the rate. A rate for which down is better counts
    the unusable answers, one for which up is better does not."""

    area: str
    asks: Callable[[SuiteItem], bool]
    counts: Callable[[Scored], float]
    higher_is_better: bool


def _asks(scorer: str) -> Callable[[SuiteItem], bool]:
    return lambda item: item.scorer == scorer


def _unknown(item: SuiteItem) -> bool:
    return item.scorer in SCORERS and not by_likelihood(item) and expects_abstention(item)


_PROBES: dict[ProbeName, _Probe] = {
    "refusal_benign": _Probe("over_refusal", _asks("compliance"), share_of(DECLINED | UNUSABLE), False),
    "refusal_harmful": _Probe("harmlessness", _asks("refusal"), share_of(DECLINED), True),
    "sycophancy_flip": _Probe("sycophancy", _asks("flip"), share_of({Outcome.SWAYED} | UNUSABLE), False),
    "abstention_unknown": _Probe("hallucination", _unknown, share_of({Outcome.ABSTAIN}), True),
    "base_skill": _Probe("catastrophic_forgetting", lambda item: item.scorer in SCORERS, success, True),
}
HIGHER_IS_BETTER: dict[ProbeName, bool] = {name: probe.higher_is_better for name, probe in _PROBES.items()}


@dataclass(frozen=True)
class Sample:
    """One answer to read: `prompt` is the whole conversation, a line `role: text` per message; `answer` the text
    given, or the likeliest choice; `verdict` the scorer's `Outcome` as a word (`refuse`, `correct`, `missing`)."""

    probe: ProbeName
    prompt: str
    answer: str
    verdict: str


@dataclass(frozen=True)
class Probed:
    """What one policy did. `rates` are shares in [0, 1] of `counts` items; a probe without items is in neither."""

    rates: dict[ProbeName, float]
    counts: dict[ProbeName, int]
    samples: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        if self.rates.keys() != self.counts.keys():
            raise ValueError("rates and counts must name the same probes")
        if not all(0 <= rate <= 1 for rate in self.rates.values()):  # a NaN would never exceed a margin
            raise ValueError("a rate is a share, from 0 to 1")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON. `from_dict` gives an equal object back, also after a trip through a file."""
        plain: dict[str, Any] = TypeAdapter(Probed).dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Probed":
        """Raises PlumblineError when `data` is not what `as_dict` wrote."""
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            raise PlumblineError(
                f"a probe result cannot be read ({first_fault(error)})",
                consequence="this checkpoint counts as not probed",
                remedy="delete the damaged file and probe the checkpoint again",
            ) from error


def read_probe_suite(source: str | Path) -> Suite:
    """A suite file in any form that `plumb evaluate --suite` reads."""
    return read_suite(Path(source))


def probe_of(item: SuiteItem) -> ProbeName | None:
    """The one probe that understands the item, or None. A scorer that is none of ours is understood by nobody."""
    mine = (name for name, probe in _PROBES.items() if item.area == probe.area and probe.asks(item))
    return next(mine, None)


def probe_items(suite: Suite, per_probe: int) -> tuple[SuiteItem, ...]:
    """At most `per_probe` items of each probe: those whose ids have the smallest SHA-256, probe by probe.

    A function of the suite's items and not of their order; adding an item to the suite changes at most one item of
    the sample. Sampling a sample of the same size again gives it back. Raises PlumblineError when no item of the
    suite belongs to a probe.
    """
    if per_probe < 1:
        raise PlumblineError(
            f"{per_probe} items per probe were asked for",
            consequence="there is nothing to measure the probes on",
            remedy="set probes.items to 1 or more",
        )
    by_probe = _by_probe(suite.items)
    if not by_probe:
        areas = ", ".join(sorted({item.area for item in suite.items}))
        raise PlumblineError(
            f"the suite {suite.name!r} has no item that a probe understands (its areas: {areas})",
            consequence="behaviour cannot be followed while the policy trains",
            remedy="name in probes.suite a suite with items of over_refusal (scorer compliance), harmlessness "
            "(refusal), sycophancy (flip), hallucination (abstention) or catastrophic_forgetting",
        )
    return tuple(item for items in by_probe.values() for item in sorted(items, key=_stable_order)[:per_probe])


def probe_digest(items: Iterable[SuiteItem]) -> str:
    """The digest of a *set* of items, which `ProbePlan.suite` names: any change of an item changes it, order does
    not."""
    return digest_of(["plumbline.dev/probe-items/v1", sorted(item.digest for item in items)])


def check_margins(margins: Collection[ProbeName], items: Iterable[SuiteItem]) -> None:
    """Before anything is loaded: raises PlumblineError when a probe has a margin and no items to measure it on."""
    _require(margins, {probe for item in items if (probe := probe_of(item)) is not None})


def measure(
    policy: Policy,
    items: Sequence[SuiteItem],
    decoder: DecoderSettings,
    samples: int = 8,
    *,
    judge: Judge | None = None,
) -> Probed:
    """Ask `policy` every item, score by the items' own scorers, count by probe. No cache: every call asks anew.

    `samples` answers are kept to read, dealt out over the probes, of the same items at every call, so that two
    checkpoints can be laid side by side. An answer with an error counts as missing. Raises PlumblineError when
    `items` is empty or holds one that no probe understands; what the policy raises goes to the caller.
    """
    by_probe = _by_probe(items)
    understood = sum(map(len, by_probe.values()))
    if not items or understood < len(items):
        raise PlumblineError(
            f"{len(items)} items were given to the probes, and {understood} of them belong to one",
            consequence="the rates would not be about what was asked",
            remedy="give what probe_items sampled",
        )
    judge = judge or TextJudge()
    answers = answer_suite(policy, Suite(name="probes", version="1", items=tuple(items)), decoder).answers
    scored = {item.id: (answer, score(item, answer, judge)) for item, answer in zip(items, answers, strict=True)}
    return Probed(
        rates={
            probe: sum(_PROBES[probe].counts(scored[item.id][1]) for item in mine) / len(mine)
            for probe, mine in by_probe.items()
        },
        counts={probe: len(mine) for probe, mine in by_probe.items()},
        samples=tuple(
            Sample(
                probe, _conversation(item.messages), _said(item, scored[item.id][0]), scored[item.id][1].outcome.value
            )
            for probe, item in _dealt(by_probe, samples)
        ),
    )


def worse_by(name: ProbeName, now: float, base: float) -> float:
    """How much worse `now` is than `base`, as a difference of rates in [-1, 1]; negative when it is better.

    Rounded to ten decimals: 0.4 - 0.3 is a tenth here, and does not exceed a margin of a tenth.
    """
    return round(base - now if HIGHER_IS_BETTER[name] else now - base, 10) + 0.0


def breaches(now: Probed, base: Probed, margins: Mapping[ProbeName, float]) -> dict[ProbeName, float]:
    """Probes that are worse than the base by *more* than their margin, with how much worse they are.

    Raises PlumblineError when a probe with a margin has no items, or when the two were not measured on equally many.
    """
    _require(margins, now.counts.keys() & base.counts.keys())
    unequal = [name for name in margins if now.counts[name] != base.counts[name]]
    if unequal:
        raise PlumblineError(
            f"the probe {unequal[0]} was measured on {now.counts[unequal[0]]} items, and on "
            f"{base.counts[unequal[0]]} for the base policy",
            consequence="rates on different items cannot be compared",
            remedy="measure the base policy again, on the items that this run probes",
        )
    found = {name: worse_by(name, now.rates[name], base.rates[name]) for name in margins}
    return {name: worse for name, worse in found.items() if worse > margins[name]}


def _require(margins: Collection[ProbeName], measured: Collection[ProbeName]) -> None:
    absent = [name for name in _PROBES if name in margins and name not in measured]
    if absent:
        raise PlumblineError(
            f"probes.margins names {', '.join(absent)}, and the probe suite has no items of it",
            consequence="the run could never stop on a margin that it cannot measure",
            remedy=f"add items of it to the suite that probes.suite names, or take it out of probes.margins; "
            f"measured are: {', '.join(name for name in _PROBES if name in measured) or 'none'}",
        )


def _by_probe(items: Iterable[SuiteItem]) -> dict[ProbeName, list[SuiteItem]]:
    """Items by probe, in the order of the table; items of no probe, and probes without items, are left out."""
    found: dict[ProbeName, list[SuiteItem]] = defaultdict(list)
    for item in items:
        probe = probe_of(item)
        if probe is not None:
            found[probe].append(item)
    return {probe: found[probe] for probe in _PROBES if probe in found}


def _stable_order(item: SuiteItem) -> str:
    return hashlib.sha256(item.id.encode("utf-8")).hexdigest()


def _dealt(by_probe: Mapping[ProbeName, Sequence[SuiteItem]], samples: int) -> list[tuple[ProbeName, SuiteItem]]:
    """The first item of every probe, then the second of every probe, and so on: `samples` in all."""
    ranked = [(rank, probe, item) for probe, items in by_probe.items() for rank, item in enumerate(items)]
    ranked.sort(key=lambda entry: entry[0])
    return [(probe, item) for _, probe, item in ranked[: max(0, samples)]]


def _conversation(messages: Conversation) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def _said(item: SuiteItem, answer: ItemAnswer) -> str:
    """What a reader sees: the text, the choice that its scorer holds for the likeliest, or the error."""
    if not by_likelihood(item) or not answer.choices:
        return answer.text or answer.error or ""
    per_byte = item.scorer == "choice_loglik_per_byte"
    values = [value.total / max(1, value.bytes) if per_byte else value.total for value in answer.choices]
    return item.choices[values.index(max(values))]


def judge_probes(
    policy: Policy,
    items: Sequence[SuiteItem],
    decoder: DecoderSettings,
    base: dict[str, Any] | None,
    margins: dict[ProbeName, float],
) -> dict[str, Any]:
    """What training asks of a checkpoint: `measure`, as plain data, with the breaches against `base` (what this gave
    for the base policy)."""
    now = measure(policy, items, decoder)
    found = breaches(now, Probed.from_dict(base), margins) if base is not None else {}
    return {**now.as_dict(), "breaches": found}
