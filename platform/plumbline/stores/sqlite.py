"""The ledger in a SQLite file: the embedded default.

Write-ahead log, `synchronous=FULL` (a commit is on the disk before it is acknowledged), foreign keys,
`secure_delete` (freed pages are overwritten, or erasure would only hide). Every write runs in `BEGIN IMMEDIATE`:
one writer at a time, whether a thread or a process.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.stores.database import (
    PATIENCE_SECONDS,
    Clock,
    ConstraintViolation,
    Database,
    LedgerUnavailable,
    Parameters,
    Row,
    no_ledger,
    utc_now,
)

_PROMISES = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON")
_PACE = ("cache_size=-16384", "wal_autocheckpoint=4000")  # 16 MiB of pages each: one of an index is written less often


class SQLiteDatabase(Database):
    """The database in the file `path`, made when it is not there unless it `must_exist`, and migrated unless it is
    wanted `as_it_is`."""

    def __init__(
        self, path: Path | str, *, clock: Clock = utc_now, must_exist: bool = False, as_it_is: bool = False
    ) -> None:
        super().__init__(clock)
        self.location = self.path = Path(path)
        if must_exist and not self.path.is_file():
            raise no_ledger(self)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            for pragma in (*_PROMISES, *_PACE):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error
        except OSError as error:
            raise LedgerUnavailable(
                f"the ledger {self} cannot be opened: {error.strerror or error}",
                consequence="nothing was changed",
                remedy="check the path, its permissions and the disk",
            ) from error
        if not as_it_is:
            self._migrate(must_exist=must_exist)

    def __str__(self) -> str:
        return str(self.path)

    def truncate_log(self) -> None:
        """Fold the write-ahead log into the file and empty it, so that erased bytes do not live on in the log."""
        found = self.row("PRAGMA wal_checkpoint(TRUNCATE)")
        if found is None or found[0]:
            raise LedgerUnavailable(
                f"the log of {self} is in use and could not be emptied",
                consequence="erased bytes may still be in it",
                remedy="end long-running readers of the ledger and start the erasure again",
            )

    def remains(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _begin(self) -> None:
        self._execute("BEGIN IMMEDIATE", ())

    def _commit(self) -> None:
        self._execute("COMMIT", ())

    def _rollback(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _fetch_all(self, sql: str, parameters: Parameters) -> list[Row]:
        try:
            return list(self._connection.execute(sql, parameters))
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fetch_one(self, sql: str, parameters: Parameters) -> Row | None:
        try:
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _execute(self, sql: str, parameters: Parameters) -> int:
        try:
            return self._connection.execute(sql, parameters).rowcount
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        try:
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _insert(self, table: str, values: dict[str, Any]) -> int:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        try:
            sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
            return int(self._connection.execute(sql, tuple(values.values())).lastrowid or 0)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _define(self, statement: str) -> None:
        self._execute(statement, ())  # not `executescript`, which would commit the surrounding transaction

    def _schema(self) -> int:
        return int(self.value("PRAGMA user_version"))

    def _set_schema(self, version: int) -> None:
        self._execute(f"PRAGMA user_version={version}", ())

    def _fault(self, error: sqlite3.Error) -> PlumblineError:
        text = str(error)
        if isinstance(error, sqlite3.IntegrityError):
            return ConstraintViolation(
                f"the ledger {self} refuses: {text}",
                consequence="nothing was changed",
                remedy="leave history as it is; if a command of plumbline did this, report it with the command",
            )
        if isinstance(error, sqlite3.OperationalError):
            if "full" in text:
                fact, remedy = f"no space left for the ledger {self}", "free space and start the same command again"
            elif "locked" in text:
                fact, remedy = f"the ledger {self} is locked by another process", "wait for it to finish, or end it"
            else:
                fact = f"the ledger {self} cannot be used: {text}"
                remedy = "check the path, its permissions and the disk"
            return LedgerUnavailable(fact, consequence="nothing was changed", remedy=remedy)
        if isinstance(error, sqlite3.ProgrammingError):
            return PlumblineError(
                f"the ledger {self} cannot do this: {text}",
                consequence="nothing was changed",
                remedy="open the ledger again; if this repeats, report it with the command",
            )
        return PlumblineError(
            f"the ledger {self} is damaged or not a ledger: {text}",
            consequence="nothing is read from it and nothing is published",
            remedy="restore it from a backup; published manifests and blobs are untouched",
        )
