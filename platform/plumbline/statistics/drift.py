"""Drift: how far one histogram lies from another."""

from collections.abc import Sequence

import numpy as np


def population_stability(old: Sequence[float], new: Sequence[float]) -> float:
    """PSI between two histograms over the same bins; half a count is added to each bin so that empty ones count.

    Rule of thumb of the field: under .1 stable, over .25 shifted.
    """
    a, b = np.asarray(old, dtype=float) + 0.5, np.asarray(new, dtype=float) + 0.5
    p, q = a / a.sum(), b / b.sum()
    return float(((q - p) * np.log(q / p)).sum())
