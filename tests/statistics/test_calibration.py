"""Scores are scikit-learn's, their parts add up, and what chance alone shows is told from miscalibration."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from plumbline.statistics.calibration import (
    brier,
    brier_difference,
    calibration_error,
    equal_mass,
    reliability_bins,
)
from plumbline.statistics.paired import clustered_mean

forecasts = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60
)


def calibrated(rng, n):
    said = rng.beta(1.5, 1.5, n)
    return said, (rng.random(n) < said).astype(float)


@settings(deadline=None)
@given(forecasts, st.sampled_from([None, 1, 3, 10]))
def test_brier_is_scikit_learns_and_murphys_parts_add_up(rows, bins):
    said, came = np.array([p for p, _ in rows]), np.array([float(y) for _, y in rows])
    found = brier(said, came, bins=bins)
    assert found.score == pytest.approx(brier_score_loss(came, said, pos_label=1), abs=1e-12)
    parts = found.reliability - found.resolution + found.uncertainty + found.within
    assert parts == pytest.approx(found.score, abs=1e-12)
    assert min(found.reliability, found.resolution) >= 0
    if bins is None:
        assert found.within == pytest.approx(0, abs=1e-12), "bins of one probability leave nothing within"


def test_the_parts_by_hand():
    """Two probabilities: .2, right once in four; .8, right three times in four."""
    found = brier([0.2] * 4 + [0.8] * 4, [1, 0, 0, 0, 1, 1, 1, 0])
    assert found.reliability == pytest.approx(0.05**2)
    assert found.resolution == pytest.approx(0.25**2)
    assert found.uncertainty == pytest.approx(0.25)
    assert found.score == pytest.approx((0.64 + 3 * 0.04) / 4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 12))
def test_equal_values_share_a_bin_and_bins_keep_the_order(values, bins):
    codes = equal_mass(np.array(values, dtype=float), bins)
    assert set(codes) == set(range(codes.max() + 1)) and codes.max() < bins
    for value in set(values):
        assert len(set(codes[np.array(values) == value])) == 1
    order = np.argsort(values, kind="stable")
    assert (np.diff(codes[order]) >= 0).all()


def test_bins_of_distinct_probabilities_are_scikit_learns_quantile_bins():
    said, came = calibrated(np.random.default_rng(1), 1000)
    came_oracle, said_oracle = calibration_curve(came, said, n_bins=10, strategy="quantile")
    bins = reliability_bins(said, came)
    assert [b.n for b in bins] == [100] * 10
    assert [b.said for b in bins] == pytest.approx(said_oracle, abs=2e-3)
    assert [b.came for b in bins] == pytest.approx(came_oracle, abs=0.02)
    assert all(b.low <= b.said <= b.high and b.interval.low <= b.came <= b.interval.high for b in bins)
    found = calibration_error(said, came)
    assert found.ece == pytest.approx(sum(b.n * abs(b.said - b.came) for b in bins) / 1000)


def test_a_calibrated_forecast_shows_what_chance_shows_and_another_more():
    rng = np.random.default_rng(2)
    said, came = calibrated(rng, 200)
    honest = calibration_error(said, came)
    assert honest.ece > 0.02 and honest.ece < 2 * honest.by_chance and honest.p_value > 0.05
    sharp = calibration_error(np.clip(1.6 * (said - 0.5) + 0.5, 0, 1), came)
    assert sharp.ece > 2 * sharp.by_chance and sharp.p_value < 0.01
    assert calibration_error(1 - said, came).p_value == pytest.approx(1 / 1001), "no p of a thousand draws is 0"
    assert calibration_error(said, came) == honest, "seeded"


def test_ece_shrinks_with_n_although_nothing_got_better():
    rng = np.random.default_rng(3)
    few, many = (calibration_error(*calibrated(rng, n)) for n in (200, 20_000))
    assert few.by_chance > 8 * many.by_chance
    assert few.by_chance == pytest.approx(np.sqrt(2 / np.pi * 0.2 / 20), rel=0.15), "the docstring's .08"


def test_the_test_of_calibration_keeps_its_size():
    """p < .1 one time in ten; three deviations of 200 draws are 6.4 points."""
    rng = np.random.default_rng(4)
    rejected = np.mean([calibration_error(*calibrated(rng, 150)).p_value < 0.1 for _ in range(200)])
    print(f"a calibrated forecast is called miscalibrated at .1: {rejected:.3f}")
    assert rejected <= 0.165


def test_the_paired_difference_covers_with_clusters():
    """90 % intervals, 500 draws: three deviations are 4 points."""
    rng, clusters, held = np.random.default_rng(5), np.repeat(np.arange(50), 4), 0
    differences = []
    for _ in range(500):
        truth = rng.beta(2, 2, 50)[clusters]
        came = (rng.random(200) < truth).astype(float)
        estimate, interval = brier_difference(np.full(200, 0.5), truth, came, clusters=clusters)
        differences.append(estimate.mean)
        held += interval.low <= 0.05 <= interval.high  # E (p - .5)^2 of Beta(2, 2)
    print(f"coverage of the paired Brier difference: {held / 500:.3f}")
    assert np.mean(differences) == pytest.approx(0.05, abs=0.002) and held / 500 >= 0.86


def test_the_paired_difference_is_a_clustered_mean_and_up_is_better():
    rng = np.random.default_rng(6)
    truth, came = calibrated(rng, 300)
    estimate, interval = brier_difference(np.full(300, 0.5), truth, came)
    expected = clustered_mean((0.5 - came) ** 2 - (truth - came) ** 2, np.arange(300))
    assert estimate == expected and interval.low > 0
    assert brier_difference(truth, truth, came)[1].width == 0
    assert brier_difference([0.5, 0.5], [0.1, 0.2], [0, 1], clusters=np.zeros(2, dtype=int))[1].width == np.inf


def test_what_is_no_probability_is_refused():
    for said, came in (([1.2], [1]), ([np.nan], [1]), ([0.5], [0.5]), ([0.5, 0.5], [1]), ([], [])):
        with pytest.raises(ValueError):
            brier(said, came)
    with pytest.raises(ValueError, match="bin"):
        brier([0.5], [1], bins=0)
