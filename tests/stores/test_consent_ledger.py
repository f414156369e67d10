"""The consent ledger denies by default, orders by sequence, and shows every tampering."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import ConsentTerms, Notice, canonical_bytes, digest_bytes, digest_of
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
        "UPDATE consent_audit SET sequence = 99",
        "DELETE FROM consent_audit",
    ],
)
def test_the_database_refuses_to_change_or_forget_consent(desk: Any, statement: str) -> None:
    desk.give("s-ana")
    assert desk.ledger.consent.verify().valid
    raw = desk.raw()
    with pytest.raises(raw.refusal, match="append-only"):
        raw.execute(statement)


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
    raw.drop_triggers()
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
    manifest = desk.candidate("s-ana")
    manifest.publish()
    cut_tail(desk)
    assert not desk.ledger.consent.verify().valid


def cut_tail(desk: Any) -> None:
    raw = desk.raw()
    raw.drop_triggers("consent_no_delete", "consent_purpose_never_deleted")
    last = raw.execute("SELECT MAX(sequence) FROM consent").fetchone()[0]
    raw.execute("DELETE FROM consent_purpose WHERE sequence = ?", (last,))
    raw.execute("DELETE FROM consent WHERE sequence = ?", (last,))


# --- what an entry says -----------------------------------------------------------------------------------------------


def test_a_minor_is_covered_only_with_a_guardian(desk: Any) -> None:
    minor = ConsentTerms(age_band="minor")
    desk.ledger.consent.append("s-kid", "given", ["training"], desk.notice, terms=minor)
    assert covered(desk, "s-kid") == "minor_without_guardian"
    guarded = minor.model_copy(update={"guardian": "s-mum"})
    desk.ledger.consent.append("s-kid", "given", ["training"], desk.notice, terms=guarded)
    assert covered(desk, "s-kid") == "covered"


def test_who_said_no_is_not_covered_and_may_say_yes_later(desk: Any) -> None:
    refused = desk.ledger.consent.append("s-ana", "refused", ["training"], desk.notice).sequence
    assert covered(desk) == "consent_refused"
    desk.give("s-ana")
    assert covered(desk) == "covered"
    assert covered(desk, at=refused) == "consent_refused", "the later grant legalises nothing that was earlier"


def test_a_recorded_expiry_ends_consent_whatever_the_clock_says(desk: Any) -> None:
    desk.give("s-ana", valid_until=desk.now + timedelta(days=30))
    desk.ledger.consent.append("s-ana", "expired", ["training"], desk.notice)
    assert covered(desk) == "consent_expired"


def test_a_purpose_that_nobody_knows_is_covered_by_nothing(desk: Any) -> None:
    desk.give("s-ana")
    at = desk.ledger.consent.head().sequence
    found = desk.ledger.consent.covers("s-ana", "world_domination", at, desk.now)
    assert not found.covered and found.reason == "unknown_purpose"


def test_a_notice_that_is_registered_no_longer_covers_nothing(desk: Any) -> None:
    desk.give("s-ana")
    desk.raw().execute("DELETE FROM notice")
    assert covered(desk) == "unknown_notice"
    assert desk.withdraw("s-ana") == 2, "and yet the person can withdraw"
    assert covered(desk) == "consent_withdrawn"


def test_what_stands_can_be_reaffirmed_and_what_does_not_cannot(desk: Any) -> None:
    def reaffirm(**options: Any) -> None:
        desk.ledger.consent.append("s-ana", "reaffirmed", ["training"], desk.notice, **options)

    with pytest.raises(PlumblineError, match="cannot be reaffirmed: no consent"):
        reaffirm()
    desk.give("s-ana", valid_until=desk.now + timedelta(days=1))
    reaffirm(valid_until=desk.now + timedelta(days=9))
    assert covered(desk, now=desk.now + timedelta(days=5)) == "covered"
    desk.withdraw("s-ana")
    with pytest.raises(PlumblineError, match="cannot be reaffirmed: consent withdrawn"):
        reaffirm()


def test_a_validity_in_no_sane_year_is_refused(desk: Any) -> None:
    for year in (999, 1970, 9999):
        with pytest.raises(PlumblineError, match=f"in the year {year}"):
            desk.give("s-ana", valid_until=datetime(year, 1, 1, tzinfo=UTC))


def test_the_bytes_that_were_digested_are_the_bytes_that_are_stored(desk: Any) -> None:
    entry = desk.ledger.consent.append("s-ana", "given", ["training"], desk.notice, method='say "hi" ü \x00')
    stored = desk.raw().execute("SELECT entry, digest FROM consent").fetchone()
    assert stored[0].encode() == entry.canonical_bytes()
    assert stored[1] == digest_bytes(stored[0].encode()) == entry.digest
    assert desk.ledger.consent.entries("s-ana") == [entry]
    assert desk.ledger.consent.verify().valid


def test_a_chain_that_began_in_the_first_version_of_the_record_still_verifies(desk: Any) -> None:
    old = {
        "sequence": 1, "subject": "s-old", "action": "given", "purposes": ["training"],
        "notice": desk.notice.model_dump(), "recorded_at": "2025-01-01T00:00:00.000000Z", "valid_until": None,
        "method": "api", "previous": "sha256:" + "0" * 64,
    }  # fmt: skip
    digest = digest_bytes(canonical_bytes({"schema": "plumbline.dev/consent-entry/v1", "content": old}))
    raw = desk.raw()
    text = json.dumps(old).replace(", ", ",")
    raw.execute("INSERT INTO consent VALUES (1, 's-old', ?, ?)", (digest, text))
    raw.execute("INSERT INTO consent_purpose VALUES ('s-old', 'training', 1, 'given', NULL)")
    desk.give("s-new")
    assert desk.ledger.consent.verify().valid
    assert (covered(desk, "s-old"), covered(desk, "s-new")) == ("covered", "covered")
    raw.drop_triggers()
    raw.execute("UPDATE consent SET entry = ? WHERE sequence = 1", (text.replace("2025", "2024"),))
    assert desk.ledger.consent.verify().problem == "entry 1 was altered"


# --- asked in bulk ----------------------------------------------------------------------------------------------------


def test_standings_say_of_everybody_what_covers_says_of_one(desk: Any) -> None:
    people = [f"s-{number}" for number in range(1200)]
    with desk.ledger.database.transaction():
        for number, person in enumerate(people):
            if number % 5:
                desk.give(person)
            if number % 3 == 0 and number % 5:
                desk.withdraw(person)
            if number % 7 == 0:
                desk.give(person, valid_until=desk.now + timedelta(hours=number % 4))
    head = desk.ledger.consent.head().sequence
    found = desk.ledger.consent.standings(people, "training")
    assert list(found) == people
    for number in range(0, 1200, 13):
        for at in (0, head // 2, head):
            expected = desk.ledger.consent.covers(people[number], "training", at, desk.now)
            assert found[people[number]].covers(at, desk.now) == expected
    assert found["s-3"].withdrawn_between(0, head) and not found["s-3"].withdrawn_between(head, head + 9)
    assert {p for p in people if found[p].withdrawn_between(0, head)} == desk.ledger.consent.withdrawn_between(
        "training", 0, head
    )


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE consent_purpose SET action = 'given' WHERE sequence = 2",
        "UPDATE consent_purpose SET valid_until = '2099' WHERE sequence = 1",
        "DELETE FROM consent_purpose WHERE sequence = 2",
        "INSERT INTO consent_purpose VALUES ('s-ana', 'training', 3, 'given', NULL)",
        "UPDATE consent SET entry = replace(entry, 'withdrawn', 'given') WHERE sequence = 2",
        "UPDATE consent SET subject = 's-ben' WHERE sequence = 2",
    ],
)
def test_nobody_is_read_from_an_index_that_says_other_than_the_entries(desk: Any, tampering: str) -> None:
    desk.give("s-ana")
    desk.withdraw("s-ana")
    desk.give("s-ben")
    raw = desk.raw()
    raw.drop_triggers()
    raw.execute(tampering)
    with pytest.raises(PlumblineError, match="does not verify"):
        desk.ledger.consent.standings(["s-ana", "s-ben"], "training")


def test_ended_names_who_said_no_since_and_whose_latest_consent_ran_out(desk: Any) -> None:
    for person in ("s-stays", "s-leaves", "s-returns", "s-refuses", "s-other"):
        desk.give(person)
    desk.give("s-expires", valid_until=desk.now + timedelta(hours=1))
    desk.give("s-renews", valid_until=desk.now + timedelta(hours=1))
    since = desk.ledger.consent.head().sequence
    desk.give("s-renews", valid_until=desk.now + timedelta(hours=9))
    desk.withdraw("s-leaves")
    desk.withdraw("s-returns")
    desk.give("s-returns")
    desk.ledger.consent.append("s-refuses", "refused", ["training"], desk.notice)
    desk.ledger.consent.append("s-other", "withdrawn", ["evaluation"], desk.notice)

    def ended(hours: float, after: int = since, **options: Any) -> set[str]:
        now = desk.now + timedelta(hours=hours)
        found: set[str] = desk.ledger.consent.ended("training", after=after, now=now, **options)
        return found

    said_no = {"s-leaves", "s-returns", "s-refuses"}
    assert ended(0) == said_no
    assert ended(2) == said_no | {"s-expires"}
    assert ended(10) == said_no | {"s-expires", "s-renews"}
    assert ended(10, after=desk.ledger.consent.head().sequence) == {"s-expires", "s-renews"}
    assert ended(10, checked=desk.now + timedelta(hours=2)) == said_no | {"s-renews"}


# --- verified in parts ------------------------------------------------------------------------------------------------


def test_only_what_came_after_a_trusted_head_is_read_again(desk: Any) -> None:
    for person in ("s-ana", "s-ben", "s-cem"):
        desk.give(person)
    trusted = desk.ledger.consent.head()
    desk.withdraw("s-ana")
    check = desk.ledger.consent.verify_since(trusted)
    assert check.valid and check.head == desk.ledger.consent.head()
    raw = desk.raw()
    raw.drop_triggers()
    raw.execute("UPDATE consent SET entry = replace(entry, 'given', 'refused') WHERE sequence = 1")
    assert desk.ledger.consent.verify_since(trusted).valid, "what is before the head is trusted"
    assert desk.ledger.consent.require_valid(since=trusted) == check.head
    assert not desk.ledger.consent.verify().valid
    raw.execute("UPDATE consent_purpose SET action = 'given' WHERE sequence = 4")
    assert desk.ledger.consent.verify_since(trusted).problem == "the purposes indexed for entry 4 are not the entry's"


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("UPDATE consent SET entry = replace(entry, 'given', 'refused') WHERE sequence = 3", "entry 3 was altered"),
        ("UPDATE consent SET digest = 'sha256:0' WHERE sequence = 3", "the trusted head (entry 3)"),
        ("DELETE FROM consent WHERE sequence = 3", "the trusted head (entry 3)"),
        ("DELETE FROM consent WHERE sequence = 4", "entry 4 is missing or out of place"),
    ],
)
def test_a_trusted_head_that_is_not_in_place_is_found(desk: Any, tampering: str, problem: str) -> None:
    for number in range(5):
        desk.give(f"s-{number}")
    trusted = desk.ledger.consent.head_at(3)
    raw = desk.raw()
    raw.drop_triggers()
    raw.execute(tampering)
    assert problem in str(desk.ledger.consent.verify_since(trusted).problem)
    with pytest.raises(PlumblineError, match="does not verify"):
        desk.ledger.consent.require_valid(since=trusted)


def test_any_changed_byte_of_any_entry_is_found(desk: Any) -> None:
    for number in range(4):
        desk.give(f"s-{number}", valid_until=desk.now + timedelta(days=number + 1))
    raw = desk.raw()
    raw.drop_triggers()
    for sequence in (1, 3):
        (text,) = raw.execute("SELECT entry FROM consent WHERE sequence = ?", (sequence,)).fetchone()
        for place in range(0, len(text), 7):
            other = "x" if text[place] != "x" else "y"
            changed = text[:place] + other + text[place + 1 :]
            raw.execute("UPDATE consent SET entry = ? WHERE sequence = ?", (changed, sequence))
            assert not desk.ledger.consent.verify().valid, (sequence, place)
        raw.execute("UPDATE consent SET entry = ? WHERE sequence = ?", (text, sequence))
    assert desk.ledger.consent.verify().valid


def test_the_last_full_reading_is_remembered_with_its_time(desk: Any) -> None:
    assert desk.ledger.consent.last_full() is None
    desk.give("s-ana")
    assert desk.ledger.consent.verify().valid
    first = desk.ledger.consent.last_full()
    assert first.head == desk.ledger.consent.head() and first.verified_at.startswith("2026-01-01T00:00")
    desk.now += timedelta(days=1)
    desk.give("s-ben")
    desk.ledger.consent.verify_since(first.head)
    assert desk.ledger.consent.last_full() == first, "a reading in part is no full one"
    desk.ledger.consent.require_valid()
    assert desk.ledger.consent.last_full().verified_at.startswith("2026-01-02")


def test_a_pin_of_the_empty_ledger_holds_and_one_of_an_entry_that_never_was_does_not(desk: Any) -> None:
    empty = desk.ledger.consent.head()
    desk.give("s-ana")
    assert desk.ledger.consent.verify(empty).valid
    assert not desk.ledger.consent.verify(ConsentHead(9, empty.digest)).valid
