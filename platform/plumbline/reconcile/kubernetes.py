"""What the decisions of the reconcile core are in Kubernetes: Jobs, their names, and the status of a DatasetLine.

Nothing here talks to a cluster. Each function takes plain values and returns a plain dict, ready for the API
server, so that what the operator would do can be read, compared and validated without one. Names are functions
of what they name: a Job is called after its run, so creating it twice is answered `409 AlreadyExists`, which is
success; a RayJob is called after its objective, so submitting it twice trains once.

The objects beside a line (runs, versions, approvals, erasures) are in `resources.py`.
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
from plumbline.reconcile.resources import GROUP, LINE_LABEL, conditions, news, owner
from plumbline.records.canonical import digest_of, short

Json = dict[str, Any]

STEP_LABEL = f"{GROUP}/step"
ERASURE_LABEL = f"{GROUP}/erasure-request"
RUN_ANNOTATION = f"{GROUP}/run-key"  # a digest is longer than a label's 63 characters
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
REQUEST_ANNOTATION = f"{GROUP}/erasure-uid"
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
    """What every Job has in common. The chart writes them as YAML; unknown keys are refused.

    `claim` is the volume with the ledger and the blobs, mounted at /data; empty when neither is a file.
    `ledger_secret` names the Secret whose key `ledger_key` is the URL of a ledger on a server; then `ledger` counts
    for nothing. `blobs` is a directory or `s3://BUCKET/PREFIX`, for which `blobs_keys` of `blobs_secret` are the
    credentials. `secret_keys` of `secret` become environment variables of the same name, by reference.
    `reference_url` and `aligned_url` are where the release's own policies are asked, empty where it serves none. What
    people name by path lies below `data`, the spools of shadow evaluations below `spools`: on the volume of `claim`, or
    on that of `spools_claim`, mounted at /spools.
    """

    image: str
    service_account: str
    claim: str = ""
    ledger: str = "/data/ledger.sqlite"
    ledger_secret: str = ""
    ledger_key: str = "url"
    blobs: str = "/data/blobs"
    blobs_secret: str = ""
    blobs_keys: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    secret: str = ""
    secret_keys: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ttl_seconds_after_finished: int = 86400
    active_deadline_seconds: int = 21600
    affinity: Mapping[str, Any] | None = None
    reference_url: str = ""
    aligned_url: str = ""
    data: str = "/data"
    spools: str = "/data/spools"
    spools_claim: str = ""

    @classmethod
    def from_yaml(cls, text: str) -> "JobSettings":
        """Read settings in the chart's camelCase. PlumblineError on an unknown or missing key."""
        given = yaml.safe_load(text) or {}
        known = {_camel(name): name for name in cls.__dataclass_fields__}
        values: Json = {
            known[key]: tuple(value) if isinstance(value, list) else value
            for key, value in given.items()
            if key in known
        }
        on_disk = not values.get("ledger_secret") or not str(values.get("blobs", "")).startswith("s3://")
        required = {"image", "serviceAccount"} | ({"claim"} if on_disk else set())
        if (unknown := sorted(given.keys() - known.keys())) or (missing := sorted(required - given.keys())):
            what = f"unknown keys {', '.join(unknown)}" if unknown else f"missing keys {', '.join(missing)}"
            raise PlumblineError(
                f"the settings of ingestion Jobs have {what}",
                consequence="the operator does not start: its Jobs would not be what was meant",
                remedy="install the chart and the image of the same version",
            )
        return cls(**values)


def job(action: Work, line: Json, run: Json, settings: JobSettings) -> Json:
    """The Job that carries out an action for a DatasetLine object, as part of its IngestionRun object `run`.

    One Job is one attempt (`backoffLimit: 0`): the decision counts attempts, so backing off is meant once. A pod
    that the cluster itself took away (preemption, drain) is replaced without being counted. The Job belongs to the
    run, so deleting the run's object is trying it anew; two that are made of one attempt have one name.
    """
    meta = line["metadata"]
    step, work, arguments = _work(action, line)
    return plumb_job(
        settings,
        name=job_name(meta["name"], step, work, action.attempt),
        namespace=meta["namespace"],
        labels={LINE_LABEL: meta["name"], STEP_LABEL: step},
        annotations={RUN_ANNOTATION: action.run_key, ATTEMPT_ANNOTATION: str(action.attempt)},
        arguments=arguments,
        owners=[owner(run)],
    )


