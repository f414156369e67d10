"""Confidence sequences: intervals for a mean that hold at every look, so that anyone may watch a live comparison.

A fixed-sample interval looked at again and again excludes the truth far more often than it says (one time in four
over twenty looks). An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2021,
arXiv:2103.06476, theorem 2.2) bounds the whole path: with t units, mean m and standard deviation s,

    m  +-  s * sqrt( 2 (t r^2 + 1) / (t^2 r^2) * log( sqrt(t r^2 + 1) / alpha ) )

where r is chosen to be tight near `tuned_for` units. It is about 1.55 times as wide as a fixed-sample interval there.
Who asks on one side only (is it worse?) gets the paper's one-sided sequence, with log(1 + sqrt(t r^2 + 1) / (2 alpha)).

That sequence holds for ever, and pays for it: near 80 % power it finds a loss only half as often as one look at the
end. Where the number of units N was planned, `planned_sequence` holds at every look up to N and for none after it. Its
half-width at t is z * s * sqrt(N) / t, with z the normal quantile at 1 - alpha / 2: by the reflection principle a
Brownian path crosses the constant z before its end with probability 2 (1 - Phi(z)) = alpha (O'Brien and Fleming 1979,
looking at every step). It gives up about three points of power. `alarm` spends nine tenths of alpha on the planned
sequence and the rest on the one that holds for ever, so that both together keep alpha.

The unit is a *session*: turns of one conversation are not independent, so each session counts once, with the mean of
its paired differences. The estimate is thus the mean over sessions. Asymptotic means: valid once the variance estimate
has settled, so nothing is said before `MINIMUM` sessions, and the variance starts from one imagined session at the
largest distance: identical answers so far are no proof that answers never differ.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from plumbline.statistics.intervals import normal_quantile

MINIMUM = 20
UP_TO_THE_PLAN = 0.9  # of an alarm's alpha
Side = Literal["both", "low", "high"]
Means = Mapping[str, float] | Sequence[float]


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


def confidence_sequence(means: Means, *, alpha: float = 0.05, tuned_for: int = 500, side: Side = "both") -> Bounds:
    """(1 - alpha) bounds on the mean of per-session differences in [-1, 1], valid at every look.

    `side` says which bound is asked for: with `low` or `high` that bound alone holds with 1 - alpha, tighter, and the
    other is left at 1 or -1.
    """
    t, mean, deviation = _moments(means)
    if t < MINIMUM:
        return Bounds(mean, -1.0, 1.0, t)
    return _bounds(t, mean, deviation * boundary(t, alpha, tuned_for, one_sided=side != "both"), side)


def planned_sequence(means: Means, planned: int, *, alpha: float = 0.05, side: Side = "both") -> Bounds:
    """(1 - alpha) bounds valid at every look up to `planned` sessions; (-1, 1) beyond, where they promise nothing."""
    t, mean, deviation = _moments(means)
    if not MINIMUM <= t <= planned:
        return Bounds(mean, -1.0, 1.0, t)
    return _bounds(t, mean, deviation * planned_boundary(t, alpha, planned, one_sided=side != "both"), side)


def alarm(means: Means, planned: int | None = None, *, alpha: float = 0.05) -> bool:
    """Whether the mean is proven below zero, by a rule that may be asked at every step, for ever, and wrongly says so
    with probability alpha at most. With `planned` sessions most of alpha is spent on the looks up to there."""
    if planned is None:
        return confidence_sequence(means, alpha=alpha, side="high").high < 0
    early = planned_sequence(means, planned, alpha=UP_TO_THE_PLAN * alpha, side="high")
    return (
        early.high < 0
        or confidence_sequence(means, alpha=(1 - UP_TO_THE_PLAN) * alpha, tuned_for=planned, side="high").high < 0
    )


def planned_boundary(t: int, alpha: float, planned: int, *, one_sided: bool = False) -> float:
    """Half-width of the planned sequence per unit of standard deviation after t of `planned` units."""
    return normal_quantile(1 - alpha / (2 if one_sided else 4)) * math.sqrt(planned) / t


def _moments(means: Means) -> tuple[int, float, float]:
    """Number, mean and standard deviation, the latter with one imagined session at distance 1."""
    values = list(means.values()) if isinstance(means, Mapping) else means
    t = len(values)
    mean = math.fsum(values) / t if t else 0.0
    return t, mean, math.sqrt((math.fsum((value - mean) ** 2 for value in values) + 1.0) / (t + 1))


def _bounds(t: int, mean: float, half: float, side: Side) -> Bounds:
    low, high = max(-1.0, mean - half), min(1.0, mean + half)
    return Bounds(mean, -1.0 if side == "high" else low, 1.0 if side == "low" else high, t)


def boundary(t: int, alpha: float, tuned_for: int, *, one_sided: bool = False) -> float:
    """Half-width per unit of standard deviation after t units (theorem 2.2, rho tuned as the paper advises)."""
    error = 2 * alpha if one_sided else alpha  # one side of alpha is about as wide as both of twice alpha
    rho2 = (-2 * math.log(error) + math.log(-2 * math.log(error) + 1)) / tuned_for
    spread = t * rho2 + 1
    surprise = math.sqrt(spread) / error
    return math.sqrt(2 * spread / (t * t * rho2) * math.log(1 + surprise if one_sided else surprise))
