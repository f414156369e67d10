"""A paired estimate, as the report holds it: both rates, the signed difference with its bounds, what would settle it.

Shared by the comparison of our own answers (`compare`) and that of other harnesses' logs (`exchange`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.records import PairedEstimate, PolicyScore
from plumbline.records.report import Direction
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import ALPHA, Difference, Floats, holm, paired_difference, rate_interval

METHOD = "wider of cluster-robust t (CR1) and Tango at the effective n"
ALL = "all"


def paired_estimate(
    before: Floats,
    after: Floats,
    clusters: NDArray[np.intp],
    *,
    area: str,
    metric: str,
    direction: Direction,
    slice_: str = ALL,
    margin: float | None = None,
) -> tuple[PairedEstimate, Difference]:
    """The estimate from scores in [0, 1] of the reference (`before`) and the aligned policy (`after`), shape (n,)."""
    sign = 1 if direction == "up" else -1
    difference = paired_difference(sign * (after - before), clusters, margin=margin)
    record = PairedEstimate(
        area=area,
        metric=metric,
        slice=slice_,
        direction=direction,
        n=len(before),
        clusters=difference.estimate.clusters,
        reference=_policy_score(*rate_interval(before, clusters)),
        aligned=_policy_score(*rate_interval(after, clusters)),
        difference=rounded(difference.estimate.mean),
        low=rounded(difference.interval.low),
        high=rounded(difference.interval.high),
        discordant=int((before != after).sum()),
        method=METHOD,
        margin=margin,
        needed=difference.needed,
    )
    return record, difference


def named_losses(made: Sequence[tuple[PairedEstimate, Difference]]) -> list[PairedEstimate]:
    """One family of slices: `verdict` is "worse" where Holm's correction over it still proves a loss."""
    adjusted = holm([difference.p_worse for _, difference in made])
    return [
        record.model_copy(update={"verdict": "worse" if p <= ALPHA else None})
        for (record, _), p in zip(made, adjusted, strict=True)
    ]


def rounded(value: float) -> float:
    """Ten decimals: far below any margin, far above the last bits that a sum's order may change. No minus zero."""
    return round(value, 10) + 0.0


def _policy_score(rate: float, interval: Interval) -> PolicyScore:
    return PolicyScore(rate=rounded(rate), low=rounded(interval.low), high=rounded(interval.high))
