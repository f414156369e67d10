"""The inbox: every feedback event that was acknowledged, in the order in which it became durable.

The key of an event is (source, id, type): KServe's logger, for one, gives request and response the same id. The
same key with the same body is a duplicate and changes nothing; with another body it is a conflict and goes to
quarantine, never last-write-wins. Each event remembers the consent ledger's sequence at its arrival: "did consent
hold when it was collected?" is a question about order, not about clocks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline.records import FeedbackEvent
from plumbline.stores.database import Database
from plumbline.stores.subjects import SubjectKeys

Outcome = Literal["accepted", "duplicate", "conflict"]


@dataclass(frozen=True)
class Receipt:
    """What became of one event. `sequence` is its place in the inbox (of the first copy, for a duplicate)."""

    outcome: Outcome
    sequence: int


@dataclass(frozen=True)
class Queued:
    """An event as the inbox keeps it. `event` and `fingerprint` are None once the subject is erased."""

    sequence: int
    source: str
    subject: str
    consent_sequence: int
    received_at: str
    fingerprint: str | None
    event: FeedbackEvent | None


@dataclass(frozen=True)
class Review:
    reviewer: str
    approved: bool
    reason: str


class Inbox:
    def __init__(self, database: Database, subjects: SubjectKeys) -> None:
        self._database = database
        self._subjects = subjects

    def append(self, events: Sequence[FeedbackEvent]) -> list[Receipt]:
        """Store events in one transaction, in order; all are durable when it returns."""
        with self._database.transaction():
            return [self._append(event) for event in events]

    def _append(self, event: FeedbackEvent) -> Receipt:
        subject = event.data.subject
        known = self._database.row(
            "SELECT sequence, subject, fingerprint FROM inbox WHERE source = ? AND id = ? AND type = ?", event.key
        )
        if known is not None and known["fingerprint"] is None:
            return Receipt("duplicate", known["sequence"])  # erased: a late copy must not bring it back
        fingerprint = self._subjects.fingerprint(subject, event.canonical_bytes())
        if known is None:
            consent = self._database.value("SELECT COALESCE(MAX(sequence), 0) FROM consent")
            sequence = self._database.insert(
                "inbox",
                source=event.source,
                id=event.id,
                type=event.type,
                subject=subject,
                fingerprint=fingerprint,
                consent_sequence=consent,
                received_at=self._database.now(),
                body=event.model_dump_json(),
            )
            return Receipt("accepted", sequence)
        if known["subject"] == subject and known["fingerprint"] == fingerprint:
            return Receipt("duplicate", known["sequence"])
        self.quarantine(event, reason="same_key_other_body")
        return Receipt("conflict", known["sequence"])

    def quarantine(self, event: FeedbackEvent, *, reason: str) -> None:
        self._database.insert(
            "quarantine",
            source=event.source,
            id=event.id,
            type=event.type,
            subject=event.data.subject,
            reason=reason,
            received_at=self._database.now(),
            body=event.model_dump_json(),
        )

    def quarantined(self) -> dict[str, int]:
        """Quarantined events by reason."""
        rows = self._database.rows("SELECT reason, COUNT(*) FROM quarantine GROUP BY reason ORDER BY reason")
        return {row[0]: row[1] for row in rows}

    def last_sequence(self) -> int:
        return int(self._database.value("SELECT COALESCE(MAX(sequence), 0) FROM inbox"))

    def read(self, from_sequence: int, to_sequence: int) -> list[Queued]:
        """Events of a range, both ends included, in order."""
        rows = self._database.rows(
            "SELECT * FROM inbox WHERE sequence BETWEEN ? AND ? ORDER BY sequence", (from_sequence, to_sequence)
        )
        return [
            Queued(
                sequence=row["sequence"],
                source=row["source"],
                subject=row["subject"],
                consent_sequence=row["consent_sequence"],
                received_at=row["received_at"],
                fingerprint=row["fingerprint"],
                event=None if row["body"] is None else FeedbackEvent.model_validate_json(row["body"]),
            )
            for row in rows
        ]

    def review(self, sequence: int, review: Review) -> None:
        """Record a reviewer's word on the answer that an event is about. The first word of a reviewer stands."""
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO review VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (sequence, review.reviewer, int(review.approved), review.reason, self._database.now()),
            )

    def reviews(self, sequences: Iterable[int]) -> dict[int, list[Review]]:
        found: dict[int, list[Review]] = {}
        for sequence in sequences:
            rows = self._database.rows(
                "SELECT reviewer, approved, reason FROM review WHERE event_sequence = ? ORDER BY reviewer", (sequence,)
            )
            if rows:
                found[sequence] = [Review(row[0], bool(row[1]), row[2]) for row in rows]
        return found

    def erase(self, subject: str) -> int:
        """Blank the words and fingerprints of a subject's events; the keys stay, so that copies stay duplicates."""
        with self._database.transaction():
            self._database.execute("UPDATE quarantine SET body = NULL WHERE subject = ?", (subject,))
            return self._database.execute(
                "UPDATE inbox SET body = NULL, fingerprint = NULL WHERE subject = ? AND body IS NOT NULL", (subject,)
            )
