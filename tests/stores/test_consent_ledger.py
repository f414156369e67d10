"""The consent ledger denies by default, orders by sequence, and shows every tampering."""

import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import Notice, digest_of
from plumbline.stores import ConsentHead


def covered(desk: Any, subject: str = "s-ana", *, at: int | None = None, now: datetime | None = None) -> str:
    head = desk.ledger.consent.head().sequence
    return str(desk.ledger.consent.covers(subject, "training", head if at is None else at, now or desk.now).reason)


def test_nobody_is_covered_until_they_consent(desk: Any) -> None:
    assert covered(desk) == "no_consent"
    desk.give("s-ana")
    assert covered(desk) == "covered"
    assert covered(desk, "s-ben") == "no_consent"


def test_consent_to_one_purpose_is_not_consent_to_another(desk: Any) -> None:
    desk.ledger.consent.append("s-ana", "given", ["evaluation"], desk.notice)
    assert covered(desk) == "no_consent"


def test_a_withdrawal_counts_from_its_sequence_on_and_not_before(desk: Any) -> None:
    given = desk.give("s-ana")
    withdrawn = desk.withdraw("s-ana")
    assert covered(desk, at=given) == "covered"
    assert covered(desk, at=withdrawn) == "consent_withdrawn"


def test_order_is_by_sequence_even_when_the_clock_runs_backwards(desk: Any) -> None:
    desk.give("s-ana")
    desk.now -= timedelta(days=1)
    desk.withdraw("s-ana")
    assert covered(desk) == "consent_withdrawn"
    assert desk.ledger.consent.verify().valid


def test_consent_ends_when_its_validity_ends(desk: Any) -> None:
    desk.give("s-ana", valid_until=desk.now + timedelta(days=30))
    assert covered(desk, now=desk.now + timedelta(days=30) - timedelta(microseconds=1)) == "covered"
    assert covered(desk, now=desk.now + timedelta(days=30)) == "consent_expired"


def test_validity_is_compared_across_time_zones(desk: Any) -> None:
    until = datetime.fromisoformat("2026-01-01T03:00:00+02:00")
    desk.give("s-ana", valid_until=until)
    assert covered(desk, now=datetime(2026, 1, 1, 0, 59, tzinfo=UTC)) == "covered"
    assert covered(desk, now=datetime(2026, 1, 1, 1, 0, tzinfo=UTC)) == "consent_expired"


def test_a_validity_without_time_zone_is_refused(desk: Any) -> None:
    with pytest.raises(PlumblineError, match="no time zone"):
        desk.give("s-ana", valid_until=datetime(2027, 1, 1))
    assert desk.ledger.consent.head().sequence == 0


def test_consent_to_an_unknown_notice_is_no_consent(desk: Any) -> None:
    forged = Notice(id="training", version="9", text_digest=digest_of("never shown"))
    with pytest.raises(PlumblineError, match="not registered"):
        desk.ledger.consent.append("s-ana", "given", ["training"], forged)


def test_a_registered_notice_keeps_its_text(desk: Any) -> None:
    assert desk.ledger.consent.register_notice("training", "1", "we train on what you write") == desk.notice
    with pytest.raises(PlumblineError, match="another text"):
        desk.ledger.consent.register_notice("training", "1", "we do as we please")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE consent SET subject = 's-eve'",
        "DELETE FROM consent",
        "UPDATE consent_purpose SET action = 'given'",
        "DELETE FROM consent_purpose",
    ],
)
def test_the_database_refuses_to_change_or_forget_consent(desk: Any, statement: str) -> None:
    desk.give("s-ana")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        desk.raw().execute(statement)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE consent SET entry = replace(entry, 'given', 'withdrawn') WHERE sequence = 2",
        "UPDATE consent SET subject = 's-eve' WHERE sequence = 2",
        "UPDATE consent SET entry = 'not json' WHERE sequence = 1",
        "DELETE FROM consent WHERE sequence = 2",
        "UPDATE consent SET sequence = sequence + 10 WHERE sequence = 3",
        "UPDATE consent_purpose SET action = 'given' WHERE sequence = 3",
        "UPDATE consent_purpose SET valid_until = '2099' WHERE sequence = 1",
        "DELETE FROM consent_purpose WHERE sequence = 3",
        "INSERT INTO consent_purpose VALUES ('s-eve', 'training', 2, 'given', NULL)",
        "INSERT INTO consent_purpose VALUES ('s-eve', 'training', 99, 'given', NULL)",
    ],
)
def test_tampering_behind_the_triggers_is_found(desk: Any, tampering: str) -> None:
    desk.give("s-ana")
    desk.give("s-ben")
    desk.withdraw("s-ana")
    desk.give("s-cem")
    assert desk.ledger.consent.verify().valid
    raw = desk.raw()
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {name}")
    raw.execute(tampering)
    check = desk.ledger.consent.verify()
    assert not check.valid
    assert check.problem
    with pytest.raises(PlumblineError, match="does not verify"):
        desk.ledger.consent.require_valid()


def test_a_cut_off_tail_is_found_by_a_head_that_was_pinned_outside(desk: Any) -> None:
    desk.give("s-ana")
    desk.withdraw("s-ana")
    pin = desk.ledger.consent.head()
    cut_tail(desk)
    assert desk.ledger.consent.verify().valid  # the chain alone cannot know
    assert not desk.ledger.consent.verify(pin).valid
    assert desk.ledger.consent.verify(ConsentHead(1, desk.ledger.consent.head().digest)).valid


def test_a_cut_off_tail_is_found_by_the_head_that_a_published_version_remembers(desk: Any) -> None:
    desk.give("s-ana")
    desk.give("s-ben")
    manifest = desk.manifest("s-ana")
    desk.ledger.publications.publish(manifest, desk.details(manifest))
    cut_tail(desk)
    assert not desk.ledger.consent.verify().valid


def cut_tail(desk: Any) -> None:
    raw = desk.raw()
    for name in ("consent_no_delete", "consent_purpose_no_delete"):
        raw.execute(f"DROP TRIGGER {name}")
    last = raw.execute("SELECT MAX(sequence) FROM consent").fetchone()[0]
    raw.execute("DELETE FROM consent_purpose WHERE sequence = ?", (last,))
    raw.execute("DELETE FROM consent WHERE sequence = ?", (last,))
