"""The inbox: in order, once, durable, and nothing of it lost when its words are erased."""

import random
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import APPROVED_TYPE, TYPE_PREFIX, FeedbackData, FeedbackEvent, say
from plumbline.stores import Ledger


def event(id: str = "1", subject: str = "s-ana", kind: str = "rewrite", **data: Any) -> FeedbackEvent:
    said = {"rewrite": {"text": "it shines"}, "rating": {"score": 1.0}, "comment": {"text": "good"}}[kind]
    content = {"answer": "no", **said, **data}
    return FeedbackEvent(
        id=id,
        source="app",
        type=TYPE_PREFIX + kind,
        data=FeedbackData(subject=subject, messages=(say("user", "what is a lamp"),), **content),
    )


def outcomes(desk: Any, *events: FeedbackEvent) -> list[tuple[str, int]]:
    return [(receipt.outcome, receipt.sequence) for receipt in desk.ledger.inbox.append(list(events))]


def test_events_keep_their_order_and_come_back_as_they_were(desk: Any) -> None:
    sent = [event(str(number), f"s-{number % 7}", text="ü\x00" * (number + 1)) for number in range(30)]
    assert outcomes(desk, *sent) == [("accepted", number + 1) for number in range(30)]
    read = desk.ledger.inbox.read(1, 99)
    assert [queued.event for queued in read] == sent
    assert [queued.subject for queued in read] == [one.data.subject for one in sent]
    assert [queued.sequence for queued in desk.ledger.inbox.read(5, 7)] == [5, 6, 7]
    assert desk.ledger.inbox.last_sequence() == 30


def test_one_append_of_many_says_the_same_as_many_appends_of_one(desk: Any) -> None:
    rng = random.Random(7)
    sent = [event(str(rng.randrange(40)), f"s-{rng.randrange(2)}", text=f"{rng.randrange(2)}") for _ in range(300)]
    with Ledger(":memory:") as other:
        one_by_one = [other.inbox.append([one])[0] for one in sent]
        assert desk.ledger.inbox.append(sent[:150]) + desk.ledger.inbox.append(sent[150:]) == one_by_one
        assert desk.ledger.inbox.quarantined() == other.inbox.quarantined()
    assert {receipt.outcome for receipt in one_by_one} == {"accepted", "duplicate", "conflict"}


def test_the_same_key_with_another_body_or_person_is_kept_apart(desk: Any) -> None:
    assert outcomes(desk, event()) == [("accepted", 1)]
    assert outcomes(desk, event(), event(text="other"), event(subject="s-eve"), event(kind="comment")) == [
        ("duplicate", 1),
        ("conflict", 1),
        ("conflict", 1),
        ("accepted", 2),
    ]
    assert desk.ledger.inbox.quarantined() == {"same_key_other_body": 2}
    kept = desk.ledger.inbox.quarantine_entries()
    assert [(one.id, one.subject) for one in kept] == [("1", "s-ana"), ("1", "s-eve")]
    assert [one.subject for one in desk.ledger.inbox.quarantine_entries(1)] == ["s-eve"]


def test_an_event_that_fails_takes_the_whole_append_with_it(desk: Any) -> None:
    broken = event("2").model_copy(update={"id": None})
    with pytest.raises(PlumblineError):
        desk.ledger.inbox.append([event("1"), broken, event("3")])
    assert desk.ledger.inbox.last_sequence() == 0
    assert outcomes(desk, event("1")) == [("accepted", 1)]


def test_an_event_remembers_the_consent_that_stood_when_it_came(desk: Any) -> None:
    outcomes(desk, event("1"))
    desk.give("s-ana")
    outcomes(desk, event("2"))
    assert [queued.consent_sequence for queued in desk.ledger.inbox.read(1, 2)] == [0, 1]


def test_an_erased_event_keeps_its_key_so_that_a_late_copy_brings_nothing_back(desk: Any) -> None:
    outcomes(desk, event("1", text="canary"), event("2", "s-ben"), event("1", text="another canary"))
    assert desk.ledger.inbox.erase("s-ana") == 1
    desk.ledger.subjects.erase("s-ana")
    (gone, kept) = desk.ledger.inbox.read(1, 2)
    assert (gone.event, gone.fingerprint) == (None, None) and kept.event is not None
    assert desk.ledger.inbox.quarantine_entries()[0].body is None
    assert outcomes(desk, event("1", text="canary"), event("1", text="else")) == [("duplicate", 1), ("duplicate", 1)]
    assert desk.ledger.inbox.read(1, 1)[0].event is None


