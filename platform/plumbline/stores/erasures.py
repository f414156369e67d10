"""Erasures that were asked for: durable before the first byte goes, open until the last one is gone.

A request says up to where it reaches: the last entry of the consent ledger and the last event of the inbox when it was
made. What a person says after that is not its business, also when they consent again before it is finished. A pseudonym
has one open request at most; asking again while it is open makes it reach further.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from plumbline.stores.database import Database
from plumbline.stores.releases import Remediation

_COLUMNS = "sequence, subject, consent_sequence, event_sequence, payloads, events, labels, remediation, reason, actor"
_REACH = (
    "example.subject = ? AND (example.event_sequence <= ? OR EXISTS (SELECT 1 FROM publication WHERE"
    " publication.dataset = example.dataset AND publication.version = example.added_in"
    " AND publication.consent_sequence <= ?))"
)


@dataclass(frozen=True)
class ErasureRequest:
    """`payloads`, `events` and `labels` count what it was about when it was made: killed tries take nothing off."""

    sequence: int
    subject: str
    consent_sequence: int
    event_sequence: int
    payloads: int
    events: int
    labels: int
    remediation: Remediation
    reason: str
    actor: str

    @property
    def reach(self) -> tuple[str, Sequence[Any]]:
        """Condition and parameters for the rows of `example` that it is about: what came into a version before it, or
        from an event before it."""
        return _REACH, (self.subject, self.event_sequence, self.consent_sequence)


class ErasureRequests:
    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(
        self, subject: str, *, events: int, labels: int, remediation: Remediation, reason: str, actor: str
    ) -> ErasureRequest:
        """Write the request down, in the transaction that blanks `events` and `labels`."""
        count = "SELECT COUNT(*) FROM example WHERE subject = ? AND pack IS NOT NULL"
        values: dict[str, Any] = {
            "consent_sequence": self._last("consent"),
            "event_sequence": self._last("inbox"),
            "payloads": int(self._database.value(count, (subject,))),
            "events": events,
            "labels": labels,
            "remediation": remediation,
            "reason": reason,
            "actor": actor,
        }
        with self._database.transaction():
            before = self.open(subject)
            if not before:
                self._database.insert("erasure_request", subject=subject, requested_at=self._database.now(), **values)
            for one in before:
                if not self.recorded(one):
                    values["payloads"] = max(one.payloads, values["payloads"])
                    values["events"] += one.events
                    values["labels"] += one.labels
                values["erasure"] = None
                names = ", ".join(f"{name} = ?" for name in values)
                self._database.execute(
                    f"UPDATE erasure_request SET {names} WHERE sequence = ?", (*values.values(), one.sequence)
                )
            return self.open(subject)[0]

    def open(self, subject: str | None = None) -> list[ErasureRequest]:
        """Requests that are not finished, oldest first: of one subject, or all."""
        one, parameters = ("", ()) if subject is None else (" AND subject = ?", (subject,))
        rows = self._database.rows(
            f"SELECT {_COLUMNS} FROM erasure_request WHERE completed_at IS NULL{one} ORDER BY sequence", parameters
        )
        return [ErasureRequest(**dict(row)) for row in rows]

    def recorded(self, request: ErasureRequest) -> bool:
        """Whether what it did is in the ledger's record of erasures."""
        row = (request.sequence,)
        return self._database.value("SELECT erasure FROM erasure_request WHERE sequence = ?", row) is not None

    def link(self, request: ErasureRequest) -> None:
        """Note, in the transaction that records what it did, that this is recorded."""
        self._database.execute(
            "UPDATE erasure_request SET erasure = (SELECT MAX(sequence) FROM erasure WHERE subject = ?)"
            " WHERE sequence = ?",
            (request.subject, request.sequence),
        )

    def complete(self, request: ErasureRequest) -> None:
        """It is finished, unless it reaches further by now than what was carried out."""
        self._database.execute(
            "UPDATE erasure_request SET completed_at = ?"
            " WHERE sequence = ? AND completed_at IS NULL AND consent_sequence = ? AND event_sequence = ?",
            (self._database.now(), request.sequence, request.consent_sequence, request.event_sequence),
        )

    def _last(self, table: str) -> int:
        return int(self._database.value(f"SELECT COALESCE(MAX(sequence), 0) FROM {table}"))
