"""Who may come to the review page: an invitation lets in once, a session lasts until it ends or is ended.

Both are random secrets of 256 bits, one in a link, one in a cookie; the ledger keeps their SHA-256. So the process that
invites and the process that serves the page share nothing but the ledger: there is no key that could leak and with
which links could be made that nobody finds on record, and there is nothing to forge, since what is not here does not
exist. Looking one up by its digest tells nothing by how long it takes.

A row is written for every step and none is ever changed. Who was let in, when, and in which role, stays on record, by
pseudonym.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta

from plumbline.stores.database import Database, timestamp
from plumbline.stores.reviews import Role

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_INVITED = (
    "SELECT i.invitation, i.person, i.role FROM review_invitation i"
    " LEFT JOIN review_entry e ON e.invitation = i.invitation LEFT JOIN review_exit x ON x.invitation = i.invitation"
    " WHERE i.invitation = ? AND i.expires_at > ? AND e.invitation IS NULL AND x.invitation IS NULL"
)
_PRESENT = (
    "SELECT i.invitation, i.person, i.role FROM review_entry e JOIN review_invitation i ON i.invitation = e.invitation"
    " LEFT JOIN review_exit x ON x.invitation = e.invitation"
    " WHERE e.session = ? AND e.ends_at > ? AND x.invitation IS NULL"
)
_OPEN = (
    "SELECT i.invitation, i.person, i.role, e.recorded_at AS entered_at, COALESCE(e.ends_at, i.expires_at) AS until"
    " FROM review_invitation i"
    " LEFT JOIN review_entry e ON e.invitation = i.invitation LEFT JOIN review_exit x ON x.invitation = i.invitation"
    " WHERE COALESCE(e.ends_at, i.expires_at) > ? AND x.invitation IS NULL"
)


@dataclass(frozen=True)
class Guest:
    """A person (a pseudonym) by the invitation that they came or may come with; `invitation` is no secret."""

    invitation: str
    person: str
    role: Role


@dataclass(frozen=True)
class OpenAccess:
    """A link that would still let in (`entered_at` is None), or a session; until when."""

    guest: Guest
    entered_at: str | None
    until: str


class ReviewAccess:
    def __init__(self, database: Database) -> None:
        self._database = database

    def invite(self, person: str, role: Role = "reviewer", *, valid: timedelta) -> str:
        """The secret of a new link, which lets `person` in once within `valid`. It is nowhere else."""
        secret = secrets.token_urlsafe(32)
        self._database.insert(
            "review_invitation",
            invitation=_digest(secret),
            person=person,
            role=role,
            expires_at=timestamp(self._database.clock() + valid),
            recorded_at=self._database.now(),
        )
        return secret

    def invited(self, link: str) -> Guest | None:
        """Whom the secret of a link would let in now; None when it is unknown, used, too old or withdrawn."""
        return self._find(_INVITED, link)

    def enter(self, link: str, *, lasting: timedelta) -> str | None:
        """Spend a link: the secret of a new session, or None as with `invited`. Of two who try, one gets in."""
        if self.invited(link) is None:
            return None  # without the lock of writers: who has no link neither waits for it nor makes others wait
        with self._database.transaction():
            guest = self.invited(link)
            if guest is None:
                return None
            secret = secrets.token_urlsafe(32)
            self._database.insert(
                "review_entry",
                invitation=guest.invitation,
                session=_digest(secret),
                ends_at=timestamp(self._database.clock() + lasting),
                recorded_at=self._database.now(),
            )
        return secret

    def present(self, session: str) -> Guest | None:
        """Whose session this is; None when it is unknown or has ended."""
        return self._find(_PRESENT, session)

    def leave(self, session: str) -> None:
        """End a session; one that has ended stays so."""
        with self._database.transaction():
            guest = self.present(session)
            if guest is not None:
                self._exit(guest.invitation, "left")

    def open(self) -> list[OpenAccess]:
        """Every link that would still let in, and every session, by whose it is."""
        rows = self._database.rows(f"{_OPEN} ORDER BY i.person, i.recorded_at, i.invitation", (self._database.now(),))
        return [
            OpenAccess(Guest(row["invitation"], row["person"], row["role"]), row["entered_at"], row["until"])
            for row in rows
        ]

    def dismiss(self, person: str) -> int:
        """End all sessions of a person and take back their links that nobody used yet; how many that were."""
        with self._database.transaction():
            rows = self._database.rows(f"{_OPEN} AND i.person = ?", (self._database.now(), person))
            for row in rows:
                self._exit(row["invitation"], "dismissed")
        return len(rows)

    def _exit(self, invitation: str, why: str) -> None:
        self._database.insert("review_exit", invitation=invitation, why=why, recorded_at=self._database.now())

    def _find(self, sql: str, secret: str) -> Guest | None:
        if not _SECRET.match(secret):  # no need to ask
            return None
        found = self._database.row(sql, (_digest(secret), self._database.now()))
        return None if found is None else Guest(found["invitation"], found["person"], found["role"])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("ascii")).hexdigest()
