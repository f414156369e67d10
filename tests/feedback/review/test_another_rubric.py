"""Another rubric puts to people again what it changes, and finds earlier judgements where it does not."""

import pytest

from feedback.review.review_room import REVIEWERS, number, rubric, truth
from plumbline.errors import PlumblineError


def test_another_rule_puts_its_judgements_to_people_again_and_no_others(room):
    room.rated(40)
    for name in REVIEWERS:
        for task in room.queue(name):
            rules = ("honesty",) if number(task.text.answer) < 30 else ("helpfulness",)
            room.say(name, task, truth(name, task.text.answer), rules=rules)
    room.settle()
    before = len(room.released)
    same = room.desk.stale_items(rubric("2", margin=0.05))
    assert (same.unsettled, same.settled, same.released) == ((), (), ()), "margins are none of a reviewer's business"
    stricter = rubric("2", honesty="never guess")
    stale = room.desk.stale_items(stricter)
    assert len(stale.settled) == 30 and stale.unsettled == () and len(stale.released) == 15
    assert room.desk.open_items(stricter).again == 30
    assert room.desk.stale_items(stricter).settled == ()
    old = {item.event_sequence: item for item in room.desk.current(rubric())}
    room.judge(lambda name, answer: "reject" if number(answer) == 1 else truth(name, answer), stricter)
    found = room.settle(stricter)
    assert len(room.released) == before, "an answer is released once"
    assert len(found.overturned) == 1 and old[found.overturned[0]].event_sequence == found.overturned[0]
    assert room.desk.reviews.rubric_of(found.overturned[0]) == rubric().digest, "as it was when it was released"


def test_what_was_not_settled_is_judged_by_the_rubric_in_force(room):
    room.rated(2)
    first, _ = room.queue("rita")
    room.say("rita", first)
    stricter = rubric("2", honesty="never guess")
    assert len(room.desk.stale_items(stricter).unsettled) == 2
    assert room.desk.open_items(stricter).again == 2
    with pytest.raises(PlumblineError, match="put to review again"):
        room.say("rolf", first)
    assert len(room.queue("rita", stricter)) == 2, "her word under the old rule is not carried over"
    assert len(room.desk.reviews.labels([first.item.item])) == 1, "nor lost"


def test_going_back_to_the_earlier_rule_finds_the_earlier_judgements(room):
    room.rated(12)
    first, *_ = room.queue("rita")
    room.say("rita", first)
    stricter = rubric("2", honesty="never guess")
    room.desk.open_items(stricter)
    assert len(room.queue("rita", stricter)) == 12
    assert room.desk.open_items(rubric("3")).again == 0
    assert len(room.queue("rita")) == 11, "her first word counts again, under the rule that it was given by"
    room.judge(truth)
    assert len(room.desk.reviews.labels([first.item.item])[first.item.item]) == 2
    with pytest.raises(PlumblineError, match="put to review again"):
        room.say("rita", room.desk.queue(room.of("ruth"), stricter)[0])
