"""The spool: a bounded, durable, append-only list of served requests, and what became of each.

One SQLite file in WAL mode. A record's life is one row, so that the accounting is a property of the table and no
crash can count anything twice:

    append -> pending -> paired (with the aligned answer)
                      -> shed   (with a reason)
    never appended    -> a counter by reason (no consent, spool full, disk full, ...): no content is kept

    offered == paired + pending + shed by reason            (`counts`, always)

Durability: `synchronous=FULL`, so a record is acknowledged (append has returned) only after fsync, and survives
kill -9 and loss of power; a torn tail of the log is dropped by SQLite's frame checksums. Appends are grouped by the
caller, one fsync per group. Several processes may hold the same spool open.
"""

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline.errors import PlumblineError
from plumbline.metrics import CATALOGUE
from plumbline.records import Answer, Pair, ShadowCounts, SpoolRecord
from plumbline.shadow.sampling import Experiment

FORMAT = "1"
# Reasons under which what was said must not stay: nobody agreed to it.
FORGOTTEN = frozenset({"no_consent", "withdrawn"})
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'paired', 'shed')),
    reason TEXT,
    record TEXT,
    aligned TEXT
);
CREATE INDEX IF NOT EXISTS record_pending ON record (seq) WHERE state = 'pending';
CREATE INDEX IF NOT EXISTS record_subject ON record (subject);
CREATE TABLE IF NOT EXISTS door (reason TEXT PRIMARY KEY, n INTEGER NOT NULL);
"""


@dataclass(frozen=True)
class Outcome:
    """What became of a pending record: an aligned answer, or the reason why there is none."""

    seq: int
    aligned: Answer | None = None
    reason: str | None = None


class Accounting(Collector):
    """The spool's counts as Prometheus metrics, read at each scrape: true after a restart, and whoever pairs."""

    def __init__(self, spool: "Spool") -> None:
        self.spool = spool

    def collect(self) -> Iterator[Metric]:
        counts = self.spool.counts()
        name = counts.experiment
        names = ("plumbline_shadow_spooled", "plumbline_shadow_pairs", "plumbline_shadow_shed")
        spooled, pairs, shed = (_family(name) for name in names)
        spooled.add_metric((name,), counts.spooled)
        pairs.add_metric((name,), counts.paired)
        for reason, n in counts.shed.items():
            shed.add_metric((name, reason), n)
        _, text, labels = CATALOGUE["plumbline_shadow_pending"]
        pending = GaugeMetricFamily("plumbline_shadow_pending", text, labels=labels)
        pending.add_metric((name,), counts.pending)
        yield from (spooled, pairs, shed, pending)

    def describe(self) -> list[Metric]:
        return []


def _family(name: str) -> CounterMetricFamily:
    _, text, labels = CATALOGUE[name]
    return CounterMetricFamily(name, text, labels=labels)


