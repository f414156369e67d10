"""Looks at every step up to a planned size: the error stays nominal, and hardly any power is given up."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from plumbline.statistics.paired import paired_difference
from plumbline.statistics.sequential import (
    MINIMUM,
    UP_TO_THE_PLAN,
    alarm,
    boundary,
    confidence_sequence,
    planned_boundary,
    planned_sequence,
)

ALPHA = 0.05
TURNS = 4


def turns(rng: np.random.Generator, runs: int, n: int, *, loss: float = 0.0, discordant: float = 0.08) -> np.ndarray:
    """(runs, n, TURNS) differences in {-1, 0, 1}, better being up. Half of the sessions have one fate for all turns."""
    sticky = rng.random((runs, n, 1)) < 0.5
    drawn = np.where(sticky, rng.random((runs, n, 1)), rng.random((runs, n, TURNS)))
    better = (drawn > 1 - (discordant - loss) / 2).astype(np.int8)
    return better - (drawn < (discordant + loss) / 2).astype(np.int8)


def alarms(values: np.ndarray, planned: int) -> np.ndarray:
    """(runs,) whether `alarm` is true at any step, for rows of session means: the rule, vectorised."""
    t = np.arange(1, values.shape[1] + 1)
    mean = values.cumsum(1) / t
    deviation = np.sqrt(((values**2).cumsum(1) - t * mean**2 + 1) / (t + 1))
    early = np.array(
        [planned_boundary(int(k), UP_TO_THE_PLAN * ALPHA, planned, one_sided=True) if k <= planned else 2 for k in t]
    )
    late = np.array([boundary(int(k), (1 - UP_TO_THE_PLAN) * ALPHA, planned, one_sided=True) for k in t])
    below = (mean + deviation * np.minimum(early, late) < 0) & (t >= MINIMUM)
    # Beyond its plan the early boundary says nothing: 2 standard deviations of a mean are never reached.
    return below.any(1)


def one_look(differences: np.ndarray) -> np.ndarray:
    """(runs,) whether the fixed-horizon test of the verdict proves a loss at the end."""
    sessions = np.repeat(np.arange(differences.shape[1]), TURNS)
    return np.array(
        [paired_difference(run.reshape(-1).astype(float), sessions).interval.high < 0 for run in differences]
    )


def test_the_vectorised_rule_is_the_rule() -> None:
    values = turns(np.random.default_rng(0), 40, 150, loss=0.05).mean(2)
    looked = [any(alarm(row[:k].tolist(), 100, alpha=ALPHA) for k in range(1, 151)) for row in values]
    assert looked == alarms(values, 100).tolist() and 0 < sum(looked) < 40


@pytest.mark.parametrize(("discordant", "planned"), [(0.02, 1000), (0.08, 250), (0.08, 1000), (0.4, 250), (0.4, 1000)])
def test_an_alarm_asked_for_at_every_step_and_long_after_the_plan_keeps_its_error(
    discordant: float, planned: int
) -> None:
    runs = 2000
    values = turns(np.random.default_rng(1), runs, 2 * planned, discordant=discordant).mean(2)
    false = alarms(values, planned).mean()
    print(f"type I, looks at each of {2 * planned} steps, planned {planned}, {discordant:.0%} discordant: {false:.4f}")
    assert false <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.parametrize(("planned", "loss"), [(1000, 0.012), (1000, 0.0176), (1000, 0.0233), (500, 0.025)])
def test_looking_at_every_step_costs_at_most_six_points_of_power(planned: int, loss: float) -> None:
    """Against the very test that the verdict uses, on the same clustered sessions, from half to nearly all power."""
    differences = turns(np.random.default_rng(2), 1000, planned, loss=loss)
    at_any_look, at_the_end = alarms(differences.mean(2), planned).mean(), one_look(differences).mean()
    forever = [
        confidence_sequence(run.tolist(), side="high", tuned_for=planned).high < 0 for run in differences.mean(2)
    ]
    print(
        f"power at a loss of {100 * loss:.1f} points, {planned} sessions: looks at every step {at_any_look:.3f}, "
        f"one look {at_the_end:.3f}; a sequence that holds for ever, at the end {np.mean(forever):.3f}"
    )
    assert 0.3 < at_the_end < 1
    assert at_any_look > at_the_end - 0.06


def test_the_boundary_is_the_reflection_principle() -> None:
    z = planned_boundary(400, ALPHA, 400, one_sided=True) * math.sqrt(400)
    assert 2 * norm.sf(z) == pytest.approx(ALPHA, abs=1e-9)
    assert planned_boundary(100, ALPHA, 400, one_sided=True) * 100 == pytest.approx(z * math.sqrt(400))
    both = planned_boundary(400, ALPHA, 400) * math.sqrt(400)
    assert 4 * norm.sf(both) == pytest.approx(ALPHA, abs=1e-9)


def test_beyond_its_plan_and_before_the_first_sessions_it_says_nothing() -> None:
    values = [-1.0] * 60
    assert planned_sequence(values[: MINIMUM - 1], 50).high == 1.0
    assert planned_sequence(values[:50], 50, side="high").high < 0
    assert planned_sequence(values, 50, side="high").high == 1.0
    assert alarm(values, 50) and not alarm([-1.0] * 10, 50)
    assert planned_sequence(values[:50], 50, side="high").low == -1.0


def test_without_a_plan_the_alarm_is_the_sequence_that_holds_for_ever() -> None:
    values = turns(np.random.default_rng(3), 1, 300, loss=0.06)[0].mean(1).tolist()
    for n in range(20, 300, 20):
        assert alarm(values[:n]) == (confidence_sequence(values[:n], side="high").high < 0)
