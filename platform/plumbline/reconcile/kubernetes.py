"""The Kubernetes interpreter: a decision about a dataset line, written as Kubernetes objects.

Nothing here talks to a cluster. Each function takes plain values and returns a plain dict, ready for the API
server, so that what the operator would do can be read, compared and validated without one. Names are functions
of what they name: a Job is called after its run, so creating it twice is answered `409 AlreadyExists`, which is
success; a RayJob is called after its objective, so submitting it twice trains once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from plumbline.errors import PlumblineError
from plumbline.reconcile.dataset_line import (
    ActiveJob,
    Condition,
    LineDecision,
    LineObservation,
    LineSpec,
    Publish,
    Reject,
    StartIngestion,
    StartRemoval,
    Step,
)
from plumbline.records.canonical import short

Json = dict[str, Any]

GROUP = "plumbline.dev"
VERSION = "v1alpha1"
PLURAL = "datasetlines"
KIND = "DatasetLine"
LINE_LABEL = f"{GROUP}/dataset-line"
STEP_LABEL = f"{GROUP}/step"
RUN_ANNOTATION = f"{GROUP}/run-key"  # a digest is longer than a label's 63 characters
UID = 10001  # the image's user
Work = StartIngestion | StartRemoval | Publish | Reject  # the actions that are Jobs

POD_SECURITY: Json = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Json = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}


# --- dataset lines --------------------------------------------------------------------------------------------


def line_spec(line: Json) -> LineSpec:
    """The spec of a DatasetLine object. The CRD's defaults are repeated, for objects stored before they existed."""
    spec = line["spec"]
    return LineSpec(
        dataset=spec["dataset"],
        rubric=spec["rubric"],
        approvals_required=spec.get("approvalsRequired", 1),
        min_new_events=spec.get("minNewEvents", 1),
        max_attempts=spec.get("maxAttempts", 3),
        suspended=spec.get("suspended", False),
    )


