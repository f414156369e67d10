"""A report and its decision as Prometheus gauges, under the names of `plumbline.metrics`: what dashboards draw."""

from plumbline.metrics import Metrics
from plumbline.records import EvaluationReport, GateDecision, PairedEstimate


def export_gauges(report: EvaluationReport, decision: GateDecision, metrics: Metrics) -> None:
    """Sets the gate, paired-difference, rate and pressure gauges. Gauges of earlier calls that are not in this
    report keep their value, so give each evaluation its own `Metrics` or the same suite."""
    metrics.gauge("plumbline_gate_verdict").set(decision.verdict.exit_code)
    for area in decision.areas:
        metrics.gauge("plumbline_gate_state").labels(area.area, area.metric).set(area.verdict.exit_code)
        metrics.gauge("plumbline_gate_margin").labels(area.area, area.metric).set(area.margin)
    for estimate in report.estimates:
        for bound, value in (("low", estimate.low), ("mean", estimate.difference), ("high", estimate.high)):
            metrics.gauge("plumbline_paired_difference").labels(estimate.area, estimate.metric, bound).set(value)
        for policy, score in (("reference", estimate.reference), ("aligned", estimate.aligned)):
            metrics.gauge("plumbline_area_rate").labels(policy, estimate.area, estimate.metric).set(score.rate)
    for policy, prompt_class, rate in refusal_rates(report):
        metrics.gauge("plumbline_refusal_rate").labels(policy, prompt_class).set(rate)
    for reading in report.pressures:
        metrics.gauge("plumbline_pressure_alarm").labels(reading.pressure).set(float(reading.alarm))


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
