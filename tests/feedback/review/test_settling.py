"""Settling, over every way in which labels can fall: nothing is lost, nothing is released that people did not allow."""

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.feedback.review.settling import Docket, agreed, deciding, plan
from plumbline.records import Label, digest_of
from plumbline.stores.reviews import GivenLabel, ReviewItem

NOW = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
VERDICTS = ("approve", "reject", "unsure")


def item(number: int, batch: int) -> ReviewItem:
    return ReviewItem(number, batch, number, "s-1", "rating", digest_of("r"), digest_of("p"), digest_of(number), None)


def given_label(sequence: int, number: int, who: str, role: str, verdict: str) -> GivenLabel:
    severity = "minor" if verdict == "reject" else "none"
    label = Label(text=digest_of(number), verdict=verdict, rules=("honesty",), severity=severity)  # type: ignore[arg-type]
    return GivenLabel(sequence, number, who, role, label, None, False, NOW)  # type: ignore[arg-type]


@st.composite
def dockets(draw):
    """One to three batches of up to 24 items, each with none to two labels, some adjudicated, settled or withdrawn."""
    items, labels, settled, shown = [], {}, set(), set()
    noise = draw(st.sampled_from([0, 0, 2, 10]))
    dice = draw(st.randoms(use_true_random=False))
    for batch in range(1, draw(st.integers(1, 3)) + 1):
        for _ in range(draw(st.integers(1, 24))):
            number = len(items) + 1
            items.append(item(number, batch))
            right = dice.choice(VERDICTS[:2])
            said = [right, dice.choice(VERDICTS) if dice.randrange(20) < noise else right]
            given = [
                given_label(10 * number + n, number, f"r{n}", "reviewer", verdict) for n, verdict in enumerate(said)
            ]
            given = given[: 2 if dice.randrange(12) else dice.randrange(3)]
            if len(given) == 2 and dice.randrange(3) == 0:
                given.append(given_label(10 * number + 5, number, "judge", "adjudicator", dice.choice(VERDICTS[:2])))
            labels[number] = given
            if dice.randrange(10):
                shown.add(number)
            if len(given) >= 2 and not dice.randrange(8):
                settled.add(number)
    return Docket(tuple(items), labels, frozenset(settled), frozenset(shown), {1: 2, 2: 2, 3: 2})


@settings(max_examples=400, deadline=None)
@given(dockets(), st.booleans())
def test_what_people_did_not_allow_is_not_settled_and_nothing_is_lost(docket, partial):
    found = plan(docket, partial=partial)
    open_items = {one.item for one in docket.items if docket.open(one)}
    ended = [outcome.item.item for outcome in found.outcomes]
    assert len(set(ended)) == len(ended) and set(ended) <= open_items, "once, and only what may be shown"
    assert len(ended) + sum(found.waiting.values()) == len(open_items), "settled or waiting for something"
    states = {batch: reading.verdicts.state for batch, reading in deciding(docket).items()}
    for outcome in found.outcomes:
        verdicts = {one.role: one.label.verdict for one in outcome.labels}
        reviewers = [one.label.verdict for one in outcome.labels if one.role == "reviewer"]
        state = states[outcome.item.batch]
        assert len(reviewers) == 2 and state != "blocked"
        if outcome.basis == "adjudicated":
            assert outcome.approved == (verdicts["adjudicator"] == "approve")
            assert state != "too_few" or len(set(reviewers)) == 1
        else:
            assert len(set(reviewers)) == 1 and reviewers[0] == ("approve" if outcome.approved else "reject")
    for one in found.undecided:
        assert docket.open(one) and states[one.batch] != "blocked"
        assert all(given.role == "reviewer" for given in docket.labels[one.item])
    for batch in found.blocked:
        assert states[batch] == "blocked"
    second = [batch for batch, state in states.items() if state == "second_look"]
    for batch in second:
        assert not (
            {one.batch for one in found.undecided} & {batch} and any(o.item.batch == batch for o in found.outcomes)
        )


@settings(max_examples=100, deadline=None)
@given(dockets())
def test_carrying_out_a_plan_leaves_nothing_of_it_to_do(docket):
    first = plan(docket)
    ended = {outcome.item.item for outcome in first.outcomes}
    after = Docket(docket.items, docket.labels, docket.settled | ended, docket.shown, docket.needed)
    again = plan(after)
    assert again.outcomes == () and again.waiting == first.waiting and again.blocked == first.blocked


def test_an_adjudicator_is_no_part_of_agreement():
    items = [item(number, 1) for number in range(1, 13)]
    labels = {
        one.item: [
            given_label(10 * one.item + n, one.item, f"r{n}", "reviewer", "approve" if one.item % 2 else "reject")
            for n in range(2)
        ]
        for one in items
    }
    before = agreed(1, items, labels)
    labels[1] = [*labels[1], given_label(15, 1, "judge", "adjudicator", "reject")]
    assert agreed(1, items, labels) == before and before.verdicts.alpha == 1
