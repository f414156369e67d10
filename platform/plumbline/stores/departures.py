"""Departures: which examples left a dataset between two versions, and why, from what the ledger keeps.

A removal is a row whose interval ends. Its reason is not stored: it follows from the consent ledger as of the version
that no longer has the example, so it reads the same after erasure, and cannot say something else than consent does.
"""

from dataclasses import dataclass
from typing import Literal

from plumbline.records import ENDINGS
from plumbline.stores.consent_ledger import ConsentLedger
from plumbline.stores.database import Database
from plumbline.stores.standing import Standing

Why = Literal["withdrawn", "expired", "moved", "dropped"]
ENDED = ("consent_withdrawn", "consent_refused")


@dataclass(frozen=True)
class Departure:
    """`version` is the first without the example. `withdrawn` and `expired` are about consent; `moved` examples are on
    the other side of the split since; `dropped` is all else, such as an example whose text is held out now."""

    address: str
    subject: str | None
    split: str
    slice: str
    version: int
    why: Why
    erased_at: str | None


def departures(
    database: Database, consent: ConsentLedger, dataset: str, older: int, newer: int
) -> dict[str, Departure]:
    """By address, what left after version `older` and up to version `newer`; of several times, the last."""
    erased = {
        row["subject"]: row["erased_at"]
        for row in database.rows("SELECT subject, MAX(completed_at) AS erased_at FROM erasure GROUP BY subject")
    }
    left: dict[str, Departure] = {}
    versions = database.rows(
        "SELECT version, consent_sequence, published_at FROM publication"
        " WHERE dataset = ? AND version > ? AND version <= ? ORDER BY version",
        (dataset, older, newer),
    )
    since = int(
        database.value(
            "SELECT COALESCE(MAX(consent_sequence), 0) FROM publication WHERE dataset = ? AND version <= ?",
            (dataset, older),
        )
    )
    for at in versions:
        version, up_to = at["version"], at["consent_sequence"]
        gone = database.rows(
            "SELECT address, subject, split, slice FROM example WHERE dataset = ? AND removed_in = ?",
            (dataset, version),
        )
        if not gone:
            since = up_to
            continue
        came = database.rows("SELECT address FROM example WHERE dataset = ? AND added_in = ?", (dataset, version))
        moved = {bytes(row["address"]) for row in came}
        people = sorted({row["subject"] for row in gone if row["subject"] is not None})
        reasons = {
            subject: _why(standing, since, up_to, at["published_at"])
            for subject, standing in consent.standings(people, "training").items()
        }
        for row in gone:
            subject, raw = row["subject"], bytes(row["address"])
            why: Why = "moved" if raw in moved else reasons.get(subject, "dropped")
            address = "sha256:" + raw.hex()
            left[address] = Departure(
                address, subject, row["split"], row["slice"], version, why, erased.get(subject) if subject else None
            )
        since = up_to
    return left


def _why(standing: Standing, since: int, up_to: int, moment: str) -> Why:
    """What became of a person's consent by the version that no longer has their example."""
    ended = [change for change in standing.changes if since < change.sequence <= up_to and change.action in ENDINGS]
    if ended:
        return "expired" if ended[-1].action == "expired" else "withdrawn"
    reason = standing.covers(up_to, moment).reason
    return "expired" if reason == "consent_expired" else "withdrawn" if reason in ENDED else "dropped"
