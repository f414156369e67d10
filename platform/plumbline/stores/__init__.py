"""Stores: blobs (content-addressed, fsynced) and the ledger database. The only rooms of this floor are disks."""

from plumbline.stores.blobs import BlobStore, LocalBlobs
from plumbline.stores.consent_ledger import ConsentHead, ConsentLedger, Coverage, LedgerCheck
from plumbline.stores.inbox import Inbox, Queued, Receipt, Review
from plumbline.stores.ledger import Ledger
from plumbline.stores.lineage import Lineage, PolicyLineage, SubjectLineage, TrainedOn
from plumbline.stores.payloads import Payloads
from plumbline.stores.publications import (
    ConsentLost,
    HeadMoved,
    MemberDetail,
    Membership,
    Publications,
    Published,
    Signature,
)
from plumbline.stores.releases import REMEDIATIONS, Releases, Remediation
from plumbline.stores.runs import Approval, Lease, Run, Runs, StaleLease

__all__ = [
    "REMEDIATIONS",
    "Approval",
    "BlobStore",
    "ConsentHead",
    "ConsentLedger",
    "ConsentLost",
    "Coverage",
    "HeadMoved",
    "Inbox",
    "Lease",
    "Ledger",
    "LedgerCheck",
    "Lineage",
    "LocalBlobs",
    "MemberDetail",
    "Membership",
    "Payloads",
    "PolicyLineage",
    "Publications",
    "Published",
    "Queued",
    "Receipt",
    "Releases",
    "Remediation",
    "Review",
    "Run",
    "Runs",
    "Signature",
    "StaleLease",
    "SubjectLineage",
    "TrainedOn",
]
