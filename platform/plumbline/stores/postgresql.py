"""The ledger in a PostgreSQL schema: for several machines at once.

Writers are serial by an advisory lock that a transaction takes as its first act and that PostgreSQL lets go of
after the commit is visible. Why not SERIALIZABLE: its snapshot is older than the wait for any lock, so a writer that
had to wait would fail or check stale facts, and a `with transaction()` block cannot be run again from inside. Under
READ COMMITTED every statement sees what was committed before it; with the lock held nobody commits in between.
That is SQLite's BEGIN IMMEDIATE. A ledger is a schema, and has a lock of its own: the first schema of the search
path, so `?options=-csearch_path%3Dteam_a` in the URL keeps two ledgers in one database.

Connect directly or through a pooler in session mode: one in transaction mode forgets the session's settings.

What erasure promises here. `truncate_log` rewrites every table whose rows may change (`VACUUM FULL`) and checks that
no reader's snapshot kept dead rows in it, takes new statistics and rewrites their catalogue (they quote values),
ends the write-ahead log's segment and checkpoints, so that older segments are dropped. With `wal_recycle=off`,
`archive_mode=off`, no replication and no logging of statements, no file of the data directory holds erased bytes
then; a test scans them. What is set otherwise is said by `remains`. Backups and freed disk blocks are beyond it.
The cost is that of writing those tables anew, with writers waiting: erase several people, then truncate once.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from plumbline.errors import PlumblineError
from plumbline.stores.database import PATIENCE_SECONDS, Clock, Database, LedgerUnavailable, Parameters, Row, utc_now
from plumbline.stores.dialect import numbered, to_postgresql
from plumbline.stores.postgresql_erasure import CHANGING, HELD, MAY, REMAINS, STALE
from plumbline.stores.postgresql_faults import (
    fault,
    no_connection,
    no_schema,
    not_durable,
    not_installed,
    unreadable_url,
)

try:
    import psycopg
    from psycopg.abc import Buffer
    from psycopg.adapt import Dumper, Loader
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg.pq import TransactionStatus
    from psycopg.types.numeric import Int8Dumper
except ImportError as error:
    raise not_installed() from error

_IDLE_SECONDS = 120  # a writer that went silent inside a transaction loses it, or a lost machine would lock all out
_ROWS = 200  # rows of one INSERT statement
_LOOK = 1000  # rows after which a table's statistics are looked at, and again whenever they have doubled
_INTO = re.compile(r"\s*INSERT INTO (\w+)")
_MANY = re.compile(r"(INSERT INTO .*? VALUES )(\((?:\?|NULL|[0-9]+|[\s,])+\))(\s+ON CONFLICT DO NOTHING)?\s*\Z", re.S)
_SESSION = """
    SELECT set_config('search_path', quote_ident(current_schema()), false);
    SET lock_timeout = {lock};
    SET idle_in_transaction_session_timeout = {idle};
    SET client_min_messages = 'error';
"""
_SETTINGS = """
    SELECT current_schema() AS schema, current_setting('fsync') AS fsync,
        current_setting('full_page_writes') AS full_page_writes,
        current_setting('synchronous_commit') AS synchronous_commit
