"""What somebody who shows the ledger elsewhere asks it: how versions stand, what an erasure left, who wrote what.

Read only, and content-free: digests, counts, sequences. Outside, a person is named by the SHA-256 of their pseudonym;
only here is it known whose that is.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes, digest_of
from plumbline.stores.ledger import Ledger
from plumbline.stores.publications import Published
from plumbline.stores.runs import Run

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
Standing = Literal["Active", "Superseded", "Tainted", "Redacted"]


@dataclass(frozen=True)
class ErasureRecord:
    """What the ledger kept of an erasure. `proof` is a digest of facts that do not change any more."""

    payloads: int
    events: int
    policies: int
    completed_at: str
    proof: str


def find_subject(ledger: Ledger, digest: str) -> str | None:
    """The pseudonym whose SHA-256 is `digest`; None when nobody in the ledger has it. Reads every pseudonym."""
    rows = ledger.database.rows("SELECT subject FROM consent UNION SELECT subject FROM inbox")
    return next((row["subject"] for row in rows if digest_bytes(row["subject"].encode()) == digest), None)


def resolve_subject(ledger: Ledger, named: str) -> str:
    """A subject as others name them: `sha256:...` of a pseudonym is whose it is, anything else stays what it is.

    PlumblineError for a digest that nobody has: it is no name of a person, and nothing is done for a stranger.
    """
    if DIGEST.fullmatch(named) is None:
        return named
    if (found := find_subject(ledger, named)) is None:
        raise PlumblineError(
            f"nobody in the ledger has a pseudonym whose SHA-256 is {named}",
            consequence="nothing was withdrawn or erased",
            remedy="check the digest: it is that of s-... without a newline, under this ledger's tenant key",
        )
    return found


def heads_with(ledger: Ledger, subject: str) -> int:
    """Datasets whose head version holds the subject."""
    held = {one.dataset for one in ledger.lineage.of_subject(subject).memberships if one.removed_in is None}
    return len(held)


def left_of(ledger: Ledger, subject: str) -> int:
    """Payloads, and events with their words, that there still are of a subject."""
    words = ledger.database.value("SELECT COUNT(*) FROM inbox WHERE subject = ? AND body IS NOT NULL", (subject,))
    payloads = ledger.database.value("SELECT COUNT(*) FROM example WHERE subject = ? AND pack IS NOT NULL", (subject,))
    return int(words) + int(payloads)


def erasure_record(ledger: Ledger, subject: str) -> ErasureRecord | None:
    """What was recorded of the subject's erasure; None before there is a record. A repeated one counts once."""
    rows = ledger.database.rows(
        "SELECT consent_sequence, payloads, events, completed_at FROM erasure WHERE subject = ? ORDER BY sequence",
        (subject,),
    )
    if not rows:
        return None
    flagged = ledger.database.rows(
        "SELECT DISTINCT policy, remediation FROM remediation WHERE subject = ? ORDER BY policy, remediation",
        (subject,),
    )
    left = {
        (one.dataset, one.removed_in)
        for one in ledger.lineage.of_subject(subject).memberships
        if one.removed_in is not None
    }
    facts = {
        "subject": digest_bytes(subject.encode()),
        "erasures": [
            [row[name] for name in ("consent_sequence", "payloads", "events", "completed_at")] for row in rows
        ],
        "absent_since": [[dataset, number, _digest(ledger, dataset, number)] for dataset, number in sorted(left)],
        "policies": [[row["policy"], row["remediation"]] for row in flagged],
    }
    return ErasureRecord(
        payloads=max(row["payloads"] for row in rows),
        events=sum(row["events"] for row in rows),
        policies=len({row["policy"] for row in flagged}),
        completed_at=rows[-1]["completed_at"],
        proof=digest_of(facts),
    )


def standings(ledger: Ledger, dataset: str, versions: Iterable[Published]) -> dict[int, Standing]:
    """How each version stands. Tainted: it holds the payload of somebody whose consent ended. Redacted: it held one
    that is erased. A version may be both, and is Tainted then."""
    head = ledger.publications.head(dataset)
    spans = ledger.database.rows(
        "SELECT DISTINCT subject, added_in, removed_in, pack IS NULL AS erased FROM example"
        " WHERE dataset = ? AND subject IS NOT NULL AND (pack IS NULL OR removed_in IS NOT NULL)",
        (dataset,),
    )
    now, at = ledger.database.clock(), ledger.consent.head().sequence
    ended = {
        row["subject"]
        for row in spans
        if not row["erased"] and not ledger.consent.covers(row["subject"], "training", at, now).covered
    }
    lost = ledger.publications.uncovered(dataset)
    found: dict[int, Standing] = {}
    for one in versions:
        inside = [
            row
            for row in spans
            if row["added_in"] <= one.version and (row["removed_in"] is None or row["removed_in"] > one.version)
        ]
        holds = any(not row["erased"] and row["subject"] in ended for row in inside)
        if holds or (lost and head is not None and head.version == one.version):
            found[one.version] = "Tainted"
        elif any(row["erased"] for row in inside):
            found[one.version] = "Redacted"
        else:
            found[one.version] = "Active" if head is not None and head.version == one.version else "Superseded"
    return found


def authors_of(ledger: Ledger, run: Run) -> frozenset[str]:
    """Pseudonyms of everyone who wrote a target among the run's events, accepted or not: none of them may approve."""
    wrote: set[str] = set()
    for queued in ledger.inbox.read(run.from_sequence, run.to_sequence):
        event = queued.event
        if event is not None and event.kind in ("rewrite", "approved") and event.data.text:
            wrote.add(event.data.author or queued.subject)
    return frozenset(wrote)


def _digest(ledger: Ledger, dataset: str, version: int) -> str | None:
    found = ledger.publications.find(dataset, version)
    return found.digest if found is not None else None
