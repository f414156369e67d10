"""The ledger as Prometheus gauges: the newest gate decision, the feedback funnel, consent and erasure.

An evaluation or an ingestion is a batch: it ends, and nobody could scrape it any more. What it found is in the ledger,
so whoever lives longer exports it: the operator, at every resync.
A ledger that cannot be read keeps its last numbers, with `plumbline_ledger_read_timestamp_seconds` standing still.
"""

import time
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.gauges import export_gauges
from plumbline.metrics import Metrics
from plumbline.reconcile.ledger_observer import kept_blob
from plumbline.records import DatasetManifest, EvaluationReport
from plumbline.stores import Ledger
from plumbline.stores.funnel import Funnel, newest_decision, read_funnel

Series = dict[tuple[str, ...], float]


class LedgerGauges:
    """Sets the gauges of `metrics` from a ledger and its blobs (a file and a directory, or a URL and s3://)."""

    def __init__(self, ledger: Path | str, blobs: Path | str, metrics: Metrics) -> None:
        self.ledger = ledger
        self.blobs = blobs
        self.metrics = metrics
        self._consent: int | None = None
        self._decision = ""
        self._heads: dict[str, str] = {}

    def look(self) -> str:
        """Read the ledger once. What is wrong with it, in words; empty when it was read. May block; never raises for
        a ledger in trouble."""
        try:
            with Ledger(self.ledger, must_exist=True) as ledger:
                funnel = read_funnel(ledger, known=self._consent)
                self._show(funnel)
                self._show_heads(ledger)
                self._show_gate(ledger)
        except (PlumblineError, OSError, ValueError) as error:  # ValueError: a record of a version not known here
            return str(error)
        self._consent = funnel.consent_sequence
        self.metrics.gauge("plumbline_ledger_read_timestamp_seconds").set(time.time())
        return ""

    def _show(self, funnel: Funnel) -> None:
        gauge, replace = self.metrics.gauge, self.metrics.replace
        gauge("plumbline_inbox_events").set(funnel.inbox)
        gauge("plumbline_consent_ledger_sequence").set(funnel.consent_sequence)
        gauge("plumbline_erasures_open").set(funnel.erasures)
        gauge("plumbline_erasure_oldest_seconds").set(funnel.erasure_age_s)
        replace("plumbline_feedback_waiting", _by_one(funnel.waiting))
        replace("plumbline_approval_waiting", _by_one(funnel.approvals))
        replace("plumbline_dataset_withdrawn", _by_one(funnel.withdrawn))
        replace("plumbline_policies_flagged", _by_one(funnel.flagged_policies))
        replace("plumbline_release_flagged", _by_one(funnel.flagged_releases))
        if funnel.people is not None:
            replace("plumbline_consent_people", _by_one(funnel.people))

    def _show_heads(self, ledger: Ledger) -> None:
        """Heads by dataset, each read once: what a version is made of never changes."""
        for dataset in ledger.publications.datasets():
            head = ledger.publications.head(dataset)
            if head is None or self._heads.get(dataset) == head.digest:
                continue
            sizes: Series = {
                (dataset, split): float(count) for split, count in ledger.publications.sizes(dataset).items()
            }
            self.metrics.gauge("plumbline_dataset_version").labels(dataset).set(head.version)
            self.metrics.replace("plumbline_dataset_examples", sizes, dataset=dataset)
            ingested = self._ingested(ledger, dataset)
            if ingested is not None:
                rejected: Series = {(dataset, reason): float(count) for reason, count in ingested.rejected.items()}
                self.metrics.gauge("plumbline_ingestion_accepted").labels(dataset).set(ingested.accepted)
                self.metrics.replace("plumbline_ingestion_rejected", rejected, dataset=dataset)
            self._heads[dataset] = head.digest

    def _ingested(self, ledger: Ledger, dataset: str) -> DatasetManifest | None:
        """The newest version that events came into. A removal-only version has an account as well, of nothing."""
        manifests = (
            kept_blob(self.blobs, DatasetManifest, one.digest)
            for one in reversed(ledger.publications.versions(dataset))
        )
        return next((one for one in manifests if one is not None and one.sealed), None)

    def _show_gate(self, ledger: Ledger) -> None:
        """The newest decision, once its report is found among the blobs."""
        newest = newest_decision(ledger)
        if newest is None or newest[0] == self._decision:
            return
        decision = ledger.releases.decision(newest[0])
        report = kept_blob(self.blobs, EvaluationReport, decision.report) if decision is not None else None
        if decision is not None and report is not None:
            export_gauges(report, decision, self.metrics)
            self.metrics.gauge("plumbline_gate_decided_timestamp_seconds").set(newest[1].timestamp())
            self._decision = newest[0]


def _by_one(counts: dict[str, int] | dict[str, bool]) -> Series:
    return {(name,): float(count) for name, count in counts.items()}
