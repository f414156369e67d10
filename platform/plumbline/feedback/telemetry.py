"""What dashboards see of this room: set from the ledger and from results, under the names in plumbline.metrics."""

from plumbline.feedback.ingestion.candidate import IngestionResult
from plumbline.metrics import Metrics
from plumbline.stores import Ledger


def record_ledger(metrics: Metrics, ledger: Ledger, *, verify: bool = True) -> None:
    """Consent head, validity of the chain (reads every entry, so `verify` can be left out), and head versions."""
    metrics.gauge("plumbline_consent_ledger_sequence").set(ledger.consent.head().sequence)
    if verify:
        metrics.gauge("plumbline_consent_ledger_valid").set(float(ledger.consent.verify().valid))
    for dataset in ledger.publications.datasets():
        head = ledger.publications.head(dataset)
        metrics.gauge("plumbline_dataset_version").labels(dataset=dataset).set(head.version if head else 0)
        for split, count in ledger.publications.sizes(dataset).items():
            metrics.gauge("plumbline_dataset_examples").labels(dataset=dataset, split=split).set(count)


def record_ingestion(metrics: Metrics, result: IngestionResult) -> None:
    """The account of the last run: accepted, and refused by reason (reasons of earlier runs fall back to 0)."""
    rejected = metrics.gauge("plumbline_ingestion_rejected")
    for family in rejected.collect():
        for sample in family.samples:
            if sample.labels.get("dataset") == result.dataset:
                rejected.labels(**sample.labels).set(0)
    for reason, count in result.rejected.items():
        rejected.labels(dataset=result.dataset, reason=reason).set(count)
    metrics.gauge("plumbline_ingestion_accepted").labels(dataset=result.dataset).set(result.accepted)
