"""Intervals for shares: Wilson and Clopper-Pearson for one rate, Tango for the difference of two paired rates.

Wald intervals are absent on purpose: at rates near 0 they claim a coverage they do not have (.59 instead of .95 at
a rate of .016 on real refusal labels), and a gate lives near 0. All functions take counts as floats, because a
design effect divides a count by what clustering costs (`statistics.paired_difference`), and ties share a point.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import sqrt


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low


@lru_cache(maxsize=64)
def normal_quantile(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate. No trials say nothing: [0, 1]."""
    if n <= 0:
        return Interval(0.0, 1.0)
    z = normal_quantile(0.5 + confidence / 2)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return Interval(low, high)


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The exact interval: never narrower than promised, whatever the rate. 0 of 200 gives an upper bound of 1.8 %."""
    from scipy.special import betaincinv

    if n <= 0:
        return Interval(0.0, 1.0)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))
    return Interval(low, high)


def tango_statistic(better: float, worse: float, n: float, difference: float) -> float:
    """Tango's score statistic for H0: p(better) - p(worse) = `difference` (Statistics in Medicine 17, 1998, 891-908).

    The variance uses the constrained maximum likelihood estimate of p(worse) under H0, so that it is positive even
    when no pair is discordant. At difference 0 its square is McNemar's chi-square.
    """
    a = 2 * n
    b = -better - worse + (2 * n - better + worse) * difference
    c = -worse * difference * (1 - difference)
    share_worse = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * share_worse + difference * (1 - difference))
    numerator = better - worse - n * difference
    if variance <= 0:
        return 0.0 if numerator == 0 else (float("inf") if numerator > 0 else float("-inf"))
    return numerator / sqrt(variance)


def tango(better: float, worse: float, n: float, confidence: float = 0.90) -> Interval:
    """Score interval of the paired difference (`better` - `worse`) / `n`, by inverting `tango_statistic`.

    `better` and `worse` count the discordant pairs in each direction. With none, the interval is
    +-z^2 / (n + z^2), not a point: unanimous agreement of 50 pairs proves little.
    """
    if n <= 0:
        return Interval(-1.0, 1.0)
    z = normal_quantile(0.5 + confidence / 2)
    estimate = (better - worse) / n
    return Interval(
        _bisect(better, worse, n, target=z, low=-1.0, high=estimate),
        _bisect(better, worse, n, target=-z, low=estimate, high=1.0),
    )


def _bisect(better: float, worse: float, n: float, *, target: float, low: float, high: float) -> float:
    """The difference whose statistic is `target`; the statistic falls as the difference grows. 2^-50 exact."""
    for _ in range(50):
        middle = (low + high) / 2
        if tango_statistic(better, worse, n, middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
