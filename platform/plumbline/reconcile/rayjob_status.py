"""What a RayJob's status means, and what to do about it.

Read `.status.jobStatus` and `.status.reason` (and `.status.jobDeploymentStatus`), never the submitter's pod: its exit
code has said "completed" of attempts that failed. The words are KubeRay 1.7's; one that is not known is shown as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["waiting", "running", "succeeded", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """A run for people: `state` in one word, `said` what is so, `remedy` what to do (empty: nothing)."""

    name: str
    state: State
    said: str
    remedy: str
    job_status: str
    deployment_status: str
    reason: str
    message: str
    attempts_failed: int
    started: str | None
    ended: str | None
    dashboard: str


GOES_ON = "then `kubectl delete rayjob` and `kubectl create -f` again: it goes on from its last checkpoint or answer"
REASONS: dict[str, tuple[str, str]] = {
    "AppFailed": (
        "the entry point ended with a fault",
        "read what it printed (`kubectl logs job/NAME`, the submitter's, which repeats it; the head is gone): fact,"
        f" consequence and remedy stand near its end; {GOES_ON}",
    ),
    "DeadlineExceeded": (
        "the run took longer than activeDeadlineSeconds",
        f"give it more nodes or a later deadline (activeDeadlineSeconds); {GOES_ON}",
    ),
    "PreRunningDeadlineExceeded": (
        "its nodes did not come within preRunningDeadlineSeconds",
        "look for pods that are Pending (`kubectl describe pod`): the pool's selector, tolerations, capacity or quota;"
        " `plumb doctor --cluster` compares pools with nodes",
    ),
    "SubmissionFailed": (
        "Ray's head could not be given the job",
        "look at the submitter's log and whether a network policy keeps it from the head's port 8265",
    ),
    "JobDeploymentStatusTransitionGracePeriodExceeded": (
        "Ray says that the job ended, and KubeRay did not see its cluster follow in time",
        "look at the head pod and KubeRay's operator; what the run had made durable is kept",
    ),
    "JobStatusCheckTimeoutExceeded": (
        "KubeRay could not ask Ray's head how the job is",
        "look whether the head pod runs, and whether a network policy keeps KubeRay from its port 8265",
    ),
    "ValidationFailed": (
        "KubeRay refused the manifest",
        "correct what the message names; `plumb render rayjob` writes manifests that KubeRay takes",
    ),
}
WAITING: dict[str, tuple[str, str]] = {
    "": ("KubeRay has not looked at it yet", "if that lasts: does KubeRay's operator run, and watch this namespace?"),
    "Initializing": (
        "its cluster is being made: nodes and pods are not all there yet",
        "if that lasts: `kubectl get pods` and look for Pending; `plumb doctor --cluster` compares pools with nodes",
    ),
    "Waiting": ("it waits for somebody to submit the job by hand", "submissionMode is InteractiveMode: submit it"),
    "Suspending": ("it is being suspended; what it made durable is kept", ""),
    "Suspended": (
        "it is suspended: Kueue has not admitted it, or took its place for a run of higher priority",
        "`kubectl describe workload` says what it waits for; nothing is lost, it goes on from its last checkpoint",
    ),
    "Retrying": ("an attempt failed, and a fresh cluster is being made for the next one", ""),
}


def read_status(rayjob: Mapping[str, Any]) -> RunStatus:
    """The status of a RayJob object, as the API server gives it."""
    status = rayjob.get("status") or {}
    job, deployment, reason = (str(status.get(key) or "") for key in ("jobStatus", "jobDeploymentStatus", "reason"))
    state, said, remedy = _meaning(job, deployment, reason)
    message = str(status.get("message") or "").strip()
    return RunStatus(
        name=str(rayjob.get("metadata", {}).get("name", "")),
        state=state,
        said=said,
        remedy=remedy,
        job_status=job,
        deployment_status=deployment,
        reason=reason,
        message=message,
        attempts_failed=int(status.get("failed") or 0),
        started=status.get("startTime"),
        ended=status.get("endTime"),
        dashboard=str(status.get("dashboardURL") or ""),
    )


def _meaning(job: str, deployment: str, reason: str) -> tuple[State, str, str]:
    if deployment in ("Retrying", "Suspending", "Suspended"):
        return ("waiting", *WAITING[deployment])
    if job == "FAILED" and deployment == "Running":
        return "waiting", "an attempt ended with a fault; KubeRay is about to say whether there is another", ""
    if deployment in ("Failed", "ValidationFailed") or job in ("FAILED", "STOPPED"):
        key = reason or ("ValidationFailed" if deployment == "ValidationFailed" else "")
        unknown = "it was stopped" if job == "STOPPED" else f"it failed{f', for the reason {key}' if key else ''}"
        said, remedy = REASONS.get(key, (unknown, "read the message, and the log of the head pod"))
        return "failed", said, remedy
    if job == "SUCCEEDED" or deployment == "Complete":
        return "succeeded", "it ended well", ""
    if job == "RUNNING" or deployment == "Running":
        return "running", "it runs" if job == "RUNNING" else "its cluster is there; the job is about to start", ""
    known = WAITING.get(deployment)
    return ("waiting", *known) if known else ("waiting", f"KubeRay says {deployment}", "")
