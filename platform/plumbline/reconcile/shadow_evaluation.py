"""What a shadow evaluation does next: one pure function of what was asked, what was seen, and the time.

    A/A  ->  plan  ->  pairs  ->  verdict         from a file of requests; each step is a command that may be killed
    watch                                         of live traffic: the router pairs, a person asks for the verdict

Level-based like `dataset_line`. The order of the questions is the policy of this module:

1. Can the ledger be read? If not, nothing starts: what was decided could not be known.
2. Is it live? Then nothing is ever started; what the router's monitor and the ledger say is shown, each for itself.
3. Is the verdict in? Then it stays, whatever else is so.
4. Is somebody at it? Wait. Did the A/A run see the reference differ from itself? Then nobody is asked in vain.
5. Is the next step's number of attempts used up? Say why, and how to put it right. Was the last failure a moment ago?
   Wait a little, longer each time. Otherwise start it.

The kill switch ends the pairing, not the evaluation: what it stopped is REGRESSED, and the verdict says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType

from plumbline.reconcile.dataset_line import Condition, Wait
from plumbline.records.shadow import STEPS, ShadowStatus, ShadowStep, ShadowVerdict, StepName
from plumbline.records.shadow_resources import EvaluationPhase

KILLED = "KillSwitch"
# reason -> (what was seen, what to do)
REASONS: dict[str, tuple[str, str]] = {
    "NoEndpoints": (
        "no address is known for one of the two policies",
        "enable serving in the chart, or name both in spec.endpoints of a new ShadowEvaluation",
    ),
    "EndpointUnreachable": (
        "nothing answered at one of the two endpoints",
        "see that both predictors are ready and that this namespace may reach them",
    ),
    "NotComparable": (
        "the endpoints state different templates or decoder defaults, or do not serve the model",
        "serve both policies with the same template and decoder defaults, as `reference` and `aligned`",
    ),
    "PolicyNotStated": (
        "an endpoint does not state the digest of its policy",
        "serve it with Plumbline's predictor; a verdict is about policies by digest",
    ),
    "WrongPolicy": (
        "an endpoint serves another policy than the spec names",
        "correct the endpoint, or make a ShadowEvaluation that names the digests that are served",
    ),
    "RequestsMissing": (
        "the file or blob of requests is not there",
        "put it where spec.source says: on the data volume, or into the blobs",
    ),
    "RequestsMalformed": (
        "the requests are not a JSON line each, or there are none",
        "read the Job's log, which names the lines, and make a new ShadowEvaluation of the corrected file",
    ),
    "RequestsChanged": (
        "the file of requests is not what it was when this began",
        "put it back; for other requests make another ShadowEvaluation",
    ),
    "SpoolRefused": (
        "the spool cannot be used: damaged, full, or of another experiment or version",
        "read the Job's log; deleting this object and making it again begins with an empty spool",
    ),
    "PlanRefused": (
        "there is no plan for these margins",
        "give margins between 0 and 1 for both requirements, or a rubric that has them",
    ),
    "JudgeRefused": ("the judge cannot be used", "name a file that `plumb judge fit` wrote, on the data volume"),
    "ConsentUnknown": (
        "the ledger that says who consents could not be asked",
        "see that the ledger can be reached, or say in spec.source.requests.consentedBy who vouches",
    ),
    "NoPairs": (
        "no request became a pair",
        "see in status.shed why: without consentedBy nobody is asked about whom the ledger has no consent for",
    ),
    "OtherPolicies": (
        "the answers came from other policies than the spec names",
        "make a new ShadowEvaluation; a verdict about other policies is not shown as this one's",
    ),
    KILLED: ("the kill switch was thrown", "read why with `plumb shadow status`; begin another experiment afterwards"),
    "StepFailed": ("the last attempt failed", "read its Job's log"),
}
ENDPOINTS = ("NoEndpoints", "EndpointUnreachable", "NotComparable", "PolicyNotStated", "WrongPolicy")
PHASES: dict[StepName, EvaluationPhase] = {"aa": "AA", "plan": "Planning", "pairs": "Pairing", "verdict": "Deciding"}
PAUSE, LONGEST = timedelta(seconds=10), timedelta(minutes=5)


@dataclass(frozen=True)
class EvaluationSpec:
    """What is compared, by digest. A live one is watched only."""

    experiment: str
    reference: str
    aligned: str
    live: bool = False
    max_attempts: int = 3


@dataclass(frozen=True)
class EvaluationObservation:
    """One look. `steps` is what each step reported last; `verdict` what the ledger holds about these very policies.

    `job` is the step that somebody is at; `failures` counts failed attempts by step, `failed_at` is when the last one
    failed, where that is known. `monitor` is what a live experiment's router said, None where it did not answer.
    """

    ledger: bool = True
    steps: Mapping[StepName, ShadowStep] = field(default_factory=lambda: MappingProxyType({}))
    verdict: ShadowVerdict | None = None
    job: StepName | None = None
    failures: Mapping[StepName, int] = field(default_factory=lambda: MappingProxyType({}))
    failed_at: datetime | None = None
    endpoints: bool = True
    monitor: ShadowStatus | None = None

    def reason(self, step: StepName) -> str | None:
        """What the step's last report says; None before the first."""
        found = self.steps.get(step)
        return found.reason if found is not None else None


