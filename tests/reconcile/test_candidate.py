"""A candidate reaches users only through a passing gate and an agreeing shadow, in whatever state it is found."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plumbline.reconcile.candidate import (
    CandidateAction,
    CandidateObservation,
    Decide,
    Done,
    Evaluate,
    Promote,
    Refuse,
    Shadow,
    Train,
    reconcile,
)
from plumbline.records import Verdict

OBSERVATIONS = st.builds(
    CandidateObservation,
    dataset=st.just("d"),
    policy=st.none() | st.just("p"),
    report=st.none() | st.just("r"),
    verdict=st.none() | st.sampled_from(Verdict),
    shadow_balanced=st.none() | st.booleans(),
    shadow_passed=st.none() | st.booleans(),
    serving=st.sampled_from([None, "reference", "p"]),
    released=st.booleans(),
    refused=st.booleans(),
)


@given(OBSERVATIONS)
def test_nothing_is_promoted_without_a_pass_and_a_shadow_that_passes(seen: CandidateObservation) -> None:
    if isinstance(reconcile(seen), Promote):
        assert seen.verdict is Verdict.PASS and seen.shadow_balanced and seen.shadow_passed


def test_a_candidate_that_was_released_and_then_superseded_is_left_alone() -> None:
    seen = CandidateObservation("d", "p", "r", Verdict.PASS, True, True, serving="a later policy", released=True)
    assert reconcile(seen) == Done("Superseded")


def carried_out(seen: CandidateObservation, action: CandidateAction, verdict: Verdict) -> CandidateObservation:
    match action:
        case Train():
            return replace(seen, policy="p")
        case Evaluate():
            return replace(seen, report="r")
        case Decide():
            return replace(seen, verdict=verdict)
        case Shadow():
            return replace(seen, shadow_balanced=True, shadow_passed=True)
        case Promote(policy):
            return replace(seen, serving=policy, released=True)
        case Refuse():
            return replace(seen, refused=True)
        case Done():
            return seen


@given(st.sampled_from(Verdict))
def test_every_candidate_comes_to_an_end(verdict: Verdict) -> None:
    seen, taken = CandidateObservation(dataset="d", serving="reference"), []
    for _ in range(10):
        action = reconcile(seen)
        taken.append(type(action).__name__)
        if isinstance(action, Done):
            break
        seen = carried_out(seen, action, verdict)
    last = "Promote" if verdict is Verdict.PASS else "Refuse"
    assert taken == ["Train", "Evaluate", "Decide", "Shadow", last, "Done"]
    assert (seen.serving == "p") == (verdict is Verdict.PASS)
