"""Areas are scikit-learn's, variances DeLong's by his own double sum, and thresholds keep what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as oracle_curve

from plumbline.errors import PlumblineError
from plumbline.statistics.ranking import (
    auroc,
    auroc_difference,
    auroc_interval,
    bootstrap_auroc,
    choose_threshold,
    roc_curve,
    weighted_auroc,
)


def drawn(rng, n=120, gap=1.0, steps=None):
    """(scores, truth): normal scores `gap` apart; `steps` rounds them, which makes ties."""
    truth = rng.random(n) < 0.4
    truth[:2] = True, False
    scores = rng.normal(size=n) + gap * truth
    return (np.round(scores * steps) / steps if steps else scores), truth


def delong_by_hand(first, second, truth) -> float:
    """Var(second - first) from DeLong's structural components, by comparing every positive with every negative."""

    def components(scores):
        wins = (scores[truth][:, None] > scores[~truth]) + 0.5 * (scores[truth][:, None] == scores[~truth])
        return wins.mean(axis=1), wins.mean(axis=0)

    (up_1, down_1), (up_2, down_2) = components(first), components(second)
    return np.var(up_2 - up_1, ddof=1) / truth.sum() + np.var(down_2 - down_1, ddof=1) / (~truth).sum()


items = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: len({flag for _, flag in rows}) == 2
)


@settings(deadline=None, max_examples=50)
@given(items)
def test_the_area_is_scikit_learns_ties_included(rows):
    scores, truth = np.array([s for s, _ in rows], dtype=float), np.array([flag for _, flag in rows])
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    weights = np.random.default_rng(0).integers(1, 4, size=(3, len(rows))).astype(float)
    weighted = [roc_auc_score(truth, scores, sample_weight=row) for row in weights]
    assert weighted_auroc(scores, truth)(weights) == pytest.approx(weighted, abs=1e-12)


def test_the_curve_is_scikit_learns_and_holds_the_area():
    scores, truth = drawn(np.random.default_rng(1), steps=2)
    ours, (false, true, thresholds) = roc_curve(scores, truth), oracle_curve(truth, scores, drop_intermediate=False)
    assert ours.false_positive == pytest.approx(false) and ours.true_positive == pytest.approx(true)
    assert ours.thresholds == pytest.approx(thresholds)
    assert np.trapezoid(ours.true_positive, ours.false_positive) == pytest.approx(auroc(scores, truth))


@pytest.mark.parametrize("steps", [None, 1])
def test_delongs_variance_is_his_double_sum(steps):
    rng = np.random.default_rng(2)
    first, truth = drawn(rng, steps=steps)
    second = first + rng.normal(size=len(first)) * (steps is None)
    if steps:
        second = np.round(second + rng.normal(size=len(first)))
    assert auroc_interval(first, truth).standard_error ** 2 == pytest.approx(
        delong_by_hand(np.zeros(len(first)), first, truth), rel=1e-9
    )
    found = auroc_difference(first, second, truth)
    assert found.standard_error**2 == pytest.approx(delong_by_hand(first, second, truth), rel=1e-9)
    assert found.difference == pytest.approx(roc_auc_score(truth, second) - roc_auc_score(truth, first))
    expected = 2 * stats.t.sf(abs(found.difference) / found.standard_error, len(truth) - 1)
    assert found.p_value == pytest.approx(expected)


def test_a_score_against_itself_differs_by_nothing_and_against_its_reverse_by_all():
    scores, truth = drawn(np.random.default_rng(3))
    same = auroc_difference(scores, 3 * scores + 1, truth)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    assert auroc_difference(scores, -scores, truth).difference == pytest.approx(1 - 2 * auroc(scores, truth))


