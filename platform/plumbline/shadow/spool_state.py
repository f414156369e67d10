"""What outlives every process on a spool besides its records: the kill switch, and what processes tell one another."""

import sqlite3
import threading
import time
from dataclasses import dataclass

from plumbline.shadow.spool_schema import TELL

LOOKED, USERS = "looked", "users"  # what is told: that the monitor looked, and what users of an A/B experiment get


@dataclass(frozen=True)
class Switched:
    """The kill switch was tripped, or reset, `at` (seconds since 1970), and why."""

    at: float
    tripped: bool
    reason: str


class SpoolState:
    """A part of `Spool`, whose connection it uses."""

    _db: sqlite3.Connection
    _lock: threading.Lock

    def tell(self, name: str, words: str) -> None:
        """Leave word for the other processes on this spool, in the place of what was told under this name."""
        with self._lock:
            self._db.execute(TELL, (f"told: {name}", words))

    def told(self, name: str) -> str:
        """What was told last under this name; empty when nothing was."""
        with self._lock:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (f"told: {name}",)).fetchone()
        return "" if row is None else str(row[0])

    def note(self, words: str) -> None:
        """Keep words about where the records come from: who says that the people in them consented."""
        with self._lock:
            self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, '')", (f"note: {words}",))

    def notes(self) -> list[str]:
        with self._lock:
            rows = self._db.execute("SELECT key FROM meta WHERE key LIKE 'note: %' ORDER BY rowid").fetchall()
        return [key.removeprefix("note: ") for (key,) in rows]

    # --- the kill switch ------------------------------------------------------------------------------------------

    def trip(self, reason: str) -> None:
        """Throw the kill switch, durably. A switch that is thrown already keeps its first reason."""
        self._switch(True, reason)

    def reset_trip(self, reason: str = "reset by hand") -> None:
        """Take the switch back, with a reason that is kept. Nothing happens to one that is not thrown."""
        self._switch(False, reason)

    def tripped(self) -> str | None:
        """Why the switch is thrown; None when it is not."""
        with self._lock:
            row = self._db.execute("SELECT tripped, reason FROM switch ORDER BY seq DESC LIMIT 1").fetchone()
        return row[1] if row is not None and row[0] else None

    def switched(self) -> list[Switched]:
        """Every time that the switch was thrown or taken back, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT at, tripped, reason FROM switch ORDER BY seq").fetchall()
        return [Switched(at, bool(tripped), reason) for at, tripped, reason in rows]

    def _switch(self, to: bool, reason: str) -> None:
        with self._lock:
            self._db.execute(
                "INSERT INTO switch (at, tripped, reason) SELECT ?, ?, ? "
                "WHERE COALESCE((SELECT tripped FROM switch ORDER BY seq DESC LIMIT 1), 0) != ?",
                (time.time(), int(to), reason, int(to)),
            )
