"""Requests to move a release that came as an object: each is decided once, and what was decided is here for good.

A command is carried out when it is given. An object stays, and is looked at again and again: without a memory, a
release that somebody rolled back by hand would be moved forward again by the object that had asked for it earlier. So a
request is named by what asked (one spec of one object), decided once in the transaction that moves the pointer, and
found decided ever after, whoever looks: an operator that was killed in between, its successor, or one whose status was
deleted. Refusals are kept too: they are part of the audit trail.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from plumbline.errors import PlumblineError
from plumbline.stores.database import Database
from plumbline.stores.releases import MAX_AGE, Releases

Answer = Literal["promote", "roll-back", "keep", "refuse"]
Outcome = Literal["promoted", "rolled-back", "kept", "refused"]


@dataclass(frozen=True)
class ReleaseRequest:
    """Who asks for which policy, and why. `request` names the asking itself."""

    request: str
    release: str
    policy: str
    requested_by: str
    reason: str


@dataclass(frozen=True)
class Decided:
    """What became of a request; `sequence` is the move that it made, or the one that it found (kept)."""

    outcome: Outcome
    why: str
    sequence: int | None
    recorded_at: str


@dataclass(frozen=True)
class Refused:
    """A request that moved nothing: who asked for what, and why it was refused."""

    release: str
    policy: str
    requested_by: str
    reason: str
    why: str
    recorded_at: str


class ReleaseRequests:
    def __init__(self, database: Database, releases: Releases) -> None:
        self._database = database
        self._releases = releases

    def decided(self, request: str) -> Decided | None:
        row = self._database.row(
            "SELECT outcome, why, sequence, recorded_at FROM release_request WHERE request = ?", (request,)
        )
        return None if row is None else Decided(row[0], row[1], row[2], row[3])

    def refused(self, release: str) -> list[Refused]:
        """Requests to move a release that were refused, oldest first."""
        rows = self._database.rows(
            "SELECT release, policy, requested_by, reason, why, recorded_at FROM release_request"
            " WHERE release = ? AND outcome = 'refused' ORDER BY recorded_at, request",
            (release,),
        )
        return [Refused(*row) for row in rows]

    def answer(self, asked: ReleaseRequest, answer: Answer, *, why: str = "", max_age: timedelta = MAX_AGE) -> Decided:
        """Carry a request out, or refuse it, and record that; one that was decided stays as it was decided.

        Raises PlumblineError, and nothing is recorded, where the ledger no longer allows what `answer` says: whoever
        asks again decides on what is so by then.
        """
        with self._database.transaction():
            known = self.decided(asked.request)
            if known is not None:
                return known
            said = {"reason": asked.reason, "actor": asked.requested_by}
            outcome: Outcome = "refused"
            sequence: int | None = None
            match answer:
                case "promote":
                    decision, _ = self._releases.grounds(asked.release, asked.policy, max_age=max_age)
                    moved = self._releases.promote(
                        asked.release, asked.policy, decision=decision, max_age=max_age, **said
                    )
                    outcome, sequence = "promoted", moved.sequence
                case "roll-back":
                    moved = self._releases.rollback(asked.release, to=asked.policy, **said)
                    outcome, sequence = "rolled-back", moved.sequence
                case "keep":
                    current = self._releases.current_release(asked.release)
                    if current is None or current.policy != asked.policy:
                        raise PlumblineError(
                            f"release {asked.release!r} does not name the policy that the request was to keep",
                            consequence="nothing is recorded, and users keep the policy they have",
                            remedy="look again: the release was moved meanwhile",
                        )
                    outcome, sequence = "kept", current.sequence
                case "refuse":
                    pass
            self._database.insert(
                "release_request",
                request=asked.request,
                release=asked.release,
                policy=asked.policy,
                requested_by=asked.requested_by,
                reason=asked.reason,
                outcome=outcome,
                why=why,
                sequence=sequence,
                recorded_at=self._database.now(),
            )
            found = self.decided(asked.request)
            assert found is not None
            return found
