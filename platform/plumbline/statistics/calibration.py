"""Calibration: when it says 70 %, is it right 70 times in a hundred?

Brier is the mean squared error of a probability p of an outcome y in {0, 1}: proper (honesty is the best policy),
per item, and so pairable and fit for a gate. Murphy's decomposition (1973) over the distinct probabilities says why:

    brier = reliability - resolution + uncertainty

    reliability   sum_b n_b/n (p_b - y_b)^2     what miscalibration costs; 0 is best
    resolution    sum_b n_b/n (y_b - y)^2       what telling items apart earns
    uncertainty   y (1 - y)                     the base rate's own; no forecast changes it

Where probabilities are binned, what varies within a bin is left over (Stephenson, Coelho and Jolliffe 2008) and stated
as `within`, so that the sum is exact always.

The expected calibration error (ECE) depends on its bins, is no mean over items, and is above 0 even for a calibrated
forecast: 10 bins of 20 items show about .08 by chance. Bins here hold equally many items, ties kept together, and the
value that a calibrated forecast would show on the same probabilities stands beside it. Read it; gate on Brier.
"""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plumbline.statistics.intervals import Interval, wilson
from plumbline.statistics.paired import ALPHA, Clustered, Floats, clustered_mean, student_quantile

BINS = 10
NULL_DRAWS = 1000


@dataclass(frozen=True)
class Brier:
    """The score and its parts; score = reliability - resolution + uncertainty + within. Lower is better."""

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within: float


@dataclass(frozen=True)
class Bin:
    """Items of like probability: their mean probability, and how often the outcome came, with a Wilson interval."""

    low: float
    high: float
    said: float
    came: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class CalibrationError:
    """ECE over equal-mass bins. `by_chance` is its mean, and `p_value` the chance of as much, if the probabilities
    were true."""

    ece: float
    by_chance: float
    p_value: float
    bins: tuple[Bin, ...]


def _checked(probabilities: ArrayLike, outcomes: ArrayLike) -> tuple[Floats, Floats]:
    said, came = np.asarray(probabilities, dtype=float), np.asarray(outcomes, dtype=float)
    if said.ndim != 1 or said.shape != came.shape or len(said) == 0:
        raise ValueError("probabilities and outcomes are (n,), with n at least 1")
    # `not all` and no `any`: a NaN satisfies no comparison
    if not ((said >= 0) & (said <= 1)).all() or not ((came == 0) | (came == 1)).all():
        raise ValueError("probabilities lie in [0, 1] and outcomes are 0 or 1")
    return said, came


def brier(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int | None = None) -> Brier:
    """probabilities: (n,), outcomes: (n,) in {0, 1}. `bins` None takes each distinct probability as its own bin, which
    flatters reliability and resolution alike where few items share one; else so many equal-mass bins."""
    said, came = _checked(probabilities, outcomes)
    codes = np.unique(said, return_inverse=True)[1] if bins is None else equal_mass(said, bins)
    counts = np.bincount(codes)
    mean_said, mean_came = np.bincount(codes, said) / counts, np.bincount(codes, came) / counts
    share, base = counts / len(said), float(came.mean())
    reliability = float((share * (mean_said - mean_came) ** 2).sum())
    resolution = float((share * (mean_came - base) ** 2).sum())
    score, uncertainty = float(((said - came) ** 2).mean()), base * (1 - base)
    return Brier(score, reliability, resolution, uncertainty, score - reliability + resolution - uncertainty)


def equal_mass(values: Floats, bins: int) -> NDArray[np.intp]:
    """(n,) -> bin 0..B-1 of each, B at most `bins`, of nearly n / bins items each; equal values share a bin."""
    if bins < 1:
        raise ValueError("at least one bin is needed")
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    # a value goes where the middle of its items lies in the ranking
    middle = (counts.cumsum() - counts / 2) / len(values)
    codes = np.minimum((middle * bins).astype(int), bins - 1)
    return np.unique(codes, return_inverse=True)[1][place].astype(np.intp)


def reliability_bins(probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = BINS) -> tuple[Bin, ...]:
    """The points of a reliability diagram, from the lowest probability up."""
    said, came = _checked(probabilities, outcomes)
    codes = equal_mass(said, bins)
    found = []
    for code in range(int(codes.max()) + 1):
        inside = codes == code
        n, hits = int(inside.sum()), float(came[inside].sum())
        p = said[inside]
        found.append(Bin(float(p.min()), float(p.max()), float(p.mean()), hits / n, wilson(hits, n), n))
    return tuple(found)


def calibration_error(
    probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = BINS, seed: int = 0
) -> CalibrationError:
    """sum_b n_b/n |said_b - came_b|, beside what a calibrated forecast would show (outcomes drawn from `probabilities`,
    1,000 times). Items are taken as independent. The same seed gives the same p."""
    said, came = _checked(probabilities, outcomes)
    codes = equal_mass(said, bins)
    found = _ece(said, came[None], codes)[0]
    rng = np.random.default_rng(seed)
    chance = np.concatenate(
        [_ece(said, (rng.random((100, len(said))) < said).astype(float), codes) for _ in range(NULL_DRAWS // 100)]
    )
    # 1e-12: a sum of floats in another order is no difference
    p_value = (1 + int((chance >= found - 1e-12).sum())) / (NULL_DRAWS + 1)
    return CalibrationError(float(found), float(chance.mean()), p_value, reliability_bins(said, came, bins=bins))


def _ece(said: Floats, came: Floats, codes: NDArray[np.intp]) -> Floats:
    """came: (draws, n) -> (draws,)."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0))
    gaps = np.add.reduceat((said - came)[:, order], starts, axis=1)
    errors: Floats = np.abs(gaps).sum(axis=1) / len(said)
    return errors


def brier_difference(
    reference: ArrayLike,
    aligned: ArrayLike,
    outcomes: ArrayLike,
    *,
    clusters: NDArray[np.intp] | None = None,
    alpha: float = ALPHA,
) -> tuple[Clustered, Interval]:
    """Brier of the reference less that of the aligned policy, so that up is better, on the same items: the mean with
    its cluster-robust error, and one-sided 1 - alpha bounds each way (Student's t, G - 1). All are (n,)."""
    old, came = _checked(reference, outcomes)
    new, _ = _checked(aligned, outcomes)
    groups = np.arange(len(came)) if clusters is None else clusters
    estimate = clustered_mean((old - came) ** 2 - (new - came) ** 2, groups)
    if estimate.clusters < 2:
        return estimate, Interval(-inf, inf)
    half = student_quantile(1 - alpha, estimate.clusters - 1) * estimate.standard_error
    return estimate, Interval(estimate.mean - half, estimate.mean + half)