"""


class PostgreSQLDatabase(Database):
    """The database that a `postgresql://` URL names, migrated unless it is wanted `as_it_is`. A connection that was
    lost is made anew at the next use.

    Errors: LedgerUnavailable when the server is away, full, read-only or busy; PlumblineError when it cannot be
    trusted with a ledger (`fsync=off`), or the URL does not say which.
    """

    def __init__(self, url: str, *, clock: Clock = utc_now, must_exist: bool = False, as_it_is: bool = False) -> None:
        super().__init__(clock)
        self.location = self._url = url
        try:
            self._parts = parts = conninfo_to_dict(url)
        except psycopg.Error:
            raise unreadable_url() from None  # the parser's own words quote the password
        user, port = parts.get("user"), parts.get("port")
        host = quote(str(parts.get("host") or "localhost"), safe="[]:.,")
        where = f"{quote(str(user)) + '@' if user else ''}{host}{f':{port}' if port else ''}"
        self._name = f"postgresql://{where}/{quote(str(parts.get('dbname') or user or ''))}"
        self._identities: dict[str, str] = {}
        self._grown: dict[str, tuple[int, int]] = {}  # by table: rows put in by this connection, and when to look next
        self._connection = self._connect()
        try:
            if not as_it_is:
                self._migrate(must_exist=must_exist)
        except BaseException:
            self._connection.close()
            raise

    def __str__(self) -> str:
        return f"{self._name} (schema {self._schema_name})" if hasattr(self, "_schema_name") else self._name

    def truncate_log(self) -> None:
        with self._lock:
            tables = [row[0] for row in self._fetch_all(CHANGING, ())]
            horizon = self.value("SELECT pg_current_xact_id()::xid::text")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while tables:
                for table in tables:
                    self._alone(f"VACUUM (FULL, ANALYZE) {table}")
                tables = [row[0] for row in self._fetch_all(HELD, (horizon,))]
                if tables and time.monotonic() > deadline:
                    raise LedgerUnavailable(
                        f"a reader of {self} still sees rows that were erased from {', '.join(tables)}",
                        consequence="their bytes are still in the database",
                        remedy="end long-running transactions (pg_stat_activity) and start the erasure again",
                    )
                time.sleep(0.1 if tables else 0)
            for table, column, kind in self._fetch_all(STALE, ()):
                self._alone(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")
            may = self._fetch_one(MAY, ())
            assert may is not None
            if may["statistics"]:
                self._alone("VACUUM FULL pg_catalog.pg_statistic")
            if may["switch"]:
                self._alone("SELECT pg_switch_wal()")
            if may["checkpoint"]:
                self._alone("CHECKPOINT")

    def remains(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(row[0] for row in self._fetch_all(REMAINS, ()))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # --- the connection ---------------------------------------------------------------------------------------

    def _connect(self) -> "psycopg.Connection[Row]":
        defaults = {"connect_timeout": str(PATIENCE_SECONDS), "application_name": "plumbline"}
        wanted = make_conninfo(self._url, **{name: v for name, v in defaults.items() if name not in self._parts})
        try:
            made = psycopg.connect(
                wanted, autocommit=True, row_factory=_row_factory, cursor_factory=psycopg.RawCursor[Row]
            )
        except psycopg.Error as error:
            raise no_connection(self, error) from error
        try:
            self._settle(made)
        except BaseException as error:
            made.close()
            if isinstance(error, psycopg.Error):
                raise no_connection(self, error) from error
            raise
        return made

    def _settle(self, made: "psycopg.Connection[Row]") -> None:
        """Make a new connection one that a ledger can rely on."""
        for kind, dumper in ((bool, _BooleanDumper), (int, Int8Dumper)):
            made.adapters.register_dumper(kind, dumper)
        made.adapters.register_loader("numeric", _NumericLoader)
        made.execute(_SESSION.format(lock=int(PATIENCE_SECONDS * 1000), idle=_IDLE_SECONDS * 1000))
        found = made.execute(_SETTINGS).fetchone()
        assert found is not None
        if found["fsync"] != "on" or found["full_page_writes"] != "on":
            raise not_durable(self)
        if found["schema"] is None:
            raise no_schema(self)
        if found["synchronous_commit"] == "off":
            made.execute("SET synchronous_commit = on")
        self._schema_name = str(found["schema"])
        key = hashlib.sha256(f"plumbline ledger {self._schema_name}".encode()).digest()[:8]
        lock = int.from_bytes(key, "big", signed=True)
        self._begin_and_lock = f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SELECT pg_advisory_xact_lock({lock})"

    def _run(self, sql: str, parameters: Parameters | None = None) -> "psycopg.Cursor[Row]":
        """In the open transaction; outside of one, a connection that turns out to be lost is made anew, once."""
        if self._depth:
            return self._connection.execute(sql, parameters)
        if not self._connection.closed:
            try:
                return self._connection.execute(sql, parameters)
            except psycopg.OperationalError:
                if not self._connection.closed:
                    raise
        self._connection = self._connect()
        return self._connection.execute(sql, parameters)

    @contextlib.contextmanager
    def _faults(self, *, committing: bool = False) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise fault(self, error, lost=self._connection.closed, committing=committing) from error

    def _alone(self, sql: str) -> None:
        """A statement that PostgreSQL runs in no transaction."""
        with self._faults():
            self._run(sql)

    # --- what each database does in its own way ---------------------------------------------------------------

    def _begin(self) -> None:
        try:
            with self._faults():
                self._run(self._begin_and_lock)
        except BaseException:
            self._rollback()
            raise

    def _commit(self) -> None:
        with self._faults(committing=True):
            done = self._connection.execute("COMMIT").statusmessage
        if done != "COMMIT":  # PostgreSQL answers ROLLBACK, and no error, when a statement had failed before
            raise PlumblineError(
                f"a statement of this transaction had failed, so {self} did not commit it",
                consequence="nothing was changed",
                remedy="start the same command again; if this repeats, report it with the command",
            )
        self._look_at_what_grew()

    def _look_at_what_grew(self) -> None:
        """Take statistics of a table that grew much since PostgreSQL last did, which it does by itself only now and
        then. Without them it reads a whole history to find a few hundred keys in it."""
        for table, (rows, next_look) in self._grown.items():
            if rows >= next_look:
                self._grown[table] = (rows, 2 * rows)
                with contextlib.suppress(psycopg.Error):  # what was committed stays so
                    known = self._connection.execute("SELECT reltuples FROM pg_class WHERE oid = $1::regclass", [table])
                    if rows > 0.2 * (known.fetchone() or (0,))[0]:
                        self._connection.execute(f"ANALYZE {table}")

    def _grew(self, table: str, rows: int) -> None:
        before, next_look = self._grown.get(table, (0, _LOOK))
        self._grown[table] = (before + rows, next_look)

    def _rollback(self) -> None:
        with contextlib.suppress(psycopg.Error):
            status = self._connection.info.transaction_status
            if status == TransactionStatus.ACTIVE:  # interrupted in mid-statement: end with it
                self._connection.close()
            elif status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                self._connection.execute("ROLLBACK")

    def _fetch_all(self, sql: str, parameters: Parameters) -> list[Row]:
        with self._faults():
            return self._run(numbered(sql), parameters).fetchall()

    def _fetch_one(self, sql: str, parameters: Parameters) -> Row | None:
        with self._faults():
            return self._run(numbered(sql), parameters).fetchone()

    def _execute(self, sql: str, parameters: Parameters) -> int:
        with self._faults():
            return self._run(numbered(sql), parameters).rowcount

    def _execute_many(self, sql: str, rows: Sequence[Parameters]) -> None:
        """Inserts go as prepared statements of many rows, anything else row by row, both through a pipeline.

        Integers are sent as text of no type, as NULL is: one statement then fits rows with either.
        """
        found, whole = _MANY.match(sql), 0
        if (table := _INTO.match(sql)) is not None:
            self._grew(table[1], len(rows))
        with self._faults():
            if found is not None:
                insert, marks, conflict = found[1], found[2], found[3] or ""
                whole = len(rows) // _ROWS * _ROWS
                many = numbered(insert + ", ".join([marks] * _ROWS) + conflict)
                with self._connection.pipeline():
                    for start in range(0, whole, _ROWS):
                        values = [
                            str(value) if type(value) is int else value
                            for row in rows[start : start + _ROWS]
                            for value in row
                        ]
                        self._connection.execute(many, values, prepare=True)
            if rows[whole:]:
                self._connection.cursor().executemany(numbered(sql), rows[whole:])

    def _insert(self, table: str, values: dict[str, Any]) -> int:
        self._grew(table, 1)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"
        identity = self._identities.get(table)
        if identity is None:
            self._execute(sql, tuple(values.values()))
            return 0
        found = self._fetch_one(f"{sql} RETURNING {identity}", tuple(values.values()))
        return 0 if found is None else int(found[0])

    def _define(self, statement: str) -> None:
        for translated in to_postgresql(statement):
            self._execute(translated, ())

    def _migrate(self, *, must_exist: bool = False) -> None:
        super()._migrate(must_exist=must_exist)
        self._identities = {row[0]: row[1] for row in self._fetch_all(_IDENTITIES, ())}

    def _schema(self) -> int:
        there = "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'plumbline_schema'"
        return int(self.value("SELECT MAX(version) FROM plumbline_schema")) if self.value(there) else 0

    def _set_schema(self, version: int) -> None:
        self._execute("CREATE TABLE IF NOT EXISTS plumbline_schema (version BIGINT PRIMARY KEY)", ())
        self._execute("INSERT INTO plumbline_schema VALUES (?)", (version,))


class _Row:
    """A row as `Row` describes it. Of two columns with one name, the first is found by it."""

    __slots__ = ("_columns", "_values")

    def __init__(self, columns: dict[str, int], values: Sequence[Any]) -> None:
        self._columns = columns
        self._values = values

    def __getitem__(self, key: int | str) -> Any:
        return self._values[self._columns[key] if isinstance(key, str) else key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def keys(self) -> list[str]:
        return list(self._columns)


def _row_factory(cursor: "psycopg.Cursor[Any]") -> Callable[[Sequence[Any]], Row]:
    columns: dict[str, int] = {}
    for place, column in enumerate(cursor.description or ()):
        columns.setdefault(column.name, place)
    return lambda values: _Row(columns, values)


class _BooleanDumper(Dumper):
    """True and False as the 1 and 0 that SQLite makes of them: the schema has no booleans."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"


class _NumericLoader(Loader):
    """SUM of integers is an integer here too, and an average a float, not a Decimal."""

    def load(self, data: Buffer) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text or b"N" in text else int(text)


_IDENTITIES = """
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND a.attidentity != ''
"""
