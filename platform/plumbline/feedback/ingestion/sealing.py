"""Before anything is built: does the consent ledger verify, is the inbox what was acknowledged, is the run new?"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from plumbline.errors import PlumblineError
from plumbline.feedback.ingestion.candidate import State
from plumbline.records.canonical import DIGEST_PATTERN
from plumbline.stores import ConsentHead, ConsentLost, Ledger, SealedEvent
from plumbline.stores.sealed import damaged_among

_CHAIN = 50_000  # consent entries that are read anew for every run: half a second


def require_whole(ledger: Ledger, events: Sequence[SealedEvent]) -> None:
    """Nothing is built on a damaged inbox: every body must have the keyed fingerprint that it was acknowledged with."""
    subjects = {event.subject for event in events if event.body is not None}
    keys = ledger.subjects.known(subjects)
    if not subjects <= keys.keys():
        raise ConsentLost(
            "somebody was erased while the run began",
            consequence="nothing of theirs is used",
            remedy="start the run again; it is built without them",
        )
    damaged = damaged_among((event for event in events if event.body is not None), keys)
    if damaged:
        raise PlumblineError(
            f"{len(damaged)} events of the inbox are not what was acknowledged, the first of them event {damaged[0]}",
            consequence="nothing is published and nothing is lost: the run stays where it is",
            remedy="restore the ledger from a backup, or erase what cannot be restored, and start the run again",
        )


def verified_consent(ledger: Ledger) -> ConsentHead:
    """The consent ledger's head, verified; PlumblineError when it does not verify.

    A chain of up to `_CHAIN` entries is read whole every time. A longer one is read whole once a day, and from the last
    such reading on in between; the entries of everybody in a run are hashed again in any case (`standings`).
    """
    last = ledger.consent.last_full()
    if last is not None and ledger.consent.head().sequence > _CHAIN:
        age = ledger.database.clock() - datetime.fromisoformat(last.verified_at)
        if timedelta(0) <= age < timedelta(days=1):
            return ledger.consent.require_valid(since=last.head)
    return ledger.consent.require_valid()


def ended_without_version(ledger: Ledger, dataset: str, run_key: str) -> State | None:
    """How a run of this name ended, if it ended without a version. PlumblineError for a name that is none, or that
    another dataset's run has."""
    known = ledger.runs.run(run_key)
    if re.fullmatch(DIGEST_PATTERN, run_key) is None or (known is not None and known.dataset != dataset):
        raise PlumblineError(
            f"{run_key!r} is " + ("no run key" if known is None else f"a run of {known.dataset!r}"),
            consequence="nothing was sealed",
            remedy="give a digest (sha256:...) that names this run and no other, or leave the key out",
        )
    return known.state if known is not None and known.state in ("no_change", "rejected") else None