def test_an_event_that_an_earlier_release_wrote_in_another_form_is_still_a_duplicate(desk: Any) -> None:
    outcomes(desk, event())
    raw = desk.raw()
    raw.execute("UPDATE inbox SET fingerprint = 'sha256:0', body = ?", (event().model_dump_json(),))
    assert outcomes(desk, event(), event(text="other")) == [("duplicate", 1), ("conflict", 1)]


def test_the_first_source_that_spoke_of_a_person_is_remembered_through_erasure(desk: Any) -> None:
    outcomes(desk, event(), event("2").model_copy(update={"source": "other"}))
    assert desk.ledger.subjects.first_source("s-ana") == "app"
    assert desk.ledger.subjects.first_source("s-ben") is None
    desk.ledger.subjects.claim({"s-ana": "other", "s-ben": "other"})
    desk.ledger.inbox.erase("s-ana")
    desk.ledger.subjects.erase("s-ana")
    assert desk.ledger.subjects.first_source("s-ana") == "app"
    assert desk.ledger.subjects.first_source("s-ben") == "other"


# --- approved answers -------------------------------------------------------------------------------------------------


def test_an_approved_answer_is_an_event_of_its_own_under_the_consent_it_was_said_in(desk: Any) -> None:
    desk.give("s-ana")
    outcomes(desk, event(kind="rating", answer="a lamp gives light"))
    desk.withdraw("s-ana")
    receipt = desk.ledger.inbox.append_approved(1, reviewers=["s-rev2", "s-rev1"])
    assert (receipt.outcome, receipt.sequence) == ("accepted", 2)
    original, approved = desk.ledger.inbox.read(1, 2)
    assert (approved.subject, approved.consent_sequence, approved.original) == ("s-ana", 1, 1)
    assert approved.received_at == original.received_at
    assert (approved.event.type, approved.event.kind) == (APPROVED_TYPE, "approved")
    assert (approved.event.data.answer, approved.event.data.original) == ("a lamp gives light", 1)
    assert approved.event.data.approved_by == ("s-rev1", "s-rev2")
    again = desk.ledger.inbox.append_approved(1, reviewers=["s-rev3"])
    assert (again.outcome, again.sequence) == ("duplicate", 2), "the first approval stands"


def test_an_approval_is_the_same_wherever_its_original_was_taken_in(desk: Any) -> None:
    outcomes(desk, event("1"), event("2"))
    desk.ledger.inbox.append_approved(2, reviewers=["s-rev"])
    mark = desk.ledger.inbox.read(3, 3)[0]
    with Ledger(":memory:", clock=lambda: desk.now, secret=b"reproducible") as other:
        other.inbox.append([event("2")])
        other.inbox.append_approved(1, reviewers=["s-rev"])
        elsewhere = other.inbox.read(2, 2)[0]
    assert elsewhere.fingerprint == mark.fingerprint
    assert elsewhere.event.key == mark.event.key


def test_nothing_is_approved_that_is_not_there_or_was_erased_or_is_an_approval(desk: Any) -> None:
    outcomes(desk, event("1"), event("2", "s-ben"))
    desk.ledger.inbox.append_approved(1, reviewers=["s-rev"])
    desk.ledger.inbox.erase("s-ben")
    for sequence, why in ((9, "not in the inbox"), (2, "erased"), (3, "an approval itself")):
        with pytest.raises(PlumblineError, match=why):
            desk.ledger.inbox.append_approved(sequence, reviewers=["s-rev"])
    assert desk.ledger.inbox.last_sequence() == 3


def test_an_approval_is_erased_with_the_person_and_its_link_stays(desk: Any) -> None:
    outcomes(desk, event("1"))
    desk.ledger.inbox.append_approved(1, reviewers=["s-rev"])
    assert desk.ledger.inbox.erase("s-ana") == 2
    assert [(queued.event, queued.original) for queued in desk.ledger.inbox.read(1, 2)] == [(None, None), (None, 1)]
    with pytest.raises(PlumblineError, match="erased"):
        desk.ledger.inbox.append_approved(1, reviewers=["s-rev"])


# --- counts -----------------------------------------------------------------------------------------------------------


def test_refusals_add_up_by_source_and_reason_over_restarts(desk: Any) -> None:
    desk.ledger.inbox.count_refused({("app", "not_json"): 3, ("unknown", "unauthenticated"): 1})
    desk.ledger.inbox.count_refused({("app", "not_json"): 4})
    desk.ledger.inbox.count_refused({})
    with Ledger(desk.path) as reopened:
        assert reopened.inbox.refused() == {("app", "not_json"): 7, ("unknown", "unauthenticated"): 1}
