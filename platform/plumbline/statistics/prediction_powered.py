"""Prediction-powered rates: a cheap judge reads every answer, people read a few, and the few correct the many.

With f the judge's scores of N answers and h people's labels of m of them, drawn at random,

    rate = lambda * mean_N(f) + mean_m(h - lambda * f)

is unbiased however wrong the judge is (Angelopoulos et al. 2023, arXiv:2301.09633): a poor judge costs width, never
truth. lambda is 1, or tuned to the least variance (PPI++, arXiv:2311.01453): here the slope of h on f, because the
labelled answers are among the N. With U = N - m answers apart from the m, as the papers write it, that is their
lambda times N / U. A useless judge gets a slope near 0, which is to say, people's labels alone.

Intervals are, side by side, the wider of two. The t interval sums each answer's influence per cluster (CR1). It is a
point when no label contradicts the judge, so a second one stands beside it: a score interval of the judge's mean
(Wilson) and one of the correction (Tango), both at the effective n, joined by Zou and Donner's rule (MOVER, Statistics
in Medicine 27, 2008, 1693-1702).
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plumbline.errors import PlumblineError
from plumbline.statistics.intervals import Interval, normal_quantile, tango, wilson
from plumbline.statistics.paired import Floats, cautious_effect, clustered_mean, rate_interval, student_quantile

Clusters = NDArray[Any] | list[str] | list[int]
Target = Literal["requests", "answers"]
MIN_SEPARATION = 0.2  # of sensitivity + specificity - 1, by which Rogan and Gladen divide: below, 1 point becomes 5


@dataclass(frozen=True)
class Corrected:
    """A rate (or a difference of rates) corrected by people's labels, beside what the judge alone would have said.

    `labelled` of the `n` answers were read by people (for a difference: labels of both policies). `weight` is lambda.
    """

    rate: float
    low: float
    high: float
    naive: float
    labelled: int
    n: int
    weight: float = 1.0


@dataclass(frozen=True)
class Judged:
    """One policy's answers: `judged` (N,) in [0, 1], and people's labels `human` (m,) in {0, 1} of those at `labelled`.

    labelled: (m,) distinct indices into judged, drawn at random and not for what the judge said. PlumblineError for
    fewer than two labels; ValueError for shapes or values that cannot be.
    """

    judged: Floats
    labelled: NDArray[np.intp]
    human: Floats

    @classmethod
    def of(cls, judged: ArrayLike, labelled: ArrayLike, human: ArrayLike) -> "Judged":
        scores, truth = np.asarray(judged, dtype=float), np.asarray(human, dtype=float)
        places = np.asarray(labelled).astype(np.intp)
        if scores.ndim != 1 or places.ndim != 1 or truth.shape != places.shape:
            raise ValueError("judged is (N,), and labelled and human are (m,)")
        if len(places) < 2:
            raise PlumblineError(
                f"{len(places)} of {len(scores)} answers carry a person's label",
                consequence="the judge's error is unknown, so its rate cannot be corrected",
                remedy="label about 50 answers of this policy, drawn at random",
            )
        if len(np.unique(places)) < len(places) or places.min() < 0 or places.max() >= len(scores):
            raise ValueError("labelled must be distinct places in judged")
        # `not all` and no `any`: a NaN satisfies no comparison
        if not ((scores >= 0) & (scores <= 1)).all() or not ((truth == 0) | (truth == 1)).all():
            raise ValueError("judged lies in [0, 1] and human is 0 or 1")
        return cls(scores, places, truth)


@dataclass(frozen=True)
class _Part:
    """One policy's corrected rate before clipping: its score interval, and each answer's influence on it, (N,)."""

    rate: float
    score: Interval
    influence: Floats
    weight: float


def corrected_rate(
    judged: ArrayLike,
    labelled: ArrayLike,
    human: ArrayLike,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.95,
    power_tuned: bool = False,
    target: Target = "requests",
) -> Corrected:
    """The rate that people would have found over all answers, with its interval, clipped to [0, 1].

    judged: (N,) in [0, 1]; labelled: (m,) indices into it; human: (m,) in {0, 1}; clusters: (N,), None where answers
    are independent. The interval holds for the `requests` which these N were drawn from, or, narrower, for exactly
    these N `answers`: then only the labelling is random (a finite population), and clusters do not matter.
    Errors are those of `Judged`. About 50 labels make it useful, and the interval says so when they do not.
    """
    sample = Judged.of(judged, labelled, human)
    groups = _groups(clusters, len(sample.judged))
    if target == "answers":
        return _of_these_answers(sample, confidence, power_tuned)
    part = _part(sample, groups, confidence, power_tuned)
    seen = groups[sample.labelled]
    half = _t_half(part.influence, groups, len(np.unique(seen)), confidence)
    low, high = min(part.score.low, part.rate - half), max(part.score.high, part.rate + half)
    return _clipped(sample, part.rate, low, high, part.weight)


def _of_these_answers(sample: Judged, confidence: float, power_tuned: bool) -> Corrected:
    n, m = len(sample.judged), len(sample.labelled)
    weight = tuned_weight(sample.judged[sample.labelled], sample.human) if power_tuned else 1.0
    errors = sample.human - weight * sample.judged[sample.labelled]
    rate = weight * float(sample.judged.mean()) + float(errors.mean())
    unread = sqrt(1 - m / n)
    score = _score_interval(errors, np.arange(m), confidence)
    half = student_quantile(0.5 + confidence / 2, m - 1) * float(errors.std(ddof=1)) / sqrt(m)
    down, up = max(half, float(errors.mean()) - score.low), max(half, score.high - float(errors.mean()))
    return _clipped(sample, rate, rate - unread * down, rate + unread * up, weight)


def _clipped(sample: Judged, rate: float, low: float, high: float, weight: float) -> Corrected:
    rate, low, high = (min(1.0, max(0.0, value)) for value in (rate, low, high))
    naive = float(sample.judged.mean())
    return Corrected(rate, low, high, naive, len(sample.labelled), len(sample.judged), weight)


def corrected_difference(
    reference: Judged,
    aligned: Judged,
    *,
    clusters: Clusters | None = None,
    confidence: float = 0.90,
    power_tuned: bool = False,
) -> Corrected:
    """aligned - reference, for answers to the same N requests in the same order; the interval lies in [-1, 1].

    People may have read the same requests' answers or others; what the two estimates share is taken from the data.
    The default confidence is the gate's: one-sided 95 % bounds each way. ValueError where the two differ in length.
    """
    n = len(reference.judged)
    if len(aligned.judged) != n:
        raise ValueError("a paired difference needs both answers to every request")
    groups = _groups(clusters, n)
    old, new = (_part(sample, groups, confidence, power_tuned) for sample in (reference, aligned))
    estimate = new.rate - old.rate
    shared = min(len(np.unique(groups[sample.labelled])) for sample in (reference, aligned))
    half = _t_half(new.influence - old.influence, groups, shared, confidence)
    likeness = _correlation(new.influence, old.influence, groups)
    down, up = new.rate - new.score.low, new.score.high - new.rate
    old_down, old_up = old.rate - old.score.low, old.score.high - old.rate
    low = estimate - max(half, _joined(down, old_up, -likeness))
    high = estimate + max(half, _joined(up, old_down, -likeness))
    estimate, low, high = (min(1.0, max(-1.0, value)) for value in (estimate, low, high))
    naive = float(aligned.judged.mean() - reference.judged.mean())
    return Corrected(estimate, low, high, naive, len(reference.labelled) + len(aligned.labelled), n, new.weight)


def _groups(clusters: Clusters | None, n: int) -> NDArray[np.intp]:
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError("clusters is (N,): one for every answer")
    return np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.intp)


def _part(sample: Judged, groups: NDArray[np.intp], confidence: float, power_tuned: bool) -> _Part:
    judged, labelled, human = sample.judged, sample.labelled, sample.human
    n, m = len(judged), len(labelled)
    if m == n:
        every = np.empty(n)
        every[labelled] = human
        rate, interval = rate_interval(every, groups, confidence)
        return _Part(rate, interval, (every - rate) / n, 0.0)
    weight = tuned_weight(judged[labelled], human) if power_tuned else 1.0
    errors = human - weight * judged[labelled]
    base, correction = weight * float(judged.mean()), float(errors.mean())
    seen = np.unique(groups[labelled], return_inverse=True)[1].astype(np.intp)
    of_errors = _score_interval(errors, seen, confidence)
    _, of_judge = rate_interval(judged, groups, confidence)
    by_judge, by_errors = weight * (judged - judged.mean()) / n, np.zeros(n)
    by_errors[labelled] = (errors - correction) / m
    likeness = _correlation(by_judge, by_errors, groups)
    score = Interval(
        base + correction - _joined(base - weight * of_judge.low, correction - of_errors.low, likeness),
        base + correction + _joined(weight * of_judge.high - base, of_errors.high - correction, likeness),
    )
    return _Part(base + correction, score, by_judge + by_errors, weight)


def _score_interval(errors: Floats, clusters: NDArray[np.intp], confidence: float) -> Interval:
    """Tango's interval of the mean error, at the effective n. Scores between 0 and 1 make errors of any size: they
    count as many discordant pairs as have their sum and their sum of squares. errors: (m,) in [-1, 1]."""
    estimate = clustered_mean(errors, clusters)
    if estimate.clusters < 2:
        return Interval(-1.0, 1.0)
    total = float(errors.sum())
    squares = max(abs(total), float((errors**2).sum()))
    shrink = 1 / cautious_effect(estimate, len(np.unique(clusters[errors != 0])))
    better, worse = (squares + total) / 2, (squares - total) / 2
    return tango(better * shrink, worse * shrink, len(errors) * shrink, confidence)


def tuned_weight(judged: Floats, human: Floats) -> float:
    """PPI++'s lambda, clipped to [0, 1]: the slope of human on judged, both (m,), over the labelled answers."""
    spread = float(((judged - judged.mean()) ** 2).sum())
    if spread == 0:
        return 0.0
    return min(1.0, max(0.0, float(((judged - judged.mean()) * (human - human.mean())).sum()) / spread))


