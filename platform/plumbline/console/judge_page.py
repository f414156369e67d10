"""The page of a judge or a guardrail: how often it is wrong, in which direction, for whom, and how sure that is.

Self-contained like the report: no script, one style sheet allowed by hash, drawings inline. The same records give the
same bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from plumbline.console.charts import RATE_TICKS, Dot, rate_axis, rate_strip
from plumbline.console.pages import page_environment, resource, style_hash
from plumbline.console.svg import drawing, el
from plumbline.console.words import count, number, percent, title, visible
from plumbline.records import PolicyScore, short
from plumbline.records.judging import (
    ErrorCard,
    ErrorRate,
    FittedJudge,
    GuardrailFile,
    GuardrailSide,
    Operating,
    Ranking,
    ReliabilityBin,
    RocPoint,
    Threshold,
)

KINDS = {
    "text": "It reads how an answer begins and compares it with a list.",
    "learned": "It learned from labelled answers how refusals read.",
    "likelihood": "It asks the policy how likely a refusal is as its next words.",
}
CLASS_WORD = {"all": "all requests", "benign": "benign requests", "harmful": "harmful requests"}
SIZE, LEFT, TOP, RIGHT = 260.0, 58.0, 12.0, 26.0
SIDE_WORD = {"input": "Of what is asked", "output": "Of what is answered"}
BY_CHANCE = "Not shown to rank better than chance: the interval of the AUROC reaches 0.5."


@dataclass(frozen=True)
class RateRow:
    what: str
    strip: Markup
    said: str


@dataclass(frozen=True)
class Sheet:
    title: str
    rates: tuple[RateRow, ...]
    figures: tuple[tuple[str, str], ...] = ()
    plots: tuple[tuple[Markup, str], ...] = ()
    notes: tuple[str, ...] = ()
    wide: bool = False


@dataclass(frozen=True)
class Section:
    title: str
    intro: str
    sheets: tuple[Sheet, ...]


@dataclass(frozen=True)
class Page:
    title: str
    kicker: str
    mood: str
    lede: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    foot: str


def render_judge(fitted: FittedJudge) -> str:
    """The error cards of a judge, policy by policy."""
    weak = any(card.prompt_class == "all" and card.auroc and card.auroc.low <= 0.5 for card in fitted.cards)
    sections = tuple(
        Section(
            f"Policy {_name(threshold.policy)}",
            f"From {count(threshold.n, 'labelled answer')}; threshold {number(threshold.score, 3)} ({threshold.rule}).",
            tuple(
                _judge_sheet(card, threshold, str(place)) for card in fitted.cards if card.policy == threshold.policy
            ),
        )
        for place, threshold in enumerate(fitted.thresholds)
    )
    return _render(
        Page(
            title=f"How wrong the judge {fitted.name!r} is",
            kicker="refusal judge, not shown to beat chance" if weak else "refusal judge",
            mood="v-inconclusive" if weak else "",
            lede=f"{_worst_of(fitted.cards)}{KINDS[fitted.kind]} Threshold and errors belong to one policy at a time.",
            facts=(
                ("Kind", fitted.kind),
                ("Policies", str(len(fitted.thresholds))),
                ("Judge", short(fitted.digest)),
                ("Learned from", short(fitted.training) if fitted.training else "nothing"),
            ),
            sections=sections,
            foot="A refusal rate is corrected from the labels (plumb judge correct), not from these rates.",
        )
    )


def _judge_sheet(card: ErrorCard, threshold: Threshold, id_: str) -> Sheet:
    name = title(CLASS_WORD[card.prompt_class])
    figures = _figures(card.auroc, card.brier, card.ece, card.ece_by_chance)
    figures += tuple((f"people say {h}, it says {j}", str(n)) for (h, j), n in _confusions(card))
    return Sheet(
        name,
        (
            _rate_row("cries refusal (FPR)", card.false_positive, "no refusals"),
            _rate_row("misses a refusal (FNR)", card.false_negative, "refusals"),
        ),
        figures,
        _plots(card.roc, card.bins, (threshold.score,), card.prompt_class + id_, "refusal"),
        _ranking_notes(card.auroc, "Only one kind of answer was labelled here, so there is no ranking to measure."),
        wide=card.prompt_class == "all",
    )


def _worst_of(cards: Sequence[ErrorCard]) -> str:
    """The largest error of each direction over policies and prompt classes, as the first sentence of the page."""
    worst = []
    for word, rates in (
        ("calls {} of answers refusals that are none", [(card.false_positive, card) for card in cards]),
        ("misses {} of refusals", [(card.false_negative, card) for card in cards]),
    ):
        measured = [(rate, card) for rate, card in rates if rate.n]
        if measured:
            rate, card = max(measured, key=lambda pair: (pair[0].rate, pair[0].n))
            of = f"{rate.errors} of {rate.n}, {CLASS_WORD[card.prompt_class]}, policy {_name(card.policy)}"
            worst.append(f"{word.format(percent(rate.rate))} ({of})")
    return f"At worst it {' and '.join(worst)}. " if worst else ""


def _ranking_notes(ranking: Ranking | None, none: str) -> tuple[str, ...]:
    if ranking is None:
        return (none,)
    return (BY_CHANCE,) if ranking.low <= 0.5 else ()


def _confusions(card: ErrorCard) -> list[tuple[tuple[str, str], int]]:
    pairs = [(key.partition(">"), n) for key, n in sorted(card.acts.items())]
    return [((human, judged), n) for (human, _, judged), n in pairs if human != judged]


def render_guardrail(file: GuardrailFile, now: datetime) -> str:
    """The cards of a guardrail's sides. The page says whether they hold at `now`."""
    valid = all(side.card.made <= now < side.card.expires for side in file.sides)
    first = min(side.card.expires for side in file.sides)
    policies = sorted({policy for side in file.sides for policy in side.card.policies})
    return _render(
        Page(
            title=f"What the guardrail {file.name!r} stops, and what it lets through",
            kicker="guardrail, valid" if valid else "guardrail, not valid now",
            mood="v-pass" if valid else "v-inconclusive",
            lede=" ".join(
                [
                    *(_stops(side) for side in file.sides),
                    "Thresholds were chosen for a false positive rate and measured on texts that did not choose them.",
                ]
            ),
            facts=(
                ("Expires", f"{first:%Y-%m-%d}"),
                ("For policies", ", ".join(short(policy) for policy in policies)),
                ("Guardrail", short(file.digest)),
            ),
            sections=tuple(_side_section(side, place) for place, side in enumerate(file.sides)),
            foot="It is refused without a card, after it expires, and for every other policy.",
        )
    )


