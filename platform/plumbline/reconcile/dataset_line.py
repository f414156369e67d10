"""What a dataset line does next: one pure function of what it should be and what was seen.

A dataset line is the sequence of versions of one dataset. `reconcile` is level-based: it never asks what
*changed*, only what *is*, so a missed event, a restart or a second operator costs a repeated look and nothing
else. It reads no clock, no ledger and no cluster; the local interpreter and the Kubernetes interpreter both
observe, call it, carry out the one action it names, and look again until that action is `Wait`.

The order of its questions is the policy of this module:

1. Does the consent ledger verify? If it cannot be read, or its chain is broken, nothing starts (fail closed).
   Nothing is lost either: events stay in the inbox.
2. Did anyone in the head version withdraw? Then removal comes before everything, even before the end of a
   running ingestion (which is cancelled; its stages are keyed by their inputs and are found again) and even
   while the line is suspended: suspension pauses *adding*, never leaving.
3. Is a run under way? Then wait: a line has at most one.
4. Is a run pending? Carry it on: build, ask for approval, publish. If what it was built on has moved (head,
   rubric, or consent of someone in the candidate), build it anew; a new candidate needs a new approval.
5. Are there enough new events? Then seal them into a new run. Otherwise wait.

This module decides; it does not guard. The promise that no version published after a withdrawal contains that
person is kept by the publication's own database transaction, which checks again whatever was decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from plumbline.records.canonical import digest_of, short

Stage = Literal["sealed", "awaiting_approval", "publishing"]
Step = Literal["ingest", "publish", "reject", "remove"]
Status = Literal["True", "False", "Unknown"]
Phase = Literal[
    "Blocked", "Removing", "Suspended", "Ingesting", "AwaitingApproval", "Publishing", "Failed", "Empty", "Ready"
]  # fmt: skip


PHASES: dict[Step, Phase] = {
    "ingest": "Ingesting",
    "publish": "Publishing",
    "reject": "Publishing",
    "remove": "Removing",
}


# --- what should be, and what was seen ------------------------------------------------------------------------


@dataclass(frozen=True)
class LineSpec:
    """What a person declared. `rubric` is the digest of the rubric in force; `min_new_events` counts inbox events.

    A run is started at most `max_attempts` times; after that a person has to look (phase Failed).
    """

    dataset: str
    rubric: str
    approvals_required: int = 1
    min_new_events: int = 1
    max_attempts: int = 3
    suspended: bool = False


@dataclass(frozen=True)
class Head:
    """The published version that the line stands at. `consent_sequence` is the ledger entry it was checked to."""

    version: int
    digest: str
    consent_sequence: int


@dataclass(frozen=True)
class PendingRun:
    """A run that the ledger database knows and that is neither published nor given up.

    `parent` (a version digest, None for the first) and `rubric` are what it was built on. `candidate` is the
    digest that approvals are for; `approvals` and `rejections` count the valid ones, each by somebody who wrote none
    of it.
    `withdrawn` counts subjects in the candidate whose consent ended since it was built.
    """

    run_key: str
    stage: Stage
    from_seq: int
    to_seq: int
    parent: str | None
    rubric: str
    candidate: str | None = None
    approvals: int = 0
    rejections: int = 0
    approval_requested: bool = False
    withdrawn: int = 0


@dataclass(frozen=True)
class ActiveJob:
    """The one piece of work under way for this line, whoever started it."""

    run_key: str
    step: Step


@dataclass(frozen=True)
class LineObservation:
    """One look at the world. Sequences count from 1; 0 means none.

    `ledger_verifies`: True, False (the hash chain is broken) or None (unreachable, stale, or not asked).
    `withdrawn_subjects`: subjects contained in the head whose consent ended after `head.consent_sequence`.
    `sealed_sequence`: last inbox event that a finished run consumed, whether it published or not.
    `failures`: failed attempts by run key.
    """

    head: Head | None
    ledger_verifies: bool | None
    consent_sequence: int = 0
    inbox_sequence: int = 0
    sealed_sequence: int = 0
    withdrawn_subjects: int = 0
    pending: PendingRun | None = None
    job: ActiveJob | None = None
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))


# --- what to do -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartIngestion:
    """Build a candidate from inbox events `from_seq`..`to_seq` (both included) on top of the head, up to
    `awaiting_approval`. If the run exists, carry on from its last finished stage; if `replaces` names a run,
    give that one up in the same transaction. Publishes nothing. `attempt` counts from 1."""

    run_key: str
    from_seq: int
    to_seq: int
    attempt: int = 1
    replaces: str | None = None


@dataclass(frozen=True)
class StartRemoval:
    """Build *and publish* the version that is the head without everyone whose consent ended up to
    `consent_sequence`. It only takes away, so it needs no approval."""

    run_key: str
    consent_sequence: int
    attempt: int = 1


@dataclass(frozen=True)
class RequestApproval:
    """Make it known, once, that `missing` people must still approve `candidate`. Work goes on when they have."""

    run_key: str
    candidate: str
    missing: int


@dataclass(frozen=True)
class Publish:
    """Publish the approved `candidate` of a run in one ledger transaction, which checks consent again."""

    run_key: str
    candidate: str
    attempt: int = 1


@dataclass(frozen=True)
class Reject:
    """Close a run whose `candidate` somebody turned down: its events count as consumed, and nothing is published."""

    run_key: str
    candidate: str
    attempt: int = 1


@dataclass(frozen=True)
class Cancel:
    """Stop the work under way for `run_key`; its finished stages stay and will be found again."""

    run_key: str
    reason: str


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes; `reason` is a stable CamelCase word."""

    reason: str


