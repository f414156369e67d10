"""Confidence sequences: intervals for a mean that hold at every look, so that anyone may watch a live comparison.

A fixed-sample interval looked at again and again excludes the truth far more often than it says (one time in four
over twenty looks). An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021,
arXiv:2103.06476, theorem 2.2) bounds the whole path: with t units, mean m and standard deviation s,

    m  +-  s * sqrt( 2 (t r^2 + 1) / (t^2 r^2) * log( sqrt(t r^2 + 1) / alpha ) )

where r is chosen to be tight near `tuned_for` units. It is about twice as wide as a fixed-sample interval there.

The unit is a *session*: turns of one conversation are not independent, so each session counts once, with the mean of
its paired differences. The estimate is thus the mean over sessions. Asymptotic means: valid once the variance estimate
has settled, so nothing is said before `MINIMUM` sessions, and the variance starts from one imagined session at the
largest distance: identical answers so far are no proof that answers never differ.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

MINIMUM = 20


@dataclass(frozen=True)
class Bounds:
    """Mean over sessions with the confidence sequence's bounds; (-1, 1) while there is too little to say."""

    mean: float
    low: float
    high: float
    sessions: int


def session_means(differences: Iterable[tuple[str, float]]) -> dict[str, float]:
    """session -> mean paired difference. The order of arrival does not matter."""
    grouped: dict[str, list[float]] = {}
    for session, difference in differences:
        grouped.setdefault(session, []).append(difference)
    return {session: math.fsum(values) / len(values) for session, values in grouped.items()}


def confidence_sequence(means: Mapping[str, float], *, alpha: float = 0.05, tuned_for: int = 500) -> Bounds:
    """Two-sided (1 - alpha) bounds on the mean of per-session differences in [-1, 1], valid at every look."""
    t = len(means)
    mean = math.fsum(means.values()) / t if t else 0.0
    if t < MINIMUM:
        return Bounds(mean, -1.0, 1.0, t)
    variance = (math.fsum((value - mean) ** 2 for value in means.values()) + 1.0) / (t + 1)
    half = math.sqrt(variance) * boundary(t, alpha, tuned_for)
    return Bounds(mean, max(-1.0, mean - half), min(1.0, mean + half), t)


def boundary(t: int, alpha: float, tuned_for: int) -> float:
    """Half-width per unit of standard deviation after t units (theorem 2.2, rho tuned as the paper advises)."""
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / tuned_for
    spread = t * rho2 + 1
    return math.sqrt(2 * spread / (t * t * rho2) * math.log(math.sqrt(spread) / alpha))
