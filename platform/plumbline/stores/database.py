"""The face of the ledger database: transactions, migrations and errors that say what to do.

Two stand behind it: SQLite, the embedded default, and PostgreSQL. Both give the same promises. A commit is on the
disk before it is acknowledged. Writing transactions are serial, so what was checked in one still holds at its
commit. History refuses to be changed. The SQL above this floor is the part that both speak, with `?` for values.

A fault that ends a transaction leaves nothing of it; every operation of the ledger may simply be started again.
"""

import contextlib
import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from plumbline.errors import PlumblineError
from plumbline.stores.dialect import statements

Clock = Callable[[], datetime]
Parameters = Sequence[Any]
FIRST_SCHEMA = 1000  # below are schemas from before the first release, which no migration leads on from
PATIENCE_SECONDS = 10  # how long a writer waits for another to finish


def utc_now() -> datetime:
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Fixed-width UTC, so that text order is time order: `2026-01-31T12:00:00.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LedgerUnavailable(PlumblineError):
    """The database is away, locked or full. Nothing is wrong with the request: it may be repeated later."""


class ConstraintViolation(PlumblineError):
    """The database refused a row: history is append-only, or a key is taken. Nothing was changed."""


class Row(Protocol):
    """One row of a result, read by column name or by place; `dict(row)` has it by name."""

    def __getitem__(self, key: Any, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...

    def keys(self) -> Iterable[str]: ...


class Database(ABC):
    """One connection. Use from several threads is serialised by a lock, several processes by the database.

    `location` opens the same ledger again and may hold a password; `str(database)` is for people and does not.
    """

    location: Path | str

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._lock = threading.RLock()
        self._depth = 0

    def now(self) -> str:
        return timestamp(self.clock())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested use joins the outer transaction, so that small operations compose into one commit."""
        with self._lock:
            if self._depth:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
                return
            self._begin()
            self._depth = 1
            try:
                yield
                self._commit()
            except BaseException:
                self._rollback()
                raise
            finally:
                self._depth = 0

    def rows(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        with self._lock:
            return self._fetch_all(sql, parameters)

    def rows_in(self, sql: str, values: Iterable[Any], *, before: Parameters = (), chunk: int = 500) -> list[Row]:
        """Rows of a query whose `{marks}` stands in `IN ({marks})`, for any number of values, in their order.

        The query runs once per `chunk` of values: fit for `WHERE column IN`, not for `NOT IN`, aggregates or an
        order over everything. `before` are the parameters of marks that stand before it. A chunk is filled up to a
        power of two by repeating its last value, so that the database sees few different statements.
        """
        wanted, found = list(dict.fromkeys(values)), []
        for start in range(0, len(wanted), chunk):
            part = wanted[start : start + chunk]
            part += part[-1:] * (min(chunk, 1 << (len(part) - 1).bit_length()) - len(part))
            found += self.rows(sql.replace("{marks}", ", ".join("?" * len(part))), (*before, *part))
        return found

    def row(self, sql: str, parameters: Parameters = ()) -> Row | None:
        with self._lock:
            return self._fetch_one(sql, parameters)

    def value(self, sql: str, parameters: Parameters = ()) -> Any:
        """The first column of the first row; None when there is no row."""
        found = self.row(sql, parameters)
        return None if found is None else found[0]

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement (in the open transaction, or in its own) and return the number of rows it changed."""
        with self._lock:
            if self._depth:
                return self._execute(sql, parameters)
            with self.transaction():
                return self._execute(sql, parameters)

    def insert(self, table: str, **values: Any) -> int:
        """Insert one row; table and column names are literals of this package, never input.

        Returns the number that an AUTOINCREMENT column gave it. Numbers ascend in the order of commits; PostgreSQL
        leaves a gap where a transaction was rolled back.
        """
        with self._lock:
            if self._depth:
                return self._insert(table, values)
            with self.transaction():
                return self._insert(table, values)

    def insert_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Run one statement for many rows, in one transaction."""
        if rows:
            with self.transaction():
                self._execute_many(sql, rows)

    @abstractmethod
    def truncate_log(self) -> None:
        """Make the database let go of bytes that were deleted or overwritten; the last step of an erasure.

        LedgerUnavailable while a long-running reader keeps them alive. What lies beyond its reach: `remains`.
        """

    @abstractmethod
    def remains(self) -> tuple[str, ...]:
        """Where erased bytes may outlive `truncate_log` as this database is set up, a sentence each."""

    @abstractmethod
    def close(self) -> None: ...

    def schema(self) -> int:
        """The version of the schema that is there; 0 when there is none."""
        with self._lock:
            return self._schema()

    def migrate(self) -> None:
        """Bring a database that was opened as it is (`as_it_is`) to the newest schema. Whoever is killed in between
        has changed nothing, and whoever comes second finds it done."""
        with self._lock:
            self._migrate()

    def _migrate(self, *, must_exist: bool = False) -> None:
        """Bring the schema up to date, all in one transaction, safe against a second starter."""
        scripts = migrations()
        newest, found = FIRST_SCHEMA + len(scripts), self._schema()
        if found == newest:
            return
        if found == 0 and must_exist:
            raise no_ledger(self)
        with self.transaction():
            found = self._schema()
            if found > newest:
                raise PlumblineError(
                    f"{self} has schema {found}, newer than the {newest} that this version knows",
                    consequence="it is left untouched",
                    remedy="install the newer version of plumbline",
                )
            if 0 < found < FIRST_SCHEMA:
                raise PlumblineError(
                    f"{self} has schema {found}, from before the first release",
                    consequence="it is left untouched: no migration leads on from it",
                    remedy="name a new ledger and import the data again",
                )
            if found == newest:
                return  # a second starter was first
            for script in scripts[max(0, found - FIRST_SCHEMA) :]:
                for statement in statements(script):
                    self._define(statement)
            self._set_schema(newest)

    # --- what each database does in its own way ---------------------------------------------------------------

    @abstractmethod
    def _begin(self) -> None:
        """Begin a transaction once no other writes."""

    @abstractmethod
    def _commit(self) -> None:
        """Durable when it returns."""

    @abstractmethod
    def _rollback(self) -> None:
        """Never raises: what cannot be rolled back was never committed."""

    @abstractmethod
    def _fetch_all(self, sql: str, parameters: Parameters) -> list[Row]: ...

    @abstractmethod
    def _fetch_one(self, sql: str, parameters: Parameters) -> Row | None: ...

    @abstractmethod
    def _execute(self, sql: str, parameters: Parameters) -> int: ...

    @abstractmethod
    def _execute_many(self, sql: str, rows: Sequence[Parameters]) -> None: ...

    @abstractmethod
    def _insert(self, table: str, values: dict[str, Any]) -> int: ...

    @abstractmethod
    def _define(self, statement: str) -> None:
        """Run one statement of a migration."""

    @abstractmethod
    def _schema(self) -> int:
        """The version of the schema; 0 when there is none yet."""

    @abstractmethod
    def _set_schema(self, version: int) -> None: ...


def no_ledger(where: object) -> PlumblineError:
    return PlumblineError(
        f"there is no ledger at {where}",
        consequence="there is nothing to read",
        remedy="name one with --ledger or PLUMBLINE_LEDGER, or import data first",
    )


@functools.cache
def migrations() -> tuple[str, ...]:
    """The scripts that made the schema what it is, in order, in SQLite's dialect."""
    files = resources.files("plumbline.stores").joinpath("migrations").iterdir()
    return tuple(item.read_text("utf-8") for item in sorted(files, key=lambda item: item.name) if _is_sql(item.name))


def _is_sql(name: str) -> bool:
    return name.endswith(".sql")
