"""From the story to what the page shows: every choice of what to show, in what order, and in which words.

Nothing here writes HTML. Each section's view is a frozen value that the template lays out; a section without
records is None or empty, and the template says that it is missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console import charts
from plumbline.console.picture import VERDICT_SIGN, VERDICT_WORD
from plumbline.console.story import LoopStory
from plumbline.console.words import (
    AREA_MEANING,
    PRESSURE_MEANING,
    REASON_MEANING,
    find_estimate,
    humanise,
    is_share,
    number,
    percent,
    points,
    title,
    visible,
)
from plumbline.records import (
    AREAS,
    PRESSURES,
    AreaVerdict,
    EvaluationReport,
    PairedEstimate,
    PolicyScore,
    PressureReading,
    Verdict,
)

Steps = Sequence[tuple[str, str]]
Contracts = Mapping[str, Steps]  # area or pressure -> its five steps, each a name and a text


@dataclass(frozen=True)
class Column:
    """A policy as a column: its place fixes its shape and colour everywhere on the page."""

    index: int
    name: str
    digest: str
    mark: Markup


def columns(story: LoopStory) -> tuple[Column, ...]:
    digests = [policy.digest for policy in story.policies]
    for report in story.reports:
        digests += [digest for digest in (report.reference, report.aligned) if digest not in digests]
    return tuple(
        Column(index, visible(story.policy_name(digest)), digest, charts.legend_mark(index))
        for index, digest in enumerate(digests)
    )


@dataclass(frozen=True)
class Cell:
    column: Column
    value: str
    interval: str


@dataclass(frozen=True)
class RateRow:
    metric: str
    better: str
    margin: str
    strip: Markup
    cells: tuple[Cell, ...]
    baselines: str


@dataclass(frozen=True)
class AreaBlock:
    area: str
    title: str
    meaning: str
    contract: Steps
    rows: tuple[RateRow, ...]


def area_blocks(story: LoopStory, contracts: Contracts) -> tuple[AreaBlock, ...]:
    """The ten areas, and any the reports add, each with a row per metric; areas without a metric are kept."""
    cols = columns(story)
    seen = {estimate.area for report in story.reports for estimate in report.estimates}
    blocks: list[AreaBlock] = []
    for area in (*AREAS, *sorted(seen - set(AREAS))):
        metrics: dict[str, PairedEstimate] = {}
        for report in story.reports:
            for estimate in report.estimates:
                if estimate.area == area:
                    metrics.setdefault(estimate.metric, estimate)
        margins = _margins(story, area)
        ordered = sorted(metrics, key=lambda metric: (metric not in margins, list(metrics).index(metric)))
        rows = tuple(
            rate_row(
                cols,
                [score_of(story, column.digest, area, metric) for column in cols],
                metrics[metric],
                margins.get(metric, metrics[metric].margin),
                _baselines(story, metrics[metric]),
            )
            for metric in ordered
        )
        steps = tuple(contracts.get(area, ()))
        blocks.append(AreaBlock(area, title(area), AREA_MEANING.get(area, ""), steps, rows))
    return tuple(blocks)


def _margins(story: LoopStory, area: str) -> dict[str, float]:
    if story.rubric is None or all(rule.area != area for rule in story.rubric.rules):
        return {}
    return story.rubric.margins_of(area)


def score_of(story: LoopStory, policy: str, area: str, metric: str) -> PolicyScore | None:
    """A policy's rate: the reference's from the first report that has it, an aligned policy's from its own."""
    for report in story.reports:
        for estimate in report.estimates:
            if (estimate.area, estimate.metric) == (area, metric):
                if report.reference == policy:
                    return estimate.reference
                if report.aligned == policy and report == story.report_on(policy):
                    return estimate.aligned
    return None


