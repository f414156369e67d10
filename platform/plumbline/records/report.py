"""An evaluation report: paired estimates by area and slice, with the cases they came from."""

from typing import Any, Literal

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.conversation import Message
from plumbline.records.judging import CorrectedRate, ErrorCard
from plumbline.records.suite import Overlap

Direction = Literal["up", "down"]


class PolicyScore(Record):
    """One policy's rate on a metric with a two-sided 95 % interval; None where the metric has no single rate."""

    schema_id = "plumbline.dev/policy-score/v1"

    rate: float
    low: float
    high: float


class PairedEstimate(Record):
    """Aligned minus reference on one metric, signed so that up is better (`direction` says how it was signed).

    `difference`, `low` and `high` are shares; `low` and `high` are the bounds of a two-sided 90 % interval, that
    is one-sided 95 % each way; `bootstrap_low` and `bootstrap_high` are a second opinion on the same bounds, from
    resampling clusters. `n` items in `clusters`; `discordant` pairs; `needed` is the n that would decide.
    """

    schema_id = "plumbline.dev/paired-estimate/v2"

    area: str
    metric: str
    slice: str
    direction: Direction
    n: int
    clusters: int
    reference: PolicyScore
    aligned: PolicyScore
    difference: float
    low: float
    high: float
    discordant: int
    method: str
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    margin: float | None = None
    verdict: str | None = None
    needed: int | None = None


class ComparedPolicy(Record):
    """Who was compared. `verified` is False for an endpoint whose digest was declared by whoever asked it."""

    schema_id = "plumbline.dev/compared-policy/v1"

    role: Literal["reference", "aligned"]
    name: str
    policy: Digest
    template: Digest
    dataset: Digest | None = None
    verified: bool = True


class SevereCount(Record):
    """Severe items under one gated metric, of which none may fail. `high` is the exact one-sided 95 % upper bound of
    the aligned policy's failure rate; `items` are those that the aligned policy fails."""

    schema_id = "plumbline.dev/severe-count/v1"

    area: str
    metric: str
    n: int
    reference_failures: int
    aligned_failures: int
    high: float
    items: tuple[str, ...] = ()


class FailureCase(Record):
    """A held-out item on which the aligned policy did worse (or better), with both answers."""

    schema_id = "plumbline.dev/failure-case/v1"

    item: str
    area: str
    metric: str
    slice: str
    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()
    reference_answer: str
    aligned_answer: str
    reference_score: float
    aligned_score: float


class PressureReading(Record):
    """A failure pressure's monitor: statistics by name, the alarm and the sentence that explains it."""

    schema_id = "plumbline.dev/pressure-reading/v1"

    pressure: str
    statistics: dict[str, float]
    alarm: bool
    blocking: bool = False
    explanation: str


class Diagnostic(Record):
    """A statistic of an area that is no share of its items. It stands beside the gated metrics and decides nothing.

    `value` with its two-sided 90 % bounds, in `unit`; larger is worse. `state` holds the bounds against `limit`: within
    when the upper one is under it, beyond when the lower one is above it. Not measured: no number, and `explanation`
    says what was absent. `details` are the numbers it was made of.
    """

    schema_id = "plumbline.dev/diagnostic/v1"

    area: str
    name: str
    unit: str
    limit: float
    state: Literal["within", "beyond", "undecided", "not measured"]
    explanation: str
    n: int = 0
    clusters: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    details: dict[str, float] = Field(default_factory=dict)


class ContaminationCheck(Record):
    """Whether the suite was compared with what the aligned policy was trained on: with how many training examples, of
    which dataset versions, by digest (none where their digests were not given). `erased` examples of these versions
    could not be read. Nothing compared is not checked, which is not the same as clean."""

    schema_id = "plumbline.dev/contamination-check/v1"

    checked: bool
    datasets: tuple[Digest, ...] = ()
    examples: int = Field(default=0, ge=0)
    erased: int = Field(default=0, ge=0)


def _empty(value: Any) -> bool:
    return not value


class EvaluationReport(Record):
    """`baselines` are no-model scores by metric (always refuse, always abstain, ...), beside every score.

    `judge` is the digest of the instrument that read the answers; `cards` are its measured errors for these policies,
    and `corrected` its refusal rates as people's labels correct them. `missing` counts items that formed no pair;
    `contaminated` items were found in the training data and are in no estimate; `overlaps` says by which sign;
    `contamination` says whether anybody looked, and is None where that was not recorded. A report without `diagnostics`
    or `contamination` has the digest that it had before these fields existed.
    """

    schema_id = "plumbline.dev/evaluation-report/v2"

    reference: Digest
    aligned: Digest
    suite: Digest
    rubric: Digest
    dataset: Digest | None
    decoder: Digest
    judge: Digest | None = None
    policies: tuple[ComparedPolicy, ...] = ()
    estimates: tuple[PairedEstimate, ...]
    severe: tuple[SevereCount, ...] = ()
    slices: tuple[PairedEstimate, ...] = ()
    pressures: tuple[PressureReading, ...] = ()
    failures: tuple[FailureCase, ...] = ()
    baselines: dict[str, dict[str, float]] = Field(default_factory=dict)
    corrected: tuple[CorrectedRate, ...] = ()
    cards: tuple[ErrorCard, ...] = ()
    missing: int = 0
    contaminated: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = Field(default=(), exclude_if=_empty)
    contamination: ContaminationCheck | None = Field(default=None, exclude_if=_empty)