@dataclass(frozen=True)
class JobSettings:
    """What every ingestion Job has in common. The chart writes them as YAML; unknown keys are refused.

    `claim` is the volume with the ledger and the blobs, mounted at /data. `secret_keys` of `secret` become
    environment variables of the same name, by reference.
    """

    image: str
    service_account: str
    claim: str
    ledger: str = "/data/ledger.sqlite"
    blobs: str = "/data/blobs"
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    secret: str = ""
    secret_keys: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ttl_seconds_after_finished: int = 86400
    active_deadline_seconds: int = 21600
    affinity: Mapping[str, Any] | None = None

    @classmethod
    def from_yaml(cls, text: str) -> "JobSettings":
        """Read settings in the chart's camelCase. PlumblineError on an unknown or missing key."""
        given = yaml.safe_load(text) or {}
        known = {_camel(name): name for name in cls.__dataclass_fields__}
        required = {"image", "serviceAccount", "claim"}
        if (unknown := sorted(given.keys() - known.keys())) or (missing := sorted(required - given.keys())):
            what = f"unknown keys {', '.join(unknown)}" if unknown else f"missing keys {', '.join(missing)}"
            raise PlumblineError(
                f"the settings of ingestion Jobs have {what}",
                consequence="the operator does not start: its Jobs would not be what was meant",
                remedy="install the chart and the image of the same version",
            )
        values: Json = {known[key]: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return cls(**values)


def job(action: Work, line: Json, settings: JobSettings) -> Json:
    """The Job that carries out an action for a DatasetLine object.

    One Job is one attempt (`backoffLimit: 0`): the decision counts attempts, so backing off is meant once. A pod
    that the cluster itself took away (preemption, drain) is replaced without being counted. The Job belongs to the
    line, so it is collected with it.
    """
    meta = line["metadata"]
    step, work, arguments = _work(action, line)
    labels = {**settings.labels, LINE_LABEL: meta["name"], STEP_LABEL: step}
    env = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": settings.secret, "key": key}}}
        for key in settings.secret_keys
        if settings.secret
    ]
    container: Json = {
        "name": "plumb",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["plumb"],
        "args": [*arguments, f"--ledger={settings.ledger}", f"--blobs={settings.blobs}"],
        "env": [{"name": "HOME", "value": "/tmp"}, *env],
        "resources": {key: dict(value) for key, value in settings.resources.items()},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod: Json = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": settings.claim}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.affinity:
        pod["affinity"] = dict(settings.affinity)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(meta["name"], step, work, action.attempt),
            "namespace": meta["namespace"],
            "labels": labels,
            "annotations": {RUN_ANNOTATION: action.run_key},
            "ownerReferences": [_owner(line)],
        },
        "spec": {
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": settings.active_deadline_seconds,
            "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def job_name(line: str, step: Step, work: str, attempt: int) -> str:
    """At most 63 characters, the same for the same attempt at the same work: a run, or a candidate to decide on."""
    return f"{line[:36].rstrip('-.')}-{step}-{short(work)}-{attempt}"


def _work(action: Work, line: Json) -> tuple[Step, str, list[str]]:
    """Step, the digest that the Job is named after, and the arguments of `plumb`.

    Deciding is named after the candidate: consent may end while a run is being published, and then the same run has
    another candidate, which is other work.
    """
    spec = line["spec"]
    run = ["ingest", f"--dataset={spec['dataset']}", f"--run-key={action.run_key}"]
    built = [*run, f"--rubric={spec['rubric']}", f"--approver={spec.get('approver', 'data-owner')}"]
    match action:
        case StartIngestion(run_key=key, to_seq=last):
            return "ingest", key, [*built, f"--up-to={last}"]
        case StartRemoval(run_key=key):
            return "remove", key, [*run, "--removal"]
        case Publish(candidate=candidate):
            return "publish", candidate, built
        case Reject(candidate=candidate):
            return "reject", candidate, built


# --- what Jobs say --------------------------------------------------------------------------------------------


def active_job(jobs: Sequence[Json]) -> ActiveJob | None:
    """The unfinished Job of a line, if there is one (the first by name, should there ever be two)."""
    for item in sorted(jobs, key=_name):
        if job_outcome(item) is None and _run_key(item):
            return ActiveJob(_run_key(item), item["metadata"]["labels"][STEP_LABEL])
    return None


def failures(jobs: Sequence[Json]) -> dict[str, int]:
    """Failed Jobs by run key. They count as attempts for as long as they are kept."""
    counts: dict[str, int] = {}
    for item in jobs:
        if job_outcome(item) == "Failed":
            counts[_run_key(item)] = counts.get(_run_key(item), 0) + 1
    return counts


def job_outcome(item: Json) -> Literal["Complete", "Failed"] | None:
    """How a Job ended, by its conditions (never by its pods); None while it has not."""
    for condition in item.get("status", {}).get("conditions", []):
        if condition.get("status") == "True":
            if condition.get("type") == "Complete":
                return "Complete"
            if condition.get("type") == "Failed":
                return "Failed"
    return None


# --- what people read -----------------------------------------------------------------------------------------


def status(line: Json, seen: LineObservation, decision: LineDecision, *, examples: int | None, now: str) -> Json:
    """The whole status of a DatasetLine: a projection of what was seen. `now` is RFC 3339.

    `lastTransitionTime` moves only when a condition's status does, so a status that says nothing new can be told
    from one that does (`says_more`). None removes a field: this is a merge patch.
    """
    before = {item["type"]: item for item in line.get("status", {}).get("conditions", [])}
    generation = line["metadata"].get("generation", 1)
    found: Json = {
        "observedGeneration": generation,
        "phase": decision.phase,
        "consentSequence": seen.consent_sequence,
        "inboxSequence": seen.inbox_sequence,
        "sealedSequence": seen.sealed_sequence,
        "pendingRun": None,
        "conditions": [_condition(item, before.get(item.type), generation, now) for item in decision.conditions],
    }
    if seen.head is not None:
        found |= {"version": seen.head.version, "headDigest": seen.head.digest}
    if examples is not None:
        found["examples"] = examples
    if (run := seen.pending) is not None:
        found["pendingRun"] = {
            "runKey": run.run_key,
            "stage": run.stage,
            "candidate": run.candidate,
            "approvals": run.approvals,
        }
    if seen.ledger_verifies is None:  # nothing was read: what was known stays, what is unknown is not zeroed
        known = {key: value for key, value in line.get("status", {}).items() if key != "conditions"}
        found = {**found, **known, "observedGeneration": generation, "phase": decision.phase}
    return found


def says_more(line: Json, new: Json) -> bool:
    """Whether writing `new` would change the status. A write for nothing would wake the watcher again, forever."""
    return bool(_without_nulls(new) != _without_nulls(line.get("status", {})))


def approval_requested(line: Json, candidate: str | None) -> bool:
    """Whether the line's status already tells people that this candidate waits for approval."""
    shown = line.get("status", {})
    pending = shown.get("pendingRun") or {}
    reasons = {item["type"]: item["reason"] for item in shown.get("conditions", [])}
    return (
        candidate is not None
        and pending.get("candidate") == candidate
        and reasons.get("Approved") == "AwaitingApproval"
    )


def event(line: Json, condition: Condition, *, now: str) -> Json:
    """An Event about a condition, for `kubectl describe`. `now` (RFC 3339) tells one piece of news from the next."""
    meta = line["metadata"]
    wanted = "False" if condition.type == "Degraded" else "True"
    serious = condition.type in ("Degraded", "ConsentVerified") and condition.status != wanted
    stamp = "".join(character for character in now.lower() if character.isalnum())
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name'][:40]}.{condition.type.lower()}.{condition.reason.lower()}.{stamp}",
            "namespace": meta["namespace"],
        },
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta.get("uid", ""),
        },
        "type": "Warning" if serious else "Normal",
        "reason": condition.reason,
        "message": condition.message,
        "source": {"component": "plumbline-operator"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def news(line: Json, decision: LineDecision) -> list[Condition]:
    """Conditions whose reason is not what the line's status shows: what deserves an Event."""
    before = {item["type"]: item["reason"] for item in line.get("status", {}).get("conditions", [])}
    told = [item for item in decision.conditions if item.type in ("ConsentVerified", "Approved", "Degraded")]
    quiet = {"NoCandidate", "AsExpected"}
    return [item for item in told if before.get(item.type) != item.reason and item.reason not in quiet]


def _condition(new: Condition, old: Json | None, generation: int, now: str) -> Json:
    same = old is not None and old["status"] == new.status
    return {
        "type": new.type,
        "status": new.status,
        "reason": new.reason,
        "message": new.message,
        "observedGeneration": generation,
        "lastTransitionTime": old["lastTransitionTime"] if same and old is not None else now,
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _owner(line: Json) -> Json:
    meta = line["metadata"]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": False,  # true would need the right to write finalizers, and could hold a namespace up
    }


def _name(item: Json) -> str:
    return str(item["metadata"]["name"])


def _run_key(item: Json) -> str:
    return str(item["metadata"].get("annotations", {}).get(RUN_ANNOTATION, ""))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
