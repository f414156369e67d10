"""The cluster bootstrap: an interval for any statistic, by drawing whole clusters again and again.

For statistics that are no means (AUROC, calibration error, a ratio, a distance) there is no `paired_difference`. Here
G clusters are drawn from the G with replacement; an item then weighs as often as its cluster was drawn, and the
statistic is a function of weights, computed for many draws at once.

Percentile bounds are quantiles of the draws. BCa bounds (Efron 1987) shift those quantiles for the statistic's bias and
for how its spread changes with its value, the latter from a jackknife over clusters. Both lean on many clusters: with
20 they hold the truth some points less often than they say (docs/statistics.md has figures), which is why means are
judged by `paired_difference` and never by this.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plumbline.errors import PlumblineError
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import Floats

Statistic = Callable[[Floats], Floats]  # item weights (draws, n) -> (draws,) or (draws, k); NaN where undefined
Method = Literal["bca", "percentile"]
DRAWS = 2000
CELLS = 4_000_000  # weights held at once
JACKKNIFE_BLOCKS = 400  # the acceleration of blocks of clusters estimates that of clusters
UNDEFINED = 0.05  # of the draws may leave the statistic undefined (no positive drawn, say) before bounds mean nothing


@dataclass(frozen=True)
class Bootstrapped:
    """A statistic on the data as they are, with its bootstrap interval and standard error."""

    estimate: float
    interval: Interval
    standard_error: float
    clusters: int


def cluster_weights(clusters: NDArray[np.intp], draws: int, seed: int) -> Iterator[Floats]:
    """Item weights of `draws` resamples, in blocks of shape (b, n). The same seed gives the same weights.

    clusters: (n,) with integers 0..G-1.
    """
    groups, rng = int(clusters.max()) + 1, np.random.default_rng(seed)
    block = max(1, CELLS // max(len(clusters), groups))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        drawn = rng.integers(0, groups, size=(rows, groups)) + np.arange(rows)[:, None] * groups
        counts = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
        yield counts[:, clusters].astype(float)


def cluster_bootstrap(
    statistic: Statistic,
    clusters: NDArray[np.intp],
    *,
    confidence: float = 0.90,
    method: Method = "bca",
    draws: int = DRAWS,
    seed: int = 0,
) -> Bootstrapped:
    """One statistic with its interval: `statistic` maps item weights (b, n) to (b,). Errors as in `bootstrap_all`."""
    (found,) = bootstrap_all(
        lambda weights: statistic(weights).reshape(len(weights), 1),
        clusters,
        confidence=confidence,
        method=method,
        draws=draws,
        seed=seed,
    )
    return found


def bootstrap_all(
    statistic: Statistic,
    clusters: NDArray[np.intp],
    *,
    confidence: float = 0.90,
    method: Method = "bca",
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Bootstrapped]:
    """k statistics on the same draws (slices of one table, say): weights (b, n) -> (b, k).

    clusters: (n,) with integers 0..G-1. One cluster leaves nothing to draw: its interval is infinite. PlumblineError
    where a statistic is undefined on the data, or on more than one draw in twenty.
    """
    if len(clusters) == 0:
        raise ValueError("a statistic of no items does not exist")
    groups = int(clusters.max()) + 1
    estimates = statistic(np.ones((1, len(clusters))))[0]
    if groups < 2:
        return [Bootstrapped(float(e), Interval(-np.inf, np.inf), np.inf, groups) for e in estimates]
    drawn = np.concatenate([statistic(weights) for weights in cluster_weights(clusters, draws, seed)])
    lost = max(float(np.isnan(drawn).mean(axis=0).max()), float(np.isnan(estimates).any()))
    if lost > UNDEFINED:
        raise PlumblineError(
            f"the statistic is undefined on {lost:.0%} of the resamples of {groups} clusters",
            consequence="an interval from the others would leave out the very samples that say least",
            remedy="give more clusters of the rare kind, or a statistic that is defined on fewer",
        )
    accelerations = _accelerations(statistic, clusters) if method == "bca" else np.zeros(len(estimates))
    return [
        _interval(float(estimate), column[~np.isnan(column)], float(speed), confidence, method, groups)
        for estimate, column, speed in zip(estimates, drawn.T, accelerations, strict=True)
    ]


def _interval(
    estimate: float, drawn: Floats, acceleration: float, confidence: float, method: Method, groups: int
) -> Bootstrapped:
    from scipy.special import ndtr, ndtri

    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if method == "bca":
        # draws that equal the estimate count half, so that a statistic with steps is not called biased
        below = float((drawn < estimate).mean() + (drawn == estimate).mean() / 2)
        bias = float(ndtri(np.clip(below, 1 / (2 * len(drawn)), 1 - 1 / (2 * len(drawn)))))
        shifted = bias + ndtri(tails)
        tails = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(drawn, tails)
    return Bootstrapped(estimate, Interval(float(low), float(high)), float(drawn.std(ddof=1)), groups)


def _accelerations(statistic: Statistic, clusters: NDArray[np.intp]) -> Floats:
    """(k,): a sixth of the skewness of the influence of a cluster, from leaving blocks of clusters out in turn."""
    blocks = clusters % JACKKNIFE_BLOCKS
    count = int(blocks.max()) + 1
    block_rows = max(1, CELLS // len(clusters))
    left_out = np.concatenate(
        [
            statistic((np.arange(start, min(start + block_rows, count))[:, None] != blocks).astype(float))
            for start in range(0, count, block_rows)
        ]
    )
    influence = np.nanmean(left_out, axis=0) - left_out
    spread = np.nansum(influence**2, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.nansum(influence**3, axis=0) / (6 * spread**1.5)
    return np.where(spread > 0, speed, 0.0)


def weighted_means(values: Floats) -> Statistic:
    """Means of the columns of values (n, k), for `bootstrap_all`; NaN in values marks rows that are not of a column's
    slice. A draw without any row of a slice gives NaN."""
    inside = ~np.isnan(values)
    filled, counted = np.where(inside, values, 0.0), inside.astype(float)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            means: Floats = (weights @ filled) / (weights @ counted)
        return means

    return statistic
