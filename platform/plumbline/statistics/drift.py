"""Drift: how far what is seen now lies from what was seen before, in a histogram, in a feature, or in a stream.

Histograms over the same bins: the population stability index. A feature of paired answers (length, share of markdown):
the Wasserstein distance in standard deviations of the reference, which says *how far* in the feature's own terms, and
Kolmogorov and Smirnov's statistic, which says how much of the distribution lies elsewhere, whatever the scale. A stream
of values with a known mean: Page's CUSUM, which adds up small steady departures until they are no accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plumbline.statistics.bootstrap import cluster_weights
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import Floats

DRAWS = 500


@dataclass(frozen=True)
class StyleDrift:
    """How far a feature of the aligned answers lies from the reference's.

    `distance` is Wasserstein-1 in standard deviations of the reference (infinite where those are 0 and the answers
    differ). `by_chance` is its mean if policies were swapped at random within clusters, `p_value` the chance of as much
    then. `interval` bounds the distance less its upward bias. `ks` is the largest gap of the two distributions.
    """

    distance: float
    interval: Interval
    by_chance: float
    p_value: float
    ks: float


@dataclass(frozen=True)
class Cusum:
    """Page's sums after each value, in standard deviations: `up` (n,) of values too high, `down` (n,) of too low.
    `alarm` is the index of the first value that takes either above the limit, None for none."""

    up: Floats
    down: Floats
    alarm: int | None


def population_stability(old: Sequence[float], new: Sequence[float]) -> float:
    """PSI between two histograms over the same bins; half a count is added to each bin so that empty ones count.

    Rule of thumb of the field: under .1 stable, over .25 shifted.
    """
    a, b = np.asarray(old, dtype=float) + 0.5, np.asarray(new, dtype=float) + 0.5
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())


def style_drift(
    reference: ArrayLike,
    aligned: ArrayLike,
    *,
    clusters: NDArray[np.intp] | None = None,
    confidence: float = 0.90,
    draws: int = DRAWS,
    seed: int = 0,
) -> StyleDrift:
    """reference, aligned: (n,), one feature of both answers to each request; clusters: (n,) with integers 0..G-1.

    A distance is never negative, so noise alone makes it positive: compare it with `by_chance`, or its bounds with a
    limit. Bounds: the basic bootstrap over clusters, which reflects the upward bias. The same seed gives the same.
    """
    old, new = np.asarray(reference, dtype=float), np.asarray(aligned, dtype=float)
    if old.ndim != 1 or old.shape != new.shape or len(old) == 0 or not np.isfinite(np.append(old, new)).all():
        raise ValueError("reference and aligned are (n,), finite, with n at least 1")
    groups = np.arange(len(old)) if clusters is None else clusters
    scale = float(old.std())
    order = np.argsort(np.append(old, new), kind="stable")
    values = np.append(old, new)[order]
    gaps = np.diff(values)
    real = np.append(gaps > 0, True)  # where the distributions may be compared: after the last of equal values
    # each answer's step of (aligned - reference)'s distribution function
    signs = np.append(-np.ones(len(old)), np.ones(len(new)))

    def distances(weights: Floats, flips: Floats) -> Floats:
        """weights, flips: (b, n) -> W1 (b,); a flip of -1 swaps the two answers of a pair."""
        steps = np.tile(weights * flips, (1, 2))[:, order] * signs[order]
        ahead = steps.cumsum(axis=1) / weights.sum(axis=1, keepdims=True)
        moved: Floats = np.abs(ahead[:, :-1]) @ gaps
        return moved

    ones = np.ones((1, len(old)))
    moved = float(distances(ones, ones)[0])
    ks = float(np.abs((signs[order].cumsum() / len(old))[real]).max())
    if moved == 0 or scale == 0:
        far = 0.0 if moved == 0 else inf
        return StyleDrift(far, Interval(far, far), 0.0, 1.0 if moved == 0 else 0.0, ks)
    weights = cluster_weights(groups, draws, seed)
    drawn = np.concatenate([distances(w, np.ones_like(w)) / _deviations(old, w) for w in weights])
    rng, count = np.random.default_rng(seed), int(groups.max()) + 1
    block = max(1, 2_000_000 // len(old))
    chance = np.concatenate(
        [
            distances(np.ones((rows, len(old))), rng.choice([-1.0, 1.0], (rows, count))[:, groups])
            for rows in (min(block, draws - start) for start in range(0, draws, block))
        ]
    )
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    distance = moved / scale
    bounds = Interval(max(0.0, 2 * distance - float(high)), max(0.0, 2 * distance - float(low)))
    p_value = (1 + int((chance >= moved * (1 - 1e-9)).sum())) / (draws + 1)
    return StyleDrift(distance, bounds, float(chance.mean()) / scale, p_value, ks)


def _deviations(values: Floats, weights: Floats) -> Floats:
    """Standard deviations of values (n,) under each row of weights (b, n); a draw of equal values has the least."""
    centred, total = values - values.mean(), weights.sum(axis=1)
    variance = weights @ centred**2 / total - (weights @ centred / total) ** 2
    deviations: Floats = np.sqrt(np.maximum(variance, np.finfo(float).tiny))
    return deviations


def cusum(values: ArrayLike, mean: float, deviation: float, *, slack: float = 0.5, limit: float = 5.0) -> Cusum:
    """Page's two-sided CUSUM (Biometrika 41, 1954): S = max(0, S + z - slack) up, and its mirror down.

    values: (n,) in order of time; `mean` and `deviation` are those of the stream when nothing is wrong, not of these
    values. With slack .5 and limit 5 an undisturbed normal stream alarms once in about 465 values, and a shift of one
    standard deviation after about 10 (Montgomery). ValueError for a deviation of 0 or less.
    """
    if not deviation > 0:
        raise ValueError("a stream that never varies has no CUSUM: deviation must be above 0")
    z = (np.asarray(values, dtype=float) - mean) / deviation
    up, down = _page(z - slack), _page(-z - slack)
    beyond = np.flatnonzero(np.maximum(up, down) > limit)
    return Cusum(up, down, int(beyond[0]) if len(beyond) else None)


def _page(steps: Floats) -> Floats:
    """max(0, running sum), by how far the plain sum stands above its lowest point so far."""
    total = steps.cumsum()
    sums: Floats = total - np.minimum(np.minimum.accumulate(total), 0.0)
    return sums
