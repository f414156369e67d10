"""The kill switch as the request path sees it: a flag in memory that follows the spool's, a few times a second.

A spool whose switch cannot be read, or that has not been for seconds (a disk that hangs), counts as tripped: with no
way to be stopped, nothing risky goes on. Nor does it while nobody watches: whoever looks for harm leaves word in the
spool at every look, and where that has not changed for `UNWATCHED_S` seconds nobody is given the aligned policy, until
somebody looks again. That throws no switch: a monitor that is away proves nothing about the policy.
"""

import sqlite3
import time

from plumbline.shadow.looking import again_and_again
from plumbline.shadow.spool import Spool
from plumbline.shadow.spool_state import LOOKED

POLL_S = 0.25
STALE_S = 5.0
UNWATCHED_S = 60.0
UNREADABLE = "the kill switch cannot be read"


class Switch:
    """`tripped` is the reason, or None. Call `look` in a thread, or let `follow` do so until it is cancelled."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._unsaved: str | None = None
        self._looked = time.monotonic()
        self._word: str | None = None
        self._watched = float("-inf")
        self.tripped: str | None = UNREADABLE

    @property
    def lets(self) -> bool:
        """Whether users may be given the aligned policy now."""
        now = time.monotonic()
        return self.tripped is None and now - self._looked < STALE_S and now - self._watched < UNWATCHED_S

    @property
    def why_not(self) -> str:
        """Why they may not; empty while they may."""
        if self.tripped is not None:
            return self.tripped
        if time.monotonic() - self._looked >= STALE_S:
            return UNREADABLE
        unseen = f"no monitor was seen to look in the last {UNWATCHED_S:g} s, and nobody can tell whether it does harm"
        return "" if self.lets else unseen

    def look(self) -> str | None:
        """Read it, having written down what was tripped here."""
        try:
            if self._unsaved is not None:
                self._spool.trip(self._unsaved)
                self._unsaved = None
            found, word = self._spool.tripped(), self._spool.told(LOOKED)
            self.tripped = self._unsaved or found
            if self._word not in (None, word):  # by our own clock; a word from before we began is no look
                self._watched = time.monotonic()
            self._word = word
        except sqlite3.Error:
            self.tripped = self._unsaved or UNREADABLE
        self._looked = time.monotonic()
        return self.tripped

    def trip(self, reason: str) -> None:
        """Trip it here at once, and in the spool at the next look: who serves users must not wait for a disk."""
        self.tripped = self._unsaved = reason

    async def follow(self) -> None:
        await again_and_again(self.look, POLL_S, at_once=True)
