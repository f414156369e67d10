"""A corrected rate is right however wrong the judge is, and says how sure it is; ppi-python is the oracle."""

import numpy as np
import pytest
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate

from plumbline.errors import PlumblineError
from plumbline.statistics import prediction_powered
from plumbline.statistics.paired import rate_interval
from plumbline.statistics.prediction_powered import (
    Corrected,
    Judged,
    corrected_difference,
    corrected_rate,
    rogan_gladen,
    tuned_weight,
)


def answers(rng, n, rate, *, missed=0.3, cried=0.08):
    """(people's labels, the judge's) of n answers; the judge misses refusals and cries refusal over others."""
    human = (rng.random(n) < rate).astype(float)
    wrong = rng.random(n) < np.where(human == 1, missed, cried)
    return human, np.where(wrong, 1 - human, human)


def coverage(draws, truth, draw) -> float:
    found = [draw() for _ in range(draws)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


@pytest.mark.parametrize("soft", [False, True])
def test_the_estimate_is_ppi_pythons_where_the_labelled_answers_are_set_apart(soft):
    """The judge's mean over all N includes the m: that is their lambda = 1 - m/N over the N - m others."""
    rng = np.random.default_rng(1)
    human, judged = answers(rng, 1500, 0.3)
    if soft:
        judged = np.clip(0.7 * judged + 0.3 * rng.random(1500), 0, 1)
    labelled = rng.choice(1500, 300, replace=False)
    others = np.delete(judged, labelled)
    theirs = ppi_mean_pointestimate(human[labelled], judged[labelled], others, lam=1 - 300 / 1500)
    found = corrected_rate(judged, labelled, human[labelled])
    assert found.rate == pytest.approx(float(theirs[0]), abs=1e-12)
    low, high = ppi_mean_ci(human[labelled], judged[labelled], others, alpha=0.05, lam=1 - 300 / 1500)
    part = prediction_powered._part(Judged.of(judged, labelled, human[labelled]), np.arange(1500), 0.95, False)
    half = prediction_powered._t_half(part.influence, np.arange(1500), 300, 0.95)
    assert half == pytest.approx(float(high[0] - low[0]) / 2, rel=0.015), "the t interval by itself is theirs"
    # Student's t at 299 degrees of freedom is .5 % wider than their normal; Wilson takes scores for shares, wider yet
    wider = (found.high - found.low) / float(high[0] - low[0])
    assert 0.97 < wider < (1.10 if soft else 1.03)


def test_the_tuned_weight_is_ppi_pythons():
    rng = np.random.default_rng(2)
    human, judged = answers(rng, 4000, 0.3)
    labelled = np.arange(1000)
    found = corrected_rate(judged, labelled, human[:1000], power_tuned=True)
    theirs = ppi_mean_pointestimate(human[:1000], judged[:1000], judged[1000:])
    assert found.rate == pytest.approx(float(theirs[0]), abs=1e-3), "they pool the judge's variance, we do not"
    assert 0 < found.weight < 1
    assert found.weight == pytest.approx(np.polyfit(judged[:1000], human[:1000], 1)[0], abs=1e-9)


def test_a_judge_that_knows_nothing_gets_no_weight_and_one_without_error_all_of_it():
    rng = np.random.default_rng(3)
    human = (rng.random(4000) < 0.4).astype(float)
    assert tuned_weight(rng.random(4000), human) < 0.06
    assert tuned_weight(human, human) == pytest.approx(1.0)
    assert tuned_weight(np.ones(4000), human) == 0.0
    assert tuned_weight(1 - human, human) == 0.0, "a judge turned upside down is not believed"


def test_the_bias_of_the_judge_goes_and_tuning_never_costs_width():
    rng = np.random.default_rng(4)
    found, tuned = [], []
    for _ in range(200):
        human, judged = answers(rng, 800, 0.3, missed=0.5, cried=0.15)
        labelled = rng.choice(800, 200, replace=False)
        found.append(corrected_rate(judged, labelled, human[labelled]))
        tuned.append(corrected_rate(judged, labelled, human[labelled], power_tuned=True))
    assert abs(np.mean([one.naive for one in found]) - 0.3) > 0.04
    for kind in (found, tuned):
        error = np.std([one.rate for one in kind]) / np.sqrt(200)
        assert abs(np.mean([one.rate for one in kind]) - 0.3) < 3 * error
    assert np.mean([t.high - t.low for t in tuned]) < np.mean([f.high - f.low for f in found])


@pytest.mark.parametrize("rate", [0.016, 0.1, 0.5, 0.984])
def test_coverage_also_where_rates_are_extreme(rate):
    """95 % intervals of 50 labels among 250 answers; 600 draws put 3 binomial deviations at 2.7 points."""
    rng = np.random.default_rng(5)

    def draw() -> Corrected:
        human, judged = answers(rng, 250, rate)
        return corrected_rate(judged, np.arange(50), human[:50])

    covered = coverage(600, rate, draw)
    print(f"coverage at a rate of {rate}: {covered:.3f}")
    assert covered >= 0.93


def test_wald_does_not_cover_where_rates_are_extreme():
    """What the wider of two intervals is for: with no error seen, mean +- 1.96 SE is too sure of itself."""
    rng = np.random.default_rng(6)
    held = 0
    for _ in range(600):
        human, _ = answers(rng, 50, 0.016)
        held += abs(human.mean() - 0.016) <= 1.96 * human.std(ddof=1) / np.sqrt(50)
    assert held / 600 < 0.70


def test_clusters_that_stand_or_fall_together_are_counted_as_such():
    rng = np.random.default_rng(7)
    clusters = np.repeat(np.arange(60), 5)

    def draw(given) -> Corrected:
        fate = rng.beta(0.6, 1.4, 60)[clusters]
        human, judged = answers(rng, 300, fate)
        labelled = rng.choice(300, 60, replace=False)
        return corrected_rate(judged, labelled, human[labelled], clusters=given)

    robust, ignorant = coverage(500, 0.3, lambda: draw(clusters)), coverage(500, 0.3, lambda: draw(None))
    print(f"coverage with clusters {robust:.3f}, without {ignorant:.3f}")
    assert robust >= 0.93 > ignorant


def test_clusters_may_be_named():
    rng = np.random.default_rng(8)
    human, judged = answers(rng, 60, 0.3)
    named = [f"focus {number // 3}" for number in range(60)]
    by_name = corrected_rate(judged, np.arange(30), human[:30], clusters=named)
    assert by_name == corrected_rate(judged, np.arange(30), human[:30], clusters=np.arange(60) // 3)


def test_for_exactly_these_answers_only_the_labelling_is_random():
    rng = np.random.default_rng(9)
    human, judged = answers(rng, 250, 0.3)

    def draw() -> Corrected:
        labelled = rng.choice(250, 50, replace=False)
        return corrected_rate(judged, labelled, human[labelled], target="answers")

    assert coverage(600, human.mean(), draw) >= 0.93
    narrow, wide = (corrected_rate(judged, np.arange(50), human[:50], target=t) for t in ("answers", "requests"))
    assert narrow.rate == wide.rate and narrow.high - narrow.low < wide.high - wide.low
    everything = corrected_rate(judged, np.arange(250), human, target="answers")
    assert (everything.low, everything.rate, everything.high) == pytest.approx([human.mean()] * 3)


def test_when_people_read_everything_the_judge_no_longer_counts():
    rng = np.random.default_rng(10)
    human, judged = answers(rng, 200, 0.3)
    order = rng.permutation(200)
    found = corrected_rate(judged, order, human[order])
    rate, interval = rate_interval(human, np.arange(200))
    assert found.rate == pytest.approx(rate)
    assert found.low == pytest.approx(interval.low, abs=0.006) and found.high == pytest.approx(interval.high, abs=0.006)


def test_labels_that_all_agree_with_the_judge_do_not_make_it_infallible():
    judged = np.zeros(1000)
    found = corrected_rate(judged, np.arange(50), np.zeros(50))
    assert (found.rate, found.low, found.naive) == (0.0, 0.0, 0.0)
    assert found.high == pytest.approx(3.84 / (50 + 3.84), abs=0.01), "no error among 50 still allows 7 %"


@pytest.mark.parametrize("same", [True, False])
def test_a_difference_is_corrected_where_the_judge_errs_differently(same):
    """The aligned policy refuses in new words: the judge sees a fall that is not there."""
    rng = np.random.default_rng(11)
    naive = []

    def draw() -> Corrected:
        fate = rng.random(300)
        old, new = (fate < 0.90).astype(float), (fate < 0.88).astype(float)
        read = (np.arange(60), np.arange(60) if same else np.arange(60, 120))
        seen = [
            np.where(rng.random(300) < np.where(h == 1, missed, 0.05), 1 - h, h)
            for h, missed in ((old, 0.03), (new, 0.25))
        ]
        parts = [Judged.of(j, places, h[places]) for j, places, h in zip(seen, read, (old, new), strict=True)]
        found = corrected_difference(*parts)
        naive.append(found.naive)
        return found

    covered = coverage(400, -0.02, draw)
    print(f"coverage of the 90 % interval of a difference: {covered:.3f}")
    assert covered >= 0.87 and np.mean(naive) < -0.15


def test_a_policy_against_itself_differs_by_nothing():
    rng = np.random.default_rng(12)
    human, judged = answers(rng, 200, 0.3)
    sample = Judged.of(judged, np.arange(50), human[:50])
    found = corrected_difference(sample, sample)
    assert (found.rate, found.naive, found.labelled) == (0.0, 0.0, 100)
    assert found.low <= 0 <= found.high


def test_too_few_labels_and_impossible_ones_are_refused():
    with pytest.raises(PlumblineError, match="1 of 9 answers"):
        corrected_rate(np.zeros(9), [3], [1])
    bad = [
        ([0, 0], [1, 0]),
        ([0, 9], [1, 0]),
        ([-1, 2], [1, 0]),
        ([0, 1], [1, 0.5]),
        ([0, 1], [1]),
        ([0, 1], [1, np.nan]),
    ]
    for labelled, human in bad:
        with pytest.raises(ValueError):
            corrected_rate(np.zeros(9), labelled, human)
    for scores in (np.full(9, 1.2), np.full(9, np.nan)):
        with pytest.raises(ValueError):
            corrected_rate(scores, [0, 1], [1, 0])
    with pytest.raises(ValueError, match="clusters"):
        corrected_rate(np.zeros(9), [0, 1], [1, 0], clusters=[1, 2])
    with pytest.raises(ValueError, match="every request"):
        corrected_difference(Judged.of(np.zeros(9), [0, 1], [1, 0]), Judged.of(np.zeros(8), [0, 1], [1, 0]))


def test_labels_of_one_cluster_only_prove_nothing():
    found = corrected_rate(np.zeros(20), [0, 1, 2], [1, 0, 0], clusters=np.repeat([0, 1], 10))
    assert (found.low, found.high) == (0.0, 1.0)


def test_rogan_gladen_inverts_the_judges_errors():
    rate, interval = rogan_gladen(170, 1000, caught=90, positives=100, passed=270, negatives=300)
    assert rate == pytest.approx((0.17 + 0.9 - 1) / 0.8)
    assert interval.low < rate < interval.high


@pytest.mark.parametrize(("rate", "caught", "passed"), [(0.016, 0.7, 0.95), (0.1, 0.9, 0.9), (0.5, 0.95, 0.6)])
def test_rogan_gladens_interval_covers(rate, caught, passed):
    rng = np.random.default_rng(13)
    held = 0
    for _ in range(600):
        positive = int(rng.binomial(500, rate * caught + (1 - rate) * (1 - passed)))
        card = {"caught": int(rng.binomial(60, caught)), "passed": int(rng.binomial(80, passed))}
        _, interval = rogan_gladen(positive, 500, positives=60, negatives=80, **card)
        held += interval.low <= rate <= interval.high
    assert held / 600 >= 0.93


def test_rogan_gladen_refuses_a_judge_that_separates_nothing():
    """String match on mistral-instruct catches 12 of 49 refusals and passes 394 of 401: no lever."""
    with pytest.raises(PlumblineError, match="not proven above 120"):
        rogan_gladen(19, 450, caught=12, positives=49, passed=394, negatives=401)
    with pytest.raises(PlumblineError):
        rogan_gladen(100, 200, caught=50, positives=100, passed=50, negatives=100)
    with pytest.raises(ValueError):
        rogan_gladen(1, 10, caught=0, positives=0, passed=1, negatives=1)
