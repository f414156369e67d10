"""Feedback: from what people do to answers to the next dataset version, under their consent.

take in    collector, access, events, writer, logged; consent, consent_routes; importers
decide     ingest and its stages: signatures, redact(ion_*), injection, guard, split; history, examples
judge      review, selection, settling, agreement, labels
publish    approval, publish, seed, erase
read       reading, card, croissant, export, delta
"""

from plumbline.feedback.candidate import Candidate, IngestionConfig, IngestionResult, Preference, load_candidate
from plumbline.feedback.collector import (
    CollectorConfig,
    run_collector,
    start_collector,
)
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.erase import (
    AbsenceProof,
    ErasureResult,
    erase,
    prove_absent,
    publish_removal,
    withdraw_and_erase,
)
from plumbline.feedback.events import ImportCounts, import_file
from plumbline.feedback.guard import GuardLimits
from plumbline.feedback.importers import import_dataset, read_examples, read_preferences
from plumbline.feedback.ingest import STAGES, Ingestion
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.reading import (
    DatasetVersionData,
    Verification,
    diff,
    load_changes,
    load_manifest,
    load_version,
    members_of,
    verify,
)
from plumbline.feedback.redact import NOT_DETECTED, Redacted, redact
from plumbline.feedback.running import RunningCollector
from plumbline.feedback.seed import publish_seed_version
from plumbline.feedback.telemetry import record_ingestion, record_ledger

__all__ = [
    "NOT_DETECTED",
    "STAGES",
    "AbsenceProof",
    "Candidate",
    "CollectorConfig",
    "ConsentDesk",
    "DatasetVersionData",
    "ErasureResult",
    "GuardLimits",
    "ImportCounts",
    "Ingestion",
    "IngestionConfig",
    "IngestionResult",
    "Preference",
    "Pseudonyms",
    "Redacted",
    "RunningCollector",
    "Verification",
    "diff",
    "erase",
    "import_dataset",
    "import_file",
    "load_candidate",
    "load_changes",
    "load_manifest",
    "load_version",
    "members_of",
    "prove_absent",
    "publish_removal",
    "publish_seed_version",
    "read_examples",
    "read_preferences",
    "record_ingestion",
    "record_ledger",
    "redact",
    "run_collector",
    "start_collector",
    "verify",
    "withdraw_and_erase",
]
