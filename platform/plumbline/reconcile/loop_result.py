"""What a local loop is asked to do, whom it tells, and what it leaves for the report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from plumbline.microworld.recipe import DEFAULT_SEED
from plumbline.microworld.reference import ReferenceRecipe
from plumbline.microworld.traffic import DEFAULT_REQUESTS
from plumbline.reconcile.workspace import StageLine
from plumbline.records import (
    DatasetDiff,
    DatasetManifest,
    EvaluationReport,
    GateDecision,
    Objective,
    PolicyManifest,
    ReleaseEntry,
    Rubric,
    ShadowSummary,
    TrainingRecord,
)
from plumbline.records.shadow import ShadowVerdict


class Teller(Protocol):
    """Who follows the loop: a terminal with progress bars, a log, or nobody."""

    def stage(self, name: str, text: str) -> None: ...

    def progress(self, done: float, total: float, note: str) -> None: ...

    def done(self, line: StageLine, text: str) -> None: ...


@dataclass(frozen=True)
class LoopSettings:
    """`reference`: a policy directory or hub id instead of the micro-world's own. `cache` keeps trained references."""

    seed: int = DEFAULT_SEED
    reference: str | None = None
    adapter: Literal["none", "lora"] = "none"
    workers: int = 1
    requests: int = DEFAULT_REQUESTS
    cache: Path = Path(".cache")
    code: str = ""

    @property
    def identity(self) -> dict[str, object]:
        """What makes two loops the same run. The cache and the number of workers change time, not results."""
        return {
            "loop": "plumbline.dev/loop/v1",
            "seed": self.seed,
            "reference": self.reference or ReferenceRecipe().digest,
            "adapter": self.adapter,
            "requests": self.requests,
            "code": self.code,
        }


@dataclass
class Candidate:
    """What is known of one aligned policy when its story is over."""

    name: str
    manifest: PolicyManifest
    objective: Objective
    record: TrainingRecord
    report: EvaluationReport
    decision: GateDecision
    shadow: ShadowSummary
    traffic: ShadowVerdict
    released: bool


@dataclass
class LoopResult:
    """All that the report is made from."""

    settings: LoopSettings
    rubric: Rubric
    reference: PolicyManifest
    candidates: list[Candidate]
    versions: list[DatasetManifest]
    difference: DatasetDiff
    releases: list[ReleaseEntry]
    lines: list[StageLine]
