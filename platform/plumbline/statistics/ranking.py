"""Ranking: does a score put the positives above the negatives, and where to cut it?

AUROC is the chance that a positive scores above a negative, ties counting half; no threshold enters. Its variance is
DeLong's (Biometrics 44, 1988, 837-845), by midranks (Sun and Xu 2014), and covers paired scores of the same items.
Where items share clusters the variance is Obuchowski's (Biometrics 53, 1997, 567-578): the same components, summed by
cluster. A perfect separation has no variance in either, so `auroc_interval` is the wider of two: DeLong's on the logit
scale, and Newcombe's score interval (Statistics in Medicine 25, 2006, 559-573, method 5), which is no point at 1.

A threshold is chosen here on the very negatives that its false-positive rate is then read from. For a cut at an order
statistic the exact (Clopper-Pearson) bounds still hold, whatever the scores' distribution. Ranking travels between
policies better than thresholds do: choose them anew for every policy.
"""

from dataclasses import dataclass
from math import exp, inf, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plumbline.errors import PlumblineError
from plumbline.statistics.bootstrap import DRAWS, Bootstrapped, Statistic, cluster_bootstrap
from plumbline.statistics.intervals import Interval, clopper_pearson, normal_quantile
from plumbline.statistics.paired import Floats, clustered_mean, rate_interval, student_quantile

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Auroc:
    """The area with its interval; `standard_error` is DeLong's, or Obuchowski's where clusters were given."""

    area: float
    interval: Interval
    standard_error: float
    positives: int
    negatives: int


@dataclass(frozen=True)
class AurocDifference:
    """Second minus first area on the same items: interval and two-sided p of "equal"."""

    difference: float
    interval: Interval
    standard_error: float
    p_value: float


@dataclass(frozen=True)
class Roc:
    """Points of the curve, from (0, 0) to (1, 1): at each threshold an item with score >= threshold is flagged."""

    thresholds: Floats
    false_positive: Floats
    true_positive: Floats


@dataclass(frozen=True)
class Threshold:
    """Where to cut: flag at a score >= `value` (infinite: flag nothing). Rates on these items, with intervals.

    `low` and `high` bound the value itself: the cut that has exactly the target rate lies between them with the same
    confidence. Clusters widen all three.
    """

    value: float
    low: float
    high: float
    false_positive: float
    false_positive_interval: Interval
    true_positive: float
    true_positive_interval: Interval
    target: float


def _split(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, Flags]:
    values, flags = np.asarray(scores, dtype=float), np.asarray(positive).astype(bool)
    if values.shape != flags.shape or values.ndim != 1 or np.isnan(values).any():
        raise ValueError("scores and positive are (n,), and no score is NaN")
    if flags.all() or not flags.any():
        kind = "positive" if flags.all() else "negative"
        raise PlumblineError(
            f"all {len(flags)} items are {kind}",
            consequence="there is nothing to rank them against",
            remedy="give items of both kinds",
        )
    return values, flags


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """scores: (n,); positive: (n,) truth. PlumblineError where one kind is absent."""
    values, flags = _split(scores, positive)
    return float(_components(values, flags)[0].mean())


def roc_curve(scores: ArrayLike, positive: ArrayLike) -> Roc:
    """One point per distinct score, the highest first, after the point that flags nothing."""
    values, flags = _split(scores, positive)
    order = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) != 0, True))
    true = np.append(0, flags[order].cumsum()[ends]) / flags.sum()
    false = np.append(0, (~flags[order]).cumsum()[ends]) / (~flags).sum()
    return Roc(np.append(inf, values[order][ends]), false, true)


def _components(values: Floats, flags: Flags) -> tuple[Floats, Floats]:
    """DeLong's: for each positive the share of negatives below it, for each negative that of positives above it."""
    from scipy.stats import rankdata

    positives, negatives = values[flags], values[~flags]
    ranks = rankdata(values)
    of_positives = (ranks[flags] - rankdata(positives)) / len(negatives)
    of_negatives = 1 - (ranks[~flags] - rankdata(negatives)) / len(positives)
    return of_positives, of_negatives


def _influence(values: Floats, flags: Flags) -> tuple[float, Floats]:
    """The area and each item's influence on it, (n,): its deviation, over the number of its kind.

    Scaled so that the sum of squares is DeLong's variance (each kind with its own n - 1).
    """
    of_positives, of_negatives = _components(values, flags)
    area, influence = float(of_positives.mean()), np.empty(len(values))
    for kind, components in ((flags, of_positives), (~flags, of_negatives)):
        count = len(components)
        influence[kind] = (components - area) / sqrt(count * max(1, count - 1))
    return area, influence


