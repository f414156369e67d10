"""Samples from one source cannot be told apart, samples from two can, and the words that tell them are named."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from plumbline.errors import PlumblineError
from plumbline.statistics.c2st import FOLDS, OVERLAP, fit_logistic, ngram_counts, two_sample_test
from plumbline.statistics.ranking import auroc, auroc_interval

WORDS = [f"word{number}" for number in range(60)]


def texts(rng, n, tilt=0.0, length=12):
    """n texts of 12 words; `tilt` makes the later words likelier."""
    weights = np.exp(tilt * np.linspace(-1, 1, len(WORDS)))
    return [" ".join(rng.choice(WORDS, length, p=weights / weights.sum())) for _ in range(n)]


def test_the_logistic_fit_is_scikit_learns():
    rng = np.random.default_rng(1)
    matrix, truth = csr_matrix(rng.random((200, 12)) * (rng.random((200, 12)) < 0.3)), rng.random(200) < 0.4
    weights, bias = fit_logistic(matrix, truth, penalty=2.0)
    oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(matrix, truth)
    assert weights == pytest.approx(oracle.coef_[0], abs=1e-3) and bias == pytest.approx(oracle.intercept_[0], abs=1e-3)


def test_one_source_cannot_be_told_from_itself_and_two_can():
    rng = np.random.default_rng(2)
    same = two_sample_test(texts(rng, 200), texts(rng, 200)).auroc
    other = two_sample_test(texts(rng, 200), texts(rng, 200, tilt=1.0)).auroc
    assert same.interval.low < 0.5 < same.interval.high < 0.60, "the rule of distribution_mismatch would let it pass"
    assert other.interval.low > 0.75


def test_the_lower_bound_excludes_one_half_as_seldom_as_it_should():
    """One-sided 5 % over 100 pairs of samples of one source; three binomial deviations are 6.5 points. DeLong's error
    alone, which knows nothing of the fits that overlapping folds share, excludes it far too often."""
    rng = np.random.default_rng(3)
    found = [two_sample_test(texts(rng, 60), texts(rng, 60)).auroc for _ in range(100)]
    areas, errors = (np.array([getattr(one, name) for one in found]) for name in ("area", "standard_error"))
    above = np.mean([one.interval.low > 0.5 for one in found])
    naive = np.mean(areas - 1.645 * errors / OVERLAP > 0.5)
    print(f"one source called two: {above:.3f}, by DeLong's error alone {naive:.3f}; mean area {areas.mean():.3f}")
    assert above <= 0.115 and naive > above
    assert areas.mean() == pytest.approx(0.5, abs=3 * areas.std() / 100**0.5)


def test_the_artefact_that_gives_a_sample_away_is_named_first():
    rng = np.random.default_rng(4)
    marked = [f"<|user|> {text}" for text in texts(rng, 100)]
    found = two_sample_test(texts(rng, 100), marked)
    assert found.auroc.area > 0.99
    assert any("user" in word for word, _ in found.typical_of_second[:8])
    assert all(weight > 0 for _, weight in found.typical_of_second)
    assert all(weight < 0 for _, weight in found.typical_of_first)


def test_texts_that_both_samples_hold_do_not_push_the_area_below_one_half():
    rng = np.random.default_rng(5)
    shared = texts(rng, 150)
    assert two_sample_test(shared, shared).auroc.area == pytest.approx(0.5, abs=0.05)


def test_a_person_who_writes_a_lot_stays_in_one_fold():
    """Ten people a side with a word of their own: without clusters the fit learns the people and finds two worlds."""
    rng = np.random.default_rng(6)
    people = [f"person{number}" for number in range(24) for _ in range(10)]
    said = [f"{text} {person}" for text, person in zip(texts(rng, 240), people, strict=True)]
    apart = two_sample_test(said[:120], said[120:]).auroc
    together = two_sample_test(said[:120], said[120:], clusters=people).auroc
    assert apart.interval.low > 0.6 and together.interval.low < 0.5


def test_the_same_seed_gives_the_same_answer_and_order_of_hashing_plays_no_part():
    rng = np.random.default_rng(7)
    one, two = texts(rng, 40), texts(rng, 40, tilt=0.5)
    assert two_sample_test(one, two) == two_sample_test(one, two)
    assert two_sample_test(one, two, seed=1).auroc.area != two_sample_test(one, two).auroc.area


def test_words_and_their_pairs_are_counted():
    (counted,) = ngram_counts(["So, so!"])
    assert counted == {"so": 2, ",": 1, "!": 1, "so ,": 1, ", so": 1, "so !": 1}
    assert ngram_counts([""]) == [{}]


def test_within_strata_only_scores_of_one_stratum_are_compared():
    scores, truth = np.array([1.0, 2, 3, 11, 12, 13, 14]), np.array([0, 1, 0, 1, 0, 0, 1], dtype=bool)
    strata = np.array([0, 0, 0, 1, 1, 1, 1])
    found = auroc_interval(scores, truth, strata=strata)
    expected = (2 * auroc(scores[:3], truth[:3]) + 4 * auroc(scores[3:], truth[3:])) / 6
    assert found.area == pytest.approx(expected)


def test_too_few_texts_teach_nothing():
    rng = np.random.default_rng(8)
    with pytest.raises(PlumblineError, match="the second sample has 9"):
        two_sample_test(texts(rng, 50), texts(rng, 2 * FOLDS - 1))
    with pytest.raises(PlumblineError, match="the first sample has 1"):
        two_sample_test(["the same"] * 50, texts(rng, 50))
    with pytest.raises(ValueError, match="clusters"):
        two_sample_test(texts(rng, 20), texts(rng, 20), clusters=["a"])
