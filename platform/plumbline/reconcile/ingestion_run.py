"""How far one ingestion run is: a pure function of what the ledger says of it and of how its Jobs ended.

A run is decided about by its line (`dataset_line.reconcile`); nothing here starts anything. This module says in the
shape of conditions what was seen, so that `kubectl describe` answers "where is it, and why". The stages are those of
the ledger, in order, and each is durable before the next begins: a condition about a stage is True once the ledger
has it, Unknown before, and False only where the ledger says no.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from plumbline.reconcile.dataset_line import Condition
from plumbline.records.canonical import short
from plumbline.records.resources import RunPhase

STAGES = (
    "sealed", "verified", "deduplicated", "consent_checked", "redacted", "guarded", "split",
    "awaiting_approval", "publishing", "published",
)  # fmt: skip
RunState = Literal["open", "published", "no_change", "rejected", "superseded"]
ENDED: Mapping[str | None, RunPhase] = MappingProxyType(
    {"published": "Published", "no_change": "NoChange", "rejected": "Rejected", "superseded": "Superseded"}
)


@dataclass(frozen=True)
class RunObservation:
    """One look at a run. `stage` and `state` are the ledger's; None while the ledger has no such run.

    `job` says whether a Job of it is unfinished; `attempts` counts those that failed. `readable` is False when the
    ledger could not be asked, and then nothing else about it counts.
    """

    readable: bool = True
    stage: str | None = None
    state: RunState | None = None
    candidate: str | None = None
    approvals: int = 0
    rejections: int = 0
    sealed: int | None = None
    accepted: int | None = None
    rejected: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    version: int | None = None
    version_digest: str | None = None
    job: bool = False
    attempts: int = 0


@dataclass(frozen=True)
class RunDecision:
    phase: RunPhase
    conditions: tuple[Condition, ...]

    @property
    def over(self) -> bool:
        """Nothing about this run changes any more (a superseded one may still be taken up again)."""
        return self.phase in ("Published", "NoChange", "Rejected")


def describe(kind: Literal["ingestion", "removal"], needs: int, most: int, seen: RunObservation) -> RunDecision:
    """The phase and the conditions of a run that needs `needs` approvals and may be tried `most` times."""
    phase = _phase(most, seen)
    conditions = [_reached("InputsSealed", "sealed", "the range of events is fixed; later ones wait", seen)]
    if kind == "ingestion":
        conditions += [
            _reached("ConsentVerified", "consent_checked", "everyone left in it consents as of the ledger", seen),
            _reached("GuardsPassed", "guarded", "floods, contradictions and injections are out of it", seen),
            _reached("SplitSound", "split", "nobody and no near-duplicate is on both sides", seen),
            _approved(needs, seen),
        ]
    else:
        conditions.append(Condition("Approved", "True", "NotNeeded", "a removal only takes away"))
    conditions += [_published(seen), _degraded(phase, most, seen)]
    return RunDecision(phase, tuple(conditions))


def _phase(most: int, seen: RunObservation) -> RunPhase:
    if seen.state in ENDED:
        return ENDED[seen.state]
    if seen.job:
        return "Running"
    if seen.attempts >= most:
        return "Failed"
    if seen.stage == "awaiting_approval":
        return "AwaitingApproval"
    return "Publishing" if seen.stage == "publishing" else "Pending"


def _rank(seen: RunObservation) -> int:
    """How many stages are durable. A run that ended has done what it will."""
    if seen.state == "published":
        return len(STAGES)
    return STAGES.index(seen.stage) + 1 if seen.stage in STAGES else 0


def _reached(kind: str, stage: str, text: str, seen: RunObservation) -> Condition:
    if not seen.readable:
        return Condition(kind, "Unknown", "LedgerUnreachable", "the ledger cannot be read")
    if _rank(seen) > STAGES.index(stage):
        return Condition(kind, "True", "StageDurable", text)
    return Condition(kind, "Unknown", "StagePending", f"the stage {stage} is not durable yet")


def _approved(needs: int, seen: RunObservation) -> Condition:
    if seen.candidate is None:
        return Condition("Approved", "Unknown", "NoCandidate", "there is nothing to approve yet")
    name = short(seen.candidate)
    if seen.rejections > 0 or seen.state == "rejected":
        return Condition("Approved", "False", "Rejected", f"candidate {name} was turned down")
    text = f"candidate {name} has {seen.approvals} of {needs} approvals"
    if seen.approvals < needs and seen.state != "published":
        return Condition("Approved", "False", "AwaitingApproval", text)
    return Condition("Approved", "True", "Approved", text)


def _published(seen: RunObservation) -> Condition:
    if seen.state == "published" and seen.version is not None:
        return Condition("Published", "True", "VersionPublished", f"it made version {seen.version}")
    if seen.state in ENDED:
        reason = ENDED[seen.state]
        return Condition("Published", "False", reason, f"the run ended as {reason} and made no version")
    return Condition("Published", "False", "NotYet", "it has made no version yet")


def _degraded(phase: RunPhase, most: int, seen: RunObservation) -> Condition:
    if phase == "Failed":
        text = f"its Jobs failed {most} times; read the last one's log, then delete this object to have it tried again"
        return Condition("Degraded", "True", "RunFailed", text)
    if seen.attempts and phase not in ("Published", "NoChange", "Rejected"):
        return Condition("Degraded", "False", "Retrying", f"{seen.attempts} of {most} tries failed")
    return Condition("Degraded", "False", "AsExpected", "nothing needs a person's attention")
