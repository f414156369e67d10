"""The judges of an evaluation report, and its failure cases by area and direction, as many as a page can hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from plumbline.console import charts
from plumbline.console.cases import CASES_AT_ONCE, CaseView, Falling, case_view, falling, goodness, ranked
from plumbline.console.evaluation_view import Who, name_of
from plumbline.console.words import count, humanise, number, percent, points, title, visible
from plumbline.records import AREAS, EvaluationReport, FailureCase, GateDecision, PolicyScore
from plumbline.records.judging import CorrectedRate, ErrorCard, ErrorRate

CASES_PER_BUCKET = 24  # per area and direction
CASES_BYTES = 700_000  # of answers and their frames; the rest stands in the report's file
FRAME_BYTES = 1_100
Where = tuple[str, str]  # an area and "worse" or "better"
Merged = tuple[FailureCase, bool, tuple[str, ...]]  # a case, whether the gate names it, and other metrics it changed
NO_RANKING = "Not shown to rank refusals better than chance: the AUROC's interval reaches 0.5."
CLASS_WORD = {"all": "all requests", "benign": "benign requests", "harmful": "harmful requests"}


@dataclass(frozen=True)
class CardRow:
    """A judge's errors for one policy and prompt class."""

    policy: str
    prompt_class: str
    rates: tuple[tuple[str, Markup, str], ...]
    figures: tuple[tuple[str, str], ...]
    warning: str


@dataclass(frozen=True)
class CorrectedRow:
    who: str
    prompt_class: str
    counted: str
    strip: Markup
    naive: str
    rate: str
    interval: str
    labelled: str


def card_rows(report: EvaluationReport, who: Sequence[Who]) -> list[CardRow]:
    return [_card(card, name_of(card.policy, who, report)) for card in report.cards]


def _card(card: ErrorCard, policy: str) -> CardRow:
    ece = number(card.ece, 3) if card.ece is not None else "\u2013"
    if card.ece is not None and card.ece_by_chance is not None:
        ece += f" ({number(card.ece_by_chance, 3)} by chance alone)"
    ranking = card.auroc
    auroc = f"{number(ranking.area, 3)} ({number(ranking.low, 3)} to {number(ranking.high, 3)})" if ranking else ""
    return CardRow(
        policy=policy,
        prompt_class=CLASS_WORD[card.prompt_class],
        rates=(
            ("calls it a refusal where it is none (FPR)", *_error(card.false_positive, "no refusals")),
            ("misses a refusal (FNR)", *_error(card.false_negative, "refusals")),
        ),
        figures=(
            ("AUROC", auroc or "not measurable: one kind of answer only"),
            ("ECE", ece),
            ("threshold", number(card.threshold, 3) if card.threshold is not None else card.rule),
        ),
        warning=NO_RANKING if ranking and ranking.low <= 0.5 else "",
    )


def _error(rate: ErrorRate, of: str) -> tuple[Markup, str]:
    score = PolicyScore(rate=rate.rate, low=rate.low, high=rate.high) if rate.n else None
    strip = charts.rate_strip(of, [charts.Dot("judge", 2, score)])
    if score is None:
        return strip, f"no {of.removeprefix('no ')} were labelled"
    said = f"{percent(rate.rate, 1)} ({percent(rate.low, 1)} to {percent(rate.high, 1)})"
    return strip, f"{said}, {rate.errors} of {rate.n}"


def corrected_rows(report: EvaluationReport, who: Sequence[Who]) -> list[CorrectedRow]:
    """Each rate as the judge alone says it, and as people's labels correct it."""
    return [_corrected(one, name_of(one.policy, who, report)) for one in report.corrected]


def _corrected(one: CorrectedRate, policy: str) -> CorrectedRow:
    paired = one.leg == "difference"

    def say(value: float) -> str:
        return f"{points(value)} points" if paired else percent(value, 1)

    alone = PolicyScore(rate=one.naive, low=one.naive, high=one.naive)
    held = PolicyScore(rate=one.rate, low=one.low, high=one.high)
    dots = [charts.Dot("judge alone", 2, alone), charts.Dot("corrected", 3, held)]
    stale = f", {count(one.stale, 'label')} stale" if one.stale else ""
    return CorrectedRow(
        who="aligned minus reference" if paired else policy,
        prompt_class=CLASS_WORD[one.prompt_class],
        counted=" or ".join(one.counted),
        strip=Markup("") if paired else charts.rate_strip("Rates", dots),
        naive=say(one.naive),
        rate=say(one.rate),
        interval=f"{say(one.low)} to {say(one.high)}",
        labelled=f"{one.labelled} of {count(one.n, 'answer')} labelled{stale}",
    )


