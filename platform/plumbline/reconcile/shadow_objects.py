"""A ShadowEvaluation in Kubernetes: its Jobs, their names, and its status. Pure, like `kubernetes.py`.

A step is a Job of `plumb shadow evaluate STEP`, which belongs to the evaluation and goes with it. Its name is a
function of the object's identity, its step and the attempt, so that making it twice is answered 409. The status is a
projection of what the steps reported to the ledger and of the verdict there; a live evaluation's is its router's word
besides.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from plumbline.reconcile.kubernetes import (
    ATTEMPT_ANNOTATION,
    STEP_LABEL,
    JobSettings,
    Json,
    job_outcome,
    label,
    plumb_job,
)
from plumbline.reconcile.resources import GROUP, conditions, moment, owner
from plumbline.reconcile.shadow_evaluation import (
    EvaluationDecision,
    EvaluationObservation,
    EvaluationSpec,
    StartStep,
    about,
    next_step,
)
from plumbline.records.canonical import digest_of, short
from plumbline.records.shadow import STEPS, RequirementVerdict, ShadowStatus, ShadowStep, ShadowVerdict, StepName
from plumbline.records.shadow_resources import RequirementShown, ShadowEvaluationStatus

EVALUATION_LABEL = f"{GROUP}/shadow-evaluation"
KEY_ANNOTATION = f"{GROUP}/evaluation-key"
COMPONENT = "app.kubernetes.io/component"
NEWS = ("AASound", "Comparable", "Decided", "KillSwitch", "Degraded")
MARGINS = {"benignRefusal": "benign_refusal", "harmfulCompliance": "harmful_compliance"}


def evaluation_spec(evaluation: Json) -> EvaluationSpec:
    """The spec of a ShadowEvaluation object, as far as decisions go."""
    spec = evaluation["spec"]
    return EvaluationSpec(
        experiment=spec["experiment"],
        reference=spec["reference"],
        aligned=spec["aligned"],
        live="live" in spec["source"],
        max_attempts=spec.get("maxAttempts", 3),
    )


def evaluation_key(evaluation: Json) -> str:
    """What the steps are reported under: this very object, with this very spec. Made again, it begins anew."""
    return digest_of({"evaluation": evaluation["metadata"]["uid"], "spec": evaluation["spec"]})


def endpoints(evaluation: Json, settings: JobSettings) -> tuple[str, str]:
    """Where reference and aligned policy are asked; empty where nobody says."""
    named = evaluation["spec"].get("endpoints") or {}
    return named.get("reference") or settings.reference_url, named.get("aligned") or settings.aligned_url


def step_job(action: StartStep, evaluation: Json, settings: JobSettings) -> Json:
    """The Job of one step. One Job is one attempt: the decision counts them, waits between them, and stops."""
    meta, key = evaluation["metadata"], evaluation_key(evaluation)
    stem = meta["name"][:36].rstrip("-.")
    return plumb_job(
        settings,
        name=f"{stem}-{action.step}-{short(key)}-{action.attempt}",
        namespace=meta["namespace"],
        # Another component than ingestion: these reach the predictors, and nothing else may.
        labels={EVALUATION_LABEL: label(meta["name"]), STEP_LABEL: action.step, COMPONENT: "evaluation"},
        annotations={KEY_ANNOTATION: key, ATTEMPT_ANNOTATION: str(action.attempt)},
        arguments=_arguments(action.step, evaluation, settings, f"{settings.spools}/{stem}-{short(key)}"),
        owners=[owner(evaluation)],
        spools=True,
    )


def _arguments(step: StepName, evaluation: Json, settings: JobSettings, folder: str) -> list[str]:
    spec = evaluation["spec"]
    asked = spec["source"]["requests"]
    reference, aligned = endpoints(evaluation, settings)
    found = [
        "shadow",
        "evaluate",
        step,
        f"--key={evaluation_key(evaluation)}",
        f"--experiment={spec['experiment']}",
        f"--reference={reference}",
        f"--aligned={aligned}",
        f"--reference-policy={spec['reference']}",
        f"--aligned-policy={spec['aligned']}",
        f"--requests={asked['blob'] if 'blob' in asked else settings.data + '/' + asked['path']}",
        f"--folder={folder}",
        f"--aa-sessions={spec.get('aaSessions', 100)}",
    ]
    found += [f"--{name}={settings.data}/{spec[name]}" for name in ("rubric", "judge") if name in spec]
    found += [f"--margin={MARGINS[name]}={share}" for name, share in sorted((spec.get("margins") or {}).items())]
    if "consentedBy" in asked:
        found.append(f"--consented-by={asked['consentedBy']}")
    if spec.get("plannedSessions"):
        found.append(f"--sessions={spec['plannedSessions']}")
    return [*found, "--json"]


# --- what was seen --------------------------------------------------------------------------------------------


def attempts(
    evaluation: Json, jobs: Sequence[Json], steps: dict[StepName, ShadowStep]
) -> tuple[StepName | None, dict[StepName, int], datetime | None]:
    """The step that somebody is at, failed attempts by step, and when the last of the next step's failed.

    A Job that ended well without its step being done achieved nothing: it counts, or it would be for ever. Jobs that
    have expired are remembered by the status.
    """
    key, shown = evaluation_key(evaluation), evaluation.get("status", {})
    mine = [item for item in jobs if item["metadata"].get("annotations", {}).get(KEY_ANNOTATION) == key]
    running = [_step(item) for item in mine if job_outcome(item) is None]
    failures: dict[StepName, int] = {}
    for step in STEPS:
        ended = [item for item in mine if _step(item) == step and job_outcome(item) is not None]
        done = step in steps and steps[step].done
        known = shown.get("attempts", 0) if shown.get("step") == step else 0
        failures[step] = max([known, *(_attempt(item) for item in ended if job_outcome(item) == "Failed" or not done)])
    upcoming = next_step(EvaluationObservation(steps=steps))
    times = [_ended(item) for item in mine if _step(item) == upcoming]
    return next(iter(sorted(running)), None), failures, max((at for at in times if at is not None), default=None)


def _step(item: Json) -> StepName:
    return cast(StepName, item["metadata"]["labels"][STEP_LABEL])


def _attempt(item: Json) -> int:
    return int(item["metadata"]["annotations"].get(ATTEMPT_ANNOTATION, "1"))


def _ended(item: Json) -> datetime | None:
    found = [
        one["lastTransitionTime"]
        for one in item.get("status", {}).get("conditions", [])
        if one.get("type") == "Failed" and one.get("status") == "True" and one.get("lastTransitionTime")
    ]
    return moment(found[0]) if found else None


# --- what people read -----------------------------------------------------------------------------------------


def evaluation_status(
    evaluation: Json, spec: EvaluationSpec, seen: EvaluationObservation, decision: EvaluationDecision, *, now: str
) -> Json:
    """The whole status of a ShadowEvaluation. What an unreadable ledger does not say stays as it was."""
    step, verdict = decision.step, seen.verdict
    found = ShadowEvaluationStatus(
        observed_generation=int(evaluation["metadata"].get("generation", 1)),
        conditions=conditions(evaluation, decision.conditions, now=now),
        phase=decision.phase,
        step=step,
        attempts=seen.failures.get(step, 0) if step is not None else 0,
        **(_live(spec, seen) if spec.live else _offline(seen)),
        **(_said(verdict) if verdict is not None else {}),
    ).json_value()
    return found if seen.ledger else _standing(evaluation.get("status", {}), found, spec.live)


def _standing(before: Json, found: Json, live: bool) -> Json:
    """`found` without a ledger, over what was shown before: verdict, steps and failed attempts stay as they were."""
    told = {"Degraded"} | ({"Comparable", "KillSwitch"} if live else set())  # the rest only a ledger could say
    known = {item["type"]: item for item in before.get("conditions", []) if item["type"] not in told}
    kept = {"conditions": [known.get(item["type"], item) for item in found["conditions"]]}
    if before:
        found = {name: value for name, value in found.items() if name not in ("step", "attempts")}
    return {**before, **found, **kept}


def _offline(seen: EvaluationObservation) -> Json:
    alike, plan = seen.steps.get("aa"), seen.steps.get("plan")
    pairs, verdict = seen.steps.get("pairs"), seen.steps.get("verdict")
    counted = next((one.counts for one in (verdict, pairs) if one is not None and one.counts is not None), None)
    found: Json = {} if counted is None else _counts(counted)
    if alike is not None and alike.done:
        found["aa_sessions"] = alike.sessions
    if plan is not None and plan.done:
        found["planned_sessions"] = plan.planned
    if verdict is not None and verdict.done:
        found["sessions"] = verdict.sessions
    return found


def _live(spec: EvaluationSpec, seen: EvaluationObservation) -> Json:
    """What the router says, if it is about these policies; what was decided about them, in any case."""
    found: Json = {}
    looked: ShadowStatus | None = seen.monitor
    if looked is not None and about(spec, looked):
        found = {**_counts(looked.counts), "sessions": looked.sessions}
    if seen.verdict is not None and seen.verdict.plan is not None:
        found["planned_sessions"] = seen.verdict.plan.traffic
    return found


def _counts(counts: Any) -> Json:
    return {
        "spooled": counts.spooled,
        "paired": counts.paired,
        "pending": counts.pending,
        "shed": dict(counts.shed) or None,
    }


def _said(verdict: ShadowVerdict) -> Json:
    return {
        "verdict": verdict.verdict.value,
        "verdict_digest": verdict.digest,
        "requirements": tuple(_requirement(one) for one in verdict.requirements),
    }


def _requirement(one: RequirementVerdict) -> RequirementShown:
    return RequirementShown(
        metric=one.metric,
        verdict=one.verdict.value,
        difference=_points(one.estimate.difference),
        low=_points(one.estimate.low),
        high=_points(one.estimate.high),
        worst_low=_points(one.estimate.worst_low),
        margin=_points(one.margin),
        sessions=one.estimate.sessions,
        planned=one.planned,
    )


def _points(share: float) -> str:
    """A share as text: floating point numbers have no place in an API object."""
    return f"{max(-1.0, min(1.0, share)):.4f}"
