"""From an evaluation report and a gate decision to what the evaluation page shows: who, the verdict and why, what is
left out, the forest, refusals and pressures. Areas are in `evaluation_areas`, judges and cases in `evaluation_cases`.
Nothing here writes HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console import charts, view
from plumbline.console.picture import VERDICT_SIGN
from plumbline.console.words import (
    count,
    failing_areas,
    find_estimate,
    gains_and_costs,
    humanise,
    in_words,
    listing,
    percent,
    points,
    title,
    undecided,
    visible,
    what_went_wrong,
)
from plumbline.records import (
    AREAS,
    PRESSURES,
    AreaVerdict,
    ComparedPolicy,
    EvaluationReport,
    GateDecision,
    PairedEstimate,
    PolicyScore,
    Verdict,
    short,
)

RELEASED = "@released"  # how the gate marks what it held against the policy released last
SHAPE = {Verdict.PASS: 0, Verdict.REGRESSED: 2, Verdict.INCONCLUSIVE: 1, Verdict.ERROR: 3}
TICKS = (-1.0, -0.5, -0.1, 0.0, 0.1, 0.5, 1.0)  # fewer than the loop's page has: the strip is narrower
ITEMS_SHOWN = 40
SIGN_WORD = {"canary": "holds a canary", "exact": "an exact copy", "near": "a near copy", "ngram": "shared n-grams"}


@dataclass(frozen=True)
class Who:
    """One of the two policies. `known` says how far it is known who answered."""

    role: str
    column: view.Column
    policy: str
    template: str | None
    dataset: str | None
    known: str


def compared(report: EvaluationReport) -> tuple[Who, Who]:
    """The reference, then the aligned policy; a report without names gives them by role."""
    found: dict[str, ComparedPolicy] = {one.role: one for one in report.policies}
    names = {role: visible(one.name) for role, one in found.items()}
    alike = len(set(names.values())) < len(names)
    made = []
    for index, (role, digest) in enumerate((("reference", report.reference), ("aligned", report.aligned))):
        one = found.get(role)
        name = f"{names[role]} ({role})" if one and alike else names.get(role, role)
        made.append(
            Who(
                role=role,
                column=view.Column(index, name, digest, charts.legend_mark(index)),
                policy=digest,
                template=one.template if one else None,
                dataset=one.dataset if one else None,
                known="not recorded" if one is None else "verified" if one.verified else "declared, not verified",
            )
        )
    return made[0], made[1]


@dataclass(frozen=True)
class Tally:
    """How many metrics came to one verdict."""

    n: int
    kind: str
    sign: str
    word: str


@dataclass(frozen=True)
class Head:
    """The verdict and the one sentence that says why; `lede` adds what was gained and lost, `tally` counts metrics by
    verdict, the worst first."""

    kicker: str
    kind: str
    sentence: str
    lede: tuple[str, ...]
    exit_code: str
    tally: tuple[Tally, ...] = ()


def head(
    report: EvaluationReport, decision: GateDecision | None, last: EvaluationReport | None, who: Sequence[Who]
) -> Head:
    base, name = who[0].column.name, who[1].column.name
    base, name = {"reference": "the reference"}.get(base, base), {"aligned": "the aligned policy"}.get(name, name)
    lede = gains_and_costs(report, decision, base, name)
    if decision is None:
        said = f"{_capital(name)} was compared with {base} and not judged: no margins were given."
        return Head("No verdict", "", said, lede, "none")
    if decision.verdict is Verdict.ERROR and (failed := failing_areas(decision, report)):
        lede = (f"Whatever comes of that, {listing([what_went_wrong(e, area) for area, e in failed[:2]])}.", *lede)
    if decision.own_margins:
        lede = (*lede, "The margins were given for this question alone, so the verdict releases nothing.")
    verdict = decision.verdict
    said = {
        Verdict.PASS: lambda: _passed(decision),
        Verdict.REGRESSED: lambda: _regressed(report, decision, last),
        Verdict.INCONCLUSIVE: lambda: f"is undecided: {undecided(decision)}",
        Verdict.ERROR: lambda: _unjudged(decision),
    }[verdict]()
    return Head(
        kicker=f"{VERDICT_SIGN[verdict]} {verdict.value}",
        kind=charts.verdict_class(verdict),
        sentence=f"{_capital(name)} {said}.",
        lede=lede,
        exit_code=str(verdict.exit_code),
        tally=tuple(
            Tally(n, charts.verdict_class(one), VERDICT_SIGN[one], view.WORD[one])
            for one in (Verdict.ERROR, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.PASS)
            if (n := sum(area.verdict is one for area in decision.areas))
        ),
    )


def _capital(name: str) -> str:
    """Our own words begin with a capital; a policy's name stays as it is."""
    return "The" + name.removeprefix("the") if name.startswith("the ") else name


def worse_within(area: AreaVerdict) -> bool:
    return area.verdict is Verdict.PASS and area.high is not None and area.high < 0