def _t_half(influence: Floats, groups: NDArray[np.intp], labelled_clusters: int, confidence: float) -> float:
    """Half-width of the t interval; the degrees of freedom are the labelled clusters', less one."""
    if labelled_clusters < 2:
        return inf
    sums = np.bincount(groups, weights=influence)
    error = sqrt(labelled_clusters / (labelled_clusters - 1) * float((sums**2).sum()))
    return student_quantile(0.5 + confidence / 2, labelled_clusters - 1) * error


def _joined(one: float, other: float, correlation: float) -> float:
    """The distance to a bound of a sum, given each summand's own (MOVER)."""
    return sqrt(max(0.0, one**2 + other**2 + 2 * correlation * one * other))


def _correlation(one: Floats, other: Floats, groups: NDArray[np.intp]) -> float:
    first, second = np.bincount(groups, weights=one), np.bincount(groups, weights=other)
    scale = float((first**2).sum() * (second**2).sum())
    return float((first * second).sum()) / sqrt(scale) if scale > 0 else 0.0


def rogan_gladen(
    judged_positive: int,
    n: int,
    *,
    caught: int,
    positives: int,
    passed: int,
    negatives: int,
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """The rate behind a judged rate, from the judge's sensitivity and specificity measured elsewhere.

        rate = (judged + specificity - 1) / (sensitivity + specificity - 1)

    (Rogan and Gladen 1978), with the interval of Lang and Reiczigel (Preventive Veterinary Medicine 113, 2014, 13-22),
    clipped to [0, 1]. `caught` of `positives` were judged positive, `passed` of `negatives` negative. It believes that
    the judge errs here as it did there; where labels of these very answers exist, `corrected_rate` needs no such faith.
    PlumblineError where sensitivity + specificity is not proven above 1.2: the judge then separates next to nothing.
    """
    if min(n, positives, negatives) < 1:
        raise ValueError("a judge's error card needs answers of both kinds, and a rate needs answers")
    sensitivity, specificity = caught / positives, passed / negatives
    sure = wilson(caught, positives, confidence).low, wilson(passed, negatives, confidence).low
    gap = sqrt((sensitivity - sure[0]) ** 2 + (specificity - sure[1]) ** 2)
    if sensitivity + specificity - 1 - gap <= MIN_SEPARATION:
        raise PlumblineError(
            f"the judge's {sensitivity:.1%} caught and {specificity:.1%} passed are not proven above "
            f"{1 + MIN_SEPARATION:.0%} together",
            consequence="it separates next to nothing, and its rate cannot be turned into the true one",
            remedy="correct by labels of the same answers (corrected_rate), or use a judge that separates the two",
        )
    estimate = (judged_positive / n + specificity - 1) / (sensitivity + specificity - 1)
    z = normal_quantile(0.5 + confidence / 2)
    many, ones, zeros = n + z * z, positives + 2, negatives + 2
    share, hit, clear = (judged_positive + z * z / 2) / many, (caught + 1) / ones, (passed + 1) / zeros
    centre = (share + clear - 1) / (hit + clear - 1)
    shift = 2 * z * z * (centre * hit * (1 - hit) / ones - (1 - centre) * clear * (1 - clear) / zeros)
    spread = share * (1 - share) / many
    spread += centre**2 * hit * (1 - hit) / ones + (1 - centre) ** 2 * clear * (1 - clear) / zeros
    half = z * sqrt(spread) / (hit + clear - 1)
    low, high = min(centre + shift - half, estimate), max(centre + shift + half, estimate)
    rate, low, high = (min(1.0, max(0.0, value)) for value in (estimate, low, high))
    return rate, Interval(low, high)
