"""Paired, clustered inference: what the gate believes about a difference, and how many items would settle it.

Every difference here is signed so that up is better. Items that share a cluster (a prompt family, a contrast
pair, a source document) are not independent; on real refusal data ignoring that makes intervals 2.4 times too
narrow. Scores are in [0, 1] and mostly 0 or 1, so the t interval collapses to a point when no pair disagrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plumbline.statistics.intervals import Interval, normal_quantile, tango, wilson

Floats = NDArray[np.float64]
Outcome = Literal["pass", "regressed", "inconclusive"]
ALPHA = 0.05
POWER = 0.8
PRIOR_CLUSTERS = 10  # how many discordant clusters it takes to believe an estimated design effect by half
MIN_CLUSTERS = 10  # under ten clusters CR1 variances are themselves guesses; the gate answers ERROR


@dataclass(frozen=True)
class Clustered:
    """A mean with its cluster-robust standard error (CR1) and the design effect, SE^2 over the iid SE^2."""

    mean: float
    standard_error: float
    clusters: int
    n: int
    design_effect: float

    @property
    def effective_n(self) -> float:
        """What n independent items would be worth as much; clustering is never credited with extra items."""
        return self.n / max(1.0, self.design_effect)


@dataclass(frozen=True)
class Difference:
    """A paired difference with the one-sided 95 % bounds each way (a two-sided 90 % interval)."""

    estimate: Clustered
    interval: Interval
    better: float
    worse: float
    p_worse: float
    needed: int | None

    @property
    def discordant(self) -> float:
        return self.better + self.worse


def clustered_mean(values: Floats, clusters: NDArray[np.intp]) -> Clustered:
    """Mean over items; SE from sums of residuals per cluster, times G/(G-1).

    values: (n,), clusters: (n,) with integers 0..G-1. One cluster has no spread to measure: its SE is infinite.
    With no variation at all the design effect is 1: nothing was seen that could be correlated.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean of no items does not exist")
    groups = int(clusters.max()) + 1
    mean = float(values.mean())
    residuals = values - mean
    iid = float((residuals**2).sum()) / max(1, n - 1) / n
    if iid == 0:
        return Clustered(mean, 0.0 if groups > 1 else float("inf"), groups, n, 1.0)
    if groups < 2:
        return Clustered(mean, float("inf"), groups, n, float(n))
    sums = np.bincount(clusters, weights=residuals, minlength=groups)
    variance = groups / (groups - 1) * float((sums**2).sum()) / n**2
    return Clustered(mean, sqrt(variance), groups, n, variance / iid)


def paired_difference(
    differences: Floats, clusters: NDArray[np.intp], *, margin: float | None = None, alpha: float = ALPHA
) -> Difference:
    """Bounds of the mean difference: the *wider*, side by side, of two intervals with opposite weaknesses.

    The cluster-robust t interval (G - 1 degrees of freedom) respects clusters but is a point when no pair is
    discordant. Tango's interval is sane there but thinks pairs are independent, so it is given the effective n,
    n / max(1, design effect), with the discordant counts shrunk in proportion. The outer bounds respect both.

    While few clusters are discordant their design effect is hardly known, so it is shrunk towards the worst case, in
    which a cluster stands or falls as one; with no discordance at all a cluster counts as a single item.
    """
    estimate = clustered_mean(differences, clusters)
    better = float(np.maximum(differences, 0).sum())
    worse = float(np.maximum(-differences, 0).sum())
    shrink = 1 / cautious_effect(estimate, len(np.unique(clusters[differences != 0])))
    score = tango(better * shrink, worse * shrink, estimate.n * shrink, confidence=1 - 2 * alpha)
    if estimate.clusters < 2:
        interval = Interval(-1.0, 1.0)
    else:
        half = student_quantile(1 - alpha, estimate.clusters - 1) * estimate.standard_error
        interval = Interval(
            max(-1.0, min(score.low, estimate.mean - half)), min(1.0, max(score.high, estimate.mean + half))
        )
    needed = None if margin is None else needed_n(estimate, margin, alpha=alpha)
    return Difference(estimate, interval, better, worse, _p_worse(estimate, better, worse), needed)


