"""Failure cases side by side: which to show, and what differs between the two answers.

A report may hold hundreds. A reader needs a few of each kind, those the gate names first, and the count of the rest.
"""

from dataclasses import dataclass
from difflib import SequenceMatcher

from plumbline.console.story import LoopStory
from plumbline.console.view import Column, columns
from plumbline.console.words import humanise, title, visible
from plumbline.records import AREAS, EvaluationReport, FailureCase, GateDecision

CASES_PER_AREA = 6
CASES_AT_ONCE = 2
LONGEST_TEXT = 1200
Falling = frozenset[tuple[str, str]]  # area and metric of which less is better


@dataclass(frozen=True)
class Piece:
    """A run of an answer's words; `differs` when the other answer does not have it there."""

    text: str
    differs: bool


@dataclass(frozen=True)
class CaseView:
    area: str
    area_title: str
    metric: str
    slice: str
    item: str
    named: bool
    earlier: tuple[tuple[str, str], ...]
    asked: str
    reference: tuple[Piece, ...]
    aligned: tuple[Piece, ...]
    wanted: tuple[str, ...]
    reference_score: str
    aligned_score: str
    worse: bool
    reference_accepted: bool
    aligned_accepted: bool
    turn: str = ""
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class CaseGroup:
    """The cases of one report: `areas` holds, area by area, those shown at once and those behind a click."""

    name: str
    column: Column | None
    held: int
    shown: int
    areas: tuple[tuple[str, tuple[CaseView, ...], tuple[CaseView, ...]], ...]


def case_groups(story: LoopStory) -> tuple[CaseGroup, ...]:
    """Up to six cases an area for each report: those the gate names first, then the largest changes."""
    by_digest = {column.digest: column for column in columns(story)}
    groups: list[CaseGroup] = []
    for report in story.reports:
        if not report.failures:
            continue
        chosen = _chosen(report, story.decision_on(report.aligned))
        down = falling(report)
        by_area: dict[str, list[CaseView]] = {}
        for case, named in chosen:
            by_area.setdefault(case.area, []).append(case_view(case, named, down))
        groups.append(
            CaseGroup(
                name=visible(story.policy_name(report.aligned)),
                column=by_digest.get(report.aligned),
                held=len(report.failures),
                shown=len(chosen),
                areas=tuple(
                    (area, tuple(found[:CASES_AT_ONCE]), tuple(found[CASES_AT_ONCE:]))
                    for area, found in by_area.items()
                ),
            )
        )
    return tuple(groups)


def _chosen(report: EvaluationReport, decision: GateDecision | None) -> list[tuple[FailureCase, bool]]:
    kept: dict[str, list[tuple[FailureCase, bool]]] = {}
    for case, named in ranked(report, decision):
        bucket = kept.setdefault(case.area, [])
        if len(bucket) < CASES_PER_AREA:
            bucket.append((case, named))
    order = [area for area in AREAS if area in kept] + sorted(set(kept) - set(AREAS))
    return [pair for area in order for pair in kept[area]]


def ranked(report: EvaluationReport, decision: GateDecision | None) -> list[tuple[FailureCase, bool]]:
    """All cases with whether the gate names them: those first, then the largest changes, then as the report has it."""
    named = {item for area in decision.areas for item in area.cases} if decision else set()
    order = sorted(
        enumerate(report.failures),
        key=lambda pair: (pair[1].item not in named, -abs(pair[1].aligned_score - pair[1].reference_score), pair[0]),
    )
    return [(case, case.item in named) for _, case in order]


def falling(report: EvaluationReport) -> Falling:
    return frozenset((e.area, e.metric) for e in report.estimates if e.direction == "down")


def goodness(case: FailureCase, down: Falling) -> tuple[float, float]:
    """Both scores turned so that up is better."""
    sign = -1 if (case.area, case.metric) in down else 1
    return sign * case.reference_score, sign * case.aligned_score


def case_view(case: FailureCase, named: bool, down: Falling) -> CaseView:
    reference, aligned = goodness(case, down)
    gain = aligned - reference
    before, after = diff_words(shorten(case.reference_answer), shorten(case.aligned_answer))
    return CaseView(
        area=case.area,
        area_title=title(visible(case.area)),
        metric=humanise(case.metric),
        slice=humanise(visible(case.slice)),
        item=visible(case.item),
        named=named,
        earlier=tuple((m.role, shorten(m.content)) for m in case.messages[:-1]),
        asked=shorten(case.messages[-1].content) if case.messages else "",
        reference=before,
        aligned=after,
        wanted=tuple(
            shorten(text) for text in case.references[:4] if text not in (case.reference_answer, case.aligned_answer)
        ),
        reference_score=f"{case.reference_score:.3g}",
        aligned_score=f"{case.aligned_score:.3g}",
        worse=gain < 0,
        turn="worse" if gain < 0 else "better",
        reference_accepted=case.reference_answer in case.references,
        aligned_accepted=case.aligned_answer in case.references,
    )


def shorten(text: str) -> str:
    """Foreign text made visible and kept to a length that a page can hold; what is left out is counted."""
    text = visible(text)
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}\u2026 [{len(text) - LONGEST_TEXT} more characters]"


def diff_words(before: str, after: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both answers in pieces, with the words that differ marked. Answers that share little are left unmarked:
    marking everything marks nothing."""
    a, b = before.split(" "), after.split(" ")
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    if matcher.quick_ratio() < 0.34 or matcher.ratio() < 0.34:  # the first is a bound of the second, and cheap
        return (Piece(before, False),), (Piece(after, False),)
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if i2 > i1:
            left.append(Piece(" ".join(a[i1:i2]), kind != "equal"))
        if j2 > j1:
            right.append(Piece(" ".join(b[j1:j2]), kind != "equal"))
    return tuple(left), tuple(right)
