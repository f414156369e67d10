"""Retention: the words of people who never agreed do not stay for ever.

An event that no consent covered when it was collected can never be used: a later consent brings it not back, and
ingestion refuses it each time. So when it is old enough its words and its fingerprint go, as in an erasure; its key
stays, so that a late copy is a duplicate and brings nothing back. What a consent once covered is not touched here,
also when that consent has ended since: its people leave by withdrawal and erasure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from plumbline.errors import PlumblineError
from plumbline.records import PURPOSES
from plumbline.stores.database import Row, timestamp
from plumbline.stores.ledger import Ledger
from plumbline.stores.standing import Standing

_CHUNK = 20_000  # events looked at in one go


@dataclass
class Retention:
    """What was, or would be, forgotten of all that came before the moment `before`: events by the reason for which
    training was not covered when they came, the same of quarantined ones, and those of both that stay since some
    purpose was covered."""

    before: str
    events: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    kept: int = 0


def forget_unconsented(ledger: Ledger, older_than: timedelta, *, dry_run: bool = False) -> Retention:
    """Blank the words of events that are older and were covered by no consent when they came. Safe to repeat.

    PlumblineError when the consent ledger does not verify: then nobody can say what was covered.
    """
    if older_than <= timedelta(0):
        raise PlumblineError(
            "words are to be kept for no time at all",
            consequence="nothing was forgotten: what has only just come may be about to get its consent recorded",
            remedy="give a time of more than zero",
        )
    ledger.consent.require_valid()
    found = Retention(timestamp(ledger.database.clock() - older_than))
    _inbox(ledger, found, dry_run)
    _quarantine(ledger, found, dry_run)
    if not dry_run and (found.events or found.quarantined):
        ledger.database.truncate_log()
    return found


def _inbox(ledger: Ledger, found: Retention, dry_run: bool) -> None:
    last = 0
    while True:
        rows = ledger.database.rows(
            "SELECT sequence, subject, consent_sequence, received_at FROM inbox WHERE sequence > ? AND received_at < ?"
            " AND body IS NOT NULL ORDER BY sequence LIMIT ?",
            (last, found.before, _CHUNK),
        )
        if not rows:
            return
        last = rows[-1]["sequence"]
        standings = _standings(ledger, rows)
        used = {
            row["event_sequence"]
            for row in ledger.database.rows_in(
                "SELECT event_sequence FROM example WHERE event_sequence IN ({marks})",
                [row["sequence"] for row in rows],
            )
        }
        going: list[Row] = []
        for row in rows:
            reason = _uncovered(standings[row["subject"]], row["consent_sequence"], row["received_at"])
            if reason is None or row["sequence"] in used:
                found.kept += 1
            else:
                going.append(row)
                found.events[reason] += 1
        if going and not dry_run:
            with ledger.database.transaction():
                ledger.database.insert_many(
                    "UPDATE inbox SET body = NULL, fingerprint = NULL WHERE sequence = ?",
                    [(row["sequence"],) for row in going],
                )
                _drop_keys(ledger, sorted({row["subject"] for row in going}))


def _quarantine(ledger: Ledger, found: Retention, dry_run: bool) -> None:
    """A quarantined event was collected when the ledger had the entries that were recorded by then."""
    rows = ledger.database.rows(
        "SELECT sequence, subject, received_at FROM quarantine WHERE received_at < ? AND body IS NOT NULL"
        " ORDER BY sequence",
        (found.before,),
    )
    standings = _standings(ledger, rows)
    recorded = {subject: ledger.consent.entries(subject) for subject in standings}
    going: list[Row] = []
    for row in rows:
        entries = [one for one in recorded[row["subject"]] if one.recorded_at <= row["received_at"]]
        at = entries[-1].sequence if entries else 0
        reason = _uncovered(standings[row["subject"]], at, row["received_at"])
        if reason is None:
            found.kept += 1
        else:
            going.append(row)
            found.quarantined[reason] += 1
    if not dry_run:
        ledger.database.insert_many(
            "UPDATE quarantine SET body = NULL WHERE sequence = ?", [(row["sequence"],) for row in going]
        )


def _standings(ledger: Ledger, rows: Iterable[Row]) -> dict[str, Mapping[str, Standing]]:
    """By subject and purpose, where the people of these rows stand."""
    subjects = {row["subject"] for row in rows}
    purposes = {purpose: ledger.consent.standings(subjects, purpose) for purpose in PURPOSES}
    return {subject: {purpose: purposes[purpose][subject] for purpose in PURPOSES} for subject in subjects}


def _uncovered(standings: Mapping[str, Standing], at: int, moment: str) -> str | None:
    """Why training was not covered as of an entry of the consent ledger; None when any purpose was."""
    covers = {purpose: standing.covers(at, moment) for purpose, standing in standings.items()}
    return None if any(one.covered for one in covers.values()) else covers["training"].reason


def _drop_keys(ledger: Ledger, subjects: Sequence[str]) -> None:
    """The keys of those of whom nothing is left that a key could open."""
    left = ledger.database.rows_in(
        "SELECT DISTINCT subject FROM inbox WHERE body IS NOT NULL AND subject IN ({marks})", subjects
    ) + ledger.database.rows_in("SELECT DISTINCT subject FROM example WHERE subject IN ({marks})", subjects)
    staying = {row["subject"] for row in left}
    ledger.database.insert_many(
        "DELETE FROM subject_key WHERE subject = ?", [(subject,) for subject in subjects if subject not in staying]
    )