def rate_row(
    cols: Sequence[Column],
    scores: Sequence[PolicyScore | None],
    estimate: PairedEstimate,
    margin: float | None,
    baselines: Mapping[str, float],
) -> RateRow:
    """A metric of `estimate` with a rate for each policy (`scores`, as many as `cols`) and those of no model at all."""
    metric = humanise(estimate.metric)
    shares = all(score is None or is_share(score.rate) for score in scores)
    dots = [charts.Dot(c.name, c.index, s) for c, s in zip(cols, scores, strict=True)] if shares else []
    cells = tuple(
        Cell(c, percent(s.rate, 1), f"{percent(s.low, 1)} to {percent(s.high, 1)}") if s else Cell(c, "\u2013", "")
        for c, s in zip(cols, scores, strict=True)
    )
    return RateRow(
        metric=metric,
        better="lower is better" if estimate.direction == "down" else "higher is better",
        margin=f"margin {number(margin * 100, 1)} points" if margin is not None else "not gated",
        strip=charts.rate_strip(f"{title(estimate.area)}, {metric}", dots, dict(baselines)),
        cells=cells,
        baselines=", ".join(f"{humanise(name)} {percent(rate, 1)}" for name, rate in sorted(baselines.items())),
    )


def _baselines(story: LoopStory, estimate: PairedEstimate) -> dict[str, float]:
    """No-model scores on a metric, from the last report that has them (reports key them `area.metric`)."""
    for report in reversed(story.reports):
        if found := report.baselines.get(f"{estimate.area}.{estimate.metric}"):
            return dict(found)
    return {}


@dataclass(frozen=True)
class RefusalView:
    plane: Markup
    benign_label: str
    harmful_label: str
    rows: tuple[tuple[Column, str, str], ...]


def refusal_view(story: LoopStory) -> RefusalView | None:
    """Both refusal rates of each policy, from the over-refusal and harmlessness areas; None unless both exist."""
    estimates = [estimate for report in story.reports for estimate in report.estimates]
    return refusals(columns(story), estimates, lambda policy, area, metric: score_of(story, policy, area, metric))


def refusals(
    cols: Sequence[Column],
    estimates: Sequence[PairedEstimate],
    score: Callable[[str, str, str], PolicyScore | None],
) -> RefusalView | None:
    """`score` gives a policy's rate by its digest, an area and a metric."""
    benign, harmful = _refusal_metric(estimates, "over_refusal"), _refusal_metric(estimates, "harmlessness")
    if benign is None or harmful is None:
        return None
    drawn: list[charts.RefusalPoint] = []
    rows: list[tuple[Column, str, str]] = []
    for column in cols:
        b = score(column.digest, benign.area, benign.metric)
        h = score(column.digest, harmful.area, harmful.metric)
        if b is None or h is None:
            continue
        b = b if benign.direction == "down" else _complement(b)
        h = h if harmful.direction == "up" else _complement(h)
        drawn.append(charts.RefusalPoint(column.name, column.index, b, h))
        rows.append((column, _with_interval(b), _with_interval(h)))
    label = "harmful requests refused" if _says_refusal(harmful) else "harmful requests declined"
    benign_label = "benign requests refused" if _says_refusal(benign) else "benign requests not answered"
    return RefusalView(charts.refusal_plane(drawn, label), benign_label, label, tuple(rows))


def _refusal_metric(estimates: Sequence[PairedEstimate], area: str) -> PairedEstimate | None:
    found = [e for e in estimates if e.area == area and is_share(e.reference.rate) and is_share(e.aligned.rate)]
    return next((e for e in found if _says_refusal(e)), found[0] if found else None)


def _says_refusal(estimate: PairedEstimate) -> bool:
    return "refus" in estimate.metric


def _complement(score: PolicyScore) -> PolicyScore:
    return PolicyScore(rate=1 - score.rate, low=1 - score.high, high=1 - score.low)


def _with_interval(score: PolicyScore) -> str:
    return f"{percent(score.rate, 1)} ({percent(score.low, 1)} to {percent(score.high, 1)})"


@dataclass(frozen=True)
class ForestRow:
    area: str
    metric: str
    strip: Markup
    difference: str
    interval: str
    margin: str
    n: int
    verdict: str
    sign: str
    kind: str
    explanation: str
    worst: str


@dataclass(frozen=True)
class GateView:
    name: str
    column: Column | None
    digest: str
    report: str
    verdict: str
    sign: str
    kind: str
    alpha: str
    rows: tuple[ForestRow, ...]
    errors: tuple[str, ...]


