"""One connection to the ledger database: transactions, migrations and errors that say what to do.

SQLite is the embedded default: write-ahead log, `synchronous=FULL` (a commit is on the disk before it is
acknowledged), foreign keys, `secure_delete` (freed pages are overwritten, or erasure would only hide). Every
write runs in `BEGIN IMMEDIATE`, so transactions are serial and what was checked still holds at commit.
The SQL above this file stays plain, so that another database can stand behind the same face.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError

Clock = Callable[[], datetime]
Parameters = Sequence[Any]


def utc_now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Fixed-width UTC, so that text order is time order: `2026-01-31T12:00:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Database:
    """Use from several threads is serialised by a lock; several processes by SQLite's own (10 s patience)."""

    def __init__(self, path: Path | str, *, clock: Clock = utc_now) -> None:
        self.path = Path(path)
        self.clock = clock
        self._lock = threading.RLock()
        self._depth = 0
        with _faults(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._migrate()

    def now(self) -> str:
        return timestamp(self.clock())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested use joins the outer transaction, so that small operations compose into one commit."""
        with self._lock, _faults(self.path):
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0

    def rows(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        with self._lock, _faults(self.path):
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        with self._lock, _faults(self.path):
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found

    def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """The first column of the first row; None when there is no row."""
        found = self.row(sql, parameters)
        return None if found is None else found[0]

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement (in the open transaction, or in its own) and return the number of rows it changed."""
        with self.transaction():
            return self._connection.execute(sql, parameters).rowcount

    def insert(self, table: str, **values: Any) -> int:
        """Insert one row; table and column names are literals of this package, never input."""
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        with self.transaction():
            cursor = self._connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(values.values()))
            return int(cursor.lastrowid or 0)

    def insert_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        with self.transaction():
            self._connection.executemany(sql, rows)

    def truncate_log(self) -> None:
        """Fold the write-ahead log into the file and empty it, so that erased bytes do not live on in the log."""
        with self._lock, _faults(self.path):
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise PlumblineError(
                f"the log of {self.path} is in use and could not be emptied",
                consequence="erased bytes may still be in it",
                remedy="end long-running readers of the ledger and start the erasure again",
            )

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        """Bring the schema up to date, each migration in one transaction, safe against a second starter."""
        migrations = sorted(
            (item for item in resources.files("plumbline.stores").joinpath("migrations").iterdir()),
            key=lambda item: item.name,
        )
        scripts = [item.read_text("utf-8") for item in migrations if item.name.endswith(".sql")]
        if int(self.value("PRAGMA user_version")) == len(scripts):
            return
        with self.transaction():
            done = int(self.value("PRAGMA user_version"))
            if done > len(scripts):
                raise PlumblineError(
                    f"{self.path} has schema {done}, newer than the {len(scripts)} that this version knows",
                    consequence="it is left untouched",
                    remedy="install the newer version of plumbline",
                )
            for script in scripts[done:]:
                for statement in _statements(script):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version={len(scripts)}")


def _statements(script: str) -> Iterator[str]:
    """Split a script at statement ends (`executescript` would commit the surrounding transaction)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


@contextlib.contextmanager
def _faults(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "full" in text:
            fact, remedy = f"no space left for the ledger {path}", "free space and start the same command again"
        elif "locked" in text:
            fact, remedy = f"the ledger {path} is locked by another process", "wait for it to finish, or end it"
        else:
            fact, remedy = f"the ledger {path} cannot be used: {text}", "check the path, its permissions and the disk"
        raise PlumblineError(fact, consequence="nothing was changed", remedy=remedy) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise PlumblineError(
            f"the ledger {path} is damaged or not a ledger: {error}",
            consequence="nothing is read from it and nothing is published",
            remedy="restore it from a backup; published manifests and blobs are untouched",
        ) from error
    except OSError as error:
        raise PlumblineError(
            f"the ledger {path} cannot be opened: {error.strerror or error}",
            consequence="nothing was changed",
            remedy="check the path, its permissions and the disk",
        ) from error
