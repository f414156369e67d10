"""The closing table fits a screen and cannot be painted over by what a policy said."""

import io
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from plumbline.console import LoopStory, print_summary


def printed(story: LoopStory, width: int = 100) -> str:
    out = io.StringIO()
    print_summary(story, Console(file=out, width=width, color_system=None, force_terminal=False), Path("runs/loop"))
    return out.getvalue()


@pytest.mark.parametrize("name", ["planned", "stopped", "undecided", "first_passed"])
def test_every_story_ends_within_forty_lines_of_a_hundred_columns(stories: ModuleType, name: str) -> None:
    lines = printed(stories.STORIES[name]()).splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines) <= 100


def test_the_table_names_areas_verdicts_reasons_and_where_to_look(planned: LoopStory) -> None:
    text = printed(planned)
    assert "Over-refusal" in text and "97.2\u00a0% \u2715" in text and "0.6\u00a0% \u2713" in text
    assert "Gate on aligned-1 \u2715 refused: over-refusal" in text
    assert "143 sealed = 72 accepted + 71 refused (user cap 34, no consent 19" in text
    assert "240 spooled = 233 paired + 7 shed" in text
    assert "runs/loop/report.html" in text and "runs/loop/summary.json" in text


def test_a_story_without_reports_says_why_there_is_no_table(stories: ModuleType) -> None:
    text = printed(stories.stopped_after_dataset())
    assert "Not as planned" in text and "no space left on the device" in text and "no table" in text


def test_foreign_text_is_neither_markup_nor_an_escape_code(planned: LoopStory) -> None:
    policy = planned.policies[1].model_copy(update={"name": "[red]\x1b[2Jevil[/red]"})
    report = planned.reports[0].model_copy(update={"aligned": policy.digest})
    decision = planned.decisions[0].model_copy(update={"aligned": policy.digest})
    story = planned.model_copy(
        update={
            "policies": (planned.policies[0], policy, planned.policies[2]),
            "reports": (report, planned.reports[1]),
            "decisions": (decision, planned.decisions[1]),
            "exit_notes": ("[/bold] \x1b]0;title\x07",),
        }
    )
    text = printed(story)
    assert "[red]\u241b[2Jevil[/red]" in text
    assert "\x1b" not in text and "\x07" not in text
