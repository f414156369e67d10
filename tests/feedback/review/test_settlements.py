"""What agreement lets through, what waits for an adjudicator or a better rubric, and what is never released."""

import pytest

from feedback.review.review_room import REVIEWERS, number, rubric, slipping, truth
from plumbline.errors import PlumblineError
from plumbline.records import Label


def test_two_approvals_release_and_two_rejections_do_not(room):
    room.rated(40)
    room.judge(truth)
    found = room.settle()
    assert len(found.approved) == len(found.rejected) == 20 and found.waiting == {}
    assert len(room.released) == 20
    assert {who for _, who in room.released} == {tuple(sorted(map(room.of, REVIEWERS)))}
    sequence, who = room.released[0]
    assert room.desk.reviews.reviewers_of(sequence) == who
    assert room.desk.reviews.rubric_of(sequence) == rubric().digest
    assert room.settle().approved == () and len(room.released) == 20, "settling again changes nothing"


def test_a_batch_waits_until_every_item_has_its_words(room):
    room.rated(20)
    room.judge(truth)
    room.rate("ana", "late", "answer 21")
    room.desk.open_items(rubric())
    for name in REVIEWERS:
        assert len(room.queue(name)) == 1
    found = room.settle()
    assert len(found.approved) == 10 and found.waiting == {"labels": 1}


def test_a_batch_with_a_word_missing_settles_only_when_told_to(room):
    room.rated(20)
    for task in room.queue("rita"):
        room.say("rita", task, truth("rita", task.text.answer))
    for task in room.queue("rolf")[:-1]:
        room.say("rolf", task, truth("rolf", task.text.answer))
    assert room.settle().waiting == {"batch": 19, "labels": 1} and not room.released
    found = room.settle(partial=True)
    assert len(found.approved) + len(found.rejected) == 19


def test_a_disagreement_goes_to_somebody_who_did_not_label_it(room):
    room.rated(60)
    room.judge(slipping(2))
    for name in REVIEWERS:
        assert room.queue(name, role="adjudicator") == []
    tasks = room.queue("alma", role="adjudicator")
    assert {task.text.answer for task in tasks} == {"answer 0", "answer 1"}
    assert {label.verdict for label in tasks[0].labels} == {"approve", "reject"}
    found = room.settle()
    assert len(found.approved) + len(found.rejected) == 58 and found.waiting == {"adjudicator": 2}
    with pytest.raises(PlumblineError, match="approve or reject"):
        room.say("alma", tasks[0], "unsure", role="adjudicator")
    with pytest.raises(PlumblineError, match="was reviewer|has judged"):
        room.say("rita", tasks[0], role="adjudicator")
    room.decide(lambda _: "approve")
    with pytest.raises(PlumblineError, match="an adjudicator has decided"):
        room.say("rolf", tasks[0], "approve", correct=True)
    room.settle()
    for sequence, who in room.released[-2:]:
        assert room.of("alma") in who and len(who) == 2 and room.desk.reviews.reviewers_of(sequence) == who


def test_who_said_yes_to_what_was_rejected_approved_nothing(room):
    room.rated(60)
    room.judge(slipping(2))
    room.decide(lambda _: "reject")
    room.settle()
    settled = room.desk.reviews.settlements().values()
    assert {one.outcome for one in settled if one.basis == "adjudicated"} == {"rejected"}
    assert all(bool(one.approved_by) == (one.outcome == "approved") for one in settled)
    assert all(len(one.labels) == (3 if one.basis == "adjudicated" else 2) for one in settled)


def test_nothing_undisputed_can_be_adjudicated(room):
    room.rated(40)
    room.judge(truth)
    item = room.desk.current(rubric())[0]
    label = Label(text=item.text, verdict="approve", rules=("honesty",))
    with pytest.raises(PlumblineError, match="nothing to adjudicate"):
        room.desk.adjudicate(item.item, room.of("alma"), label)


def test_low_agreement_blocks_everything_and_asks_for_a_better_rubric(room):
    room.rated(30)
    room.judge(slipping(10))
    found = room.settle()
    assert found.approved == found.rejected == found.released == () and found.waiting == {"rubric": 30}
    (revision,) = room.desk.reviews.revisions()
    assert revision.state == "open" and revision.alpha < 0.667 and revision.items == 30
    assert [area for area, _ in revision.rules] == ["honesty"]
    disputed = {item.text for item in room.desk.current(rubric()) if number_of(room, item) < 10}
    assert set(revision.examples) == disputed
    assert room.settle().revisions == (), "asked for once"
    # margins alone answer nothing; another text of the rule does
    assert room.desk.open_items(rubric("2", margin=0.05)).closed_revisions == 0
    better = rubric("3", honesty="never state what the conversation does not show")
    opened = room.desk.open_items(better)
    assert opened.closed_revisions == 1 and opened.again == 30
    (closed,) = room.desk.reviews.revisions()
    assert closed.state == "closed" and closed.closed_by == better.digest
    room.judge(truth, better)
    assert len(room.settle(better).approved) == 15


def number_of(room, item):
    return number(room.desk.task(item.item, room.of("nobody")).text.answer)