def erasure_job(request: Json, attempt: int, settings: JobSettings) -> Json:
    """The Job that erases whom an ErasureRequest object names, by the digest of their pseudonym.

    It belongs to nobody: an erasure that has begun is finished even if the request is deleted meanwhile, and no
    finalizer is needed for that. It is named by the request's identity, so a request that is made again is tried anew.
    """
    meta, spec = request["metadata"], request["spec"]
    identity = digest_of({"request": meta["uid"], "subject": spec["subject"]})
    remediation = f"--remediation={spec.get('remediation', 'retrain')}"
    arguments = ["erase", spec["subject"], "--withdrawn", remediation, "--json"]  # who came back is not sent away
    arguments.append(f"--spools-below={settings.spools}")
    return plumb_job(
        settings,
        name=f"{meta['name'][:36].rstrip('-.')}-erase-{short(identity)}-{attempt}",
        namespace=meta["namespace"],
        labels={ERASURE_LABEL: label(meta["name"]), STEP_LABEL: "erase"},
        annotations={REQUEST_ANNOTATION: meta["uid"], ATTEMPT_ANNOTATION: str(attempt)},
        arguments=arguments,
        owners=[],
        spools=True,
    )


def plumb_job(
    settings: JobSettings,
    *,
    name: str,
    namespace: str,
    labels: Json,
    annotations: Json,
    arguments: Sequence[str],
    owners: Sequence[Json],
    spools: bool = False,
) -> Json:
    """A Job that runs `plumb` once, with the stores in reach; with `spools`, the volume that keeps them as well."""
    stores, mounts, volumes = store_access(settings)
    if spools and settings.spools_claim:
        mounts = [*mounts, {"name": "spools", "mountPath": "/spools"}]
        volumes = [*volumes, {"name": "spools", "persistentVolumeClaim": {"claimName": settings.spools_claim}}]
    labels = {**settings.labels, **labels}
    container: Json = {
        "name": "plumb",
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["plumb"],
        "args": list(arguments),
        "env": [
            {"name": "HOME", "value": "/tmp"},
            *stores,
            *(secret_env(key, settings.secret, key) for key in settings.secret_keys if settings.secret),
        ],
        "resources": {key: dict(value) for key, value in settings.resources.items()},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [*mounts, {"name": "tmp", "mountPath": "/tmp"}],
    }
    pod: Json = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
    }
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.affinity:
        pod["affinity"] = dict(settings.affinity)
    meta = {"name": name, "namespace": namespace, "labels": labels, "annotations": annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**meta, **({"ownerReferences": list(owners)} if owners else {})},
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


def store_access(settings: JobSettings) -> tuple[list[Json], list[Json], list[Json]]:
    """Environment, mounts and volumes that make the ledger and the blobs reachable."""
    env = [{"name": key, "value": value} for key, value in sorted(settings.env.items())]
    if settings.ledger_secret:
        env.append(secret_env("PLUMBLINE_LEDGER", settings.ledger_secret, settings.ledger_key))
    else:
        env.append({"name": "PLUMBLINE_LEDGER", "value": settings.ledger})
    env.append({"name": "PLUMBLINE_BLOBS", "value": settings.blobs})
    env += [secret_env(key, settings.blobs_secret, key) for key in settings.blobs_keys if settings.blobs_secret]
    if not settings.claim:
        return env, [], []
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": settings.claim}}
    return env, [{"name": "data", "mountPath": "/data"}], [volume]


def secret_env(variable: str, secret: str, key: str) -> Json:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def label(name: str) -> str:
    """A name as the value of a label, which is shorter. Two long names may share it; annotations tell them apart."""
    return name[:63].rstrip("-.")


