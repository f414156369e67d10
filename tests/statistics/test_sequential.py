"""Looking at every step keeps its promise; looking at a fixed-sample interval does not."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.shadow import confidence_sequence, session_means
from plumbline.statistics.sequential import MINIMUM, boundary

ALPHA = 0.05
TURNS = 4


def sessions(rng: np.random.Generator, runs: int, n: int, shift: float = 0.0, discordant: float = 0.08) -> np.ndarray:
    """(runs, n) session means of differences in {-1, 0, 1}. Turns of a session are alike."""
    tendency = rng.normal(0.0, 0.25, (runs, n, 1))
    up = np.clip(discordant / 2 * (1 + tendency) + shift / 2, 0, 1)
    down = np.clip(discordant / 2 * (1 - tendency) - shift / 2, 0, 1)
    sticky = rng.random((runs, n, 1)) < 0.5  # half of the sessions answer every turn alike
    drawn = np.where(sticky, rng.random((runs, n, 1)), rng.random((runs, n, TURNS)))
    return ((drawn < up).astype(float) - (drawn > 1 - down)).mean(2)


def path(values: np.ndarray, *, one_sided: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, mean, half-width) at every look from MINIMUM on, for rows of session means: the sequence, vectorised."""
    t = np.arange(1, values.shape[1] + 1)
    mean = values.cumsum(1) / t
    spread = (values**2).cumsum(1) - t * mean**2
    deviation = np.sqrt((spread + 1.0) / (t + 1))
    half = deviation * np.array([boundary(int(n), ALPHA, 500, one_sided=one_sided) for n in t])
    return t[MINIMUM - 1 :], mean[:, MINIMUM - 1 :], half[:, MINIMUM - 1 :]


def test_the_vectorised_path_is_the_sequence_itself() -> None:
    values = sessions(np.random.default_rng(0), 1, 200)[0]
    t, mean, half = path(values[None])
    for n in (MINIMUM, 57, 200):
        bounds = confidence_sequence({str(i): float(values[i]) for i in range(n)}, alpha=ALPHA)
        at = int(np.flatnonzero(t == n)[0])
        assert bounds.mean == pytest.approx(mean[0, at], abs=1e-12)
        assert bounds.high == pytest.approx(mean[0, at] + half[0, at], abs=1e-12)


@pytest.mark.parametrize("discordant", [0.01, 0.08, 0.4])
def test_peeking_at_every_session_keeps_the_error_at_most_nominal(discordant: float) -> None:
    _, mean, half = path(sessions(np.random.default_rng(1), 2000, 800, discordant=discordant))
    false_alarm = (np.abs(mean) > half).any(1).mean()
    # Three binomial standard deviations of 0.05 over 2,000 runs are 0.0146; it must not need them.
    assert false_alarm <= ALPHA


def test_peeking_at_a_fixed_sample_interval_does_not() -> None:
    values = sessions(np.random.default_rng(2), 1000, 800)
    t = np.arange(1, 801)
    mean = values.cumsum(1) / t
    error = np.sqrt(((values**2).cumsum(1) / t - mean**2) / t)
    looks = slice(39, None, 40)
    assert (np.abs(mean[:, looks]) > 1.96 * error[:, looks]).any(1).mean() > 0.15


def test_a_real_shift_is_found_and_its_bounds_cover_it() -> None:
    _, mean, half = path(sessions(np.random.default_rng(3), 500, 1000, shift=0.03))
    assert (mean - half > 0).any(1).mean() > 0.8
    assert (np.abs(mean - 0.03) > half).any(1).mean() <= ALPHA