def _within(values: Floats, flags: Flags, strata: NDArray[np.intp]) -> tuple[float, Floats]:
    parts = [strata == stratum for stratum in np.unique(strata)]
    pairs = np.array([float(flags[part].sum()) * float((~flags[part]).sum()) for part in parts])
    area, influence = 0.0, np.zeros(len(values))
    for part, share in zip(parts, pairs / pairs.sum(), strict=True):
        if share:
            of_part, influence_of_part = _influence(values[part], flags[part])
            area += float(share) * of_part
            influence[part] = share * influence_of_part
    return area, influence


def _spread(influence: Floats, clusters: NDArray[np.intp] | None) -> tuple[float, int]:
    """(standard error, degrees of freedom + 1): single items are their own clusters, with DeLong's own correction."""
    if clusters is None:
        return sqrt(float((influence**2).sum())), len(influence)
    sums = np.bincount(clusters, weights=influence)
    groups = len(sums)
    return (sqrt(groups / (groups - 1) * float((sums**2).sum())) if groups > 1 else inf), groups


def auroc_interval(
    scores: ArrayLike,
    positive: ArrayLike,
    *,
    clusters: NDArray[np.intp] | None = None,
    strata: NDArray[np.intp] | None = None,
    inflation: float = 1.0,
    confidence: float = 0.95,
) -> Auroc:
    """The area with the wider, side by side, of DeLong's logit interval and Newcombe's score interval.

    clusters: (n,) with integers 0..G-1, None where items are independent. strata: (n,), where scores may be compared
    within a stratum only (a cross-fitted fold, a language): the area is then the mean over strata, each by its pairs.
    inflation: what the standard error is multiplied by, for uncertainty that these items do not show.
    """
    values, flags = _split(scores, positive)
    area, influence = _influence(values, flags) if strata is None else _within(values, flags, strata)
    influence *= inflation
    error, groups = _spread(influence, clusters)
    counts = float(flags.sum()), float((~flags).sum())
    effect = inflation**2
    if clusters is not None and groups > 1:
        iid = float((influence**2).sum())
        # with no variance seen a cluster counts as one item, as in `paired_difference`
        effect *= max(1.0, error**2 / iid) if iid > 0 else len(values) / groups
    score = _newcombe(area, counts[0] / effect, counts[1] / effect, confidence)
    low, high = score.low, score.high
    if groups < 2:
        low, high = 0.0, 1.0
    elif 0 < area < 1:
        logit, half = log(area / (1 - area)), student_quantile(0.5 + confidence / 2, groups - 1) * error
        half /= area * (1 - area)
        low, high = min(low, _expit(logit - half)), max(high, _expit(logit + half))
    return Auroc(area, Interval(low, high), error, int(counts[0]), int(counts[1]))


def _expit(value: float) -> float:
    return 1 / (1 + exp(-value)) if value > -700 else 0.0


def _newcombe(area: float, positives: float, negatives: float, confidence: float) -> Interval:
    """The areas whose variance, by Hanley and McNeil's formula with both counts' mean, puts `area` at z."""
    z, middle = normal_quantile(0.5 + confidence / 2), max(1.0, (positives + negatives) / 2)

    def inside(true: float) -> bool:
        shape = 1 + (middle - 1) * ((1 - true) / (2 - true) + true / (1 + true))
        return (area - true) ** 2 <= z * z * true * (1 - true) * shape / (positives * negatives)

    bounds = []
    for outer in (0.0, 1.0):
        within, beyond = area, outer
        for _ in range(50):
            halfway = (within + beyond) / 2
            within, beyond = (halfway, beyond) if inside(halfway) else (within, halfway)
        bounds.append(within)
    return Interval(bounds[0], bounds[1])


def auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    positive: ArrayLike,
    *,
    clusters: NDArray[np.intp] | None = None,
    confidence: float = 0.90,
) -> AurocDifference:
    """Paired DeLong: two scores of the same items, second minus first; Student's t with the clusters' (items') count.

    The default confidence is the gate's. Equal rankings differ by nothing, with p = 1.
    """
    old, flags = _split(first, positive)
    new, _ = _split(second, positive)
    (area_old, influence_old), (area_new, influence_new) = _influence(old, flags), _influence(new, flags)
    difference = area_new - area_old
    error, groups = _spread(influence_new - influence_old, clusters)
    if groups < 2:
        return AurocDifference(difference, Interval(-1.0, 1.0), inf, 1.0)
    half = student_quantile(0.5 + confidence / 2, groups - 1) * error
    interval = Interval(max(-1.0, difference - half), min(1.0, difference + half))
    return AurocDifference(difference, interval, error, _two_sided(difference, error, groups - 1))


def _two_sided(difference: float, error: float, degrees: int) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(difference) / error))


