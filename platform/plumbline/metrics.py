"""Every Prometheus metric that Plumbline exports, named once.

Dashboards, alert rules and code all take their names from here; a test checks that the charts use no other.
`Metrics` owns its registry, so two services in one process (the local loop) do not share counters by accident.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# ruff: noqa: E501
# name -> (kind, help, labels); counters are exported with the suffix `_total`.
CATALOGUE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "plumbline_requests": ("counter", "Chat requests answered, by leg and finish reason.", ("leg", "finish")),
    "plumbline_request_seconds": ("histogram", "Time to answer a chat request.", ("leg",)),
    "plumbline_tokens": ("counter", "Tokens generated, by leg.", ("leg",)),
    "plumbline_prompt_tokens": ("counter", "Prompt tokens read, by leg.", ("leg",)),
    "plumbline_first_token_seconds": ("histogram", "Time from asking a policy to its first token, waiting included.", ("leg",)),
    "plumbline_slots_busy": ("gauge", "Answers that are being made now.", ("leg",)),
    "plumbline_requests_waiting": ("gauge", "Requests that wait for a slot.", ("leg",)),
    "plumbline_guardrail_checks": ("counter", "Texts that a guardrail decided on, by stage (input, output) and action.", ("leg", "stage", "action")),
    "plumbline_router_requests": ("counter", "Requests through the shadow router, by status class.", ("experiment", "status")),
    "plumbline_router_overhead_seconds": ("histogram", "Time the router adds to a request.", ("experiment",)),
    "plumbline_shadow_spooled": ("counter", "Requests recorded for pairing.", ("experiment",)),
    "plumbline_shadow_pairs": ("counter", "Requests answered by both policies.", ("experiment",)),
    "plumbline_shadow_shed": ("counter", "Recorded requests that became no pair, by reason.", ("experiment", "reason")),
    "plumbline_shadow_pending": ("gauge", "Recorded requests that wait for the aligned policy.", ("experiment",)),
    "plumbline_shadow_swept_timestamp_seconds": ("gauge", "When the spools were last swept of what people said who withdrew; 0 before the first time.", ("experiment",)),
    "plumbline_shadow_withheld": ("gauge", "1 while no session of an A/B experiment is given the aligned policy: not passed, unwatched, or the switch is thrown.", ("experiment",)),
    "plumbline_shadow_refusals": ("counter", "Refusals on paired live traffic.", ("experiment", "leg", "slice")),
    "plumbline_shadow_answers": ("counter", "Answers on paired live traffic.", ("experiment", "leg", "slice")),
    "plumbline_cs_lower": ("gauge", "Lower bound of aligned minus reference on live traffic, valid at every look; up is better.", ("experiment", "metric", "slice")),
    "plumbline_cs_upper": ("gauge", "Upper bound of the same.", ("experiment", "metric", "slice")),
    "plumbline_shadow_difference": ("gauge", "Aligned minus reference on live traffic, mean over sessions; up is better.", ("experiment", "metric", "slice")),
    "plumbline_shadow_sessions": ("gauge", "Sessions with a pair that the metric is about.", ("experiment", "metric", "slice")),
    "plumbline_shadow_planned_sessions": ("gauge", "Sessions that the plan asks for.", ("experiment", "metric")),
    "plumbline_shadow_worst_lower": ("gauge", "Lower bound when every lost pair is counted as a loss.", ("experiment", "metric")),
    "plumbline_shadow_worst_upper": ("gauge", "Upper bound when every lost pair is counted as a gain.", ("experiment", "metric")),
    "plumbline_shadow_lost_share": ("gauge", "Lost pairs over all that could have become one.", ("experiment", "slice")),
    "plumbline_shadow_alarm": ("gauge", "1 while the aligned policy is proven worse at all, by a rule for every look.", ("experiment", "metric")),
    "plumbline_shadow_tripped": ("gauge", "1 while the kill switch is thrown.", ("experiment",)),
    "plumbline_shadow_latency_seconds": ("gauge", "Time to the last byte on live traffic, by leg and quantile.", ("experiment", "leg", "quantile")),
    "plumbline_shadow_first_token_seconds": ("gauge", "Time to the first piece of streamed answers, by leg and quantile.", ("experiment", "leg", "quantile")),
    "plumbline_shadow_tokens": ("gauge", "Mean tokens of an answer on live traffic, by leg.", ("experiment", "leg")),
    "plumbline_shadow_same_text": ("gauge", "Share of pairs whose two answers are the same to the letter.", ("experiment",)),
    "plumbline_feedback_events": ("counter", "Feedback events received, by outcome.", ("source", "outcome")),
    "plumbline_feedback_commit_seconds": ("histogram", "Time to make a portion of events durable.", ()),
    "plumbline_feedback_quarantined": ("gauge", "Events kept apart, by reason.", ("reason",)),
    "plumbline_inbox_events": ("gauge", "Events that were ever stored in the inbox.", ()),
    "plumbline_feedback_waiting": ("gauge", "Events in the inbox that no finished ingestion of the dataset has read.", ("dataset",)),
    "plumbline_approval_waiting": ("gauge", "1 while a candidate version waits for people to approve it.", ("dataset",)),
    "plumbline_ingestion_rejected": ("gauge", "Events refused by the last ingestion, by reason.", ("dataset", "reason")),
    "plumbline_ingestion_accepted": ("gauge", "Events accepted by the last ingestion.", ("dataset",)),
    "plumbline_dataset_version": ("gauge", "Number of the head version.", ("dataset",)),
    "plumbline_dataset_examples": ("gauge", "Examples in the head version.", ("dataset", "split")),
    "plumbline_dataset_withdrawn": ("gauge", "People in the head version whose consent to training no longer holds.", ("dataset",)),
    "plumbline_consent_people": ("gauge", "People by their last word on training.", ("action",)),
    "plumbline_erasures_open": ("gauge", "Erasures that people asked for and that are not finished.", ()),
    "plumbline_erasure_oldest_seconds": ("gauge", "Age of the oldest of them; 0 when there is none.", ()),
    "plumbline_policies_flagged": ("gauge", "Policies that learned from somebody who was erased since, by recorded remediation.", ("remediation",)),
    "plumbline_release_flagged": ("gauge", "1 while a release serves such a policy, unless its remediation is no-action.", ("release",)),
    "plumbline_ledger_read_timestamp_seconds": ("gauge", "When the ledger was last read for these gauges.", ()),
    "plumbline_consent_ledger_sequence": ("gauge", "Last sequence of the consent ledger.", ()),
    "plumbline_consent_ledger_valid": ("gauge", "1 while the hash chain verifies.", ()),
    "plumbline_consent_changes": ("counter", "Consent entries made over HTTP.", ("source", "action")),
    "plumbline_consent_seconds": ("histogram", "Time to acknowledge a consent request, by what it asked.", ("action",)),
    "plumbline_gate_state": ("gauge", "Gate by metric: 0 PASS, 1 REGRESSED, 2 ERROR, 3 INCONCLUSIVE.", ("area", "metric")),
    "plumbline_gate_verdict": ("gauge", "Gate over all areas, same codes.", ()),
    "plumbline_gate_decided_timestamp_seconds": ("gauge", "When the newest decision was recorded.", ()),
    "plumbline_paired_difference": ("gauge", "Aligned minus reference, up is better; bound is low, mean or high.", ("area", "metric", "bound")),
    "plumbline_slice_difference": ("gauge", "The same by slice, of the slices with the lowest low bounds.", ("area", "metric", "slice", "bound")),
    "plumbline_gate_margin": ("gauge", "Non-inferiority margin.", ("area", "metric")),
    "plumbline_refusal_rate": ("gauge", "Refusal rate on held-out prompts, by policy and prompt class.", ("policy", "prompt_class")),
    "plumbline_area_rate": ("gauge", "Rate on held-out prompts, by policy, area and metric.", ("policy", "area", "metric")),
    "plumbline_pressure_alarm": ("gauge", "1 while a failure pressure's monitor alarms.", ("pressure",)),
    "plumbline_train_step": ("gauge", "Optimiser steps done.", ("run",)),
    "plumbline_train_steps": ("gauge", "Optimiser steps that the run will take.", ("run",)),
    "plumbline_train_loss": ("gauge", "Mean loss of the last reporting window, by slice, and of the whole batch (slice all).", ("run", "slice")),
    "plumbline_train_kl": ("gauge", "KL to the reference in nats per token, where the objective asks for it.", ("run",)),
    "plumbline_train_learning_rate": ("gauge", "Learning rate of the last step.", ("run",)),
    "plumbline_train_grad_norm": ("gauge", "Norm of the gradient before clipping.", ("run",)),
    "plumbline_train_tokens": ("gauge", "Tokens so far, supervised or real; falls back with the run when it resumes.", ("run", "kind")),
    "plumbline_train_tokens_per_second": ("gauge", "Tokens per second, supervised or real.", ("run", "kind")),
    "plumbline_train_mfu": ("gauge", "Share of the device's peak FLOPs that training uses, where the peak is known.", ("run",)),
    "plumbline_train_eta_seconds": ("gauge", "Seconds until the last step, at the present speed.", ("run",)),
    "plumbline_train_probe": ("gauge", "A behaviour probe's rate at the last checkpoint probed.", ("run", "probe")),
    "plumbline_train_probe_breach": ("gauge", "How much worse than the base policy a probe is, once beyond its margin; else 0.", ("run", "probe")),
}  # fmt: skip


def exported_names() -> set[str]:
    """Names as they appear in a scrape, with the suffixes that Prometheus adds."""
    names: set[str] = set()
    for name, (kind, _, _) in CATALOGUE.items():
        if kind == "counter":
            names.add(f"{name}_total")
        elif kind == "histogram":
            names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
        else:
            names.add(name)
    return names


@dataclass
class Metrics:
    """One registry with the metrics that were asked for: `metrics.counter("plumbline_requests").labels(...).inc()`."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    _made: dict[str, Counter | Gauge | Histogram] = field(default_factory=dict)

    def counter(self, name: str) -> Counter:
        made = self._get(name, "counter")
        assert isinstance(made, Counter)
        return made

    def gauge(self, name: str) -> Gauge:
        made = self._get(name, "gauge")
        assert isinstance(made, Gauge)
        return made

    def histogram(self, name: str) -> Histogram:
        made = self._get(name, "histogram")
        assert isinstance(made, Histogram)
        return made

    def replace(self, name: str, values: Mapping[tuple[str, ...], float], **within: str) -> None:
        """Set a gauge to exactly these series, by label values; others go, of those whose labels are `within`.

        What is no longer so must not go on being scraped: a reason of the ingestion before, a slice of another suite.
        """
        gauge, labels = self.gauge(name), CATALOGUE[name][2]
        for family in gauge.collect():
            for sample in family.samples:
                series = tuple(sample.labels[label] for label in labels)
                if series not in values and within.items() <= sample.labels.items():
                    gauge.remove(*series)
        for series, value in values.items():
            gauge.labels(*series).set(value)

    def render(self) -> bytes:
        """The scrape body (Prometheus text format 0.0.4)."""
        return generate_latest(self.registry)

    def _get(self, name: str, kind: str) -> Counter | Gauge | Histogram:
        declared, text, labels = CATALOGUE[name]
        if declared != kind:
            raise ValueError(f"{name} is a {declared}, not a {kind}")
        if name not in self._made:
            if kind == "counter":
                self._made[name] = Counter(name, text, labels, registry=self.registry)
            elif kind == "histogram":
                self._made[name] = Histogram(name, text, labels, registry=self.registry, buckets=LATENCY_BUCKETS)
            else:
                self._made[name] = Gauge(name, text, labels, registry=self.registry)
        return self._made[name]