@dataclass(frozen=True)
class CaseBucket:
    """Cases of one area in one direction: shown at once, behind a click, and kept in the file alone. `key` and `turn`
    are what the filters read; an area's key is its place on the page, as its name may be anything."""

    area: str
    key: str
    turn: str
    first: tuple[CaseView, ...]
    more: tuple[CaseView, ...]
    kept: int


@dataclass(frozen=True)
class Cases:
    """`areas`: key and name of each that has a case. `empty`: pairs of key and turn that filter everything away."""

    buckets: tuple[CaseBucket, ...]
    areas: tuple[tuple[str, str], ...]
    worse: int
    better: int
    shown: int

    def count_of(self, key: str) -> int:
        """How many cases of an area the report keeps, both ways."""
        return sum(len(b.first) + len(b.more) + b.kept for b in self.buckets if b.key == key)

    @property
    def held(self) -> int:
        return self.worse + self.better

    @property
    def empty(self) -> list[tuple[str, str]]:
        there = {(bucket.key, bucket.turn) for bucket in self.buckets}
        there |= {("all", turn) for _, turn in there} | {(key, "both") for key, _ in there}
        keys = ["all", *(key for key, _ in self.areas)]
        return [
            (key, turn) for key in keys for turn in ("both", "worse", "better")
            if (key, turn) not in there and (key, turn) != ("all", "both")
        ]  # fmt: skip


def cases(report: EvaluationReport, decision: GateDecision | None) -> Cases:
    """The gate's own cases first, then the largest changes; an item that two metrics of an area name is one case."""
    down = falling(report)
    raw: dict[tuple[str, str], list[tuple[FailureCase, bool]]] = {}
    for case, named in ranked(report, decision):
        before, after = goodness(case, down)
        if before != after:
            raw.setdefault((case.area, "worse" if after < before else "better"), []).append((case, named))
    present = {area for area, _ in raw}
    order = [area for area in AREAS if area in present] + sorted(present - set(AREAS))
    merged = {where: _merged(listed) for where, listed in raw.items()}
    found = _shown(merged, [(area, turn) for area in order for turn in ("worse", "better")], down)
    keys = {area: f"a{place}" for place, area in enumerate(order)}
    buckets = []
    for area in order:
        for turn in ("worse", "better"):
            shown = tuple(found.get((area, turn), ()))
            if shown:
                left = len(merged[area, turn]) - len(shown)
                first, more = shown[:CASES_AT_ONCE], shown[CASES_AT_ONCE:]
                buckets.append(CaseBucket(title(visible(area)), keys[area], turn, first, more, left))
    return Cases(
        buckets=tuple(buckets),
        areas=tuple((keys[area], humanise(visible(area))) for area in order),
        worse=sum(len(listed) for (_, turn), listed in merged.items() if turn == "worse"),
        better=sum(len(listed) for (_, turn), listed in merged.items() if turn == "better"),
        shown=sum(len(bucket.first) + len(bucket.more) for bucket in buckets),
    )


def _shown(
    merged: Mapping[Where, Sequence[Merged]], order: Sequence[Where], down: Falling
) -> dict[Where, list[CaseView]]:
    """The first of each bucket, then the second of each, until the page is full."""
    found: dict[Where, list[CaseView]] = {}
    spent = 0
    for rank in range(CASES_PER_BUCKET):
        for where in order:
            if rank >= len(merged.get(where, ())):
                continue
            case, named, also = merged[where][rank]
            view = replace(case_view(case, named, down), turn=_turn(*goodness(case, down)), also=also)
            spent += _bytes(view)
            if spent > CASES_BYTES:
                return found
            found.setdefault(where, []).append(view)
    return found


def _merged(listed: Sequence[tuple[FailureCase, bool]]) -> list[Merged]:
    kept: dict[str, Merged] = {}
    for case, named in listed:
        if case.item not in kept:
            kept[case.item] = (case, named, ())
            continue
        first, was, also = kept[case.item]
        said = f"{humanise(visible(case.metric))} {case.reference_score:.3g} \u2192 {case.aligned_score:.3g}"
        kept[case.item] = (first, was or named, (*also, said))
    return list(kept.values())


def _turn(before: float, after: float) -> str:
    """Says "newly wrong" and "newly right" where the answer crossed the middle; a tie that was broken is just worse."""
    middle = -0.5 if min(before, after) < 0 else 0.5
    if before >= middle > after:
        return "newly wrong"
    if after >= middle > before:
        return "newly right"
    return "worse" if after < before else "better"


def _bytes(view: CaseView) -> int:
    texts = [view.asked, *(text for _, text in view.earlier), *view.wanted]
    texts += [piece.text for piece in (*view.reference, *view.aligned)]
    marks = 13 * sum(piece.differs for piece in (*view.reference, *view.aligned))
    return FRAME_BYTES + marks + sum(len(str(escape(text)).encode()) for text in texts)
