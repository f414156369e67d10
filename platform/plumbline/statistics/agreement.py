"""Agreement: Krippendorff's alpha, and whether reviewers agree enough for their labels to count.

alpha = 1 - observed / expected disagreement, over units that two or more people labelled; missing labels are left
out, not guessed (Krippendorff, Content Analysis, 2004, chapter 11). 1 is agreement, 0 what chance gives. Nominal:
any two values differ by one. Ordinal: by how much of the data lies between them, squared.

    pass          .80 and more, and the interval stays above .667: labels count
    second_look   .667 to .80: every disagreement and a sample of agreements go to an adjudicator
    blocked       under .667: nothing is released, the rubric is revised
    too_few       fewer than ten units, or only one value in use (alpha is undefined), or .80 and more with an
                  interval that reaches below .667: nobody can tell. Only unanimous items count

A point under .667 blocks however wide its interval: doubt holds answers back, it never lets them through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Metric = Literal["nominal", "ordinal"]
State = Literal["pass", "second_look", "blocked", "too_few"]
PASS, BLOCK, FEWEST, DRAWS = 0.80, 0.667, 10, 1000
_TINY = 1e-12  # a difference of floats that is none


@dataclass(frozen=True)
class Agreement:
    """`alpha` is None when it is undefined, `low` and `high` (95 % bootstrap) when there are fewer than two units.
    `units` counts those with two labels or more, `labels` the labels on them."""

    alpha: float | None
    low: float | None
    high: float | None
    units: int
    labels: int

    @property
    def state(self) -> State:
        if self.alpha is None or self.low is None or self.units < FEWEST:
            return "too_few"
        if self.alpha < BLOCK:
            return "blocked"
        if self.alpha < PASS:
            return "second_look"
        return "too_few" if self.low < BLOCK else "pass"


def agreement(
    units: Sequence[Sequence[str]], order: Sequence[str], *, metric: Metric = "nominal", seed: int = 0
) -> Agreement:
    """Alpha over units (each the labels that people gave one item) with its interval. `order` names every value, for
    the ordinal metric from least to most. KeyError for a label that is not in it. The same seed gives the same bounds.
    """
    place = {value: column for column, value in enumerate(order)}
    counts = np.zeros((len(units), len(order)))
    for row, unit in enumerate(units):
        for value in unit:
            counts[row, place[value]] += 1
    counts = counts[counts.sum(axis=1) >= 2]
    n, k = counts.shape
    if n == 0:
        return Agreement(None, None, None, 0, 0)
    # pairs[u, c, d]: ordered pairs of values within unit u, each unit weighing as many as it has labels
    pairs = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(k)) / (
        counts.sum(axis=1)[:, None, None] - 1
    )
    (alpha,) = _alphas(np.ones((1, n)), pairs, metric)
    low = high = None
    if n >= 2:
        weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
        # a draw that holds one value only saw no disagreement
        low, high = map(float, np.quantile(np.nan_to_num(_alphas(weights, pairs, metric), nan=1.0), [0.025, 0.975]))
    return Agreement(None if np.isnan(alpha) else float(alpha), low, high, n, int(counts.sum()))


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Agreement of two people on the same items beyond chance, each with their own base rates (Cohen 1960): 1 is all,
    0 what chance gives. For a pair with no label missing; for anything else, alpha. None where chance alone would agree
    always (both use one and the same value only). ValueError for lists of different lengths, or none.
    """
    if len(first) != len(second) or not first:
        raise ValueError("kappa needs two labels for every item")
    values = sorted({*first, *second})
    place = {value: at for at, value in enumerate(values)}
    table = np.zeros((len(values), len(values)))
    np.add.at(table, ([place[value] for value in first], [place[value] for value in second]), 1 / len(first))
    chance = float(table.sum(axis=1) @ table.sum(axis=0))
    return None if chance > 1 - _TINY else (float(np.trace(table)) - chance) / (1 - chance)


def _alphas(weights: np.ndarray, pairs: np.ndarray, metric: Metric) -> np.ndarray:
    """Alpha of each row of `weights` [draws, units]; NaN where only one value occurs."""
    n, k, _ = pairs.shape
    observed = (weights @ pairs.reshape(n, k * k)).reshape(-1, k, k)
    totals = observed.sum(axis=2)
    everything = totals.sum(axis=1)
    apart = _distances(totals, metric)
    expected = np.einsum("bc,bd,bcd->b", totals, totals, apart)
    with np.errstate(divide="ignore", invalid="ignore"):
        alphas = 1 - (everything - 1) * np.einsum("bcd,bcd->b", observed, apart) / expected
    return np.where(expected > _TINY, alphas, np.nan)


def _distances(totals: np.ndarray, metric: Metric) -> np.ndarray:
    """Squared distance of any two values, given how often each occurs: [draws, values, values]."""
    k = totals.shape[1]
    if metric == "nominal":
        return np.broadcast_to(1 - np.eye(k), (len(totals), k, k))
    upto = totals.cumsum(axis=1) - totals / 2  # how much of the data lies below the middle of each value
    difference: np.ndarray = (upto[:, :, None] - upto[:, None, :]) ** 2
    return difference