def job_name(line: str, step: Step, work: str, attempt: int) -> str:
    """At most 63 characters, the same for the same attempt at the same work: a run, or a candidate to decide on."""
    return f"{line[:36].rstrip('-.')}-{step}-{short(work)}-{attempt}"


def _work(action: Work, line: Json) -> tuple[Step, str, list[str]]:
    """Step, the digest that the Job is named after, and the arguments of `plumb`.

    Deciding is named after the candidate: consent may end while a run is being published, and then the same run has
    another candidate, which is other work.
    """
    spec = line["spec"]
    run = ["ingest", spec["dataset"], f"--run-key={action.run_key}", "--json"]
    needed = spec.get("approvalsRequired", 1)
    built = [*run, f"--rubric={spec['rubric']}", f"--approvals={needed}"]
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


def failures(jobs: Sequence[Json], runs: Sequence[Json]) -> dict[str, int]:
    """Failed attempts by run key, counted by the runs' objects and by the Jobs that belong to them.

    An attempt's number is one more than the failures before it, so the highest number that failed is the count; a
    Job that has expired is remembered by its run's status, and a run whose object was deleted starts anew.
    """
    counts = {}
    for run in runs:
        meta = run["metadata"]
        failed = [_attempt(item) for item in jobs if job_outcome(item) == "Failed" and _belongs(item, meta["uid"])]
        counts[run["spec"]["runKey"]] = max([run.get("status", {}).get("attempts", 0), *failed])
    return counts


def erasure_attempts(request: Json, jobs: Sequence[Json]) -> tuple[bool, int]:
    """Whether a Job of the request is unfinished, and how many attempts have failed."""
    uid = request["metadata"]["uid"]
    mine = [item for item in jobs if item["metadata"].get("annotations", {}).get(REQUEST_ANNOTATION) == uid]
    failed = [_attempt(item) for item in mine if job_outcome(item) == "Failed"]
    done = [_attempt(item) for item in mine if job_outcome(item) == "Complete"]
    known = request.get("status", {}).get("attempts", 0)
    # A Job that ended well without the ledger saying "erased" achieved nothing: it counts, or it would be for ever.
    return any(job_outcome(item) is None for item in mine), max([known, *failed, *done])


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
    """The whole status of a DatasetLine: a projection of what was seen. `now` is RFC 3339."""
    found: Json = {
        "observedGeneration": line["metadata"].get("generation", 1),
        "phase": decision.phase,
        "conditions": [item.json_value() for item in conditions(line, decision.conditions, now=now)],
    }
    if seen.ledger_verifies is None:  # nothing was read: what was known stays, what is unknown is not zeroed
        return {**line.get("status", {}), **found}
    found |= {
        "consentSequence": seen.consent_sequence,
        "inboxSequence": seen.inbox_sequence,
        "sealedSequence": seen.sealed_sequence,
    }
    if seen.head is not None:
        found |= {"version": seen.head.version, "headDigest": seen.head.digest}
    if examples is not None:
        found["examples"] = examples
    if (run := seen.pending) is not None:
        pending = {"runKey": run.run_key, "stage": run.stage, "candidate": run.candidate, "approvals": run.approvals}
        found["pendingRun"] = {key: value for key, value in pending.items() if value is not None}
    return found


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


def line_news(line: Json, decision: LineDecision) -> list[Condition]:
    """What of a line's conditions deserves an Event."""
    return news(line, decision.conditions, ("ConsentVerified", "Approved", "Degraded"))


def _attempt(item: Json) -> int:
    return int(item["metadata"].get("annotations", {}).get(ATTEMPT_ANNOTATION, "1"))


def _belongs(item: Json, uid: str) -> bool:
    return any(reference.get("uid") == uid for reference in item["metadata"].get("ownerReferences", []))


def _name(item: Json) -> str:
    return str(item["metadata"]["name"])


def _run_key(item: Json) -> str:
    return str(item["metadata"].get("annotations", {}).get(RUN_ANNOTATION, ""))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
