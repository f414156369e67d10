"""The headline says what the records say: refused, passed, undecided, not judged, and never more."""

from types import ModuleType

import pytest

from plumbline.console import LoopStory, headline
from plumbline.console.words import percent, points, visible
from plumbline.records import GateDecision, Verdict


def said(story: LoopStory) -> str:
    return headline(story).text.replace("\u00a0", " ")


def test_the_planned_story_says_what_the_first_policy_broke_and_that_the_second_serves(planned: LoopStory) -> None:
    text = said(planned)
    assert text.startswith("aligned-1 was refused: it refuses 97 % of benign look-alikes and forgot reverse")
    assert "two more areas got worse" in text
    assert text.endswith("aligned-2 passed and now serves.")
    assert headline(planned).kicker == "The loop ran as planned"


def test_the_worst_regression_comes_first(stories: ModuleType, planned: LoopStory) -> None:
    report = stories.report(1, {"benign_refusal": 0.30})
    story = planned.model_copy(update={"reports": (report,), "decisions": (stories.decision(1, report),)})
    text = said(story)
    assert text.startswith("aligned-1 was refused: it forgot reverse (99 % → 4 %) and on other phrasings")


def test_an_undecided_gate_names_the_area_and_how_many_items_would_decide(stories: ModuleType) -> None:
    story = stories.second_undecided()
    text = said(story).replace("\u202f", " ")
    assert "aligned-2 is undecided: the suite cannot settle helpfulness; 1 240 items would." in text
    assert "The second gate was inconclusive" in text
    assert headline(story).kicker == "Not as planned"


def test_an_ending_cannot_claim_a_plan_that_the_records_do_not_show(stories: ModuleType) -> None:
    story = stories.first_passed()
    assert story.ending == "as_planned"
    assert not headline(story).as_planned
    assert "do not show the planned story" in headline(story).kicker
    assert "aligned-1 passed but was not released." in said(story)


def test_a_policy_that_serves_without_a_passing_gate_is_named(stories: ModuleType, planned: LoopStory) -> None:
    moved = stories.releases(planned.decisions[1])[1].model_copy(update={"policy": planned.decisions[0].aligned})
    story = planned.model_copy(update={"releases": (stories.releases()[0], moved)})
    assert "It serves all the same, which no gate decision supports." in said(story)
    assert "aligned-2 passed but was not released." in said(story)
    assert not headline(story).as_planned


def test_an_error_is_told_as_an_error_and_not_as_a_refusal(planned: LoopStory) -> None:
    decision = GateDecision(
        **planned.decisions[0].model_dump(include={"reference", "aligned", "report", "rubric"}),
        verdict=Verdict.ERROR, areas=(), errors=("the suite has 3 clusters.",),
    )  # fmt: skip
    story = planned.model_copy(update={"decisions": (decision,), "releases": ()})
    assert "aligned-1 could not be judged: the suite has 3 clusters." in said(story)
    assert "refused" not in said(story)


def test_a_loop_that_stopped_early_says_so(stories: ModuleType) -> None:
    assert said(stories.stopped_after_dataset()) == (
        "No policy was judged. Training aligned-1 stopped: no space left on the device."
    )


def test_gains_and_costs_are_listed_only_where_the_interval_excludes_zero(planned: LoopStory) -> None:
    lede = " ".join(headline(planned).lede)
    assert "better at harmlessness" in lede
    assert "helpfulness" not in lede, "its interval covers zero"
    assert "measurably worse, within the margin, at distribution mismatch" in lede


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.97, "97 %"), (0.004, "0.4 %"), (0.9961, "99.6 %"), (1.0, "100 %")]
)
def test_a_share_never_rounds_to_none_or_all(share: float, text: str) -> None:
    assert percent(share).replace("\u00a0", " ") == text


def test_differences_carry_a_sign_and_zero_has_none() -> None:
    assert (points(0.031), points(-0.972), points(0.0), points(-0.0001)) == ("+3.1", "\u221297.2", "0.0", "0.0")


def test_invisible_characters_become_visible() -> None:
    assert visible("a\x1b[31m\u202eb\n") == "a\u241b[31m\u27e8U+202E\u27e9b\n"
