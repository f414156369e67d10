"""Distances are scipy's, chance is told from drift, and the CUSUM alarms as seldom and as soon as the tables say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from plumbline.statistics.drift import cusum, population_stability, style_drift


def test_equal_histograms_are_stable_and_swapped_ones_are_not():
    assert population_stability([50, 50], [50, 50]) == 0
    assert population_stability([90, 10], [10, 90]) > 1


pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=40)


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_distance_and_gap_are_scipys_ties_included(rows):
    old, new = np.array(rows, dtype=float).T
    found = style_drift(old, new, draws=20)
    assert found.ks == pytest.approx(stats.ks_2samp(old, new, method="asymp").statistic, abs=1e-12)
    if old.std() > 0:
        assert found.distance == pytest.approx(stats.wasserstein_distance(old, new) / old.std(), abs=1e-9)


def test_a_longer_answer_is_so_many_standard_deviations_longer():
    rng = np.random.default_rng(1)
    lengths = rng.lognormal(4, 0.5, 400)
    found = style_drift(lengths, lengths + 0.5 * lengths.std())
    assert found.distance == pytest.approx(0.5) and found.p_value < 0.01
    assert found.interval.low < 0.49 and found.interval.high > 0.51, "the deviation too is only estimated"


def test_noise_alone_is_no_drift_though_its_distance_is_above_zero():
    rng = np.random.default_rng(2)
    base = rng.normal(size=300)
    found = style_drift(base + 0.3 * rng.normal(size=300), base + 0.3 * rng.normal(size=300))
    assert 0 < found.distance < 3 * found.by_chance and found.p_value > 0.05 and found.interval.low < 0.05


def test_the_test_of_drift_keeps_its_size_with_clusters():
    """p < .1 one time in ten; three deviations of 200 draws are 6.4 points. Ignoring clusters rejects far more."""
    rng, clusters, robust, ignorant = np.random.default_rng(3), np.repeat(np.arange(40), 5), 0, 0
    for _ in range(200):
        shift = rng.normal(size=(2, 40))[:, clusters]
        old, new = rng.normal(size=(2, 200)) * 0.3 + shift
        robust += style_drift(old, new, clusters=clusters, draws=200).p_value < 0.1
        ignorant += style_drift(old, new, draws=200).p_value < 0.1
    print(f"no drift is called drift at .1: {robust / 200:.3f}, clusters ignored {ignorant / 200:.3f}")
    assert robust / 200 <= 0.165 < ignorant / 200


def test_the_interval_holds_a_real_distance():
    """90 % bounds, 200 draws of a shift of half a standard deviation; three deviations are 6.4 points."""
    rng, held = np.random.default_rng(4), 0
    grid = stats.norm.ppf(np.linspace(0.0005, 0.9995, 1000))
    truth = stats.wasserstein_distance(grid, 0.5 + np.sqrt(1.25) * grid)
    for _ in range(200):
        base = rng.normal(size=200)
        found = style_drift(base, base + 0.5 + 0.5 * rng.normal(size=200), draws=300)
        held += found.interval.low <= truth <= found.interval.high
    print(f"coverage of the 90 % interval of a style drift: {held / 200:.3f}")
    assert held / 200 >= 0.83


def test_a_feature_that_never_varied_drifts_infinitely_or_not_at_all():
    assert style_drift([1.0, 1.0], [1.0, 1.0]).distance == 0 and style_drift([1.0, 1.0], [1.0, 2.0]).distance == np.inf
    for old, new in (([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0])):
        with pytest.raises(ValueError):
            style_drift(old, new)


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3, allow_nan=False), min_size=1, max_size=50))
def test_the_cusum_is_pages_recursion(values):
    up = down = 0.0
    found = cusum(values, 0.2, 2.0, limit=1.0)
    for at, value in enumerate(values):
        z = (value - 0.2) / 2.0
        up, down = max(0.0, up + z - 0.5), max(0.0, down - z - 0.5)
        assert (found.up[at], found.down[at]) == pytest.approx((up, down), abs=1e-9)
        assert max(up, down) <= 1.0 + 1e-9 or (found.alarm is not None and found.alarm <= at)


def test_the_cusum_runs_as_long_as_the_tables_say():
    """Montgomery: slack .5, limit 5: 465 values between false alarms, 10.4 to find a shift of one deviation."""
    rng = np.random.default_rng(5)

    def run(shift: float, length: int, runs: int) -> float:
        alarms = [cusum(rng.normal(shift, 1, length), 0, 1).alarm for _ in range(runs)]
        return float(np.mean([length if alarm is None else alarm + 1 for alarm in alarms]))

    undisturbed, shifted = run(0, 8000, 400), run(1, 200, 1000)
    print(f"values until the alarm: {undisturbed:.0f} undisturbed, {shifted:.1f} after a shift of one deviation")
    assert undisturbed == pytest.approx(465, rel=0.15) and shifted == pytest.approx(10.4, rel=0.05)


def test_a_stream_that_never_varies_has_no_cusum():
    with pytest.raises(ValueError, match="deviation"):
        cusum([1.0], 1.0, 0.0)
