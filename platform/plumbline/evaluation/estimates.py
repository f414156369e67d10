"""A paired estimate, as the report holds it: both rates, the signed difference with its bounds, what would settle it.

Shared by the comparison of our own answers (`compare`) and that of other harnesses' logs (`exchange`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plumbline.records import PairedEstimate, PolicyScore
from plumbline.records.report import Direction
from plumbline.statistics.bootstrap import cluster_bootstrap
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import ALPHA, Difference, Floats, holm, paired_difference, rate_interval

METHOD = "wider of cluster-robust t (CR1) and Tango at the effective n"
ALL = "all"
DRAWS = 1000


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
    signed = (after - before) if direction == "up" else (before - after)
    difference = paired_difference(signed, clusters, margin=margin)
    drawn = _resampled(signed, clusters)
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
        bootstrap_low=rounded(drawn.low) if drawn else None,
        bootstrap_high=rounded(drawn.high) if drawn else None,
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


def _resampled(signed: Floats, clusters: NDArray[np.intp]) -> Interval | None:
    """A second opinion that assumes less and proves less: 90 % percentile bounds of the mean over drawn clusters."""
    if int(clusters.max()) < 1:
        return None
    return cluster_bootstrap(
        lambda weights: weights @ signed / weights.sum(axis=1), clusters, method="percentile", draws=DRAWS
    ).interval


def rounded(value: float) -> float:
    """Ten decimals: far below any margin, far above the last bits that a sum's order may change. No minus zero."""
    return round(value, 10) + 0.0


def _policy_score(rate: float, interval: Interval) -> PolicyScore:
    return PolicyScore(rate=rounded(rate), low=rounded(interval.low), high=rounded(interval.high))
