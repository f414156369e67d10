"""A slice of the soak: processes that die at any step, or sleep past their lease, change nothing about the outcome.

`make soak` runs thousands (tests/soak).
"""

from pathlib import Path

import pytest

from soak.apart import apart
from soak.kills import soak, soak_without, steps_of, survivors_of_a_power_cut
from soak.replays import replays
from soak.rivals import OTHER_RUBRIC, Rivals, at_once, paused_and_resumed
from soak.stories import RUBRIC


@pytest.mark.slow
def test_killed_at_any_step_and_started_again_a_story_comes_to_the_same_end() -> None:
    kills = apart(soak, 90)
    assert kills.findings == []
    assert kills.total >= 60 and {"kill", "power cut", "random", "twice"} <= kills.killed.keys()


@pytest.mark.slow
@pytest.mark.parametrize("forgotten", ["_fsync_folder", "_fsync_all"])
def test_an_fsync_that_is_left_out_would_be_found(forgotten: str) -> None:
    assert apart(soak_without, forgotten, 60)


def test_a_power_cut_takes_back_what_was_not_made_durable(tmp_path: Path) -> None:
    """Written, synced and linked, but the folder with its name is not synced yet: a kill would leave it, this not."""
    status, left = apart(survivors_of_a_power_cut, tmp_path, 5)
    assert (status, left) == (-9, [])


def test_steps_are_counted_down_to_writes_and_commits() -> None:
    steps = apart(steps_of, "ingest")
    assert {"write", "fsync", "link", "before COMMIT", "after COMMIT"} <= set(steps) and len(steps) > 50


@pytest.mark.parametrize("stage", ["sealed", "redacted", "publishing"])
@pytest.mark.parametrize("rubric", [RUBRIC, OTHER_RUBRIC], ids=["same rubric", "other rubric"])
def test_a_worker_that_slept_past_its_lease_commits_nothing_stale(tmp_path: Path, stage: str, rubric: str) -> None:
    found = apart(paused_and_resumed, tmp_path, Rivals(), stage=stage, rivals=2, rubric=rubric)
    assert (found.findings, found.stale, found.rounds) == ([], 0, 1)
    assert found.versions >= 2


def test_a_stale_commit_is_refused_when_the_line_went_another_way(tmp_path: Path) -> None:
    found = apart(paused_and_resumed, tmp_path, Rivals(), stage="publishing", rivals=1, rubric=OTHER_RUBRIC)
    assert (found.refused, found.versions, found.findings) == (1, 1, [])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_on_one_line_at_once_lose_and_double_nothing(tmp_path: Path, workers: int) -> None:
    found = apart(at_once, tmp_path, Rivals(), workers=workers, rounds=3)
    assert (found.findings, found.stale) == ([], 0)


@pytest.mark.parametrize("seed", range(3))
def test_everything_delivered_three_times_in_any_order_makes_the_same_version(seed: int) -> None:
    assert replays(seed=seed) == []
