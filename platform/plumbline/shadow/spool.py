"""The spool: a bounded, durable, append-only list of served requests, and what became of each.

One SQLite file in WAL mode. A record's life is one row, so that the accounting is a property of the table and no
crash can count anything twice:

    append -> pending -> paired (with the other leg's answer)
                      -> shed   (with a reason)
    never appended    -> a counter by slice and reason (no consent, spool full, disk full, ...): no content is kept

    offered == paired + pending + shed by reason            (`counts`, always)

Durability: `synchronous=FULL`, so a record is acknowledged (append has returned) only after fsync, and survives
kill -9 and loss of power; a torn tail of the log is dropped by SQLite's frame checksums. Appends are grouped by the
caller, one fsync per group. Several processes may hold the same spool open.

The kill switch is here as well, because it must outlive every process: a tripped spool's worker asks nobody, and a
tripped A/B experiment assigns nobody to the aligned policy. Tripping and resetting are kept as a list.
"""

import contextlib
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.records import Answer, Pair, ShadowCounts, SpoolRecord
from plumbline.shadow.sampling import UNLABELLED, Experiment
from plumbline.shadow.spool_forgetting import SpoolForgetting
from plumbline.shadow.spool_schema import (
    DOOR,
    FORGOTTEN,
    FORMAT,
    MARK,
    NEXT_CHANGE,
    RECORD,
    SCHEMA,
    bring_up_to_date,
)
from plumbline.shadow.spool_state import SpoolState


@dataclass(frozen=True)
class Outcome:
    """What became of a pending record: the other leg's answer, or the reason why there is none."""

    seq: int
    replayed: Answer | None = None
    reason: str | None = None


@dataclass(frozen=True, order=True)
class Loss:
    """`n` requests of a slice that became no pair, for one reason."""

    slice: str
    reason: str
    n: int


@dataclass(frozen=True)
class Change:
    """A record that was settled or erased: the `number`th change. `pair` is None for one that is shed."""

    number: int
    seq: int
    slice: str
    pair: Pair | None