def test_a_second_look_holds_the_batch_until_a_sample_is_confirmed(room):
    room.rated(60)
    room.judge(slipping(8))
    assert room.desk.agreement(rubric())[0].verdicts.state == "second_look"
    assert room.settle().waiting == {"adjudicator": 60} and not room.released
    tasks = room.queue("alma", role="adjudicator")
    agreed = [task for task in tasks if len({label.verdict for label in task.labels}) == 1]
    assert len(tasks) - len(agreed) == 8 and 1 <= len(agreed) < 26
    room.decide(lambda answer: truth("", answer))
    found = room.settle()
    assert len(found.approved) + len(found.rejected) == 60 and found.waiting == {}


def test_a_confirmed_sample_that_is_overturned_puts_all_agreements_to_the_adjudicator(room):
    room.rated(60)
    room.judge(slipping(8))
    task = next(t for t in room.queue("alma", role="adjudicator") if len({lab.verdict for lab in t.labels}) == 1)
    wrong = "approve" if truth("", task.text.answer) == "reject" else "reject"
    room.say("alma", task, wrong, role="adjudicator")
    assert len(room.queue("alma", role="adjudicator")) == 59
    assert room.settle().waiting == {"adjudicator": 60}


def test_too_few_to_tell_releases_only_what_is_unanimous(room):
    room.rated(6)
    room.judge(slipping(1))
    assert room.desk.agreement(rubric())[0].verdicts.state == "too_few"
    room.decide(lambda _: "approve")
    found = room.settle()
    assert len(found.approved) == 3 and len(found.rejected) == 2 and found.waiting == {"agreement": 1}
    assert found.revisions == ()


def test_a_small_batch_is_judged_by_all_labels_under_the_same_rules(room):
    """Forty quarrelsome labels are evidence about the rubric; four later ones cannot slip past them."""
    room.rated(40)
    room.judge(slipping(20))
    room.settle()
    for n in range(40, 44):
        room.rate("ana", f"question {n}", f"answer {n}")
    room.desk.open_items(rubric("2", margin=0.05))
    room.judge(truth)
    found = room.settle()
    assert found.approved == () and found.waiting == {"rubric": 44}


def test_unsure_is_a_disagreement_even_when_both_are(room):
    room.rated(1)
    room.judge(lambda *_: "unsure")
    assert room.settle().waiting == {"adjudicator": 1}
    assert len(room.queue("alma", role="adjudicator")) == 1


@pytest.mark.parametrize("kind", ["report", "comment"])
def test_an_answer_that_somebody_wrote_about_is_judged_and_never_released(room, kind):
    room.house.consent("ana")
    room.house.post(room.house.event("ana", kind, "why", text="wrong", answer="an answer"))
    room.desk.open_items(rubric())
    (task,) = room.queue("rita")
    assert (task.text.answer, task.text.note) == ("an answer", "wrong")
    room.judge(lambda *_: "approve")
    found = room.settle()
    assert len(found.approved) == 1 and found.released == () and room.released == []


def test_consent_that_ends_before_settling_releases_nothing(room):
    room.house.consent("ana", "ben")
    room.rate("ana", "one")
    room.rate("ben", "two")
    room.desk.open_items(rubric())
    room.judge(lambda *_: "approve")
    room.house.desk.withdraw("ana")
    found = room.settle()
    assert len(found.released) == 1 and found.waiting == {}


def test_agreement_is_told_by_batch_and_by_rule(room):
    room.rated(20)
    for name in REVIEWERS:
        for task in room.queue(name):
            rules = ("honesty",) if number(task.text.answer) < 10 else ("helpfulness",)
            room.say(name, task, slipping(4)(name, task.text.answer), rules=rules)
    everything, (batch,) = room.desk.agreement(rubric())
    assert everything.verdicts.units == batch.verdicts.units == 20 and everything.verdicts.labels == 40
    assert batch.rules["helpfulness"].alpha == 1 and batch.rules["honesty"].alpha < 0.5
    assert everything.severities.alpha is not None


def test_settling_is_one_transaction(room):
    """Settlements, releases and approvals come together or not at all."""
    room.rated(12)
    room.judge(truth)
    with pytest.raises(RuntimeError), room.house.ledger.database.transaction():
        assert len(room.settle().released) == 6
        raise RuntimeError("the machine stops here")
    assert room.released == [] and room.desk.reviews.settlements() == {} == room.desk.reviews.released()
    assert len(room.settle().released) == 6


def test_what_two_people_approved_is_in_the_next_version_and_nothing_else(room):
    """The whole way: thumbs, labels, approvals in the inbox, examples with their reviewers' names."""
    from plumbline.feedback import load_version

    room.rated(30)
    room.judge(truth)
    room.settle()
    room.house.ingest()
    version = load_version(room.house.ledger, room.house.blobs, "assistant")
    examples = [example for _, example in version.examples]
    assert {number(example.target) % 2 for example in examples} == {1} and len(examples) == 15
    for example in examples:
        assert example.provenance.origin == "approved_answer"
        assert set(map(room.of, REVIEWERS)) <= set(example.provenance.approved_by)


def test_no_other_text_is_released_than_the_one_that_was_judged(room):
    """A rating may carry words about the answer. They are not the answer, and must never be taught in its place."""
    room.house.consent("ana")
    room.rate("ana", "question 1", "answer 1", text="great, thanks")
    room.desk.open_items(rubric())
    (task,) = room.queue("rita")
    assert (task.text.answer, task.text.note) == ("answer 1", ""), "nor is the thumb given away"
    room.judge(truth)
    room.settle()
    events = room.house.ledger.inbox.read(2, room.house.ledger.inbox.last_sequence())
    assert [queued.event.data.text or queued.event.data.answer for queued in events] == ["answer 1"]
