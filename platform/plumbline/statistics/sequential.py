"""Confidence sequences: intervals for a mean that hold at every look, so that anyone may watch a live comparison.

A fixed-sample interval looked at again and again excludes the truth far more often than it says (one time in four
over twenty looks). An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021,
arXiv:2103.06476, theorem 2.2) bounds the whole path: with t units, mean m and standard deviation s,

    m  +-  s * sqrt( 2 (t r^2 + 1) / (t^2 r^2) * log( sqrt(t r^2 + 1) / alpha ) )

where r is chosen to be tight near `tuned_for` units. It is about 1.55 times as wide as a fixed-sample interval there.
Who asks on one side only (is it worse?) gets the paper's one-sided sequence, with log(1 + sqrt(t r^2 + 1) / (2 alpha)).

The unit is a *session*: turns of one conversation are not independent, so each session counts once, with the mean of
its paired differences. The estimate is thus the mean over sessions. Asymptotic means: valid once the variance estimate
has settled, so nothing is said before `MINIMUM` sessions, and the variance starts from one imagined session at the
largest distance: identical answers so far are no proof that answers never differ.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

MINIMUM = 20
Side = Literal["both", "low", "high"]


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


def confidence_sequence(
    means: Mapping[str, float], *, alpha: float = 0.05, tuned_for: int = 500, side: Side = "both"
) -> Bounds:
    """(1 - alpha) bounds on the mean of per-session differences in [-1, 1], valid at every look.

    `side` says which bound is asked for: with `low` or `high` that bound alone holds with 1 - alpha, tighter, and the
    other is left at 1 or -1.
    """
    t = len(means)
    mean = math.fsum(means.values()) / t if t else 0.0
    if t < MINIMUM:
        return Bounds(mean, -1.0, 1.0, t)
    variance = (math.fsum((value - mean) ** 2 for value in means.values()) + 1.0) / (t + 1)
    half = math.sqrt(variance) * boundary(t, alpha, tuned_for, one_sided=side != "both")
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Bounds(mean, -1.0 if side == "high" else low, 1.0 if side == "low" else high, t)


def boundary(t: int, alpha: float, tuned_for: int, *, one_sided: bool = False) -> float:
    """Half-width per unit of standard deviation after t units (theorem 2.2, rho tuned as the paper advises)."""
    error = 2 * alpha if one_sided else alpha  # one side of alpha is about as wide as both of twice alpha
    rho2 = (-2 * math.log(error) + math.log(-2 * math.log(error) + 1)) / tuned_for
    spread = t * rho2 + 1
    surprise = math.sqrt(spread) / error
    return math.sqrt(2 * spread / (t * t * rho2) * math.log(1 + surprise if one_sided else surprise))
