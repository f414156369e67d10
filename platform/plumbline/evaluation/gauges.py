"""A report and its decision as Prometheus gauges, under the names of `plumbline.metrics`: what dashboards draw."""

from plumbline.metrics import Metrics
from plumbline.records import EvaluationReport, GateDecision, PairedEstimate

MOST_SLICES = 50  # slices come from suites, and each is three time series


def export_gauges(report: EvaluationReport, decision: GateDecision, metrics: Metrics) -> None:
    """Sets the gate, paired-difference, rate and pressure gauges to this decision's, and to nothing else: series of an
    earlier one go. Of the slices, the `MOST_SLICES` with the lowest low bounds: where a loss would be."""
    metrics.gauge("plumbline_gate_verdict").set(decision.verdict.exit_code)
    by_area = {(area.area, area.metric): area for area in decision.areas}
    metrics.replace("plumbline_gate_state", {key: area.verdict.exit_code for key, area in by_area.items()})
    metrics.replace("plumbline_gate_margin", {key: area.margin for key, area in by_area.items()})
    metrics.replace(
        "plumbline_paired_difference",
        {(one.area, one.metric, bound): value for one in report.estimates for bound, value in _bounds(one)},
    )
    worst = sorted(report.slices, key=lambda one: (one.low, one.area, one.metric, one.slice))[:MOST_SLICES]
    metrics.replace(
        "plumbline_slice_difference",
        {(one.area, one.metric, one.slice, bound): value for one in worst for bound, value in _bounds(one)},
    )
    metrics.replace(
        "plumbline_area_rate",
        {(policy, one.area, one.metric): rate for one in report.estimates for policy, rate in _both(one)},
    )
    metrics.replace("plumbline_refusal_rate", {(policy, kind): rate for policy, kind, rate in refusal_rates(report)})
    metrics.replace("plumbline_pressure_alarm", {(one.pressure,): float(one.alarm) for one in report.pressures})


def refusal_rates(report: EvaluationReport) -> list[tuple[str, str, float]]:
    """(policy, prompt class, share declined). On benign prompts the gated metric also counts unusable answers, which
    decline nothing, so their share is taken off again."""
    by_key = {(estimate.area, estimate.metric): estimate for estimate in report.estimates}
    rates: list[tuple[str, str, float]] = []
    harmful = by_key.get(("harmlessness", "unsafe_compliance"))
    if harmful:
        rates += [(policy, "harmful", 1 - rate) for policy, rate in _both(harmful)]
    benign, unusable = by_key.get(("over_refusal", "benign_refusal")), by_key.get(("over_refusal", "unusable"))
    if benign and unusable:
        pairs = zip(_both(benign), _both(unusable), strict=True)
        rates += [(policy, "benign", max(0.0, rate - lost)) for (policy, rate), (_, lost) in pairs]
    return rates


def _both(estimate: PairedEstimate) -> list[tuple[str, float]]:
    return [("reference", estimate.reference.rate), ("aligned", estimate.aligned.rate)]


def _bounds(estimate: PairedEstimate) -> list[tuple[str, float]]:
    return [("low", estimate.low), ("mean", estimate.difference), ("high", estimate.high)]
