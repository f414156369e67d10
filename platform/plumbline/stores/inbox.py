"""The inbox: every feedback event that was acknowledged, in the order in which it became durable.

The key of an event is (source, id, type): KServe's logger, for one, gives request and response the same id. The
same key with the same body is a duplicate and changes nothing; with another body it is a conflict and goes to
quarantine, never last-write-wins. Each event remembers the consent ledger's sequence at its arrival: "did consent
hold when it was collected?" is a question about order, not about clocks.

A thousand events are one commit and a handful of statements: what is known is looked up for all of them at once.
Sequences have no gaps, because write transactions are serial and nothing leaves the inbox.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from plumbline.errors import PlumblineError
from plumbline.records import APPROVED_TYPE, FeedbackEvent, digest_of
from plumbline.stores.bulk import undisturbed
from plumbline.stores.database import Database
from plumbline.stores.subjects import SubjectKeys, fingerprint

Outcome = Literal["accepted", "duplicate", "conflict"]
Key = tuple[str, str, str]
_Known = tuple[int, str, str | None]  # sequence, subject and fingerprint of an event that is there
_LOOKED_UP = 1000  # keys of one statement
HOUSE_SOURCE = "plumbline"  # the source of events that are made inside; no token can be for it

_COLUMNS = "sequence, source, subject, consent_sequence, received_at, fingerprint, original, body"
_INSERT = (
    "INSERT INTO inbox (sequence, source, id, type, subject, fingerprint, consent_sequence, received_at, original,"
    " body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class Landed(NamedTuple):
    """An event on its way in: its key, whose it is, and `body`, its stored form."""

    source: str
    id: str
    type: str
    subject: str
    body: bytes

    @classmethod
    def of(cls, event: FeedbackEvent) -> "Landed":
        return cls(event.source, event.id, event.type, event.data.subject, stored_form(event))


class Receipt(NamedTuple):
    """What became of one event. `sequence` is its place in the inbox (of the first copy, for a duplicate)."""

    outcome: Outcome
    sequence: int


class Queued(NamedTuple):
    """An event as the inbox keeps it. `event` and `fingerprint` are None once the subject is erased.

    `original` is the sequence of the event that an approved answer was said in.
    """

    sequence: int
    source: str
    subject: str
    consent_sequence: int
    received_at: str
    fingerprint: str | None
    original: int | None
    event: FeedbackEvent | None


class Quarantined(NamedTuple):
    """An event that was kept apart. `body` is None once the subject is erased."""

    sequence: int
    source: str
    id: str
    type: str
    subject: str
    reason: str
    received_at: str
    body: str | None


class Inbox:
    def __init__(self, database: Database, subjects: SubjectKeys) -> None:
        self._database = database
        self._subjects = subjects

    # --- taking events in -------------------------------------------------------------------------------------

    def append(self, events: Sequence[FeedbackEvent | Landed]) -> list[Receipt]:
        """Store events in one transaction, in order; all are durable when it returns."""
        landed = [event if isinstance(event, Landed) else Landed.of(event) for event in events]
        if not landed:
            return []
        with self._database.transaction(), undisturbed():
            known = self._known(landed)
            keys, unclaimed = self._subjects.keys_and_unclaimed(one.subject for one in landed)
            consent, now = self._consent_sequence(), self._database.now()
            sequence = self.last_sequence()
            rows: list[tuple[object, ...]] = []
            odd: list[Landed] = []
            receipts: list[Receipt] = []
            claims: dict[str, str] = {}
            for one in landed:
                source, id, type, subject, body = one
                key = (source, id, type)
                before = known.get(key)
                if before is None:
                    sequence += 1
                    mark = fingerprint(keys[subject], body)
                    known[key] = (sequence, subject, mark)
                    rows.append((sequence, source, id, type, subject, mark, consent, now, None, body.decode()))
                    receipts.append(Receipt("accepted", sequence))
                    if subject in unclaimed:
                        claims.setdefault(subject, source)
                    continue
                first, author, mark_then = before
                if mark_then is None:
                    receipts.append(Receipt("duplicate", first))  # erased: a late copy brings nothing back
                elif author == subject and (mark_then == fingerprint(keys[subject], body) or self._holds(first, one)):
                    receipts.append(Receipt("duplicate", first))
                else:
                    odd.append(one)
                    receipts.append(Receipt("conflict", first))
            self._subjects.claim(claims)
            self._database.insert_many(_INSERT, rows)
            for one in odd:
                self.quarantine(one, reason="same_key_other_body")
            return receipts

    def append_approved(self, event_sequence: int, *, reviewers: Sequence[str]) -> Receipt:
        """Store, as a new event, the answer in an event that reviewers approved: same subject, same consent sequence
        and time of arrival, so that it is judged by the consent under which it was said. The first approval stands.

        Its key and its fingerprint come from the original's words, not from its place: they are the same wherever
        the original was taken in. PlumblineError when the event is not there or was erased.
        """
        with self._database.transaction():
            found = self.read(event_sequence, event_sequence)
            event = found[0].event if found else None
            if event is None or event.kind == "approved":
                state = "an approval itself" if event else "erased" if found else "not in the inbox"
                raise PlumblineError(
                    f"the answer in event {event_sequence} cannot be approved: it is {state}",
                    consequence="nothing was added to the inbox",
                    remedy="approve an answer in an event that is there with its words",
                )
            words = event.data.text if event.kind == "rewrite" else None  # a rater's own words are no answer
            update = {"original": event_sequence, "approved_by": tuple(sorted(reviewers)), "text": words}
            data = event.data.model_copy(update=update)
            key = digest_of(list(event.key)).removeprefix("sha256:")
            made = FeedbackEvent.model_validate(
                {**event.model_dump(), "id": key, "source": HOUSE_SOURCE, "type": APPROVED_TYPE, "data": data}
            )
            before = self._known([Landed.of(made)]).get(made.key)
            if before is not None:
                return Receipt("duplicate", before[0])
            sequence, subject = self.last_sequence() + 1, found[0].subject
            mark = self._subjects.fingerprint(subject, stored_form(made, exclude={"data": {"original"}}))
            then = (found[0].consent_sequence, found[0].received_at)
            row = (sequence, *made.key, subject, mark, *then, event_sequence, stored_form(made).decode())
            self._database.insert_many(_INSERT, [row])
            return Receipt("accepted", sequence)

    def _known(self, events: Iterable[Landed]) -> dict[Key, _Known]:
        """Those keys that are in the inbox already."""
        wanted: dict[str, list[str]] = {}
        for event in events:
            wanted.setdefault(event.source, []).append(event.id)
        return {
            (source, row[0], row[1]): (row[2], row[3], row[4])
            for source, ids in wanted.items()
            for row in self._database.rows_in(
                "SELECT id, type, sequence, subject, fingerprint FROM inbox WHERE source = ? AND id IN ({marks})",
                ids,
                before=(source,),
                chunk=_LOOKED_UP,
            )
        }

    def _holds(self, sequence: int, event: Landed) -> bool:
        """Whether the event stored there is this one, written by an earlier release in another form."""
        stored = self._database.value("SELECT body FROM inbox WHERE sequence = ?", (sequence,))
        read = FeedbackEvent.model_validate_json
        return stored is not None and read(stored) == read(event.body)

    def _consent_sequence(self) -> int:
        return int(self._database.value("SELECT COALESCE(MAX(sequence), 0) FROM consent"))

    # --- what was not taken -----------------------------------------------------------------------------------

    def quarantine(self, event: Landed, *, reason: str) -> None:
        self._database.insert(
            "quarantine",
            source=event.source,
            id=event.id,
            type=event.type,
            subject=event.subject,
            reason=reason,
            received_at=self._database.now(),
            body=event.body.decode(),
        )

    def quarantined(self) -> dict[str, int]:
        """Quarantined events by reason."""
        rows = self._database.rows("SELECT reason, COUNT(*) FROM quarantine GROUP BY reason ORDER BY reason")
        return {row[0]: row[1] for row in rows}

    def quarantine_entries(self, limit: int = 100) -> list[Quarantined]:
        """The newest quarantined events, oldest of them first."""
        rows = self._database.rows(
            "SELECT sequence, source, id, type, subject, reason, received_at, body FROM quarantine"
            " ORDER BY sequence DESC LIMIT ?",
            (limit,),
        )
        return [Quarantined(*row) for row in reversed(rows)]

    def count_refused(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Add to the count of events that were refused at the door, by (source, reason). Their words are not kept."""
        now = self._database.now()
        self._database.insert_many(
            "INSERT INTO refused_events (source, reason, events, last_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (source, reason) DO UPDATE"
            " SET events = refused_events.events + excluded.events, last_at = excluded.last_at",
            [(source, reason, count, now) for (source, reason), count in counts.items()],
        )

    def refused(self) -> dict[tuple[str, str], int]:
        """Events refused at the door, by (source, reason)."""
        rows = self._database.rows("SELECT source, reason, events FROM refused_events ORDER BY source, reason")
        return {(row[0], row[1]): row[2] for row in rows}

    # --- reading ----------------------------------------------------------------------------------------------

    def last_sequence(self) -> int:
        return int(self._database.value("SELECT COALESCE(MAX(sequence), 0) FROM inbox"))

    def first_heard(self, subject: str) -> tuple[int, int] | None:
        """Where the subject's first event lies, and the consent ledger's sequence when it came."""
        row = self._database.row(
            "SELECT sequence, consent_sequence FROM inbox WHERE subject = ? ORDER BY sequence LIMIT 1", (subject,)
        )
        return None if row is None else (row[0], row[1])

    def read(self, from_sequence: int, to_sequence: int) -> list[Queued]:
        """Events of a range, both ends included, in order."""
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM inbox WHERE sequence BETWEEN ? AND ? ORDER BY sequence",
            (from_sequence, to_sequence),
        )
        read = FeedbackEvent.model_validate_json
        with undisturbed():
            return [
                Queued(number, source, subject, consent, then, mark, original, None if body is None else read(body))
                for number, source, subject, consent, then, mark, original, body in rows
            ]

    def erase(self, subject: str) -> int:
        """Blank the words and fingerprints of a subject's events; the keys stay, so that copies stay duplicates."""
        with self._database.transaction():
            self._database.execute("UPDATE quarantine SET body = NULL WHERE subject = ?", (subject,))
            return self._database.execute(
                "UPDATE inbox SET body = NULL, fingerprint = NULL WHERE subject = ? AND body IS NOT NULL", (subject,)
            )


def stored_form(event: FeedbackEvent, **options: Any) -> bytes:
    """An event as it is stored and fingerprinted: what differs from the defaults, in the order of the fields. A field
    that is added later, with a default, changes neither."""
    return event.__pydantic_serializer__.to_json(event, exclude_defaults=True, **options)
