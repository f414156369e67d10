"""What becomes of an event: accepted, redacted, counted under one reason, on one side of the split, under consent."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from feedback.ingestion.eight_people import PEOPLE, prepared, some_feedback
from plumbline.feedback import GuardLimits, IngestionConfig, load_version, members_of, verify


def test_every_event_ends_in_exactly_one_bucket(house: Any) -> None:
    prepared(house)
    events = some_feedback(house)
    house.post(*events)
    result = house.ingest()
    assert result.state == "published"
    assert result.rejected == {
        "no_consent": 1,
        "control_tokens": 1,
        "contradictory_labels": 2,
        "selected_for_review": 3,
        "held_out_preference": 1,
    }
    assert result.accepted + sum(result.rejected.values()) == result.sealed == len(events)
    assert result.manifest.balanced
    assert [pair.chosen for pair in result.preferences] == ["a"]
    assert verify(house.ledger, house.blobs, result.manifest).valid


def test_redaction_happens_before_anything_is_stored_in_a_version(house: Any) -> None:
    prepared(house)
    house.post(*some_feedback(house))
    result = house.ingest()
    assert result.redactions == {"email": 1, "phone": 1}
    assert result.redacted_samples == ("call ana on [PHONE] or [EMAIL]",)
    texts = [example.target for example in load_version(house.ledger, house.blobs, "assistant").train]
    texts += [example.target for example in load_version(house.ledger, house.blobs, "assistant").held_out]
    assert "call ana on [PHONE] or [EMAIL]" in texts
    assert not any("7946" in text or "example.org" in text for text in texts)


def test_a_comment_is_redacted_for_reviewers_and_becomes_no_example(house: Any) -> None:
    prepared(house)
    house.post(
        house.event("person 1", "comment", "who?", text="call me, +44 20 7946 0958."),
        house.rewrite("person 2", "who?", "me"),
    )
    result = house.ingest()
    assert result.redactions == {"phone": 1}
    assert result.redacted_samples == ("call me, [PHONE].",)
    assert result.rejected == {"selected_for_review": 1} and result.accepted == 1


def test_a_reviewers_rewrite_is_carried_by_the_person_whose_conversation_it_is(house: Any) -> None:
    prepared(house)
    reviewer = house.names.of("a reviewer")
    house.post(
        house.rewrite("person 1", "who is my doctor ?", "i do not know.", author=reviewer),
        house.rewrite("person 2", "who is my friend ?", "nobody knows.", author=reviewer),
        house.rewrite("stranger", "who is my boss ?", "no idea.", author=reviewer),
    )
    house.desk.withdraw("person 1")
    result = house.ingest()
    assert result.rejected == {"consent_withdrawn": 1, "no_consent": 1}
    version = load_version(house.ledger, house.blobs, "assistant")
    asked = {message.content for _, example in version.examples for message in example.messages}
    assert "who is my friend ?" in asked and not {"who is my doctor ?", "who is my boss ?"} & asked
    (mine,) = [e for _, e in version.examples if e.consent and e.consent.subject == house.names.of("person 2")]
    assert mine.provenance.author == reviewer


def test_each_example_says_who_wrote_filtered_and_approved_it_under_which_consent(house: Any) -> None:
    prepared(house)
    house.post(house.rewrite("person 0", "what is a lamp", "it shines", language="en"))
    result = house.ingest()
    (member,) = result.candidate.added
    example = dict(load_version(house.ledger, house.blobs, "assistant").examples)[member]
    subject = house.names.of("person 0")
    assert example.provenance.author == subject
    assert example.provenance.approved_by == () and result.manifest.approved_by == ("data-owner",)
    assert example.provenance.filtered_by and example.provenance.event
    assert (example.consent.subject, example.consent.purpose) == (subject, "training")
    entry = house.ledger.consent.entries(subject)[0]
    assert example.consent.sequence == entry.sequence
    assert [found.event_sequence for found in house.ledger.lineage.of_example(member.address)] == [1]


def test_a_later_consent_does_not_legalise_an_earlier_event(house: Any) -> None:
    prepared(house)
    house.post(house.rewrite("late", "what is a lamp", "it shines"))
    house.consent("late")
    house.post(house.rewrite("late", "what is a boat", "it floats"))
    done = house.ingest()
    assert (done.accepted, done.rejected) == (1, {"no_consent": 1})


def test_consenting_again_does_not_bring_back_what_was_withdrawn(house: Any) -> None:
    prepared(house)
    house.post(house.rewrite("person 0", "what is a lamp", "it shines"))
    house.desk.withdraw("person 0")
    house.consent("person 0")
    assert house.ingest().rejected == {"consent_withdrawn": 1}


def test_expired_consent_is_no_consent_and_removes_from_the_next_version(house: Any) -> None:
    house.publish_seeds()
    house.consent("person 1")
    house.desk.give("person 0", ["training"], house.notice, valid_until=house.now + timedelta(days=1))
    house.post(house.rewrite("person 0", "what is a lamp", "it shines"))
    first = house.ingest()
    assert first.accepted == 1
    house.wait(days=2)
    house.post(house.rewrite("person 0", "what is a cup", "it holds"), house.rewrite("person 1", "a boat", "floats"))
    second = house.ingest()
    assert second.rejected == {"consent_expired": 1}
    assert second.candidate.removed == (first.candidate.added[0].address,)


def test_thumbs_up_alone_trains_nobody_and_what_reviewers_approved_does(house: Any) -> None:
    prepared(house)
    good = house.event("person 0", "rating", "what is a lamp", answer="it shines", score=1.0, policy="sha256:p")
    bad = house.event("person 1", "rating", "what is a boat", answer="it sinks", score=1.0)
    house.post(good, bad)
    assert house.ledger.inbox.append_approved(1, reviewers=["reviewer-1", "reviewer-2"]).outcome == "accepted"
    done = house.ingest()
    assert (done.accepted, done.rejected) == (1, {"selected_for_review": 2})
    ((member, example),) = [
        pair
        for pair in load_version(house.ledger, house.blobs, "assistant").examples
        if pair[0] in done.candidate.added
    ]
    assert example.target == "it shines"
    assert example.provenance.origin == "approved_answer"
    assert example.provenance.author == "policy:sha256:p"
    assert example.provenance.approved_by == ("reviewer-1", "reviewer-2")
    assert member.subject == house.names.of("person 0")


def test_an_approval_after_a_withdrawal_brings_nothing_back(house: Any) -> None:
    prepared(house)
    house.post(house.event("person 0", "rating", "what is a lamp", answer="it shines", score=1.0))
    house.ingest()
    house.desk.withdraw("person 0")
    house.consent("person 0")
    house.ledger.inbox.append_approved(1, reviewers=["reviewer-1", "reviewer-2"])
    assert house.ingest().rejected == {"consent_withdrawn": 1}


def test_a_flood_is_capped_per_user_and_the_cap_does_not_depend_on_arrival(house: Any) -> None:
    prepared(house)
    flood = [house.rewrite("person 0", f"what is thing number {n}", f"answer {n * 7919}") for n in range(40)]
    house.post(*flood, house.rewrite("person 1", "what is a lamp", "it shines"))
    done = house.ingest(config=IngestionConfig(guards=GuardLimits(per_user=10)))
    assert (done.accepted, done.rejected) == (11, {"user_cap": 30})


def test_repetitions_and_what_the_version_has_already_add_nothing(house: Any) -> None:
    prepared(house)
    words = " ".join(f"word{number}" for number in range(60))
    house.post(
        house.rewrite("person 0", f"{words} what is it", "a long list"),
        house.rewrite("person 0", f"{words} what is it?", "a long list"),
        house.rewrite("person 1", "Seed  Question 3", "seed answer 3"),
        house.rewrite("person 2", "same", "text"),
        house.rewrite("person 3", "same", "text"),
    )
    done = house.ingest()
    assert (done.accepted, done.rejected) == (2, {"duplicate": 1, "already_in_version": 1, "duplicate_of_other": 1})


def test_a_person_stays_on_one_side_of_the_split_for_good(house: Any) -> None:
    prepared(house)
    config = IngestionConfig(held_out_share=0.5)
    sides: dict[str, set[str]] = {}
    for round in range(3):
        house.post(*[house.rewrite(person, f"round {round} of {person}", f"answer {round}") for person in PEOPLE])
        house.ingest(config=config)
        for member in members_of(house.ledger, "assistant"):
            if member.cluster.startswith("c-"):
                sides.setdefault(member.subject, set()).add(member.split)
    assert len(sides) == len(PEOPLE)
    assert all(len(found) == 1 for found in sides.values())
    assert {"train"} in sides.values() and {"held_out"} in sides.values()


def test_what_is_asked_in_the_held_out_split_is_never_trained_on(house: Any) -> None:
    house.consent(*PEOPLE)
    house.publish_seeds(splits=["held_out"] * 6 + ["train"] * 6)
    house.post(
        house.rewrite("person 0", "seed question 1", "another answer"),
        house.rewrite("person 1", "seed question 9", "another answer"),
    )
    done = house.ingest(config=IngestionConfig(held_out_share=0.0))
    assert (done.accepted, done.rejected) == (1, {"near_other_split": 1})
    assert verify(house.ledger, house.blobs, done.manifest).valid


def test_an_approved_answer_makes_the_same_version_wherever_its_original_arrived(house: Any, tmp_path: Path) -> None:
    digests = []
    for place, turned in (("one", False), ("other", True)):
        here = type(house)(tmp_path / place)
        prepared(here)
        rated = here.event("person 0", "rating", "what is a lamp", answer="it shines", score=1.0)
        events = [rated, here.rewrite("person 1", "what is a boat", "it floats")]
        here.post(*(reversed(events) if turned else events))
        here.ledger.inbox.append_approved(2 if turned else 1, reviewers=["r1", "r2"])
        digests.append(here.ingest().version.digest)
        here.ledger.close()
    assert digests[0] == digests[1]


def test_the_words_of_those_who_leave_do_not_stand_in_the_way_of_those_who_stay(house: Any) -> None:
    prepared(house)
    house.post(house.rewrite("person 0", "what is a lamp", "it shines"))
    house.ingest()
    house.desk.withdraw("person 0")
    house.post(house.rewrite("person 1", "what is a lamp", "it shines"))
    done = house.ingest()
    assert (done.accepted, len(done.candidate.removed)) == (1, 1)
