"""The ledger as gauges: what it says now, nothing that it no longer says, and its last word while it cannot be read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plumbline.evaluation.gauges import MOST_SLICES
from plumbline.metrics import Metrics
from plumbline.reconcile.ledger_gauges import LedgerGauges
from plumbline.records import (
    AreaVerdict,
    EvaluationReport,
    GateDecision,
    PairedEstimate,
    PolicyScore,
    Verdict,
    digest_of,
)
from plumbline.stores import Ledger, LocalBlobs

Series = dict[tuple[str, ...], float]
REFERENCE, ALIGNED, RUBRIC = digest_of("reference"), digest_of("aligned"), digest_of("rubric")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


class Place:
    """A ledger with its blobs, and what a scrape of its gauges shows."""

    def __init__(self, folder: Path) -> None:
        self.file, self.blobs = folder / "ledger.sqlite", folder / "blobs"
        self.now = FIRST
        Ledger(self.file).close()
        self.metrics = Metrics()
        self.gauges = LedgerGauges(self.file, self.blobs, self.metrics)

    def decide(self, metric: str, low: float, *, slices: int = 2, keep: bool = True) -> None:
        """Record a decision about one metric of over_refusal, with its report unless it is not to be found."""
        found = tuple(estimate(metric, f"slice {n:03}", low + n / 1000) for n in range(slices))
        report = EvaluationReport(
            reference=REFERENCE, aligned=ALIGNED, suite=digest_of("suite"), rubric=RUBRIC, dataset=None,
            decoder=digest_of("decoder"), estimates=(estimate(metric, "all", low),), slices=found,
        )  # fmt: skip
        verdict = Verdict.PASS if low > -0.02 else Verdict.REGRESSED
        area = AreaVerdict(
            area="over_refusal", metric=metric, verdict=verdict, difference=low + 0.01, low=low, high=low + 0.02,
            margin=0.02, n=400, explanation="by the test",
        )  # fmt: skip
        decision = GateDecision(
            reference=REFERENCE, aligned=ALIGNED, report=report.digest, rubric=RUBRIC, verdict=verdict, areas=(area,)
        )
        if keep:
            LocalBlobs(self.blobs).put(report.canonical_bytes())
        with Ledger(self.file, clock=lambda: self.now) as ledger:
            ledger.releases.record_decision(decision)

    def scrape(self, name: str) -> Series:
        families = text_string_to_metric_families(self.metrics.render().decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {tuple(sample.labels[key] for key in sorted(sample.labels)): sample.value for sample in samples}


def estimate(metric: str, where: str, low: float) -> PairedEstimate:
    score = PolicyScore(rate=0.1, low=0.05, high=0.15)
    return PairedEstimate(
        area="over_refusal", metric=metric, slice=where, direction="down", n=400, clusters=200, reference=score,
        aligned=score, difference=low + 0.01, low=low, high=low + 0.02, discordant=4, method="test",
    )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_new_decision_takes_the_old_ones_series_away(place: Place) -> None:
    place.decide("benign_refusal", -0.09)
    assert place.gauges.look() == ""
    assert place.scrape("plumbline_gate_verdict") == {(): 1}
    assert place.scrape("plumbline_gate_decided_timestamp_seconds") == {(): FIRST.timestamp()}
    place.now += timedelta(days=1)
    place.decide("unusable", -0.01)
    assert place.gauges.look() == ""
    assert place.scrape("plumbline_gate_verdict") == {(): 0}
    assert place.scrape("plumbline_gate_state") == {("over_refusal", "unusable"): 0}
    assert {key[2] for key in place.scrape("plumbline_paired_difference")} == {"unusable"}
    assert place.scrape("plumbline_gate_decided_timestamp_seconds") == {(): place.now.timestamp()}


def test_of_many_slices_the_worst_are_shown(place: Place) -> None:
    place.decide("benign_refusal", -0.09, slices=400)
    place.gauges.look()
    shown = place.scrape("plumbline_slice_difference")
    assert len(shown) == 3 * MOST_SLICES
    assert {key[3] for key in shown} == {f"slice {n:03}" for n in range(MOST_SLICES)}, "the lowest low bounds"
    assert shown["over_refusal", "low", "benign_refusal", "slice 000"] == pytest.approx(-0.09)


def test_a_decision_whose_report_is_not_there_yet_is_shown_when_it_is(place: Place) -> None:
    place.decide("benign_refusal", -0.01, keep=False)
    assert place.gauges.look() == "" and place.scrape("plumbline_gate_state") == {}
    place.decide("benign_refusal", -0.01)  # the same decision; its report is stored now
    place.gauges.look()
    assert place.scrape("plumbline_gate_state") == {("over_refusal", "benign_refusal"): 0}


def test_a_ledger_that_cannot_be_read_keeps_its_last_numbers_and_stops_the_clock(place: Place) -> None:
    place.decide("benign_refusal", -0.01)
    place.gauges.look()
    read = place.scrape("plumbline_ledger_read_timestamp_seconds")
    moved = place.file.rename(place.file.with_name("elsewhere"))
    assert str(place.file) in place.gauges.look()
    assert place.scrape("plumbline_gate_verdict") == {(): 0}
    assert place.scrape("plumbline_ledger_read_timestamp_seconds") == read
    moved.rename(place.file)
    assert place.gauges.look() == ""
    assert place.scrape("plumbline_ledger_read_timestamp_seconds")[()] > read[()]