class Spool:
    """Open (or make) the spool in `directory`. Thread-safe. PlumblineError when it belongs to another experiment."""

    def __init__(self, directory: Path, experiment: Experiment, *, max_bytes: int | None = None) -> None:
        self.directory = directory
        self.experiment = experiment
        self._lock = threading.Lock()
        self._unsaved: Counter[str] = Counter()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                directory / "spool.sqlite", timeout=10, check_same_thread=False, isolation_level=None
            )
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            if max_bytes is not None:
                page = int(self._db.execute("PRAGMA page_size").fetchone()[0])
                self._db.execute(f"PRAGMA max_page_count={max(1, max_bytes // page)}")
            self._db.executescript(SCHEMA)
            self._claim()
        except (sqlite3.Error, OSError) as error:
            raise PlumblineError(
                f"the spool in {directory} cannot be opened: {error}",
                consequence="no request is recorded for pairing",
                remedy="free space, or name another spool directory",
            ) from error

    @classmethod
    def existing(cls, directory: Path) -> "Spool":
        """The spool that is already there, under the experiment it was made for. PlumblineError when there is none."""
        file = directory / "spool.sqlite"
        try:
            with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as db:
                (text,) = db.execute("SELECT value FROM meta WHERE key = 'experiment'").fetchone()
            experiment = Experiment.model_validate_json(text)
        except (sqlite3.Error, TypeError, ValueError) as error:
            raise PlumblineError(
                f"there is no readable spool in {directory}: {str(error).splitlines()[0]}",
                consequence="no pairs were read",
                remedy="name the --spool directory that a shadow run wrote",
            ) from error
        return cls(directory, experiment)

    def _claim(self) -> None:
        mine = {"format": FORMAT, "experiment": self.experiment.model_dump_json()}
        self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", mine.items())
        found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if found != mine:
            raise PlumblineError(
                f"the spool in {self.directory} belongs to another experiment (format {found['format']}): "
                f"{found['experiment']}",
                consequence=f"records of {self.experiment.name!r} were not mixed into it",
                remedy="name another spool directory, or start the experiment with the settings it began with",
            )

    def append(self, records: Sequence[SpoolRecord]) -> Counter[str]:
        """Record requests durably, in one transaction; returns how many were shed at the door, by reason.

        Never raises for a full spool or disk: what cannot be kept is counted, since users have been served.
        """
        shed: Counter[str] = Counter()
        rows = [(record.subject, record.model_dump_json()) for record in records]
        kept = [row for row in rows if len(row[1].encode()) <= self.experiment.max_record]
        shed["oversize"] += len(rows) - len(kept)
        with self._lock:
            try:
                room = max(0, self.experiment.max_pending - self._pending())
                shed["spool_full"] += len(kept[room:])
                self._transaction("INSERT INTO record (subject, record) VALUES (?, ?)", kept[:room])
            except sqlite3.Error as error:
                shed["spool_full"] = 0
                shed[_reason(error)] += len(kept)
        shed = +shed
        self.shed_at_door(shed)
        return shed

    def shed_at_door(self, reasons: Counter[str]) -> None:
        """Count requests that were never recorded. Kept in memory while the disk takes nothing, and written later."""
        with self._lock:
            self._unsaved.update(reasons)
            if not self._unsaved:
                return
            try:
                self._transaction(
                    "INSERT INTO door VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET n = n + excluded.n",
                    list(self._unsaved.items()),
                )
            except sqlite3.Error:
                return
            self._unsaved.clear()

    def pending(self, limit: int, after: int = 0) -> list[tuple[int, SpoolRecord]]:
        """Up to `limit` records that wait, in order, with `seq > after`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT seq, record FROM record WHERE state = 'pending' AND seq > ? ORDER BY seq LIMIT ?",
                (after, limit),
            ).fetchall()
        return [(seq, SpoolRecord.model_validate_json(text)) for seq, text in rows]

    def settle(self, outcomes: Iterable[Outcome]) -> int:
        """Write outcomes in one transaction; returns how many records they settled. Settled ones never change."""
        done = 0
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            for outcome in outcomes:
                paired = outcome.aligned is not None
                changed = self._db.execute(
                    "UPDATE record SET state = ?, reason = ?, aligned = ?, "
                    "record = CASE WHEN ? THEN NULL ELSE record END WHERE seq = ? AND state = 'pending'",
                    (
                        "paired" if paired else "shed",
                        outcome.reason,
                        outcome.aligned.model_dump_json() if outcome.aligned is not None else None,
                        outcome.reason in FORGOTTEN,
                        outcome.seq,
                    ),
                )
                done += changed.rowcount
        return done

    def shed_pending(self, reason: str) -> int:
        """Give up on everything that still waits, for example when an experiment is closed."""
        with self._lock:
            return self._db.execute(
                "UPDATE record SET state = 'shed', reason = ? WHERE state = 'pending'", (reason,)
            ).rowcount

    def forget(self, subject: str) -> int:
        """Erase what a subject said, pairs included; the rows stay in the accounting as `withdrawn`.

        Pages are overwritten and the log is truncated; a reader in another process can put the latter off for as long
        as it reads.
        """
        with self._lock:
            changed = self._db.execute(
                "UPDATE record SET state = 'shed', reason = 'withdrawn', record = NULL, aligned = NULL, subject = '' "
                "WHERE subject = ?",
                (subject,),
            ).rowcount
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return changed

    def pairs(self) -> Iterator[Pair]:
        """All pairs, in the order in which the requests were recorded."""
        after = 0
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT seq, record, aligned FROM record WHERE state = 'paired' AND seq > ? ORDER BY seq LIMIT 256",
                    (after,),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            for _, record, aligned in rows:
                yield Pair.model_validate({"spooled": json.loads(record), "aligned": json.loads(aligned)})

    def counts(self) -> ShadowCounts:
        """The accounting so far. `spooled` is every request that should become a pair, also those shed at the door."""
        with self._lock:
            rows = self._db.execute("SELECT state, COALESCE(reason, ''), COUNT(*) FROM record GROUP BY 1, 2").fetchall()
            door = Counter(dict(self._db.execute("SELECT reason, n FROM door").fetchall())) + self._unsaved
        by_state: Counter[str] = Counter()
        shed = Counter(door)
        for state, reason, n in rows:
            by_state[state] += n
            if state == "shed":
                shed[reason] += n
        counts = ShadowCounts(
            experiment=self.experiment.name,
            spooled=sum(by_state.values()) + door.total(),
            paired=by_state["paired"],
            pending=by_state["pending"],
            shed=dict(sorted(shed.items())),
        )
        assert counts.balanced, counts
        return counts

    def waiting(self) -> int:
        """Records that are pending."""
        with self._lock:
            return self._pending()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _pending(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM record WHERE state = 'pending'").fetchone()[0])

    def _transaction(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _reason(error: sqlite3.Error) -> str:
    full = getattr(error, "sqlite_errorname", "") in {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
    return "disk_full" if full else "spool_error"