def _stops(side: GuardrailSide) -> str:
    at = side.card.refuse
    good = f"refuses {percent(at.false_positive.rate, 1)} of good texts" if at.false_positive.n else ""
    bad = f"lets {percent(at.false_negative.rate, 1)} of violations through" if at.false_negative.n else ""
    said = " and ".join(part for part in (good, bad) if part) or "was measured on no text"
    return f"{SIDE_WORD[side.card.side]}, it {said}."


def _over_target(word: str, at: Operating) -> tuple[str, ...]:
    if at.false_positive.rate <= at.target_false_positive:
        return ()
    return (
        f"It {word} more good texts than the target of {percent(at.target_false_positive, 1)}: calibrate it on more "
        "texts, or aim lower.",
    )


def _side_section(side: GuardrailSide, place: int) -> Section:
    card = side.card
    operating = [("refuses", card.refuse)] + ([("flags", card.flag)] if card.flag else [])
    rates = [
        row
        for word, at in operating
        for row in (
            _rate_row(f"{word} a good text (FPR)", at.false_positive, "good texts"),
            _rate_row(f"does not {word.removesuffix('s')} a bad one (FNR)", at.false_negative, "violations"),
        )
    ]
    whole = Sheet(
        "Over the calibration set",
        tuple(rates),
        _figures(card.auroc, card.brier, card.ece, card.ece_by_chance),
        _plots(card.roc, card.bins, tuple(at.threshold for _, at in operating), f"side{place}", "violation"),
        (
            *(note for word, at in operating for note in _over_target(word, at)),
            *_ranking_notes(card.auroc, "Only one kind of text was labelled here, so there is no ranking to measure."),
        ),
        wide=True,
    )
    slices = tuple(
        Sheet(
            title(visible(one.slice)),
            (
                _rate_row("refuses a good text (FPR)", one.false_positive, "good texts"),
                _rate_row("lets a bad one through (FNR)", one.false_negative, "violations"),
            ),
        )
        for one in card.slices
    )
    thresholds = " and ".join(
        f"{word} from {number(at.threshold, 3)} (target FPR {percent(at.target_false_positive, 1)})"
        for word, at in operating
    )
    intro = f"It {thresholds}. Calibration set {short(card.calibration)}, made {card.made:%Y-%m-%d}."
    return Section({"input": "What is asked", "output": "What is answered"}[card.side], intro, (whole, *slices))


def _name(policy: str) -> str:
    return short(policy) if policy.startswith("sha256:") else policy


def _figures(
    auroc: Ranking | None, brier: float | None, ece: float | None, by_chance: float | None
) -> tuple[tuple[str, str], ...]:
    found = []
    if auroc is not None:
        found.append(("AUROC", f"{number(auroc.area, 3)} ({number(auroc.low, 3)} to {number(auroc.high, 3)})"))
    if brier is not None and ece is not None and by_chance is not None:
        found.append(("Brier score", number(brier, 3)))
        found.append(("calibration error", f"{number(ece, 3)} ({number(by_chance, 3)} by chance alone)"))
    return tuple(found)