Action = StartIngestion | StartRemoval | RequestApproval | Publish | Reject | Cancel | Wait


@dataclass(frozen=True)
class Condition:
    """A statement about the line, in the shape of a Kubernetes condition. `reason` is stable, `message` is prose."""

    type: str
    status: Status
    reason: str
    message: str


@dataclass(frozen=True)
class LineDecision:
    """`actions` holds exactly one action today; interpreters go through it in order all the same."""

    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...]
    phase: Phase

    @property
    def idle(self) -> bool:
        """True when another look at the same world would be pointless."""
        return all(isinstance(action, Wait) for action in self.actions)


# --- names of runs --------------------------------------------------------------------------------------------


def ingestion_run_key(
    *, dataset: str, parent: str | None, from_seq: int, to_seq: int, rubric: str, replaces: str | None = None
) -> str:
    """The identity of an ingestion: the same inputs are the same run, so a replay cannot publish twice."""
    inputs = {"dataset": dataset, "parent": parent, "events": [from_seq, to_seq], "rubric": rubric}
    return digest_of({"run": "ingestion", **inputs, "replaces": replaces})


def removal_run_key(*, dataset: str, parent: str, consent_sequence: int) -> str:
    """The identity of a removal: from this head, everyone who withdrew up to this ledger entry."""
    return digest_of({"run": "removal", "dataset": dataset, "parent": parent, "consent": consent_sequence})


# --- the decision ---------------------------------------------------------------------------------------------


def reconcile(spec: LineSpec, seen: LineObservation) -> LineDecision:
    """The one next action of a dataset line, with the conditions that tell people why."""
    action, phase = _next(spec, seen)
    return LineDecision(actions=(action,), conditions=_conditions(spec, seen, action, phase), phase=phase)


def _next(spec: LineSpec, seen: LineObservation) -> tuple[Action, Phase]:
    if seen.ledger_verifies is None:
        return Wait("LedgerUnreachable"), "Blocked"
    if not seen.ledger_verifies:
        return Wait("LedgerBroken"), "Blocked"
    if seen.head is not None and seen.withdrawn_subjects > 0:
        return _remove(spec, seen, seen.head)
    if seen.job is not None:
        return Wait("RunInProgress"), PHASES[seen.job.step]
    if spec.suspended:
        return Wait("Suspended"), "Suspended"
    if seen.pending is not None:
        return _carry_on(spec, seen, seen.pending)
    if seen.inbox_sequence - seen.sealed_sequence >= max(1, spec.min_new_events):
        return _ingest(spec, seen, seen.sealed_sequence + 1, seen.inbox_sequence)
    return Wait("NoNewEvents"), ("Ready" if seen.head is not None else "Empty")


def _remove(spec: LineSpec, seen: LineObservation, head: Head) -> tuple[Action, Phase]:
    if seen.job is not None and seen.job.step == "remove":
        return Wait("RunInProgress"), "Removing"
    if seen.job is not None:
        return Cancel(seen.job.run_key, reason="WithdrawalFirst"), "Removing"
    sequence = seen.consent_sequence
    key = removal_run_key(dataset=spec.dataset, parent=head.digest, consent_sequence=sequence)
    if (failed := seen.failures.get(key, 0)) >= spec.max_attempts:
        return Wait("RemovalFailed"), "Failed"
    return StartRemoval(key, sequence, attempt=failed + 1), "Removing"


