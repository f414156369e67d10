"""What a pressure file declares, and the evidence that its monitor may read.

A monitor that lacks its input says so: `not_measured` gives no statistic and no alarm. A number that nobody
measured would be worse than none, because it would be believed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumbline.evaluation.judging.judges import Judge
from plumbline.evaluation.table import PairedTable
from plumbline.records import DatasetManifest, Example, PressureReading


@dataclass(frozen=True)
class Preference:
    """A person preferred `chosen` to `rejected` as an answer to one request. Held out: it trained nothing."""

    chosen: str
    rejected: str
    cluster: str


@dataclass(frozen=True)
class ReviewLabel:
    """What one reviewer said of one item under one rubric rule."""

    rule: str
    item: str
    reviewer: str
    label: str


@dataclass(frozen=True)
class DatasetWindow:
    """A dataset version with its examples, where they are still readable."""

    manifest: DatasetManifest
    examples: Sequence[Example] = ()


def answer_length(text: str) -> float:
    """The cheapest proxy of quality, and the one that learned rewards drift towards: words in the answer."""
    return float(len(text.split()))


@dataclass(frozen=True)
class Observations:
    """What the caller knows beyond the answers. Everything is optional, and what is absent is reported as absent."""

    preferences: Sequence[Preference] = ()
    proxy: Callable[[str], float] = answer_length
    proxy_name: str = "answer length"
    reviews: Sequence[ReviewLabel] = ()
    previous: DatasetWindow | None = None
    current: DatasetWindow | None = None
    history: Sequence[DatasetWindow] = ()  # versions before `previous`, the oldest first
    earlier: Sequence[PressureReading] = ()  # of proxy_reward, for earlier checkpoints against the same reference


@dataclass(frozen=True)
class Evidence:
    table: PairedTable
    judge: Judge
    training: Sequence[Example]
    observations: Observations


@dataclass(frozen=True)
class Pressure:
    """One failure pressure: the docstring of its file is the contract, `measure` reads the evidence."""

    name: str
    document: str | None
    measure: Callable[[Evidence], PressureReading]


def not_measured(pressure: str, why: str) -> PressureReading:
    return PressureReading(pressure=pressure, statistics={}, alarm=False, explanation=f"not measured: {why}")


def reading(
    pressure: str, statistics: dict[str, float], explanation: str, *, alarm: bool, blocking: bool = False
) -> PressureReading:
    """Statistics rounded to 1e-10, so that the last bit of a sum never changes a report's digest."""
    return PressureReading(
        pressure=pressure,
        statistics={name: round(value, 10) for name, value in sorted(statistics.items())},
        alarm=alarm,
        blocking=blocking,
        explanation=explanation,
    )