@dataclass(frozen=True)
class StartStep:
    """Carry out a step; `attempt` counts from 1. What an earlier attempt did is found done."""

    step: StepName
    attempt: int


EvaluationAction = StartStep | Wait


@dataclass(frozen=True)
class EvaluationDecision:
    """`step` is the one that is next or under way; None where there is none."""

    action: EvaluationAction
    phase: EvaluationPhase
    step: StepName | None
    conditions: tuple[Condition, ...]


def reconcile_evaluation(spec: EvaluationSpec, seen: EvaluationObservation, now: datetime) -> EvaluationDecision:
    """The one next action of an evaluation, with the conditions that tell people why."""
    step = None if spec.live else next_step(seen)
    action, phase = _watch(spec, seen) if spec.live else _next(spec, seen, step, now)
    conditions = (
        _aa_sound(seen),
        _planned(spec, seen),
        _comparable(spec, seen, step),
        _decided(seen),
        _killed(spec, seen),
        _degraded(spec, seen, step, action, phase),
    )
    return EvaluationDecision(action, phase, step, conditions)


def next_step(seen: EvaluationObservation) -> StepName | None:
    """The first step that is not over; None once the verdict is in."""
    for step in STEPS:
        reason = seen.reason(step)
        if reason != "Done" and not (step == "pairs" and reason == KILLED):
            return step
    return None


def about(spec: EvaluationSpec, status: ShadowStatus) -> bool | None:
    """Whether a monitor's look is about this experiment's policies; None while no pair says so."""
    named = {leg: status.digests.get(leg, ()) for leg in ("reference", "aligned")}
    if status.experiment != spec.experiment:
        return False
    if not all(named.values()):
        return None
    return named == {"reference": (spec.reference,), "aligned": (spec.aligned,)}


def _watch(spec: EvaluationSpec, seen: EvaluationObservation) -> tuple[EvaluationAction, EvaluationPhase]:
    if not seen.ledger:
        return Wait("LedgerUnreachable"), "Blocked"
    if seen.verdict is not None and seen.verdict.decided:
        return Wait("Decided"), "Decided"
    stopped = seen.monitor is not None and about(spec, seen.monitor) is not False and seen.monitor.tripped is not None
    return Wait("Watching"), "Stopped" if stopped else "Watching"


def _next(
    spec: EvaluationSpec, seen: EvaluationObservation, step: StepName | None, now: datetime
) -> tuple[EvaluationAction, EvaluationPhase]:
    if not seen.ledger:
        return Wait("LedgerUnreachable"), "Blocked"
    if step is None:
        if seen.verdict is None:  # the ledger was put back to before it: the report is there, the verdict is not
            return Wait("VerdictMissing"), "Undecided"
        return (Wait("Decided"), "Decided") if seen.verdict.decided else (Wait("Undecided"), "Undecided")
    if seen.job is not None:
        return Wait("InProgress"), PHASES[seen.job]
    if (alike := seen.steps.get("aa")) is not None and alike.alarm:
        return Wait("Unsound"), "Unsound"
    if not seen.endpoints and step in ("aa", "pairs"):
        return Wait("NoEndpoints"), "Blocked"
    failed = seen.failures.get(step, 0)
    if failed >= spec.max_attempts:
        return Wait("StepFailed"), "Failed"
    if failed and seen.failed_at is not None and now < seen.failed_at + min(LONGEST, PAUSE * 2 ** (failed - 1)):
        return Wait("BackingOff"), PHASES[step]
    return StartStep(step, failed + 1), PHASES[step]


def _aa_sound(seen: EvaluationObservation) -> Condition:
    found, verdict = seen.steps.get("aa"), seen.verdict
    if verdict is not None and verdict.aa is not None and found is None:
        text = f"{verdict.aa.n} pairs in {verdict.aa.sessions} sessions"
        if verdict.aa.alarm or verdict.aa.errors:
            return Condition("AASound", "False", "Unsound", f"{text}: the reference seemed to differ from itself")
        return Condition("AASound", "True", "Sound", f"{text}: the reference does not differ from itself")
    if found is None or not found.done:
        return Condition("AASound", "Unknown", "NotYet", "no A/A run has been seen through")
    if found.alarm:
        text = "the reference seemed to differ from itself; look for a cause before you trust a comparison"
        return Condition("AASound", "False", "Unsound", text)
    if found.sessions < found.planned:
        text = f"{found.sessions} of the {found.planned} sessions that a verdict wants: too few, or too many lost"
        return Condition("AASound", "False", "TooFewSessions", text)
    text = f"{found.sessions} sessions: the reference does not differ from itself"
    return Condition("AASound", "True", "Sound", text)


