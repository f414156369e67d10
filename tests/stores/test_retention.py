"""Words of people who never agreed go after a while; what a consent covered when it came stays."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent, say
from plumbline.stores.retention import forget_unconsented

MONTH = timedelta(days=30)
WORDS = "a canary that nobody agreed to"


def event(id: str, subject: str, words: str = WORDS) -> FeedbackEvent:
    data = FeedbackData(subject=subject, messages=(say("user", "what is it"),), answer="no", text=words)
    return FeedbackEvent(id=id, source="app", type=TYPE_PREFIX + "rewrite", data=data)


def words_left(desk: Any) -> dict[int, bool]:
    return {one.sequence: one.event is not None for one in desk.ledger.inbox.read(1, 99)}


@pytest.fixture
def talked(desk: Any) -> Any:
    """Events 1 to 6, each of another standing, 40 days ago; event 7 of a stranger, today."""
    desk.give("s-ana")
    desk.give("s-dan")
    desk.give("s-fay", valid_until=datetime(2026, 1, 2, tzinfo=UTC))
    desk.withdraw("s-dan")
    desk.ledger.consent.append("s-eva", "refused", ["training"], desk.notice)
    desk.ledger.consent.append("s-gil", "given", ["evaluation"], desk.notice)
    desk.now += timedelta(days=3)
    for number, who in enumerate(["s-ana", "s-ben", "s-dan", "s-eva", "s-fay", "s-gil"], start=1):
        desk.ledger.inbox.append([event(str(number), who)])
    desk.withdraw("s-ana")  # covered when it came: theirs is the way of erasure
    desk.give("s-ben")  # too late for what they said
    desk.now += timedelta(days=40)
    desk.ledger.inbox.append([event("7", "s-ida")])
    return desk


def test_what_no_consent_covered_when_it_came_goes_and_is_counted_by_reason(talked: Any) -> None:
    found = forget_unconsented(talked.ledger, MONTH)
    assert found.events == {"no_consent": 1, "consent_withdrawn": 1, "consent_refused": 1, "consent_expired": 1}
    assert (found.kept, found.before) == (2, "2026-01-14T00:00:00.000000Z")
    assert words_left(talked) == {1: True, 2: False, 3: False, 4: False, 5: False, 6: True, 7: True}
    assert talked.ledger.subjects.known(["s-ana", "s-ben", "s-dan"]).keys() == {"s-ana"}


def test_again_there_is_nothing_to_do_and_a_late_copy_brings_nothing_back(talked: Any) -> None:
    forget_unconsented(talked.ledger, MONTH)
    again = forget_unconsented(talked.ledger, MONTH)
    assert (again.events, again.kept) == ({}, 2)
    assert [one.outcome for one in talked.ledger.inbox.append([event("2", "s-ben")])] == ["duplicate"]
    assert not words_left(talked)[2]


def test_a_dry_run_counts_and_changes_nothing(talked: Any) -> None:
    counted = forget_unconsented(talked.ledger, MONTH, dry_run=True)
    assert all(words_left(talked).values())
    assert counted == forget_unconsented(talked.ledger, MONTH)


def test_what_was_kept_apart_goes_too(talked: Any) -> None:
    talked.now -= timedelta(days=40)
    receipts = talked.ledger.inbox.append([event("2", "s-ben", "other"), event("4", "s-eva", "x")])
    assert [one.outcome for one in receipts] == ["conflict", "conflict"]
    talked.now += timedelta(days=40)
    found = forget_unconsented(talked.ledger, MONTH)
    assert (found.quarantined, found.kept) == ({"consent_refused": 1}, 3), "ben's came when he had agreed"
    assert [one.body is None for one in talked.ledger.inbox.quarantine_entries()] == [False, True]


def test_words_that_a_version_used_stay_whatever_else_is_so(talked: Any) -> None:
    talked.raw().execute(
        "INSERT INTO example VALUES (1, 'a', ?, 's-ben', 'rewrite', 'train', 'facts', '', 'x', 2, 1, 0, 1, 1, NULL)",
        (b"address",),
    )
    assert forget_unconsented(talked.ledger, MONTH).kept == 3
    assert words_left(talked)[2]


def test_nothing_is_forgotten_while_the_consent_ledger_does_not_verify(talked: Any) -> None:
    talked.raw().drop_triggers()
    talked.raw().execute("UPDATE consent SET entry = '{}' WHERE sequence = 1")
    with pytest.raises(PlumblineError, match="does not verify"):
        forget_unconsented(talked.ledger, MONTH)
    with pytest.raises(PlumblineError, match="no time at all"):
        forget_unconsented(talked.ledger, timedelta(0))
    assert all(words_left(talked).values())
