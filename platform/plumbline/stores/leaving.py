"""Who left: whose consent to a purpose ended, and who was erased, for a reader who looks again and again.

Only what somebody said is here: a withdrawal, a refusal, an end that was recorded, an erasure that was asked for. A
person whom the ledger does not know has not left, and neither has one whose consent ran out by a clock alone: a ledger
that is empty, or a clock that is wrong, must not look like everybody's withdrawal.

A reader keeps the head up to which it has read, and reads from there (`between`, by index: as many rows as there are
changes). What it is going to act on it has confirmed (`last`), from entries that are hashed again. `holds` says whether
the chain still is the one that it has read.
"""

from collections.abc import Collection

from plumbline.records import ENDINGS, Purpose
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Database


class Leaving:
    def __init__(self, database: Database, consent: ConsentLedger, purpose: Purpose) -> None:
        self._database = database
        self._consent = consent
        self._purpose = purpose

    def head(self) -> tuple[int, str]:
        """The last entry, and its digest."""
        head = self._consent.head()
        return head.sequence, head.digest

    def holds(self, sequence: int, digest: str) -> bool:
        """Whether the chain has this entry at this place."""
        return self._consent.head_at(sequence).digest == digest

    def knows(self, subjects: Collection[str]) -> bool:
        """Whether anything of any of them is in it."""
        return bool(self._database.rows_in("SELECT subject FROM consent WHERE subject IN ({marks})", subjects))

    def between(self, after: int, up_to: int) -> set[str]:
        """Who left in the entries (after, up_to], even if they came back since; who asked to be erased then included,
        at entry `after` too, for an erasure may add no entry of its own."""
        erased = self._database.rows(
            "SELECT DISTINCT subject FROM erasure_request WHERE consent_sequence >= ? AND consent_sequence <= ?",
            (after, up_to),
        )
        return self._consent.withdrawn_between(self._purpose, after, up_to) | {row["subject"] for row in erased}

    def last(self, subjects: Collection[str]) -> dict[str, int]:
        """The entry with which each of them last left; who never did is not in it. What was said under an earlier entry
        goes. PlumblineError when the chain does not verify."""
        found: dict[str, int] = {}
        for subject, standing in self._consent.standings(subjects, self._purpose).items():
            if ends := [change.sequence for change in standing.changes if change.action in ENDINGS]:
                found[subject] = ends[-1]
        for row in self._database.rows_in(
            "SELECT subject, consent_sequence FROM erasure_request WHERE subject IN ({marks})", subjects
        ):
            found[row["subject"]] = max(found.get(row["subject"], 0), row["consent_sequence"] + 1)
        return found
