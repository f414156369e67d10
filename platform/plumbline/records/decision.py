"""A gate decision and the release it may move: the only mutable pointer, and why it points where it does."""

from enum import StrEnum

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest


class Verdict(StrEnum):
    """Verdicts with the exit codes of `plumb gate`: PASS 0, REGRESSED 1, ERROR 2, INCONCLUSIVE 3."""

    PASS = "PASS"
    REGRESSED = "REGRESSED"
    ERROR = "ERROR"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        return {"PASS": 0, "REGRESSED": 1, "ERROR": 2, "INCONCLUSIVE": 3}[self.value]


class AreaVerdict(Record):
    """One gated metric: its verdict, the margin it was held to and the sentence a reader needs."""

    schema_id = "plumbline.dev/area-verdict/v1"

    area: str
    metric: str
    verdict: Verdict
    difference: float | None
    low: float | None
    high: float | None
    margin: float
    n: int
    needed: int | None = None
    explanation: str
    cases: tuple[str, ...] = ()
    worst_slice: str | None = None


class GateDecision(Record):
    """The verdict over all areas for one aligned policy against one reference, by digest.

    `last_released` is the report that compares the same policy with the one released last. `own_margins` is True when
    a file of margins stood in for the rubric's; such a decision releases nothing.
    """

    schema_id = "plumbline.dev/gate-decision/v2"

    reference: Digest
    aligned: Digest
    report: Digest
    last_released: Digest | None = None
    rubric: Digest
    own_margins: bool = False
    verdict: Verdict
    areas: tuple[AreaVerdict, ...]
    errors: tuple[str, ...] = ()
    alpha: float = 0.05


class ReleaseEntry(Record):
    """One move of the release pointer; `decision` is a passing decision for `policy`, or None for the first."""

    schema_id = "plumbline.dev/release-entry/v1"

    sequence: int = Field(ge=1)
    release: str
    policy: Digest
    decision: Digest | None
    reason: str
    actor: str
