"""Erasing what people said from a spool: a part of `Spool`, beside which a router goes on writing.

So that users' requests are kept meanwhile, a few records go in a transaction, with a pause after it that is as long;
and who empties the log does not wait long for readers, because SQLite lets nobody write for that time.
"""

import sqlite3
import threading
from collections.abc import Mapping
from time import monotonic
from time import sleep as pause

from plumbline.shadow.spool_schema import COUNT, FORGET, FORGOTTEN_PAIRS

ALWAYS = 2**62  # beyond every entry of a ledger
AT_ONCE = 500  # records that are erased in one transaction
READERS_MS = 1000


class SpoolForgetting:
    """A part of `Spool`, whose connection it uses."""

    _db: sqlite3.Connection
    _lock: threading.Lock

    def forget(self, subject: str) -> int:
        """Erase what a subject said, pairs included; the rows stay in the accounting as `withdrawn`.

        Pages are overwritten and the log is truncated; a reader in another process can put the latter off for as long
        as it reads.
        """
        return self.forget_before({subject: ALWAYS})

    def forget_before(self, left: Mapping[str, int]) -> int:
        """The same of several: what was recorded under a consent that was looked up before the named entry of the
        ledger, or nobody knows when. What came after it stays. A few at a time, with pauses in which others write."""
        changed, people = 0, [(subject, entry) for subject, entry in left.items() if subject]  # '': erased already
        while people:
            began = monotonic()
            changed += self._forget_some(people)
            if people:
                pause(min(1.0, monotonic() - began))
        if changed:
            self.empty_log()
        return changed

    def _forget_some(self, people: list[tuple[str, int]]) -> int:
        """Erase `AT_ONCE` records in one transaction, and take from the list whose are all gone."""
        changed, pairs, left = 0, 0, list(people)
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            while left and changed < AT_ONCE:
                which = (*left[-1], AT_ONCE - changed)
                pairs += self._db.execute(FORGOTTEN_PAIRS, which).fetchone()[0]
                changed += self._db.execute(FORGET, which).rowcount
                if changed < AT_ONCE:
                    left.pop()
            if pairs:
                self._db.execute(COUNT, (pairs,))
        people[:] = left
        return changed

    def empty_log(self) -> bool:
        """Fold the write-ahead log into the file, so that no erased byte lives on in it; whether that could be done."""
        with self._lock:
            patience = self._db.execute("PRAGMA busy_timeout").fetchone()[0]
            self._db.execute(f"PRAGMA busy_timeout={min(READERS_MS, patience)}")
            try:
                return not self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._db.execute(f"PRAGMA busy_timeout={patience}")

    def reach(self, after: int = 0) -> tuple[int, int | None, int]:
        """Of records with words numbered above `after`: the last number, and the first and last entry of the consent
        ledger under which they were taken (None and 0: there is none; 0 stands for one that nobody knows)."""
        with self._lock:
            last, first, until = self._db.execute(
                "SELECT MAX(seq), MIN(COALESCE(consented, 0)), MAX(COALESCE(consented, 0)) FROM record"
                " WHERE seq > ? AND subject != ''",
                (after,),
            ).fetchone()
        return last or after, first, until or 0

    def taken_before(self, entry: int, after: int) -> set[str]:
        """Whose records numbered above `after` were taken under an older entry of the consent ledger: they are late."""
        with self._lock:
            rows = self._db.execute(
                "SELECT DISTINCT subject FROM record WHERE seq > ? AND consented < ? AND subject != ''", (after, entry)
            ).fetchall()
        return {subject for (subject,) in rows}

    def forgotten(self) -> int:
        """Records whose words were erased."""
        with self._lock:
            return int(self._db.execute("SELECT COUNT(*) FROM record WHERE subject = ''").fetchone()[0])

    def unknown_order(self) -> None:
        """Forget under which entries records were taken: those are of another ledger."""
        with self._lock:
            self._db.execute("UPDATE record SET consented = 0 WHERE consented > 0")

    def recorded_by_consent(self, limit: int) -> set[str]:
        """Some of those whose consent was looked up in a ledger that told its last entry too."""
        with self._lock:
            rows = self._db.execute(
                "SELECT subject FROM record WHERE consented IS NOT NULL AND subject != '' GROUP BY subject LIMIT ?",
                (limit,),
            ).fetchall()
        return {subject for (subject,) in rows}
