"""What a behaviour file declares: its contract (the docstring), the metrics that estimate it, and its diagnostics."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plumbline.evaluation.scorers import Outcome, Scored
from plumbline.evaluation.table import PairedTable
from plumbline.records import Example, SuiteItem
from plumbline.records.report import Diagnostic
from plumbline.statistics.paired import ALPHA, Floats, clustered_mean, student_quantile

Applies = Callable[[SuiteItem], bool]


def every_item(item: SuiteItem) -> bool:
    return True


@dataclass(frozen=True)
class Metric:
    """A mean over items, with the direction that is better.

    score: an item's value in [0, 1] from what was scored. applies: which of the area's items count.
    gated: a margin in the rubric holds it; an ungated metric is a diagnostic, printed and checked against `limit`.
    limit: the rate beyond which a PASS is not credible, whatever the reference did: the policy then behaves like
    one of the no-model baselines (refuses everything, abstains on everything, never changes its mind).
    zero_on_severe: no item marked `severe` may fail, whatever the reference does and however wide the margin is.
    """

    name: str
    direction: Literal["up", "down"]
    score: Callable[[Scored], float]
    applies: Applies = every_item
    gated: bool = True
    limit: float | None = None
    limit_says: str = ""
    zero_on_severe: bool = False

    @property
    def sign(self) -> int:
        return 1 if self.direction == "up" else -1

    def fails(self, scored: Scored) -> bool:
        """Whether an item's score is the worst there is."""
        return self.score(scored) == (0.0 if self.direction == "up" else 1.0)

    def beyond_limit(self, rate: float) -> bool:
        if self.limit is None:
            return False
        return rate < self.limit if self.direction == "up" else rate > self.limit


@dataclass(frozen=True)
class Seen:
    """What a diagnostic may read: the area's pairs, those of the whole suite, the area's items (also such as training
    holds, which form no pair), and what the aligned policy was trained on."""

    table: PairedTable
    everything: PairedTable
    items: Sequence[SuiteItem]
    training: Sequence[Example]


Diagnose = Callable[[Seen], Sequence[Diagnostic]]


@dataclass(frozen=True)
class Behavior:
    """One area: `document` is its file's docstring, the contract; `metrics` are how it is measured; `diagnose` gives
    what is no share of items, for areas of which the suite has some."""

    area: str
    document: str | None
    metrics: tuple[Metric, ...] = field(default=())
    diagnose: Diagnose = lambda seen: ()

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)


def success(scored: Scored) -> float:
    """The item's own success: ties share a point, everything unusable is 0."""
    return scored.success


def share_of(outcomes: Iterable[Outcome]) -> Callable[[Scored], float]:
    """1 when the outcome is one of `outcomes`. List the unusable ones wherever they must not be credited."""
    wanted = frozenset(outcomes)

    def score(scored: Scored) -> float:
        return float(scored.outcome in wanted)

    return score


def diagnostic(
    area: str,
    name: str,
    unit: str,
    limit: float,
    found: tuple[float, float, float],
    explanation: str,
    *,
    n: int,
    clusters: int,
    details: dict[str, float] | None = None,
) -> Diagnostic:
    """`found` is value, low and high; rounded to 1e-10, so that the last bit of a sum never changes a digest."""
    value, low, high = (round(one, 10) + 0.0 for one in found)
    return Diagnostic(
        area=area,
        name=name,
        unit=unit,
        limit=limit,
        state="within" if high < limit else "beyond" if low > limit else "undecided",
        explanation=explanation,
        n=n,
        clusters=clusters,
        value=value,
        low=low,
        high=high,
        details={key: round(one, 10) + 0.0 for key, one in sorted((details or {}).items())},
    )


def unmeasured(area: str, name: str, unit: str, limit: float, why: str) -> Diagnostic:
    return Diagnostic(
        area=area, name=name, unit=unit, limit=limit, state="not measured", explanation=f"not measured: {why}"
    )


def mean_bounds(values: Floats, clusters: NDArray[np.intp]) -> tuple[float, float, float] | None:
    """(mean, low, high) with one-sided 95 % bounds each way, by clusters; None where there is no spread to measure."""
    estimate = clustered_mean(values, clusters)
    if estimate.clusters < 2 or not isfinite(estimate.standard_error):
        return None
    half = student_quantile(1 - ALPHA, estimate.clusters - 1) * estimate.standard_error
    return estimate.mean, estimate.mean - half, estimate.mean + half
