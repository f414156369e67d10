"""Sweeping a spool: what people said who withdrew, or were erased, goes from it by itself.

The consent ledger is asked what happened since the last sweep, never about everybody: a cursor over its entries, which
the spool keeps, so that a withdrawal from while nobody swept is found at the next start. Of a person who left, what was
recorded under a consent from before goes (the same rule as for dataset versions: a later consent brings nothing back),
pairs included, counted as `withdrawn`; what they said after they came back stays.

    sweep:   spool: the last number            what is recorded from here on is looked at next time
             ledger: the head
             records since the last sweep that were taken under an entry before the cursor    (recorded late)
             entries from the cursor to the head: who left? of these, who has words here?
             erase, empty the log, move the cursor

Only a withdrawal or an erasure on record erases, confirmed from entries that are hashed again. A ledger that cannot be
read, or does not verify, erases nothing, and neither does one that is met for the first time and knows nobody whose
words are here: it is empty, or somebody else's, and nothing is noted of it. One that is not the ledger of the last
sweep (restored from an old copy, or another) says nothing about the order of what it holds and what is here: it is read
from its beginning, and who ever left in it, left.

A sweep that fails is tried again; the time of the last one that did not is in the spool.
"""

import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from plumbline.errors import PlumblineError
from plumbline.shadow.looking import again_and_again
from plumbline.shadow.spool import Spool

EVERY_S = 20.0
PAGE = 10_000  # entries of the ledger that are asked for at a time
ASKED = 200  # people of whom a ledger must know one
SWEPT = "swept"


class Leaving(Protocol):
    """What a sweep asks the consent ledger (`plumbline.stores.leaving`)."""

    def head(self) -> tuple[int, str]: ...

    def holds(self, sequence: int, digest: str) -> bool: ...

    def knows(self, subjects: Collection[str]) -> bool: ...

    def between(self, after: int, up_to: int) -> set[str]: ...

    def last(self, subjects: Collection[str]) -> dict[str, int]: ...


class Sweeper:
    """Sweeps `spool` and, with it, every spool in the folders `below`: those of earlier experiments and of A/A runs,
    which have no worker any more and words in them still. Not for several threads at once."""

    def __init__(self, spool: Spool, leaving: Leaving, *, below: Sequence[Path] = (), every_s: float = EVERY_S) -> None:
        self.spool = spool
        self.leaving = leaving
        self.below = tuple(below)
        self.every_s = every_s
        self._complained = ""

    def look(self) -> bool:
        """Sweep them all; whether every one could be. Never raises: what fails is said in the log, and tried again."""
        faults: list[str] = []
        for directory in self._others():
            try:
                other = Spool.existing(directory)
                try:
                    sweep(other, self.leaving)
                finally:
                    other.close()
            except Exception as error:
                faults.append(f"{directory}: {_words(error)}")
        try:
            sweep(self.spool, self.leaving, done=not faults)
        except Exception as error:
            faults.append(f"{self.spool.directory}: {_words(error)}")
        said = "; ".join(faults)
        if said and said != self._complained:  # once for as long as it is the same
            logging.getLogger("plumbline").error("what people said who withdrew could not be erased from %s", said)
        self._complained = said
        return not faults

    async def follow(self) -> None:
        """Sweep again and again, until it is cancelled."""
        await again_and_again(self.look, self.every_s)

    def _others(self) -> Iterator[Path]:
        mine = self.spool.directory.resolve()
        for folder in self.below:
            for directory, _, files in os.walk(folder):  # what may not be looked into (lost+found) is passed over
                if "spool.sqlite" in files and Path(directory).resolve() != mine:
                    yield Path(directory)


def sweep(spool: Spool, leaving: Leaving, *, done: bool = True) -> int:
    """Erase from one spool what its people withdrew since the last sweep; how many records that were. `done` is whether
    this may be noted as a sweep that left nothing over. PlumblineError where the ledger cannot be read."""
    before = json.loads(spool.told(SWEPT) or "{}")
    cursor, read_to = int(before.get("entry", -1)), int(before.get("read_to", 0))
    last, first, newest = spool.reach(read_to)  # before the ledger is asked: it cannot be behind these
    head, digest = leaving.head()
    gone = 0
    other = newest > head or (cursor >= 0 and not leaving.holds(cursor, str(before["digest"])))
    if (other or cursor < 0) and (people := spool.recorded_by_consent(ASKED)) and not leaving.knows(people):
        raise PlumblineError(
            f"the consent ledger knows nobody whose words are in {spool.directory}: it is empty, or another",
            consequence="nothing was erased, and nobody knows who withdrew",
            remedy="name the ledger that the router asks, with --ledger or PLUMBLINE_LEDGER; if it was restored from"
            " before these people came, erase them with `plumb shadow forget SPOOL --withdrawn`",
        )
    if other:
        logging.getLogger("plumbline").warning(
            "the consent ledger is not the one that %s was swept by (restored from a copy?): it is read from its"
            " beginning",
            spool.directory,
        )
        spool.unknown_order()
        cursor = 0
    elif cursor < 0:
        cursor = head if first is None else first
    elif late := spool.taken_before(cursor, read_to):
        gone += spool.forget_before(leaving.last(late))
    while True:
        up_to = min(head, cursor + PAGE)
        if here := spool.holds(leaving.between(cursor, up_to)):
            gone += spool.forget_before(leaving.last(here))
        cursor = up_to
        if cursor >= head:
            break
    forgotten, emptied = spool.forgotten(), before.get("emptied", 0)
    if forgotten != emptied and spool.empty_log():  # while somebody reads it cannot be: then at the next sweep
        emptied = forgotten
    at = time.time() if done and emptied == forgotten else before.get("at", 0.0)
    spool.tell(SWEPT, json.dumps({"entry": head, "digest": digest, "read_to": last, "emptied": emptied, "at": at}))
    if gone:
        logging.getLogger("plumbline").warning(
            "%d records were erased from %s: who said it withdrew, or was erased", gone, spool.directory
        )
    return gone


def swept_at(spool: Spool) -> float:
    """When the last sweep that left nothing over was, in seconds since 1970; 0 before the first."""
    return float(json.loads(spool.told(SWEPT) or "{}").get("at", 0.0))


def _words(error: Exception) -> str:
    return error.fact if isinstance(error, PlumblineError) else f"{type(error).__name__}: {error}"
