"""Sealed events: a range of the inbox as an ingestion reads it, fast.

What is in the inbox was validated on the way in. Reading a million events back does not validate them again (`is_whole`
says that they are what was acknowledged): an event
is the JSON object that was stored; what equals a field's default is left out of it (records/event.py has the fields).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from plumbline.errors import PlumblineError
from plumbline.records import FeedbackEvent, digest_bytes
from plumbline.stores.bulk import undisturbed
from plumbline.stores.database import Database
from plumbline.stores.inbox import stored_form
from plumbline.stores.subjects import fingerprint


@dataclass(slots=True)
class SealedEvent:
    """One event. `body`, `data` and `fingerprint` are None once the subject is erased.

    `original` is the sequence of the event that an approved answer was said in; `time` is when its source says that it
    happened."""

    sequence: int
    source: str
    kind: str
    subject: str
    consent_sequence: int
    received_at: str
    fingerprint: str | None
    original: int | None
    body: str | None
    time: str | None
    data: dict[str, Any] | None

    @property
    def event(self) -> FeedbackEvent | None:
        """The event as a record, validated anew."""
        return None if self.body is None else FeedbackEvent.model_validate_json(self.body)

    @property
    def digest(self) -> str:
        """Digest of the event as it lies in the inbox; of an approval without its original's place there."""
        return digest_bytes(self._words())

    def is_whole(self, key: bytes) -> bool:
        """Whether the body is what was acknowledged; `key` is the subject's. True of an event that was erased."""
        if self.body is None or self.fingerprint is None:
            return self.body is None
        return fingerprint(key, self._words()) == self.fingerprint

    def _words(self) -> bytes:
        """What is digested and fingerprinted: an approval is known by its words, not by its original's place."""
        if self.body is None or self.original is None:
            return (self.body or "").encode()
        return stored_form(FeedbackEvent.model_validate_json(self.body), exclude={"data": {"original"}})

    @property
    def messages(self) -> list[dict[str, str]]:
        return [] if self.data is None else list(self.data["messages"])

    def said(self, name: str, default: Any = None) -> Any:
        """A field of the event's data."""
        return default if self.data is None else self.data.get(name, default)


def read_sealed(database: Database, from_sequence: int, to_sequence: int) -> list[SealedEvent]:
    """Events of a range of the inbox, both ends included, in order."""
    rows = database.rows(
        "SELECT sequence, source, type, subject, consent_sequence, received_at, fingerprint, original, body FROM inbox"
        " WHERE sequence BETWEEN ? AND ? ORDER BY sequence",
        (from_sequence, to_sequence),
    )
    loads, kinds = orjson.loads, {type: type.rpartition(".")[2] for type in {row["type"] for row in rows}}
    with undisturbed():
        found = []
        for number, source, type, subject, consent, then, mark, original, body in rows:
            time = data = None
            if body is not None:
                try:
                    raw = loads(body)
                    data, time = raw["data"], raw.get("time")
                    whole = data["subject"] == subject and raw["source"] == source and raw["type"] == type
                except (ValueError, KeyError, TypeError, AttributeError):
                    whole = False
                if not whole:
                    raise _damaged(number)
            found.append(
                SealedEvent(
                    number, source, kinds[type], subject, consent, then, mark, original, body, time, data
                )
            )  # fmt: skip
        return found


def damaged_among(events: Iterable[SealedEvent], keys: Mapping[str, bytes]) -> list[int]:
    """Sequences of the events whose body is not what was acknowledged; `keys` are those of their subjects."""
    mark, found = fingerprint, []
    for event in events:
        body = event.body
        if body is None or event.fingerprint is None or event.original is not None:
            if not event.is_whole(keys.get(event.subject, b"")):
                found.append(event.sequence)
        elif mark(keys[event.subject], body.encode()) != event.fingerprint:
            found.append(event.sequence)
    return found


def _damaged(sequence: int) -> PlumblineError:
    """What stands in an event's row is not what its body says, or its body is no event."""
    return PlumblineError(
        f"event {sequence} of the inbox is not what was acknowledged",
        consequence="the ledger was altered or damaged; nothing is published, and nothing is lost",
        remedy="restore the ledger from a backup, then start the run again",
    )
