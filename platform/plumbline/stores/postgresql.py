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
from plumbline.stores.postgresql_faults import fault, no_connection, not_durable, not_installed, unreadable_url

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
    """The database that a `postgresql://` URL names. A connection that was lost is made anew at the next use.

    Errors: LedgerUnavailable when the server is away, full, read-only or busy; PlumblineError when it cannot be
    trusted with a ledger (`fsync=off`), or the URL does not say which.
    """

    def __init__(self, url: str, *, clock: Clock = utc_now, must_exist: bool = False) -> None:
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
        self._connection = self._connect()
        try:
            self._migrate(must_exist=must_exist)
        except BaseException:
            self._connection.close()
            raise

    def __str__(self) -> str:
        return f"{self._name} (schema {self._schema_name})" if hasattr(self, "_schema_name") else self._name

    def truncate_log(self) -> None:
        with self._lock:
            tables = [row[0] for row in self._fetch_all(_CHANGING, ())]
            horizon = self.value("SELECT pg_current_xact_id()::xid::text")
            deadline = time.monotonic() + PATIENCE_SECONDS
            while tables:
                for table in tables:
                    self._alone(f"VACUUM (FULL, ANALYZE) {table}")
                tables = [row[0] for row in self._fetch_all(_HELD, (horizon,))]
                if tables and time.monotonic() > deadline:
                    raise LedgerUnavailable(
                        f"a reader of {self} still sees rows that were erased from {', '.join(tables)}",
                        consequence="their bytes are still in the database",
                        remedy="end long-running transactions (pg_stat_activity) and start the erasure again",
                    )
                time.sleep(0.1 if tables else 0)
            for table, column, kind in self._fetch_all(_STALE, ()):
                self._alone(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind}")
            may = self._fetch_one(_MAY, ())
            assert may is not None
            if may["statistics"]:
                self._alone("VACUUM FULL pg_catalog.pg_statistic")
            if may["switch"]:
                self._alone("SELECT pg_switch_wal()")
            if may["checkpoint"]:
                self._alone("CHECKPOINT")

    def remains(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(row[0] for row in self._fetch_all(_REMAINS, ()))

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


def no_schema(ledger: Database) -> PlumblineError:
    return PlumblineError(
        f"{ledger} has none of the schemas of its search path",
        consequence="there is no place for the ledger's tables",
        remedy="CREATE SCHEMA it, or name another with ?options=-csearch_path%3DNAME in the URL",
    )


_IDENTITIES = """
    SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND a.attidentity != ''
"""
# Every table but those that triggers keep as they are (they refuse UPDATE, and TRUNCATE as they refuse DELETE, under
# no condition): what can be erased lies in these. One with no page, nor more than one in an index, holds nothing.
_CHANGING = """
    SELECT quote_ident(c.relname) FROM pg_class c
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT (
        EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgtype & 32 != 0)
        AND EXISTS (SELECT 1 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
            WHERE t.tgrelid = c.oid AND t.tgtype & 18 = 18 AND t.tgqual IS NULL AND t.tgattr = ''
                AND NOT p.prosrc ~ ' IF ')
    ) AND (pg_relation_size(c.oid) > 0 OR c.reltoastrelid != 0 AND pg_relation_size(c.reltoastrelid) > 0
        OR EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid
            AND pg_relation_size(i.indexrelid) > current_setting('block_size')::bigint))
"""
# VACUUM FULL leaves rows that some snapshot still sees, and says so by how far it could freeze the table.
_HELD = f"{_CHANGING} AND age(c.relfrozenxid) > age(CAST(? AS xid))"
# ANALYZE keeps the old statistics of a table that has become empty. Giving a column the type it has drops them.
_STALE = """
    SELECT quote_ident(c.relname), quote_ident(a.attname),
        CASE a.atttypid WHEN 'text'::regtype THEN 'TEXT COLLATE "C"' ELSE 'BYTEA' END
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.atttypid IN ('text'::regtype, 'bytea'::regtype)
    JOIN pg_stats s ON s.schemaname = current_schema() AND s.tablename = c.relname AND s.attname = a.attname
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND c.reltuples = 0
"""
_MAY = """
    SELECT pg_has_role(current_user, d.datdba, 'USAGE') AS statistics,
        pg_has_role(current_user, 'pg_checkpoint', 'USAGE') AS checkpoint,
        has_function_privilege('pg_switch_wal()', 'EXECUTE') AS switch
    FROM pg_database d WHERE d.datname = current_database()
"""
_REMAINS = f"""
    WITH may AS ({_MAY}), setting AS (SELECT name, setting FROM pg_settings)
    SELECT 'log segments are recycled with their bytes (set wal_recycle=off)' FROM setting
        WHERE name = 'wal_recycle' AND setting = 'on'
    UNION ALL SELECT 'old log segments are kept (set wal_keep_size=0)' FROM setting
        WHERE name = 'wal_keep_size' AND setting != '0'
    UNION ALL SELECT 'log segments are archived outside the database (archive_mode); expire the archive' FROM setting
        WHERE name = 'archive_mode' AND setting != 'off'
    UNION ALL SELECT 'statements are written to the server log (log_statement, log_min_duration_statement)'
        WHERE EXISTS (SELECT 1 FROM setting WHERE name = 'log_statement' AND setting IN ('mod', 'all')
            OR name = 'log_min_duration_statement' AND setting != '-1')
    UNION ALL SELECT 'a replication slot or standby keeps a copy (pg_replication_slots, pg_stat_replication)'
        WHERE EXISTS (SELECT 1 FROM pg_replication_slots) OR EXISTS (SELECT 1 FROM pg_stat_replication)
    UNION ALL SELECT 'statistics keep sampled values (make this user the owner of the database)' FROM may
        WHERE NOT statistics
    UNION ALL SELECT 'the log lives until the next checkpoint'
        || ' (GRANT pg_checkpoint and EXECUTE ON FUNCTION pg_switch_wal() to this user)' FROM may
        WHERE NOT (checkpoint AND switch)
"""
