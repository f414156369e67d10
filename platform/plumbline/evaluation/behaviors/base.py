"""What a behaviour file declares: its contract (the docstring) and the metrics that estimate it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from plumbline.evaluation.scorers import Outcome, Scored
from plumbline.records import SuiteItem

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
class Behavior:
    """One area: `document` is its file's docstring, the contract; `metrics` are how it is measured."""

    area: str
    document: str | None
    metrics: tuple[Metric, ...] = field(default=())

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