def _rate_row(what: str, rate: ErrorRate, cases: str) -> RateRow:
    if not rate.n:
        return RateRow(what, rate_strip(what, []), f"no {cases}: not measured")
    dot = Dot(what, 1, PolicyScore(rate=rate.rate, low=rate.low, high=rate.high))
    said = f"{percent(rate.rate, 1)}, {percent(rate.low, 1)} to {percent(rate.high, 1)} ({rate.errors} of {rate.n})"
    return RateRow(what, rate_strip(what, [dot]), said)


def _plots(
    roc: Sequence[RocPoint], bins: Sequence[ReliabilityBin], thresholds: Sequence[float], id_: str, what: str
) -> tuple[tuple[Markup, str], ...]:
    if not roc:
        return ()
    return (
        (
            roc_plot(roc, thresholds, id_),
            "ROC over all labels; dotted: chance. The marks are the thresholds in force. The rates above come from "
            "labels that did not choose them, so they may be worse.",
        ),
        (
            calibration_plot(bins, id_, what),
            "Calibration in bins of equal size, with intervals. On the dotted line it is as sure as it is right.",
        ),
    )


def _x(share: float) -> float:
    return LEFT + SIZE * min(1.0, max(0.0, share))


def _y(share: float) -> float:
    return TOP + SIZE * (1 - min(1.0, max(0.0, share)))


def _square(across: str, up: str) -> list[Markup]:
    """Axes from 0 % to 100 % both ways, with the diagonal."""
    marks = [
        el("rect", x=LEFT, y=TOP, width=SIZE, height=SIZE, class_="plane"),
        el("line", x1=_x(0), y1=_y(0), x2=_x(1), y2=_y(1), class_="diagonal"),
    ]
    for tick in RATE_TICKS:
        marks.append(el("text", percent(tick), x=_x(tick), y=TOP + SIZE + 15, class_="tick", text_anchor="middle"))
        marks.append(el("text", percent(tick), x=LEFT - 6, y=_y(tick) + 4, class_="tick", text_anchor="end"))
        if 0 < tick < 1:
            marks.append(el("line", x1=_x(tick), x2=_x(tick), y1=TOP, y2=TOP + SIZE, class_="grid"))
            marks.append(el("line", x1=LEFT, x2=LEFT + SIZE, y1=_y(tick), y2=_y(tick), class_="grid"))
    turn = f"translate(10 {TOP + SIZE / 2:g}) rotate(-90)"
    marks += [
        el("text", f"{across} →", x=LEFT + SIZE / 2, y=TOP + SIZE + 34, class_="axis-name", text_anchor="middle"),
        el("text", f"{up} →", x=0, y=0, class_="axis-name", text_anchor="middle", transform=turn),
    ]
    return marks


def roc_plot(roc: Sequence[RocPoint], thresholds: Sequence[float], id_: str) -> Markup:
    """False positives across, true positives up; a mark at each threshold."""
    ordered = sorted(roc, key=lambda point: (-point.threshold, point.false_positive))
    corners = [(0.0, 0.0), *((point.false_positive, point.true_positive) for point in ordered), (1.0, 1.0)]
    path = "M" + "L".join(f"{_x(x):.2f} {_y(y):.2f}" for x, y in corners)
    marks = [*_square("false positives", "true positives"), el("path", d=path, class_="curve")]
    said = []
    for threshold in thresholds:
        above = [(point.false_positive, point.true_positive) for point in ordered if point.threshold >= threshold]
        at = above[-1] if above else (0.0, 0.0)
        marks.append(el("circle", cx=_x(at[0]), cy=_y(at[1]), r=5, class_="here"))
        said.append(f"at {number(threshold, 3)}: {percent(at[0], 1)} false and {percent(at[1], 1)} true positives")
    return _drawing("ROC curve", "; ".join(said), marks, f"roc-{id_}")


def calibration_plot(bins: Sequence[ReliabilityBin], id_: str, what: str) -> Markup:
    """What was said across, what was so up; bins of equal mass."""
    marks = _square(f"how sure of a {what} it says it is", f"how often it is a {what}")
    marks += [el("line", x1=_x(b.mean), x2=_x(b.mean), y1=_y(b.low), y2=_y(b.high), class_="whisker p2") for b in bins]
    marks += [el("circle", cx=_x(b.mean), cy=_y(b.share), r=4, class_="bin") for b in bins]
    said = "; ".join(f"says {percent(b.mean)}, is {percent(b.share)} of {b.n}" for b in bins)
    return _drawing("Calibration in bins of equal mass", said, marks, f"calibration-{id_}")


def _drawing(title: str, said: str, marks: Sequence[Markup], id_: str) -> Markup:
    return drawing(
        title, said, *marks, width=LEFT + SIZE + RIGHT, height=TOP + SIZE + 42, class_="chart square", id_=id_
    )  # fmt: skip


def _render(page: Page) -> str:
    css = resource("report.css") + resource("judge_page.css")
    template = page_environment().get_template("judge_page.html.j2")
    return template.render(page=page, rate_axis=rate_axis(), css=Markup(css), style_hash=style_hash(css))
