"""The kill switch as the request path sees it: a flag in memory that follows the spool's, a few times a second.

A spool whose switch cannot be read, or that has not been for seconds (a disk that hangs), counts as tripped: with no
way to be stopped, nothing risky goes on.
"""

import asyncio
import sqlite3
import time

from plumbline.shadow.spool import Spool

POLL_S = 0.25
STALE_S = 5.0
UNREADABLE = "the kill switch cannot be read"


class Switch:
    """`tripped` is the reason, or None. Call `look` in a thread, or let `follow` do so until it is cancelled."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._unsaved: str | None = None
        self._looked = time.monotonic()
        self.tripped: str | None = UNREADABLE

    @property
    def lets(self) -> bool:
        """Whether users may be given the aligned policy now."""
        return self.tripped is None and time.monotonic() - self._looked < STALE_S

    def look(self) -> str | None:
        """Read it, having written down what was tripped here."""
        try:
            if self._unsaved is not None:
                self._spool.trip(self._unsaved)
                self._unsaved = None
            found = self._spool.tripped()
            self.tripped = self._unsaved or found
        except sqlite3.Error:
            self.tripped = self._unsaved or UNREADABLE
        self._looked = time.monotonic()
        return self.tripped

    def trip(self, reason: str) -> None:
        """Trip it here at once, and in the spool at the next look: who serves users must not wait for a disk."""
        self.tripped = self._unsaved = reason

    async def follow(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(POLL_S)
