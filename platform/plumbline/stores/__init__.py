"""Stores: blobs (content-addressed, fsynced) and the ledger database. The only rooms of this floor are disks."""

from plumbline.stores.blobs import BlobStore, LocalBlobs
from plumbline.stores.bulk import undisturbed
from plumbline.stores.consent_chain import ConsentHead, LedgerCheck
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.exports import Export, Exports
from plumbline.stores.inbox import Inbox, Queued, Receipt
from plumbline.stores.key_index import KeyIndex
from plumbline.stores.ledger import Ledger
from plumbline.stores.lineage import Lineage, PolicyLineage, SubjectLineage, TrainedOn
from plumbline.stores.payloads import Packed, PackGone, Payloads
from plumbline.stores.publications import (
    Anchor,
    ConsentLost,
    HeadMoved,
    Membership,
    NewExample,
    NewExamples,
    Publications,
    Published,
)
from plumbline.stores.releases import REMEDIATIONS, Releases, Remediation
from plumbline.stores.runs import Approval, Lease, Run, Runs, StaleLease
from plumbline.stores.sealed import SealedEvent, read_sealed
from plumbline.stores.standing import Coverage, Standing
from plumbline.stores.tree import TreeChange

__all__ = [
    "REMEDIATIONS",
    "Anchor",
    "Approval",
    "BlobStore",
    "ConsentHead",
    "ConsentLedger",
    "ConsentLost",
    "Coverage",
    "Export",
    "Exports",
    "HeadMoved",
    "Inbox",
    "KeyIndex",
    "Lease",
    "Ledger",
    "LedgerCheck",
    "Lineage",
    "LocalBlobs",
    "Membership",
    "NewExample",
    "NewExamples",
    "PackGone",
    "Packed",
    "Payloads",
    "PolicyLineage",
    "Publications",
    "Published",
    "Queued",
    "Receipt",
    "Releases",
    "Remediation",
    "Run",
    "Runs",
    "SealedEvent",
    "StaleLease",
    "Standing",
    "SubjectLineage",
    "TrainedOn",
    "TreeChange",
    "read_sealed",
    "undisturbed",
]