def weighted_auroc(scores: ArrayLike, positive: ArrayLike) -> Statistic:
    """The area as a function of item weights (b, n) -> (b,), for the bootstrap; NaN where a draw lacks one kind."""
    values, flags = _split(scores, positive)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(values[order]) != 0))
    sorted_flags = flags[order]

    def statistic(weights: Floats) -> Floats:
        ordered = weights[:, order]
        ups = np.add.reduceat(np.where(sorted_flags, ordered, 0.0), starts, axis=1)
        downs = np.add.reduceat(np.where(sorted_flags, 0.0, ordered), starts, axis=1)
        below = downs.cumsum(axis=1) - downs / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            areas: Floats = (ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1))
        return areas

    return statistic


def bootstrap_auroc(
    scores: ArrayLike,
    positive: ArrayLike,
    clusters: NDArray[np.intp],
    *,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrapped:
    """The area with a cluster-bootstrap (BCa) interval. A point at perfect separation: there, `auroc_interval`."""
    return cluster_bootstrap(weighted_auroc(scores, positive), clusters, confidence=confidence, draws=draws, seed=seed)


def choose_threshold(
    scores: ArrayLike,
    positive: ArrayLike,
    target: float,
    *,
    proven: bool = False,
    clusters: NDArray[np.intp] | None = None,
    confidence: float = 0.95,
) -> Threshold:
    """The lowest cut whose false-positive rate is at most `target` on these items, or, `proven`, whose upper bound is.

    Flag at score >= value. The bounds are two-sided, so `proven` errs one time in forty at 95 %. With few negatives
    nothing may be provable; the cut is then infinite and flags nothing. clusters: (n,) with integers 0..G-1.
    """
    values, flags = _split(scores, positive)
    negatives = np.sort(values[~flags])[::-1]
    effect = 1.0
    if clusters is not None:
        effect = _effect_at(values, flags, clusters, float(np.quantile(negatives, 1 - target)))
    n = len(negatives)
    allowed = _most_flagged(n, target, effect, confidence) if proven else int(target * n + 1e-9)
    value = _cut(values, negatives, allowed)
    flagged, caught = values[~flags] >= value, values[flags] >= value
    return Threshold(
        value=value,
        low=_cut(values, negatives, int(_rate_bounds(target, n, effect, confidence).high * n)),
        high=_cut(values, negatives, int(_rate_bounds(target, n, effect, confidence).low * n)),
        false_positive=float(flagged.mean()),
        false_positive_interval=_exact(float(flagged.sum()), n, effect, confidence),
        true_positive=float(caught.mean()),
        true_positive_interval=_true_positive(caught, flags, clusters, confidence),
        target=target,
    )


def _cut(values: Floats, negatives: Floats, allowed: int) -> float:
    """The lowest score at which at most `allowed` negatives (sorted, highest first) are flagged; none is infinity."""
    if allowed < 0:
        return inf
    if allowed >= len(negatives):
        return float(values.min())
    above = values[values > negatives[allowed]]
    return float(above.min()) if len(above) else inf


def _exact(flagged: float, n: int, effect: float, confidence: float) -> Interval:
    from scipy.special import betaincinv

    if effect == 1.0:
        return clopper_pearson(int(flagged), n, confidence)
    hits, worth, tail = flagged / effect, n / effect, (1 - confidence) / 2
    low = 0.0 if hits <= 0 else float(betaincinv(hits, worth - hits + 1, tail))
    return Interval(low, 1.0 if hits >= worth else float(betaincinv(hits + 1, worth - hits, 1 - tail)))


def _most_flagged(n: int, target: float, effect: float, confidence: float) -> int:
    """How many of n negatives may be flagged with the upper bound still at most `target`; -1 where not even none."""
    allowed = -1
    while allowed + 1 <= target * n and _exact(allowed + 1, n, effect, confidence).high <= target:
        allowed += 1
    return allowed


def _rate_bounds(target: float, n: int, effect: float, confidence: float) -> Interval:
    """Between which observed rates the rate of the cut at exactly `target` falls, by the binomial distribution."""
    from scipy.stats import binom

    worth, tail = max(1, round(n / effect)), (1 - confidence) / 2
    low, high = binom.ppf(tail, worth, target) / worth, (binom.ppf(1 - tail, worth, target) + 1) / worth
    return Interval(float(max(0.0, low)), float(min(1.0, high)))


def _effect_at(values: Floats, flags: Flags, clusters: NDArray[np.intp], cut: float) -> float:
    groups = np.unique(clusters[~flags], return_inverse=True)[1].astype(np.intp)
    estimate = clustered_mean((values[~flags] >= cut).astype(float), groups)
    return max(1.0, estimate.design_effect) if estimate.mean else estimate.n / estimate.clusters


def _true_positive(caught: Flags, flags: Flags, clusters: NDArray[np.intp] | None, confidence: float) -> Interval:
    if clusters is None:
        return clopper_pearson(int(caught.sum()), len(caught), confidence)
    groups = np.unique(clusters[flags], return_inverse=True)[1].astype(np.intp)
    return rate_interval(caught.astype(float), groups, confidence)[1]
