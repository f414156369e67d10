"""What an installation does with its stores before anybody uses them: migrate the ledger, and look whether both work.

Everyone who opens a ledger migrates it. Where services are watched by probes that would kill a long migration again and
again, one Job does it beforehand (`plumb stores migrate`), and they wait until it is done (`plumb stores check`).
"""

import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores.blobs import open_blobs
from plumbline.stores.database import FIRST_SCHEMA, migrations
from plumbline.stores.ledger import open_database

_T = TypeVar("_T")


class SchemaBehind(PlumblineError):
    """The ledger waits for its migration."""


class SchemaAhead(PlumblineError):
    """The ledger is a newer version's, which no waiting changes."""


@dataclass(frozen=True)
class Migrated:
    """Schema versions before and after; the same when there was nothing to do, 0 before when there was no ledger."""

    ledger: str
    before: int
    after: int


def newest_schema() -> int:
    """The schema that this version of plumbline works with."""
    return FIRST_SCHEMA + len(migrations())


def migrate(ledger: Path | str) -> Migrated:
    """Make the ledger, or bring it to the newest schema, in one transaction: all of it or nothing.

    PlumblineError when its schema is newer than this version's, or from before the first release."""
    with contextlib.closing(open_database(ledger, as_it_is=True)) as database:
        before = database.schema()
        database.migrate()
        return Migrated(str(database), before, database.schema())


def check_ledger(ledger: Path | str) -> int:
    """The ledger's schema, if it is there and is this version's. Changes nothing. SchemaBehind when it is older."""
    newest, found, name = newest_schema(), 0, str(ledger)
    if not isinstance(ledger, Path) or ledger.is_file():
        with contextlib.closing(open_database(ledger, must_exist=True, as_it_is=True)) as database:
            found, name = database.schema(), str(database)
    if found < newest:
        state = f"has schema {found}, and this version works with {newest}" if found else "is not made yet"
        raise SchemaBehind(
            f"the ledger {name} {state}",
            consequence="it was left as it is",
            remedy="run `plumb stores migrate`; on a cluster a Job of the chart does it (`kubectl get jobs`)",
        )
    if found > newest:
        raise SchemaAhead(
            f"the ledger {name} has schema {found}, newer than the {newest} that this version knows",
            consequence="it was left as it is, and this version cannot use it",
            remedy="install the newer version of plumbline again",
        )
    return found


def check_blobs(blobs: Path | str) -> str:
    """Store a few random bytes, read them back and erase them. Returns where.

    PlumblineError when any of that fails: a store that cannot erase cannot keep the promise of erasure."""
    store = open_blobs(blobs)
    words = b"plumb stores check " + secrets.token_hex(16).encode()
    address = store.put(words)
    try:
        if store.get(address) != words or address != digest_bytes(words):
            raise _wrong(store.location, "gave back other bytes than it was given")
    finally:
        erased = store.delete(address)
    if not erased or store.has(address):
        raise _wrong(store.location, "still holds what was erased from it")
    return str(store.location)


def _wrong(where: object, what: str) -> PlumblineError:
    return PlumblineError(
        f"the blob store {where} {what}",
        consequence="no version can be published to it safely",
        remedy="use a store that is consistent and lets this account write, read and delete",
    )


def patiently(attempt: Callable[[], _T], seconds: float, *, say: Callable[[str], None]) -> _T:
    """What `attempt` returns, called until it succeeds, for so many seconds; says each new reason why it did not.

    Raises what the last attempt raised, and SchemaAhead at once."""
    until, pause, said = time.monotonic() + seconds, 0.5, ""
    while True:
        try:
            return attempt()
        except SchemaAhead:
            raise
        except PlumblineError as error:
            if time.monotonic() + pause > until:
                raise
            if error.fact != said:
                said = error.fact
                say(f"waiting: {said}")
        time.sleep(pause)
        pause = min(5.0, 2 * pause)
