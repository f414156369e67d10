"""Statistics against independent oracles (scipy, statsmodels, published examples), and coverage by simulation."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from plumbline.statistics.intervals import clopper_pearson, tango, tango_statistic, wilson
from plumbline.statistics.paired import (
    clustered_mean,
    holm,
    mcnemar_exact,
    needed_n,
    paired_difference,
)

shares = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (20, 20), (3, 1000)])
def test_wilson_and_clopper_pearson_equal_statsmodels(k, n):
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "beta")):
        interval = ours(k, n)
        assert (interval.low, interval.high) == pytest.approx(proportion_confint(k, n, method=method), abs=1e-9)


def test_no_failure_in_two_hundred_still_bounds_the_rate_at_1_8_percent():
    assert clopper_pearson(0, 200).high == pytest.approx(0.0183, abs=1e-4)


@pytest.mark.parametrize(("better", "worse", "n"), [(3, 9, 100), (1, 0, 44), (30, 5, 60)])
def test_tango_at_zero_is_mcnemars_statistic(better, worse, n):
    expected = mcnemar([[0, better], [worse, n]], exact=False, correction=False).statistic
    assert tango_statistic(better, worse, n, 0.0) ** 2 == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("difference", [-0.2, -0.03, 0.05, 0.3])
def test_tango_uses_the_constrained_likelihood_maximum(difference):
    """Oracle: maximise the trinomial likelihood under p(better) - p(worse) = difference numerically."""
    better, worse, n = 12.0, 7.0, 80.0

    def minus_log_likelihood(p_worse):
        p_better = p_worse + difference
        rest = 1 - p_better - p_worse
        return -(better * np.log(p_better) + worse * np.log(p_worse) + (n - better - worse) * np.log(rest))

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    best = optimize.minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * best + difference - difference**2)
    expected = (better - worse - n * difference) / np.sqrt(variance)
    assert tango_statistic(better, worse, n, difference) == pytest.approx(expected, rel=1e-5)


def test_tango_with_no_discordant_pair_is_the_closed_form_and_not_a_point():
    z = stats.norm.ppf(0.95)
    interval = tango(0, 0, 100)
    assert (interval.low, interval.high) == pytest.approx((-(z**2) / (100 + z**2), z**2 / (100 + z**2)), abs=1e-9)


def test_tangos_contact_lens_example():
    """44 pairs, one discordant: Tango (1998) gives -0.096 to 0.037 at 90 %."""
    interval = tango(0, 1, 44, confidence=0.90)
    assert (interval.low, interval.high) == pytest.approx((-0.096, 0.037), abs=5e-4)


@pytest.mark.parametrize(("better", "worse", "n"), [(12, 2, 50), (86, 150, 1600), (1, 9, 30)])
def test_tango_solves_the_quartic_of_its_closed_form(better, worse, n):
    """Oracle: the limits are roots of a quartic (Yang, Sun and Hardin 2013, a non-iterative implementation)."""
    g, d, s = stats.norm.ppf(0.95) ** 2, better - worse, better + worse
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    roots = [root.real for root in np.roots(quartic) if abs(root.imag) < 1e-9]
    interval = tango(better, worse, n)
    for bound in (interval.low, interval.high):
        assert min(abs(bound - root) for root in roots) < 1e-7


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_tango_holds_its_estimate_and_mirrors(better, worse, agreeing):
    n = better + worse + agreeing
    if n == 0:
        return
    interval, mirrored = tango(better, worse, n), tango(worse, better, n)
    assert -1 <= interval.low <= (better - worse) / n + 1e-9
    assert (better - worse) / n - 1e-9 <= interval.high <= 1
    assert (interval.low, interval.high) == pytest.approx((-mirrored.high, -mirrored.low), abs=1e-9)


def test_cluster_robust_error_equals_statsmodels():
    rng = np.random.default_rng(1)
    clusters = rng.integers(0, 30, size=400)
    clusters = np.unique(clusters, return_inverse=True)[1]
    values = rng.normal(size=400) + rng.normal(size=30)[clusters]
    fit = OLS(values, np.ones(400)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    ours = clustered_mean(values, clusters)
    assert ours.standard_error == pytest.approx(fit.bse[0], rel=1e-9)
    assert ours.design_effect > 2


def test_items_in_clusters_of_one_have_design_effect_one():
    values = np.random.default_rng(0).normal(size=100)
    assert clustered_mean(values, np.arange(100)).design_effect == pytest.approx(1.0)


def test_the_interval_is_the_wider_of_both():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(25), 8)
    values = np.where(rng.random(25) < 0.2, -1.0, 0.0)[clusters]
    found = paired_difference(values, clusters)
    half = stats.t.ppf(0.95, 24) * found.estimate.standard_error
    assert found.interval.low <= found.estimate.mean - half + 1e-12
    assert found.interval.high >= found.estimate.mean + half - 1e-12
    assert found.estimate.effective_n == pytest.approx(25, rel=0.1)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=2, max_size=60))
@settings(deadline=None)
def test_bounds_hold_the_mean_and_mirror(values):
    array, clusters = np.array(values), np.arange(len(values))
    found, mirrored = paired_difference(array, clusters), paired_difference(-array, clusters)
    assert found.interval.low - 1e-12 <= found.estimate.mean <= found.interval.high + 1e-12
    assert found.interval.low == pytest.approx(-mirrored.interval.high, abs=1e-9)


def test_agreement_of_many_items_in_few_clusters_is_worth_the_clusters():
    apart = paired_difference(np.zeros(50), np.arange(50))
    together = paired_difference(np.zeros(500), np.repeat(np.arange(50), 10))
    assert together.interval.low == pytest.approx(apart.interval.low, abs=1e-9)


def test_coverage_by_simulation_where_clusters_matter():
    """Clusters share their fate; the 90 % interval covers at least nominally, the iid one far less."""
    rng = np.random.default_rng(7)
    clusters, truth, draws = np.repeat(np.arange(40), 6), -0.05 * 0.9, 600
    covered = naive = 0
    for _ in range(draws):
        fate = rng.random(40)
        values = np.select([fate < 0.10, fate < 0.15], [-1.0, 1.0], 0.0)[clusters]
        values = np.where(rng.random(240) < 0.1, 0.0, values)  # one item in ten escapes its cluster's fate
        found = paired_difference(values, clusters)
        covered += found.interval.low <= truth <= found.interval.high
        naive += abs(values.mean() - truth) <= 1.645 * values.std(ddof=1) / np.sqrt(240)
    print(f"coverage of the 90 % interval: {covered / draws:.3f} (iid: {naive / draws:.3f})")
    assert covered / draws > 0.88
    assert naive / draws < 0.75


def test_an_identical_pair_almost_never_fails_and_a_loss_of_the_margin_almost_never_passes():
    """Type-I error of PASS at a true loss equal to the margin, by simulation with independent items."""
    rng = np.random.default_rng(11)
    n, margin, draws, wrongly = 600, 0.03, 800, 0
    for _ in range(draws):
        u = rng.random(n)
        values = np.select([u < 0.05, u < 0.07], [-1.0, 1.0], 0.0)
        wrongly += paired_difference(values, np.arange(n)).interval.low > -margin
    print(f"PASS at a true loss of the margin: {wrongly / draws:.3f} of {draws}")
    assert wrongly / draws <= 0.07


def test_needed_n_shrinks_with_the_margin_and_is_about_right():
    rng = np.random.default_rng(3)
    values = np.select([(u := rng.random(500)) < 0.05, u < 0.10], [-1.0, 1.0], 0.0)
    estimate = clustered_mean(values - values.mean(), np.arange(500))
    asked = [needed_n(estimate, margin) for margin in (0.01, 0.02, 0.05)]
    assert asked == sorted(asked, reverse=True)
    assert asked[1] == pytest.approx((2.486 / 0.02) ** 2 * values.var(), rel=0.02), "the usual power formula"


def test_needed_n_when_nothing_disagrees_is_what_agreement_itself_costs():
    found = paired_difference(np.zeros(20), np.arange(20), margin=0.02)
    assert found.interval.low < -0.02
    assert paired_difference(np.zeros(found.needed), np.arange(found.needed)).interval.low > -0.02


@pytest.fixture(scope="module")
def uncollected():
    """statsmodels collects garbage at every call: seconds each, in a process that has run thousands of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda *_: 0)
        yield


