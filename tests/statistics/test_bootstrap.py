"""The cluster bootstrap draws clusters whole, is the oracle's where clusters are single items, and is quick."""

import time

import numpy as np
import pytest
from scipy import stats

from plumbline.errors import PlumblineError
from plumbline.statistics import bootstrap
from plumbline.statistics.bootstrap import bootstrap_all, cluster_bootstrap, cluster_weights, weighted_means
from plumbline.statistics.paired import clustered_mean


def mean_of(values):
    return lambda weights: (weights @ values) / weights.sum(axis=1)


def coverage(method: str, groups: int, size: int, draws: int, seed: int = 0) -> float:
    """How often a 90 % interval holds the truth (1): clusters of exponential, hence skewed, fates."""
    rng, clusters, held = np.random.default_rng(seed), np.repeat(np.arange(groups), size), 0
    for _ in range(draws):
        values = rng.exponential(size=groups)[clusters] * rng.uniform(0.5, 1.5, groups * size)
        found = cluster_bootstrap(mean_of(values), clusters, method=method, draws=800).interval
        held += found.low <= 1 <= found.high
    return held / draws


def test_a_resample_draws_as_many_clusters_as_there_are_and_draws_them_whole():
    clusters = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, 7])
    (weights,) = cluster_weights(clusters, 300, seed=1)
    for cluster in range(7):
        assert (weights[:, clusters == cluster] == weights[:, clusters == cluster][:, :1]).all()
    first = np.searchsorted(clusters, np.arange(7))
    assert (weights[:, first].sum(axis=1) == 7).all()
    assert weights[:, first].mean() == pytest.approx(1) and weights[:, first].var() == pytest.approx(6 / 7, rel=0.1)


def test_the_same_seed_gives_the_same_bounds_however_many_weights_are_held_at_once(monkeypatch):
    values, clusters = np.random.default_rng(2).normal(size=120), np.arange(120) // 3
    found = cluster_bootstrap(mean_of(values), clusters)
    monkeypatch.setattr(bootstrap, "CELLS", 1000)
    again = cluster_bootstrap(mean_of(values), clusters)
    assert (again.interval.low, again.interval.high) == pytest.approx(
        (found.interval.low, found.interval.high), abs=1e-12
    )
    assert cluster_bootstrap(mean_of(values), clusters, seed=1).interval != found.interval


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_with_single_items_it_is_scipys(method):
    values = np.random.default_rng(3).exponential(size=60)
    oracle = stats.bootstrap(
        (values,),
        lambda v, axis: np.exp(v.mean(axis=axis)),
        confidence_level=0.9,
        n_resamples=40_000,
        method="BCa" if method == "bca" else "percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = cluster_bootstrap(
        lambda weights: np.exp(mean_of(values)(weights)), np.arange(60), method=method, draws=40_000
    )
    assert found.interval.low == pytest.approx(oracle.low, rel=0.01)
    assert found.interval.high == pytest.approx(oracle.high, rel=0.01)


def test_its_standard_error_is_the_cluster_robust_one():
    rng = np.random.default_rng(5)
    clusters = rng.permutation(np.repeat(np.arange(80), 6))
    values = rng.normal(size=80)[clusters] + rng.normal(size=480)
    found = cluster_bootstrap(mean_of(values), clusters, draws=8000)
    expected = clustered_mean(values, clusters)
    assert found.standard_error == pytest.approx(expected.standard_error, rel=0.04)
    assert found.estimate == pytest.approx(expected.mean) and expected.design_effect > 2


def test_the_acceleration_of_blocks_is_that_of_clusters(monkeypatch):
    values, clusters = np.random.default_rng(6).exponential(size=3000), np.arange(3000)
    blocks = bootstrap._accelerations(lambda w: mean_of(values)(w)[:, None], clusters)
    monkeypatch.setattr(bootstrap, "JACKKNIFE_BLOCKS", 3000)
    single = bootstrap._accelerations(lambda w: mean_of(values)(w)[:, None], clusters)
    assert single[0] == pytest.approx(stats.skew(values) / 6 / np.sqrt(3000), rel=0.01)
    assert blocks[0] == pytest.approx(single[0], rel=0.5)


def test_coverage_on_skewed_clusters():
    """90 % intervals, 400 draws: three binomial deviations are 4.5 points."""
    bca, percentile = coverage("bca", 60, 4, 400), coverage("percentile", 60, 4, 400)
    print(f"coverage of the 90 % interval on 60 skewed clusters: BCa {bca:.3f}, percentile {percentile:.3f}")
    assert bca >= 0.855 and percentile >= 0.84


def test_with_few_clusters_it_covers_less_than_it_says():
    """Why means are judged by the t interval instead."""
    assert coverage("percentile", 8, 4, 400) < 0.88


def test_slices_are_bootstrapped_together_and_each_is_its_own_mean():
    rng = np.random.default_rng(7)
    clusters, values = np.repeat(np.arange(50), 4), rng.choice([-1.0, 0.0, 1.0], 200)
    table = np.full((200, 3), np.nan)
    table[:, 0] = values
    table[:100, 1] = values[:100]
    table[100:, 2] = values[100:]
    whole, first, _ = bootstrap_all(weighted_means(table), clusters)
    alone = cluster_bootstrap(mean_of(values), clusters)
    assert (whole.estimate, whole.interval) == (alone.estimate, alone.interval)
    assert first.estimate == pytest.approx(values[:100].mean()) and first.interval.width > whole.interval.width


def test_a_statistic_that_most_resamples_lack_has_no_interval():
    table = np.full((40, 1), np.nan)
    table[0] = 1.0
    with pytest.raises(PlumblineError, match="undefined on 3"):
        bootstrap_all(weighted_means(table), np.arange(40))
    with pytest.raises(ValueError):
        bootstrap_all(weighted_means(table), np.arange(0))


def test_one_cluster_leaves_nothing_to_draw():
    found = cluster_bootstrap(mean_of(np.arange(5.0)), np.zeros(5, dtype=int))
    assert (found.estimate, found.interval.low, found.interval.high) == (2.0, -np.inf, np.inf)


def test_a_constant_has_no_spread_and_no_error():
    found = cluster_bootstrap(mean_of(np.ones(30)), np.arange(30))
    assert (found.interval.low, found.interval.high, found.standard_error) == pytest.approx((1, 1, 0), abs=1e-12)


def test_ten_thousand_pairs_by_twenty_slices_take_a_small_part_of_twenty_seconds():
    rng = np.random.default_rng(8)
    values, slices = rng.choice([-1.0, 0.0, 1.0], 10_000, p=[0.05, 0.9, 0.05]), rng.integers(0, 20, 10_000)
    table = np.where(slices[:, None] == np.arange(20), values[:, None], np.nan)
    began = time.process_time()
    found = bootstrap_all(weighted_means(table), np.arange(10_000) // 2)
    spent = time.process_time() - began
    print(f"10,000 pairs by 20 slices, 2,000 draws: {spent:.1f} s of processor")
    assert len(found) == 20 and spent < 10
