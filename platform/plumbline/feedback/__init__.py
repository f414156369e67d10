"""Feedback: from what people do to answers to the next dataset version, under their consent.

collect/    taking in: HTTP and files, sources and their rights, strict JSON, consent over HTTP
ingestion/  deciding: the stages from sealed events to a candidate, guards, approval
redaction/  e-mail, phone, card, IBAN, IP, secrets, keys
review/     judging: the blind desk, agreement, adjudication, labels
datasets/   versions: publishing, seeding, sides; reading, cards, exports

Here, because several of them meet in it: consent, pseudonyms, signatures (of texts), importers, erase, telemetry.
"""

from plumbline.feedback.collect.collector import (
    CollectorConfig,
    run_collector,
    start_collector,
)
from plumbline.feedback.collect.events import ImportCounts, import_file
from plumbline.feedback.collect.running import RunningCollector
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.datasets.reading import (
    DatasetVersionData,
    Verification,
    diff,
    load_changes,
    load_manifest,
    load_version,
    members_of,
    verify,
)
from plumbline.feedback.datasets.removal import publish_removal
from plumbline.feedback.datasets.seed import publish_seed_version
from plumbline.feedback.erase import (
    AbsenceProof,
    ErasureResult,
    erase,
    finish_erasures,
    prove_absent,
    withdraw_and_erase,
)
from plumbline.feedback.importers import import_dataset, read_examples, read_preferences
from plumbline.feedback.ingestion.candidate import (
    Candidate,
    IngestionConfig,
    IngestionResult,
    Preference,
    load_candidate,
)
from plumbline.feedback.ingestion.guard import GuardLimits
from plumbline.feedback.ingestion.ingest import STAGES, Ingestion
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.redaction.redact import NOT_DETECTED, Redacted, redact
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
    "finish_erasures",
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
