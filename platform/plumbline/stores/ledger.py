"""The ledger: one database, one commit, for everything whose order or uniqueness matters.

Consent, inbox, publication and releases share a database on purpose: "nobody withdrew since" and "this version
now exists" must be one statement, and only one transaction can say it.
"""

from pathlib import Path

from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Clock, Database, utc_now
from plumbline.stores.inbox import Inbox
from plumbline.stores.lineage import Lineage
from plumbline.stores.payloads import Payloads
from plumbline.stores.publications import Publications
from plumbline.stores.releases import Releases
from plumbline.stores.runs import Runs
from plumbline.stores.subjects import SubjectKeys


class Ledger:
    """Open (and migrate) the ledger at `path`.

    `clock` is for tests and replays. `secret` makes salts repeatable on a fresh store; see `SubjectKeys` for why
    production leaves it out.
    """

    def __init__(self, path: Path | str, *, clock: Clock = utc_now, secret: bytes | None = None) -> None:
        self.database = Database(path, clock=clock)
        self.subjects = SubjectKeys(self.database, secret)
        self.inbox = Inbox(self.database, self.subjects)
        self.consent = ConsentLedger(self.database)
        self.runs = Runs(self.database)
        self.publications = Publications(self.database, self.consent, self.runs)
        self.payloads = Payloads(self.database)
        self.releases = Releases(self.database)
        self.lineage = Lineage(self.database, self.publications)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