def outcome(estimate: float, interval: Interval, margin: float) -> Outcome:
    """What a difference decides, up being better; read top-down. The gate's rule, and what `power` simulates."""
    if interval.low > -margin:
        return "pass"
    if (interval.high < 0 and estimate <= -margin / 2) or interval.high < -margin:
        return "regressed"
    return "inconclusive"


def cautious_effect(estimate: Clustered, discordant: int) -> float:
    """The design effect, at least 1, shrunk towards a cluster's size while few clusters are `discordant`."""
    size = estimate.n / estimate.clusters
    effect = (discordant * max(1.0, estimate.design_effect) + PRIOR_CLUSTERS * size) / (discordant + PRIOR_CLUSTERS)
    return max(1.0, effect)


def needed_n(estimate: Clustered, margin: float, *, alpha: float = ALPHA, power: float = POWER) -> int | None:
    """Items that would decide with probability `power`, if what was observed is the truth.

    A pass needs the lower bound above -margin: the gap to cover is margin plus the observed loss (gains are not
    counted on). A regression needs the upper bound under 0 with a loss of half the margin, or under -margin. The
    smaller of the two, and never less than what Tango asks of clusters that all agree. None: no n decides, the
    observed loss is the margin itself.
    """
    if margin <= 0:
        return None
    z_alpha, z_power = normal_quantile(1 - alpha), normal_quantile(power)
    floor = ceil((z_alpha**2 * (1 - margin) / margin + 1) * estimate.n / estimate.clusters)
    if estimate.clusters < 2:
        return floor
    spread = estimate.n * estimate.standard_error**2  # variance of one item, design effect included
    loss = max(0.0, -estimate.mean)
    gaps = [margin - loss, loss if loss >= margin / 2 else 0.0]
    candidates = [ceil((z_alpha + z_power) ** 2 * spread / gap**2) for gap in gaps if gap > 1e-9]
    return max(floor, min(candidates)) if candidates else None


def rate_interval(scores: Floats, clusters: NDArray[np.intp], confidence: float = 0.95) -> tuple[float, Interval]:
    """A policy's own rate with a Wilson interval at the effective n; scores that are all alike count once a cluster,
    since they do not say how much the items of one have in common."""
    estimate = clustered_mean(scores, clusters)
    if estimate.clusters < 2:
        return estimate.mean, Interval(0.0, 1.0)
    n = estimate.effective_n if estimate.standard_error else estimate.clusters
    return estimate.mean, wilson(estimate.mean * n, n, confidence)


def _p_worse(estimate: Clustered, better: float, worse: float) -> float:
    """One-sided p of "not worse": the larger of the cluster t test and the exact McNemar test (both must agree).

    G clusters that stand or fall as one prove no more than G tosses of a coin, however many items they hold.
    """
    from scipy.special import stdtr

    if estimate.mean >= 0 or estimate.clusters < 2:
        return 1.0
    exact = max(mcnemar_exact(ceil(better - 1e-9), int(worse + 1e-9)), 0.5**estimate.clusters)
    if estimate.standard_error == 0:
        return exact
    return max(exact, float(stdtr(estimate.clusters - 1, estimate.mean / estimate.standard_error)))


def mcnemar_exact(better: int, worse: int) -> float:
    """P(at least `worse` of the discordant pairs go the wrong way by a fair coin), one-sided."""
    total = better + worse
    if total > 1000:
        return 1 - float(_normal_cdf((worse - better - 1) / sqrt(total)))
    return float(sum(comb(total, k) for k in range(worse, total + 1)) / 2**total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given. Naming *which* slice regressed is a union: it pays."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def student_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def _normal_cdf(value: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(value))