def _passed(decision: GateDecision) -> str:
    held = count(len(decision.areas), "metric")
    slow = [area for area in decision.areas if worse_within(area)]
    names = listing([humanise(visible(area.area)) for area in slow[:3]])
    erosion = f", though measurably worse, within the margin, on {in_words(len(slow))} ({names})" if slow else ""
    return f"passes: on {held} it is not worse than the margins allow{erosion}"


def _regressed(report: EvaluationReport, decision: GateDecision, last: EvaluationReport | None) -> str:
    now = decision.model_copy(update={"areas": tuple(a for a in decision.areas if not a.metric.endswith(RELEASED))})
    since = [
        area.model_copy(update={"metric": area.metric.removesuffix(RELEASED)})
        for area in decision.areas
        if area.metric.endswith(RELEASED)
    ]
    severe = {(one.area, one.metric): one for one in report.severe}
    newly_severe = {key for key, one in severe.items() if one.aligned_failures > one.reference_failures}
    failed = sorted(failing_areas(now, report), key=lambda pair: (pair[0].area, pair[0].metric) not in newly_severe)
    reasons = []
    for area, estimate in failed[:2]:
        one = severe.get((area.area, area.metric))
        if one and (area.area, area.metric) in newly_severe and (area.difference or 0.0) > -area.margin:
            newly = count(one.aligned_failures - one.reference_failures, "severe item")
            reasons.append(f"it newly fails {newly} of {humanise(visible(area.area))}")
        else:
            reasons.append(what_went_wrong(estimate, area))
    if not failed:
        lost = failing_areas(decision.model_copy(update={"areas": tuple(since)}), last)
        reasons = [f"against the policy released last, {what_went_wrong(e, area)}" for area, e in lost[:2]]
        failed = lost
    if len(reasons) == 2 and reasons[1].startswith("it "):
        reasons[1] = reasons[1].removeprefix("it ")
    more = len(failed) - len(reasons)
    rest = f"; {in_words(more)} more area{'s' if more > 1 else ''} failed" if more else ""
    return f"regressed: {visible(listing(reasons)) or 'the gate names no area'}{rest}"


def _unjudged(decision: GateDecision) -> str:
    failed = [area for area in decision.areas if area.verdict is Verdict.ERROR]
    empty = [area for area in failed if area.n == 0 and area.difference is None]
    unread = [
        f"{humanise(area.area)}: {area.explanation.split('no verdict: ')[-1].split('. ')[0].split(' (')[0]}"
        for area in failed
        if area not in empty or len(empty) == 1
    ]
    if len(empty) > 1:
        unread.append(
            f"nothing was measured for {in_words(len(empty))} of {count(len(decision.areas), 'gated metric')}"
        )
    why = [visible(one).strip().rstrip(".") for one in (*decision.errors, *unread)] or ["the gate names no error"]
    others = len(why) - 1
    more = f" ({in_words(others)} more reason{'s' if others > 1 else ''} below)" if others else ""
    return f"could not be judged: {why[0]}{more}"


@dataclass(frozen=True)
class Excluded:
    """What is in no estimate, or would have to be. `rows`: item, sign, share, example. `against` says with what the
    suite was compared, where the report records it (`asked`); `versions` are digests."""

    missing: int
    items: int
    signs: tuple[tuple[str, int], ...]
    rows: tuple[tuple[str, str, str, str | None], ...]
    more: int
    checked: bool
    asked: bool
    against: str
    versions: tuple[str, ...]


def excluded(report: EvaluationReport) -> Excluded:
    check = report.contamination
    against = ""
    if check is not None and check.checked:
        erased = f"; {count(check.erased, 'erased example')} could not be read" if check.erased else ""
        against = f"the suite was compared with {count(check.examples, 'training example')}{erased}"
    signs: dict[str, int] = {}
    for overlap in report.overlaps:
        signs[overlap.sign] = signs.get(overlap.sign, 0) + 1
    rows = [
        (visible(one.item), SIGN_WORD[one.sign], percent(one.share), one.example)
        for one in sorted(report.overlaps, key=lambda one: (-one.share, one.sign, one.item))
    ]
    rows += [
        (visible(item), "not recorded", "\u2013", None)
        for item in report.contaminated
        if item not in {one.item for one in report.overlaps}
    ]
    return Excluded(
        missing=report.missing,
        items=len(report.contaminated),
        signs=tuple((SIGN_WORD[name], n) for name, n in sorted(signs.items())),
        rows=tuple(rows[:ITEMS_SHOWN]),
        more=max(0, len(rows) - ITEMS_SHOWN),
        checked=check.checked if check else report.dataset is not None or bool(rows),
        asked=check is not None,
        against=against,
        versions=check.datasets if check else (),
    )


@dataclass(frozen=True)
class ForestLine:
    """A row of the forest with what a sceptic asks next: how many clusters, and how many items would decide."""

    row: view.ForestRow
    clusters: int | None
    differ: str
    needed: str
    remark: str
    why: str
    fell: bool = False


@dataclass(frozen=True)
class Forest:
    name: str
    lines: tuple[ForestLine, ...]