def test_identical_answers_are_no_proof_that_answers_never_differ() -> None:
    few = confidence_sequence({str(i): 0.0 for i in range(MINIMUM - 1)})
    assert (few.low, few.high) == (-1.0, 1.0)
    widths = [confidence_sequence({str(i): 0.0 for i in range(n)}).high for n in (20, 100, 1000)]
    assert widths[0] > 0.1 > widths[2] > 0 and sorted(widths, reverse=True) == widths


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from([-1.0, 0.0, 1.0])), max_size=40), st.randoms())
def test_the_order_of_arrival_does_not_matter(differences: list[tuple[str, float]], random: object) -> None:
    shuffled = list(differences)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert session_means(shuffled) == session_means(differences)
    assert confidence_sequence(session_means(shuffled)) == confidence_sequence(session_means(differences))


def test_the_boundary_is_the_papers() -> None:
    # rho as the paper tunes it for alpha = 0.05 at 500; then theorem 2.2 by hand at t = 500.
    rho2 = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05) + 1)) / 500
    by_hand = math.sqrt(2 * (500 * rho2 + 1) / (500**2 * rho2) * math.log(math.sqrt(500 * rho2 + 1) / 0.05))
    assert boundary(500, 0.05, 500) == pytest.approx(by_hand, rel=1e-12)
    assert 1.3 < boundary(500, 0.05, 500) / (1.96 / math.sqrt(500)) < 2.0


def test_rho_is_tuned_to_the_narrowest_boundary_at_the_size_that_was_named() -> None:
    """The paper's closed form is an approximation; the numeric optimum at t = 500 is within a thousandth of it."""
    for one_sided in (False, True):
        tuned = boundary(500, ALPHA, 500, one_sided=one_sided)
        others = [boundary(500, ALPHA, n, one_sided=one_sided) for n in range(100, 2500, 10)]
        assert tuned <= min(others) * (1.01 if one_sided else 1.001)
        assert tuned < boundary(500, ALPHA, 50, one_sided=one_sided)


def test_one_side_is_tighter_than_both_and_leaves_the_other_open() -> None:
    means = {str(i): float(v) for i, v in enumerate(sessions(np.random.default_rng(4), 1, 300)[0])}
    both, low, high = (confidence_sequence(means, side=side) for side in ("both", "low", "high"))
    assert both.low < low.low < low.mean and (low.high, high.low) == (1.0, -1.0)
    assert both.high > high.high > high.mean
    by_hand = math.sqrt(2 * (300 * (rho2 := (-2 * math.log(0.1) + math.log(-2 * math.log(0.1) + 1)) / 500) + 1)
        / (300**2 * rho2) * math.log(1 + math.sqrt(300 * rho2 + 1) / (2 * 0.05)))  # fmt: skip
    assert boundary(300, 0.05, 500, one_sided=True) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.02])
def test_one_side_keeps_its_error_under_peeking_too(shift: float) -> None:
    _, mean, half = path(sessions(np.random.default_rng(5), 2000, 800, shift=shift), one_sided=True)
    above, below = ((mean - half > shift).any(1).mean(), (mean + half < shift).any(1).mean())
    print(f"one-sided sequence at a shift of {shift}: {above:.4f} above, {below:.4f} below")
    assert max(above, below) <= ALPHA


def test_what_peeking_costs_beside_one_look_at_the_end() -> None:
    """The same test of the same data: honest once at a fixed horizon, wrong one time in four over twenty looks, and
    wrong for somebody who ignores that turns share a session even at one look."""
    rng = np.random.default_rng(6)
    values = sessions(rng, 1500, 800)
    t = np.arange(1, 801)
    mean = values.cumsum(1) / t
    error = np.sqrt(((values**2).cumsum(1) / t - mean**2) / t)
    beyond = np.abs(mean) > 1.96 * error
    once, looks = beyond[:, -1].mean(), beyond[:, 39::40].any(1).mean()
    by_turn = np.abs(mean[:, -1]) > 1.96 * error[:, -1] / np.sqrt(TURNS)
    print(f"false alarms: one look {once:.3f}, twenty looks {looks:.3f}, turns as if independent {by_turn.mean():.3f}")
    assert once <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)
    assert looks > 3 * once
    assert by_turn.mean() > 3 * once