@pytest.mark.parametrize(("gap", "n"), [(0.0, 100), (1.0, 100), (2.5, 60)])
def test_coverage_of_the_area(gap, n):
    """95 % intervals, 500 draws: three binomial deviations are 2.9 points."""
    rng, truth = np.random.default_rng(4), stats.norm.cdf(gap / np.sqrt(2))
    found = [auroc_interval(*drawn(rng, n, gap)).interval for _ in range(500)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    print(f"coverage of the 95 % interval of an area of {truth:.3f}: {covered:.3f}")
    assert covered >= 0.93


def test_a_perfect_separation_is_not_proof_of_one():
    scores, truth = np.arange(40.0), np.arange(40) >= 20
    found = auroc_interval(scores, truth)
    assert (found.area, found.standard_error, found.interval.high) == (1.0, 0.0, 1.0)
    assert 0.8 < found.interval.low < 0.95
    fewer = auroc_interval(scores, truth, clusters=np.arange(40) // 4)
    assert fewer.interval.low < found.interval.low, "four items of a cluster that agree count as one"


def test_clustered_areas_cover_and_ignoring_clusters_does_not():
    rng = np.random.default_rng(5)
    clusters, truth = np.repeat(np.arange(40), 6), np.tile([True, False] * 3, 40)
    target = stats.norm.cdf(1.0 / np.sqrt(2 * (1 + 0.25)))

    def draw():
        # a cluster shifts its positives and its negatives, each by a fate of its own
        shift = np.where(truth, rng.normal(size=40)[clusters], rng.normal(size=40)[clusters])
        scores = shift + 0.5 * rng.normal(size=240) + truth
        return [auroc_interval(scores, truth, clusters=given).interval for given in (clusters, None)]

    found = [draw() for _ in range(400)]
    robust, ignorant = (np.mean([one[k].low <= target <= one[k].high for one in found]) for k in (0, 1))
    print(f"coverage of a clustered area: {robust:.3f}, clusters ignored: {ignorant:.3f}")
    assert robust >= 0.92 > 0.8 > ignorant


def test_the_bootstrap_agrees_with_the_formula():
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(60), 5)
    scores, truth = drawn(rng, 300)
    scores = scores + rng.normal(size=60)[clusters]
    formula = auroc_interval(scores, truth, clusters=clusters)
    drawn_ones = bootstrap_auroc(scores, truth, clusters)
    assert drawn_ones.estimate == pytest.approx(formula.area)
    assert drawn_ones.standard_error == pytest.approx(formula.standard_error, rel=0.1)


def test_the_size_of_the_paired_test():
    """Two equally good scores: p < .05 one time in twenty; three deviations of 600 draws are 2.7 points."""
    rng, rejected = np.random.default_rng(7), 0
    for _ in range(600):
        base, truth = drawn(rng, 100)
        noise = rng.normal(size=(2, 100))
        rejected += auroc_difference(base + noise[0], base + noise[1], truth).p_value < 0.05
    print(f"paired DeLong rejects {rejected / 600:.3f} of true nulls at .05")
    assert 0.02 < rejected / 600 < 0.08


def test_a_threshold_flags_no_more_negatives_than_it_may_and_as_many_positives_as_it_can():
    scores, truth = drawn(np.random.default_rng(8), 400)
    found = choose_threshold(scores, truth, 0.05)
    assert found.false_positive == (scores[~truth] >= found.value).mean() <= 0.05
    lower = scores[scores < found.value].max()
    assert (scores[~truth] >= lower).mean() > 0.05, "the next lower score breaks the target"
    assert found.low < found.value < found.high
    assert found.false_positive_interval.low <= found.false_positive <= found.false_positive_interval.high


def test_ties_at_the_cut_are_all_flagged_or_none():
    scores, truth = np.array([0.0, 1, 1, 1, 2, 2]), np.array([False, False, False, False, True, True])
    found = choose_threshold(scores, truth, 0.5)
    assert (found.value, found.false_positive, found.true_positive) == (2.0, 0.0, 1.0)


def test_where_nothing_can_be_flagged_the_cut_is_infinite():
    scores, truth = np.array([3.0, 1.0, 2.0]), np.array([False, True, True])
    assert choose_threshold(scores, truth, 0.0).value == np.inf
    few, kind = drawn(np.random.default_rng(9), 40)
    unproven = choose_threshold(few, kind, 0.01, proven=True)
    assert (unproven.value, unproven.true_positive) == (np.inf, 0.0), "24 negatives cannot prove a rate of 1 %"


def test_a_proven_threshold_keeps_its_rate_on_new_items():
    """The rate behind a cut that was chosen on 300 items, known in closed form, exceeds 10 % one time in forty."""
    rng, plain, proven, held, value_held = np.random.default_rng(10), 0, 0, 0, 0
    for _ in range(400):
        scores, truth = drawn(rng, 300)
        loose, tight = (choose_threshold(scores, truth, 0.1, proven=kind) for kind in (False, True))
        plain += stats.norm.sf(loose.value) > 0.1
        proven += stats.norm.sf(tight.value) > 0.1
        held += loose.false_positive_interval.low <= stats.norm.sf(loose.value) <= loose.false_positive_interval.high
        value_held += loose.low <= stats.norm.isf(0.1) <= loose.high
    print(
        f"over the target: {plain / 400:.3f} of plain cuts, {proven / 400:.3f} of proven; the interval holds "
        f"{held / 400:.3f}"
    )
    assert plain / 400 > 0.25 and proven / 400 <= 0.05
    assert held / 400 >= 0.93 and value_held / 400 >= 0.93


def test_clusters_widen_what_is_known_about_a_threshold():
    rng = np.random.default_rng(11)
    clusters = np.repeat(np.arange(50), 8)
    scores, truth = drawn(rng, 400)
    scores = scores + 2 * rng.normal(size=50)[clusters]
    apart, together = (choose_threshold(scores, truth, 0.1, clusters=given) for given in (None, clusters))
    assert together.value == apart.value
    assert together.false_positive_interval.width > 1.3 * apart.false_positive_interval.width
    assert together.high - together.low > apart.high - apart.low


def test_one_kind_only_or_a_score_that_is_no_number_is_refused():
    with pytest.raises(PlumblineError, match="all 3 items are positive"):
        auroc([1, 2, 3], [1, 1, 1])
    for scores, truth in (([1.0, np.nan], [1, 0]), ([1.0], [1, 0])):
        with pytest.raises(ValueError):
            auroc(scores, truth)