class Spool(SpoolForgetting, SpoolState):
    """Open (or make) the spool in `directory`. Thread-safe. PlumblineError when it belongs to another experiment."""

    def __init__(self, directory: Path, experiment: Experiment, *, max_bytes: int | None = None) -> None:
        self.directory = directory
        self.experiment = experiment
        self._lock = threading.Lock()
        self._unsaved: Counter[tuple[str, str]] = Counter()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                directory / "spool.sqlite", timeout=10, check_same_thread=False, isolation_level=None
            )
            self._check_format()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            if max_bytes is not None:
                page = int(self._db.execute("PRAGMA page_size").fetchone()[0])
                self._db.execute(f"PRAGMA max_page_count={max(1, max_bytes // page)}")
            self._db.executescript(SCHEMA)
            self._claim()
            bring_up_to_date(self._db)
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
                meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
            _require_format(directory, meta)
            experiment = Experiment.model_validate_json(meta["experiment"])
        except (sqlite3.Error, KeyError, ValueError) as error:
            raise PlumblineError(
                f"there is no readable spool in {directory}: {(str(error).splitlines() or ['empty'])[0]}",
                consequence="no pairs were read",
                remedy="name the --spool directory that a shadow run wrote",
            ) from error
        return cls(directory, experiment)

    def _check_format(self) -> None:
        """Before anything is written: a spool of another version stays as it is."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None:
            _require_format(self.directory, dict(self._db.execute("SELECT key, value FROM meta").fetchall()))

    def _claim(self) -> None:
        mine = {"format": FORMAT, "experiment": self.experiment.model_dump_json()}
        self._db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", mine.items())
        found = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if any(found[key] != value for key, value in mine.items()):
            raise PlumblineError(
                f"the spool in {self.directory} belongs to another experiment: {found['experiment']}",
                consequence=f"records of {self.experiment.name!r} were not mixed into it",
                remedy="name another spool directory, or start the experiment with the settings it began with",
            )

    # --- records --------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[SpoolRecord], *, consented: int | None = None) -> Counter[str]:
        """Record requests durably, in one transaction; returns how many were shed at the door, by reason.

        Never raises for a full spool or disk: what cannot be kept is counted, since users have been served. `consented`
        is the consent ledger's last entry from before these people's consent was looked up, where that is known.
        """
        kept, lost = self._rows(records, consented)
        with self._lock:
            try:
                room = max(0, self.experiment.max_pending - self._pending())
                self._transaction((RECORD, kept[:room]))
                lost.update((row[1], "spool_full") for row in kept[room:])
            except sqlite3.Error as error:
                lost.update((row[1], _reason(error)) for row in kept)
        self.shed_at_door(Loss(slice_, reason, n) for (slice_, reason), n in lost.items())
        shed: Counter[str] = Counter()
        for (_, reason), n in lost.items():
            shed[reason] += n
        return shed

    def take(
        self,
        records: Sequence[SpoolRecord],
        losses: Iterable[Loss],
        marks: Iterable[str],
        *,
        consented: int | None = None,
    ) -> None:
        """For a source that waits for the disk and for room: records, losses and the marks that they are dealt with,
        in one transaction, so that after a kill nothing is dealt with twice. Raises sqlite3.Error, and then did
        nothing."""
        kept, lost = self._rows(records, consented)
        for loss in losses:
            lost[loss.slice, loss.reason] += loss.n
        counted = [(slice_, reason, n) for (slice_, reason), n in lost.items()]
        with self._lock:
            self._transaction((RECORD, kept), (DOOR, counted), (MARK, [(mark,) for mark in marks]))

    def marks(self) -> set[str]:
        """What `take` was told is dealt with."""
        with self._lock:
            return {name for (name,) in self._db.execute("SELECT name FROM mark").fetchall()}

    def _rows(
        self, records: Sequence[SpoolRecord], consented: int | None
    ) -> tuple[list[tuple[str, str, str, int | None]], Counter[tuple[str, str]]]:
        """Rows to write, and what is too large to be one."""
        rows = [(record.subject, record.slice, record.model_dump_json(), consented) for record in records]
        small = [len(row[2].encode()) <= self.experiment.max_record for row in rows]
        lost = Counter((row[1], "oversize") for row, fits in zip(rows, small, strict=True) if not fits)
        return [row for row, fits in zip(rows, small, strict=True) if fits], lost

    def shed_at_door(self, losses: Iterable[Loss]) -> None:
        """Count requests that were never recorded. Kept in memory while the disk takes nothing, and written later."""
        with self._lock:
            for loss in losses:
                self._unsaved[loss.slice, loss.reason] += loss.n
            if not self._unsaved:
                return
            try:
                self._transaction((DOOR, [(slice_, reason, n) for (slice_, reason), n in self._unsaved.items()]))
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
                changed = self._db.execute(
                    f"UPDATE record SET state = ?1, reason = ?2, replayed = ?3, change = {NEXT_CHANGE}, "
                    "record = CASE WHEN ?4 THEN NULL ELSE record END, subject = CASE WHEN ?4 THEN '' ELSE subject END "
                    "WHERE seq = ?5 AND state = 'pending'",
                    (
                        "shed" if outcome.replayed is None else "paired",
                        outcome.reason,
                        None if outcome.replayed is None else outcome.replayed.model_dump_json(),
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
                f"UPDATE record SET state = 'shed', reason = ?, change = {NEXT_CHANGE} WHERE state = 'pending'",
                (reason,),
            ).rowcount

    # --- what is in it --------------------------------------------------------------------------------------------

    def pairs(self) -> Iterator[Pair]:
        """All pairs, in the order in which the requests were recorded."""
        return (pair for _, pair in self.numbered_pairs())

    def numbered_pairs(self) -> Iterator[tuple[int, Pair]]:
        """All pairs with the numbers of their records, in that order."""
        after = 0
        while True:
            with self._lock:
                rows = self._db.execute(
                    "SELECT seq, record, replayed FROM record "
                    "WHERE state = 'paired' AND seq > ? ORDER BY seq LIMIT 256",
                    (after,),
                ).fetchall()
            if not rows:
                return
            after = rows[-1][0]
            for seq, record, replayed in rows:
                yield seq, _pair(record, replayed)

    def changes(self, after: int = 0, limit: int = 256) -> list[Change]:
        """What was settled or erased since change number `after`, in that order: for a reader who looks again and
        again. Records that change together have one number and come together, beyond `limit` if need be."""
        with self._lock:
            rows = self._db.execute(
                "SELECT change, seq, slice, state, record, replayed FROM record WHERE change > ?1 AND change <= ("
                "SELECT MAX(change) FROM (SELECT change FROM record WHERE change > ?1 ORDER BY change LIMIT ?2)"
                ") ORDER BY change, seq",
                (after, limit),
            ).fetchall()
        return [
            Change(number, seq, slice_, _pair(record, replayed) if state == "paired" else None)
            for number, seq, slice_, state, record, replayed in rows
        ]

    def losses(self, until: int | None = None) -> list[Loss]:
        """What became no pair, by slice and reason, sorted; requests refused at the door included, all of them, for
        they have no number. Of records those numbered up to `until`."""
        with self._lock:
            rows = self._db.execute(
                "SELECT slice, reason, COUNT(*) FROM record WHERE state = 'shed' AND (?1 IS NULL OR seq <= ?1)"
                " GROUP BY 1, 2",
                (until,),
            ).fetchall()
            door = self._door()
        lost = Counter({(slice_, reason): n for slice_, reason, n in rows}) + door
        return sorted(Loss(slice_, reason, n) for (slice_, reason), n in lost.items())

    def counts(self) -> ShadowCounts:
        """The accounting so far. `spooled` is every request that should become a pair, also those shed at the door."""
        with self._lock:
            rows = self._db.execute("SELECT state, COALESCE(reason, ''), COUNT(*) FROM record GROUP BY 1, 2").fetchall()
            door = self._door()
        by_state: Counter[str] = Counter()
        shed: Counter[str] = Counter()
        for (_, reason), n in door.items():
            shed[reason] += n
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

    def subjects(self) -> list[str]:
        """Whose words are in it."""
        with self._lock:
            rows = self._db.execute("SELECT DISTINCT subject FROM record WHERE subject != '' ORDER BY 1").fetchall()
        return [subject for (subject,) in rows]

    def holds(self, subjects: Iterable[str]) -> set[str]:
        """Whose of these words are in it."""
        with self._lock:
            asked = "SELECT 1 FROM record WHERE subject = ? LIMIT 1"
            return {one for one in subjects if self._db.execute(asked, (one,)).fetchone() is not None}

    def ever_paired(self) -> int:
        """Records that became pairs, with those among them that were erased since."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = 'forgotten pairs'").fetchone()
            paired = self._db.execute("SELECT COUNT(*) FROM record WHERE state = 'paired'").fetchone()[0]
        return int(paired) + int(row[0] if row else 0)

    def waits(self, seq: int) -> bool:
        """Whether this record is pending still."""
        with self._lock:
            asked = "SELECT 1 FROM record WHERE seq = ? AND state = 'pending'"
            return self._db.execute(asked, (seq,)).fetchone() is not None

    def waiting(self) -> int:
        """Records that are pending."""
        with self._lock:
            return self._pending()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _door(self) -> Counter[tuple[str, str]]:
        rows = self._db.execute("SELECT slice, reason, n FROM door").fetchall()
        return Counter({(slice_, reason): n for slice_, reason, n in rows}) + self._unsaved

    def _pending(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM record WHERE state = 'pending'").fetchone()[0])

    def _transaction(self, *writes: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        """Statements with their rows, all or nothing."""
        if not any(rows for _, rows in writes):
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement, rows in writes:
                self._db.executemany(statement, rows)
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def by_reason(reasons: Counter[str], slice_: str = UNLABELLED) -> list[Loss]:
    """Losses of one slice."""
    return [Loss(slice_, reason, n) for reason, n in reasons.items()]


def _pair(record: str, replayed: str) -> Pair:
    return Pair.model_validate({"spooled": json.loads(record), "replayed": json.loads(replayed)})


def _require_format(directory: Path, meta: dict[str, str]) -> None:
    if (found := meta.get("format", "none")) != FORMAT:
        raise PlumblineError(
            f"the spool in {directory} was written by another version of Plumbline (format {found}, not {FORMAT})",
            consequence="nothing was read from it or written to it",
            remedy="name another --spool directory, or read this one with the version that wrote it",
        )


def _reason(error: sqlite3.Error) -> str:
    full = getattr(error, "sqlite_errorname", "") in {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
    return "disk_full" if full else "spool_error"