def forests(report: EvaluationReport, decision: GateDecision | None, last: EvaluationReport | None) -> list[Forest]:
    """What the gate held against the reference, what it held against the policy released last, and what has no margin
    and is none of Plumbline's diagnostics (another harness's tasks)."""
    areas = decision.areas if decision else ()
    made = [
        Forest("Against the reference", tuple(_line(a, report) for a in areas if not a.metric.endswith(RELEASED))),
        Forest(
            "Against the policy released last",
            tuple(
                _line(area.model_copy(update={"metric": area.metric.removesuffix(RELEASED)}), last)
                for area in areas
                if area.metric.endswith(RELEASED)
            ),
        ),
    ]
    held = {(area.area, area.metric) for area in areas}
    loose = [e for e in report.estimates if (e.area, e.metric) not in held and (not held or e.area not in AREAS)]
    made.append(Forest("Without a margin, so without a verdict", tuple(_unheld(estimate) for estimate in loose)))
    return [forest for forest in made if forest.lines]


def _line(area: AreaVerdict, report: EvaluationReport | None) -> ForestLine:
    estimate = find_estimate(report, area.area, area.metric)
    return ForestLine(
        row=view.forest_row(area, report, SHAPE[area.verdict], TICKS),
        clusters=estimate.clusters if estimate else None,
        differ=_differ(estimate) if estimate else "",
        needed=f"needs {count(area.needed, 'item')}" if area.needed else "",
        remark="worse, within margin" if worse_within(area) else "",
        why="" if area.verdict is Verdict.PASS else _beyond_the_row(area),
        fell=area.high is not None and area.high < 0,
    )


def forest_legend(report: EvaluationReport, decision: GateDecision | None) -> tuple[tuple[Markup, str], ...]:
    """The marks that the forests of this page use, each with its meaning."""
    found = {area.verdict for area in decision.areas} if decision else set()
    marks = [
        (charts.legend_mark(SHAPE[one], kind=charts.verdict_class(one)), view.WORD[one])
        for one in (Verdict.PASS, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.ERROR)
        if one in found
    ]
    if any(forest.lines[0].row.kind == "v-none" for forest in forests(report, decision, None) if forest.lines):
        marks.append((charts.legend_mark(1, kind="v-none"), "not gated"))
    if found:
        marks.append((charts.legend_band(), "from the margin to zero: what may be lost"))
    return tuple(marks)


def _beyond_the_row(area: AreaVerdict) -> str:
    """What the gate says after the figures, which stand in the row already; all of it where it says no figures."""
    said = area.explanation.split(" clusters: ", 1)[-1]
    return said.removeprefix(f"undecided; about {area.needed} items would settle it.").strip()


def _differ(estimate: PairedEstimate) -> str:
    return f"{count(estimate.discordant, 'pair')} {'differs' if estimate.discordant == 1 else 'differ'}"


def _unheld(estimate: PairedEstimate) -> ForestLine:
    label = f"{title(visible(estimate.area))}, {humanise(visible(estimate.metric))}"
    row = view.ForestRow(
        area=title(visible(estimate.area)),
        metric=humanise(estimate.metric),
        strip=charts.forest_strip(
            label, estimate.difference, estimate.low, estimate.high, None, "", shape=1, ticks=TICKS
        ),
        difference=points(estimate.difference),
        interval=f"{points(estimate.low)} to {points(estimate.high)}",
        margin="\u2013",
        n=estimate.n,
        verdict="not gated",
        sign="\u00b7",
        kind="v-none",
        explanation="",
        worst="",
    )  # fmt: skip
    return ForestLine(row, estimate.clusters, _differ(estimate), "", "", "")


def refusals(report: EvaluationReport, who: Sequence[Who]) -> view.RefusalView | None:
    """The refusal plane of the two policies; None unless both kinds of request were asked."""
    reference = who[0].policy

    def score(policy: str, area: str, metric: str) -> PolicyScore | None:
        estimate = find_estimate(report, area, metric)
        return (estimate.reference if policy == reference else estimate.aligned) if estimate else None

    if report.reference == report.aligned:  # an A/A comparison: one point, not two that claim to differ
        who = who[:1]
    return view.refusals([one.column for one in who], report.estimates, score)


def pressures(report: EvaluationReport, who: Sequence[Who], contracts: view.Contracts) -> list[view.PressureView]:
    """The five pressures, and any that the report adds; one without a reading is kept, and said to be unread."""
    found: dict[str, list[view.Reading]] = {name: [] for name in PRESSURES}
    for reading in report.pressures:
        found.setdefault(reading.pressure, []).append(view.read(reading, who[1].column.name, who[1].column))
    return [view.pressure_view(name, contracts, readings) for name, readings in found.items()]


def name_of(policy: str, who: Sequence[Who], report: EvaluationReport) -> str:
    """A policy that a card or a corrected rate gives by name or by digest."""
    names: Mapping[str, str] = {one.policy: one.column.name for one in who} | {
        one.name: who[0 if one.role == "reference" else 1].column.name for one in report.policies
    }
    return names.get(policy) or visible(short(policy) if policy.startswith("sha256:") else policy)