def _planned(spec: EvaluationSpec, seen: EvaluationObservation) -> Condition:
    found = seen.steps.get("plan")
    if found is not None and found.done:
        text = f"a verdict takes about {found.planned} sessions of this traffic"
        return Condition("Planned", "True", "PlanWritten", text)
    if spec.live and seen.verdict is not None and seen.verdict.plan is not None:
        text = f"a verdict took about {seen.verdict.plan.traffic} sessions of this traffic"
        return Condition("Planned", "True", "PlanWritten", text)
    if spec.live:
        text = "a router does not say whether a plan lies beside its spool; `plumb shadow plan` writes one"
        return Condition("Planned", "Unknown", "NotAsked", text)
    return Condition("Planned", "Unknown", "NotYet", "the plan is made after the A/A run, before the first pair")


def _comparable(spec: EvaluationSpec, seen: EvaluationObservation, step: StepName | None) -> Condition:
    if spec.live:
        if seen.monitor is None:
            text = "the router's monitor did not answer; users and the comparison go on without being watched here"
            return Condition("Comparable", "Unknown", "MonitorUnreachable", text)
        match about(spec, seen.monitor):
            case None:
                return Condition("Comparable", "Unknown", "NotYet", "no pair names both policies yet")
            case False:
                text = "the router runs another experiment or other policies than the spec; nothing of it is shown"
                return Condition("Comparable", "False", "OtherPolicies", text)
        return Condition("Comparable", "True", "SamePolicies", "the pairs come from the two policies of the spec")
    reason = seen.reason(step) if step is not None else None
    if not seen.endpoints and step is not None:
        reason = "NoEndpoints"
    if reason in ENDPOINTS:
        return Condition("Comparable", "False", reason, "; ".join(REASONS[reason]))
    if seen.reason("verdict") == "OtherPolicies":
        return Condition("Comparable", "False", "OtherPolicies", "; ".join(REASONS["OtherPolicies"]))
    if seen.reason("aa") == "Done":
        return Condition("Comparable", "True", "SamePolicies", "the endpoints serve the two policies, one template")
    return Condition("Comparable", "Unknown", "NotYet", "the endpoints have not been asked")


def _decided(seen: EvaluationObservation) -> Condition:
    said = seen.verdict
    if said is None:
        return Condition("Decided", "False", "NotYet", "there is no verdict about these two policies")
    if said.decided:
        return Condition("Decided", "True", said.verdict.value.capitalize(), f"{said.verdict.value}, by one look")
    text = f"{said.verdict.value}: {len(said.missing)} things are missing and {len(said.errors)} are wrong"
    return Condition("Decided", "False", said.verdict.value.capitalize(), f"{text}; `plumb shadow verdict` names them")


def _killed(spec: EvaluationSpec, seen: EvaluationObservation) -> Condition:
    live = seen.monitor is not None and about(spec, seen.monitor) is not False and seen.monitor.tripped is not None
    if live or seen.reason("pairs") == KILLED or (seen.verdict is not None and seen.verdict.tripped is not None):
        return Condition("KillSwitch", "True", "Thrown", "; ".join(REASONS[KILLED]))
    if spec.live and seen.monitor is None:
        return Condition("KillSwitch", "Unknown", "NotAsked", "the router's monitor did not answer")
    return Condition("KillSwitch", "False", "NotThrown", "the kill switch was not thrown")


def _degraded(
    spec: EvaluationSpec,
    seen: EvaluationObservation,
    step: StepName | None,
    action: EvaluationAction,
    phase: EvaluationPhase,
) -> Condition:
    if not seen.ledger:
        return Condition("Degraded", "True", "LedgerUnreachable", "nothing is started until the ledger can be read")
    waits = action.reason if isinstance(action, Wait) else ""
    if waits == "NoEndpoints":
        return Condition("Degraded", "True", waits, "; ".join(REASONS[waits]))
    if phase == "Unsound":
        text = "the A/A run saw a difference where there is none; find the cause, then make another ShadowEvaluation"
        return Condition("Degraded", "True", "Unsound", text)
    if waits == "VerdictMissing":
        text = "the verdict that was reported is not in the ledger; make this object again to decide anew"
        return Condition("Degraded", "True", waits, text)
    if step is not None and seen.failures.get(step, 0) and seen.job is None:
        reason = seen.reason(step) or "StepFailed"
        fact, remedy = REASONS.get(reason, REASONS["StepFailed"])
        tries = f"{seen.failures[step]} of {spec.max_attempts} attempts at {step} failed"
        again = "; then delete this object and make it again" if phase == "Failed" else ""
        return Condition("Degraded", "True", reason, f"{fact} ({tries}); {remedy}{again}")
    return Condition("Degraded", "False", "AsExpected", "nothing needs a person's attention")