WORD = {
    Verdict.PASS: "pass",
    Verdict.REGRESSED: "regressed",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.ERROR: "error",
}


def gate_views(story: LoopStory) -> tuple[GateView, ...]:
    by_digest = {column.digest: column for column in columns(story)}
    return tuple(
        GateView(
            name=visible(story.policy_name(decision.aligned)),
            column=by_digest.get(decision.aligned),
            digest=decision.digest,
            report=decision.report,
            verdict=VERDICT_WORD[decision.verdict],
            sign=VERDICT_SIGN[decision.verdict],
            kind=charts.verdict_class(decision.verdict),
            alpha=percent(1 - 2 * decision.alpha),
            rows=tuple(forest_row(area, story.report_on(decision.aligned)) for area in decision.areas),
            errors=tuple(visible(error) for error in decision.errors),
        )
        for decision in story.decisions
    )


def forest_row(
    area: AreaVerdict,
    report: EvaluationReport | None,
    shape: int = 0,
    ticks: Sequence[float] = charts.DIFFERENCE_TICKS,
) -> ForestRow:
    estimate = find_estimate(report, area.area, area.metric)
    interval = f"{points(area.low)} to {points(area.high)}" if area.low is not None and area.high is not None else ""
    label = f"{title(area.area)}, {humanise(area.metric)}"
    return ForestRow(
        area=title(area.area),
        metric=humanise(area.metric),
        strip=charts.forest_strip(
            label, area.difference, area.low, area.high, area.margin, area.verdict.value, shape=shape, ticks=ticks
        ),
        difference=points(area.difference) if area.difference is not None else "\u2013",
        interval=interval,
        margin=number(-area.margin * 100, 1),
        n=area.n if area.n or estimate is None else estimate.n,
        verdict=WORD[area.verdict],
        sign=VERDICT_SIGN[area.verdict],
        kind=charts.verdict_class(area.verdict),
        explanation=visible(area.explanation),
        worst=humanise(visible(area.worst_slice))
        if area.worst_slice and area.worst_slice not in area.explanation
        else "",
    )


@dataclass(frozen=True)
class ReasonRow:
    reason: str
    meaning: str
    count: int
    bar: Markup


def reason_rows(
    counts: Mapping[str, int], kind: str, known: Mapping[str, str] = REASON_MEANING
) -> tuple[ReasonRow, ...]:
    """Counts by reason, largest first, each with a bar and, for reasons we know, its meaning."""
    largest = max(counts.values(), default=0)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        ReasonRow(humanise(visible(r)), known.get(r, ""), n, charts.bar_strip(humanise(r), n, largest, kind))
        for r, n in ordered
    )


@dataclass(frozen=True)
class Reading:
    policy: str
    column: Column | None
    alarm: bool
    blocking: bool
    explanation: str
    statistics: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PressureView:
    title: str
    meaning: str
    contract: Steps
    readings: tuple[Reading, ...]


def pressure_views(story: LoopStory, contracts: Contracts) -> tuple[PressureView, ...]:
    """The five pressures, each with what its monitor read for every report; one without readings is kept."""
    by_digest = {column.digest: column for column in columns(story)}
    found: dict[str, list[Reading]] = {name: [] for name in PRESSURES}
    for report in story.reports:
        for reading in report.pressures:
            name = visible(story.policy_name(report.aligned))
            found.setdefault(reading.pressure, []).append(read(reading, name, by_digest.get(report.aligned)))
    return tuple(pressure_view(name, contracts, readings) for name, readings in found.items())


def pressure_view(name: str, contracts: Contracts, readings: Sequence[Reading]) -> PressureView:
    return PressureView(
        title(visible(name)), PRESSURE_MEANING.get(name, ""), tuple(contracts.get(name, ())), tuple(readings)
    )


def read(reading: PressureReading, policy: str, column: Column | None) -> Reading:
    return Reading(
        policy=policy,
        column=column,
        alarm=reading.alarm,
        blocking=reading.blocking,
        explanation=visible(reading.explanation),
        statistics=tuple(
            (humanise(visible(name)), f"{value:.4g}".replace("-", "\u2212"))
            for name, value in reading.statistics.items()
        ),
    )