@pytest.mark.usefixtures("uncollected")
@settings(deadline=None)
@given(st.lists(shares, min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_exact_mcnemar_is_a_binomial_tail():
    assert mcnemar_exact(2, 9) == pytest.approx(stats.binomtest(9, 11, alternative="greater").pvalue)
    assert mcnemar_exact(600, 700) == pytest.approx(stats.binomtest(700, 1300, alternative="greater").pvalue, rel=0.01)


def test_holm_keeps_the_chance_of_naming_any_innocent_slice():
    """Twelve slices that lost nothing: one is named at most one time in twenty, where each alone at .05 would name one
    in about three runs. Three binomial deviations of 250 runs are 4.1 points."""
    rng, clusters, named, each = np.random.default_rng(12), np.repeat(np.arange(30), 2), 0, 0
    for _ in range(250):
        p_values = []
        for _ in range(12):
            fate = rng.random(30)[clusters]
            drawn = np.where(rng.random(60) < 0.5, fate, rng.random(60))
            p_values.append(
                paired_difference(np.select([drawn < 0.1, drawn < 0.2], [-1.0, 1.0], 0.0), clusters).p_worse
            )
        named += min(holm(p_values)) < 0.05
        each += min(p_values) < 0.05
    print(f"an innocent slice is named: {named / 250:.3f} by Holm, {each / 250:.3f} one by one")
    assert named / 250 <= 0.05 + 0.041 and each / 250 > 0.2