def _carry_on(spec: LineSpec, seen: LineObservation, run: PendingRun) -> tuple[Action, Phase]:
    head = seen.head.digest if seen.head is not None else None
    if run.parent != head or run.rubric != spec.rubric or run.withdrawn > 0:
        return _ingest(spec, seen, run.from_seq, run.to_seq, replaces=run.run_key)
    if run.stage == "sealed" or run.candidate is None:
        return _ingest(spec, seen, run.from_seq, run.to_seq, key=run.run_key)
    failed = seen.failures.get(run.run_key, 0)
    if run.rejections > 0 and failed < spec.max_attempts:
        return Reject(run.run_key, run.candidate, attempt=failed + 1), "Publishing"
    if run.stage == "awaiting_approval" and run.approvals < spec.approvals_required and not run.rejections:
        if run.approval_requested:
            return Wait("AwaitingApproval"), "AwaitingApproval"
        missing = spec.approvals_required - run.approvals
        return RequestApproval(run.run_key, run.candidate, missing), "AwaitingApproval"
    if failed >= spec.max_attempts:
        return Wait("RunFailed"), "Failed"
    return Publish(run.run_key, run.candidate, attempt=failed + 1), "Publishing"


def _ingest(
    spec: LineSpec,
    seen: LineObservation,
    from_seq: int,
    to_seq: int,
    *,
    key: str | None = None,
    replaces: str | None = None,
) -> tuple[Action, Phase]:
    parent = seen.head.digest if seen.head is not None else None
    key = key or ingestion_run_key(
        dataset=spec.dataset, parent=parent, from_seq=from_seq, to_seq=to_seq, rubric=spec.rubric, replaces=replaces
    )
    if (failed := seen.failures.get(key, 0)) >= spec.max_attempts:
        return Wait("RunFailed"), "Failed"
    return StartIngestion(key, from_seq, to_seq, attempt=failed + 1, replaces=replaces), "Ingesting"


# --- what people read -----------------------------------------------------------------------------------------


def _conditions(spec: LineSpec, seen: LineObservation, action: Action, phase: Phase) -> tuple[Condition, ...]:
    return (
        _consent(seen),
        _approved(spec, seen),
        _published(seen),
        _degraded(spec, phase, action),
        _ready(phase, action),
    )


def _consent(seen: LineObservation) -> Condition:
    if seen.ledger_verifies is None:
        text = "the consent ledger cannot be read, so nothing is published; events stay in the inbox"
        return Condition("ConsentVerified", "Unknown", "LedgerUnreachable", text)
    if not seen.ledger_verifies:
        text = "the consent ledger's hash chain does not verify, so nothing is published; run `plumb consent verify`"
        return Condition("ConsentVerified", "False", "LedgerBroken", text)
    if seen.withdrawn_subjects > 0:
        text = f"consent of {seen.withdrawn_subjects} subjects in the head ended; a removal-only version comes first"
        return Condition("ConsentVerified", "False", "WithdrawalPending", text)
    text = f"every subject in the head consents as of ledger entry {seen.consent_sequence}"
    return Condition("ConsentVerified", "True", "ChainVerified", text)


def _approved(spec: LineSpec, seen: LineObservation) -> Condition:
    if seen.pending is None or seen.pending.candidate is None:
        return Condition("Approved", "Unknown", "NoCandidate", "no candidate waits for approval")
    has, needs = seen.pending.approvals, spec.approvals_required
    text = f"candidate {short(seen.pending.candidate)} has {has} of {needs} approvals"
    if seen.pending.rejections > 0:
        return Condition("Approved", "False", "Rejected", f"candidate {short(seen.pending.candidate)} was turned down")
    if has < needs:
        return Condition("Approved", "False", "AwaitingApproval", text)
    return Condition("Approved", "True", "Approved", text)


def _published(seen: LineObservation) -> Condition:
    if seen.head is None:
        return Condition("Published", "False", "NoVersion", "no version has been published")
    text = f"version {seen.head.version} is {short(seen.head.digest)}"
    return Condition("Published", "True", "HeadPublished", text)


def _degraded(spec: LineSpec, phase: Phase, action: Action) -> Condition:
    if phase == "Blocked" and isinstance(action, Wait):
        return Condition("Degraded", "True", action.reason, "the line is held until the consent ledger verifies again")
    if phase == "Failed" and isinstance(action, Wait):
        text = f"the run failed {spec.max_attempts} times; somebody has to read its log before it is started again"
        return Condition("Degraded", "True", action.reason, text)
    return Condition("Degraded", "False", "AsExpected", "nothing needs a person's attention")


def _ready(phase: Phase, action: Action) -> Condition:
    if phase == "Ready":
        return Condition("Ready", "True", "UpToDate", "the head holds every sealed event and nobody who withdrew")
    reason = action.reason if isinstance(action, Wait) else phase
    return Condition("Ready", "False", reason, f"the line is {phase}")
