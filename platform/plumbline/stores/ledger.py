"""The ledger: one database, one commit, for everything whose order or uniqueness matters.

Consent, inbox, publication and releases share a database on purpose: "nobody withdrew since" and "this version
now exists" must be one statement, and only one transaction can say it.
"""

from pathlib import Path

from plumbline.stores.backfills import Backfills
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Clock, Database, utc_now
from plumbline.stores.exports import Exports
from plumbline.stores.inbox import Inbox
from plumbline.stores.lineage import Lineage
from plumbline.stores.payloads import Payloads
from plumbline.stores.publications import Publications
from plumbline.stores.release_requests import ReleaseRequests
from plumbline.stores.releases import Releases
from plumbline.stores.review_access import ReviewAccess
from plumbline.stores.reviews import Reviews
from plumbline.stores.runs import Runs
from plumbline.stores.sqlite import SQLiteDatabase
from plumbline.stores.subjects import SubjectKeys

SERVER = ("postgresql://", "postgres://")


def open_database(
    location: Path | str, *, clock: Clock = utc_now, must_exist: bool = False, as_it_is: bool = False
) -> Database:
    """The database at a path or URL, migrated unless it is wanted `as_it_is`; a new one is made unless it
    `must_exist`."""
    if isinstance(location, str) and location.startswith(SERVER):
        from plumbline.stores.postgresql import PostgreSQLDatabase

        return PostgreSQLDatabase(location, clock=clock, must_exist=must_exist, as_it_is=as_it_is)
    return SQLiteDatabase(location, clock=clock, must_exist=must_exist, as_it_is=as_it_is)


class Ledger:
    """Open (and migrate) the ledger at a path (SQLite) or a `postgresql://` URL.

    With `must_exist`, an empty place is refused and not filled. `clock` is for tests and replays. `secret` makes
    salts repeatable on a fresh store; see `SubjectKeys` for why production leaves it out.
    """

    def __init__(
        self,
        location: Path | str,
        *,
        clock: Clock = utc_now,
        secret: bytes | None = None,
        must_exist: bool = False,
    ) -> None:
        self.database = open_database(location, clock=clock, must_exist=must_exist)
        self.subjects = SubjectKeys(self.database, secret)
        self.inbox = Inbox(self.database, self.subjects)
        self.backfills = Backfills(self.database, self.inbox)
        self.consent = ConsentLedger(self.database)
        self.runs = Runs(self.database)
        self.payloads = Payloads(self.database)
        self.publications = Publications(self.database, self.consent, self.runs, self.payloads)
        self.releases = Releases(self.database)
        self.release_requests = ReleaseRequests(self.database, self.releases)
        self.reviews = Reviews(self.database)
        self.review_access = ReviewAccess(self.database)
        self.exports = Exports(self.database, self.consent)
        self.lineage = Lineage(self.database, self.publications)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
