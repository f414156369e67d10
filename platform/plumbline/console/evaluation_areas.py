"""The areas of an evaluation report: both rates with what no model would score, severe items, slices and variants."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console import charts, view
from plumbline.console.evaluation_view import ITEMS_SHOWN, Who
from plumbline.console.words import AREA_MEANING, count, humanise, percent, points, title, visible
from plumbline.records import AREAS, EvaluationReport, GateDecision, PairedEstimate
from plumbline.records.report import Diagnostic

STATE = {
    "within": ("v-pass", "\u2713"),
    "beyond": ("v-inconclusive", "\u25b2"),
    "undecided": ("v-inconclusive", "?"),
    "not measured": ("", "\u00b7"),
}
VARIANT = "variant:"  # how `compare` marks another phrasing or language among the slices
SLICE_TICKS = (-0.5, 0.0, 0.5)
SLICES_SHOWN, SLICES_PER_METRIC = 500, 60


@dataclass(frozen=True)
class SliceRow:
    name: str
    strip: Markup
    difference: str
    interval: str
    rates: str
    n: int
    clusters: int
    lost: bool


@dataclass(frozen=True)
class SliceForest:
    """Slices, or variants, of one metric: those whose loss Holm's correction proves first, then the lowest."""

    metric: str
    what: str
    rows: tuple[SliceRow, ...]
    lost: int
    more: int


@dataclass(frozen=True)
class SevereRow:
    metric: str
    n: int
    reference: int
    aligned: int
    high: str
    newly: bool
    items: tuple[str, ...]
    more: int


@dataclass(frozen=True)
class DiagnosticRow:
    """A statistic that decides nothing: its figures, how they stand to the limit, and what it was made of."""

    name: str
    kind: str
    sign: str
    state: str
    figures: str
    limit: str
    explanation: str
    details: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AreaPart:
    block: view.AreaBlock
    severe: tuple[SevereRow, ...]
    diagnostics: tuple[DiagnosticRow, ...]
    slices: tuple[SliceForest, ...]


def area_parts(
    report: EvaluationReport, decision: GateDecision | None, who: Sequence[Who], contracts: view.Contracts
) -> tuple[list[AreaPart], list[str]]:
    """The areas that were measured, ours first, and the titles of those of the ten that were not."""
    margins = {(area.area, area.metric): area.margin for area in (decision.areas if decision else ())}
    seen = {estimate.area for estimate in report.estimates} | {one.area for one in report.diagnostics}
    cols = [one.column for one in who]
    shown = max(3, min(SLICES_PER_METRIC, SLICES_SHOWN // max(1, len({(s.area, s.metric) for s in report.slices}))))
    parts = []
    for area in (*(known for known in AREAS if known in seen), *sorted(seen - set(AREAS))):
        mine = [estimate for estimate in report.estimates if estimate.area == area]
        mine.sort(key=lambda e: (e.area, e.metric) not in margins and e.margin is None)
        rows = tuple(
            view.rate_row(
                cols,
                (e.reference, e.aligned),
                e,
                margins.get((area, e.metric), e.margin),
                report.baselines.get(f"{area}.{e.metric}", {}),
            )
            for e in mine
        )
        block = view.AreaBlock(
            area, title(visible(area)), AREA_MEANING.get(area, ""), tuple(contracts.get(area, ())), rows
        )
        parts.append(
            AreaPart(
                block=block,
                severe=_severe(report, area),
                diagnostics=tuple(_diagnostic(one) for one in report.diagnostics if one.area == area),
                slices=tuple(f for e in mine for f in _slices(report, e, margins.get((area, e.metric)), shown)),
            )
        )
    estimated = {estimate.area for estimate in report.estimates}
    missed = [title(area) for area in AREAS if area not in estimated]
    return parts, missed


def _diagnostic(one: Diagnostic) -> DiagnosticRow:
    kind, sign = STATE[one.state]
    unit = visible(one.unit)
    figures = ""
    if one.value is not None and one.low is not None and one.high is not None:
        figures = f"{_exact(one.value)} {unit}, 90\u00a0% interval {_exact(one.low)} to {_exact(one.high)}, "
        figures += f"from {count(one.n, 'item')} in {count(one.clusters, 'cluster')}"
    return DiagnosticRow(
        name=humanise(visible(one.name)),
        kind=kind,
        sign=sign,
        state=one.state,
        figures=figures,
        limit=f"{one.limit:g}",
        explanation=visible(one.explanation).removeprefix("not measured: "),
        details=tuple((humanise(visible(name)), _exact(value)) for name, value in one.details.items()),
    )


def _exact(value: float) -> str:
    """Four significant digits, with a true minus sign."""
    return f"{value:.4g}".replace("-", "\u2212")


def _severe(report: EvaluationReport, area: str) -> tuple[SevereRow, ...]:
    return tuple(
        SevereRow(
            metric=humanise(visible(one.metric)),
            n=one.n,
            reference=one.reference_failures,
            aligned=one.aligned_failures,
            high=percent(one.high, 1),
            newly=one.aligned_failures > one.reference_failures,
            items=tuple(visible(item) for item in one.items[:ITEMS_SHOWN]),
            more=max(0, len(one.items) - ITEMS_SHOWN),
        )
        for one in report.severe
        if one.area == area
    )


def _slices(
    report: EvaluationReport, estimate: PairedEstimate, held: float | None, shown: int
) -> list[SliceForest]:  # fmt: skip
    """Nothing where the only slice is everything: it would say the same twice. Nor for our ungated metrics, unless a
    slice of one has lost: they are diagnostics of the gated ones."""
    mine = [s for s in report.slices if (s.area, s.metric) == (estimate.area, estimate.metric)]
    margin = estimate.margin if held is None else held
    if margin is None and estimate.area in AREAS and all(s.verdict != "worse" for s in mine):
        return []
    made = []
    for what, prefix in (("Slices", ""), ("Template and language variants", VARIANT)):
        group = [s for s in mine if s.slice.startswith(VARIANT) == bool(prefix)]
        if len(group) < 2:
            continue
        group.sort(key=lambda s: (s.verdict != "worse", s.difference, s.slice))
        rows = tuple(_slice_row(s, prefix, margin) for s in group[:shown])
        lost = sum(s.verdict == "worse" for s in group)
        made.append(SliceForest(humanise(visible(estimate.metric)), what, rows, lost, len(group) - len(rows)))
    return made


def _slice_row(one: PairedEstimate, prefix: str, margin: float | None) -> SliceRow:
    lost = one.verdict == "worse"
    name = humanise(visible(one.slice.removeprefix(prefix)))
    verdict = "regressed" if lost else ""
    return SliceRow(
        name=name,
        strip=charts.forest_strip(
            name, one.difference, one.low, one.high, margin, verdict,
            height=20, ticks=SLICE_TICKS, shape=2 if lost else 0,
        ),
        difference=points(one.difference),
        interval=f"{points(one.low)} to {points(one.high)}",
        rates=f"{percent(one.reference.rate)} \u2192 {percent(one.aligned.rate)}",
        n=one.n,
        clusters=one.clusters,
        lost=lost,
    )  # fmt: skip
