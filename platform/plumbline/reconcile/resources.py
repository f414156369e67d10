"""The objects beside a DatasetLine: what the operator writes for runs, versions, approvals and erasures.

Pure like `kubernetes.py`: plain values in, plain dicts out. Names are functions of what they name (a run of its key,
a version of its number), so making one twice is answered `409 AlreadyExists`, which is success, and an object that
somebody deleted comes back as it was. Statuses go through the records that the definitions are generated from, so
nothing can be written that the API server would prune.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from plumbline.reconcile.approval import ApprovalDecision
from plumbline.reconcile.dataset_line import Condition
from plumbline.reconcile.erasure_request import (
    PATIENCE,
    ErasureDecision,
    ErasureObservation,
    ErasureSpec,
)
from plumbline.reconcile.ingestion_run import RunDecision, RunObservation
from plumbline.records.canonical import short
from plumbline.records.resource_base import Part, ResourceCondition
from plumbline.records.resources import (
    BY_KIND,
    ApprovalStatus,
    DatasetVersionSpec,
    DatasetVersionStatus,
    ErasureRequestStatus,
    IngestionRunSpec,
    IngestionRunStatus,
    VersionState,
)

Json = dict[str, Any]
GROUP = "plumbline.dev"
VERSION = "v1alpha1"
LINE_LABEL = f"{GROUP}/dataset-line"
SERIOUS = {
    "Degraded": "False",
    "ConsentVerified": "True",
    "DeadlineMet": "True",
    "Verified": "True",
    "Passed": "True",
    "Current": "True",
    "AASound": "True",
    "Comparable": "True",
    "KillSwitch": "False",
}
QUIET = {
    "NoCandidate",
    "AsExpected",
    "Pending",
    "NotAsked",
    "NotYet",
    "StagePending",
    "StageDurable",
    "LedgerRead",
    "NotThrown",
}


# --- runs and versions ----------------------------------------------------------------------------------------


def run_name(line: str, run_key: str) -> str:
    return f"{line[:48].rstrip('-.')}-{short(run_key)}"


def run_object(line: Json, spec: IngestionRunSpec) -> Json:
    """The IngestionRun of a line. It belongs to the line and goes with it; its Jobs belong to it."""
    return _object("IngestionRun", run_name(line["metadata"]["name"], spec.run_key), line, spec)


def run_status(run: Json, seen: RunObservation, decision: RunDecision, *, now: str) -> Json:
    """The whole status of an IngestionRun. What an unreadable ledger does not say stays as it was."""
    found = IngestionRunStatus(
        observed_generation=generation(run),
        conditions=conditions(run, decision.conditions, now=now),
        phase=decision.phase,
        stage=seen.stage,
        attempts=seen.attempts,
        sealed=seen.sealed,
        accepted=seen.accepted,
        rejected=dict(seen.rejected) or None,
        candidate=seen.candidate,
        approvals=seen.approvals if seen.candidate is not None else None,
        version=seen.version,
        version_digest=seen.version_digest,
    ).json_value()
    if not seen.readable:
        found = {**run.get("status", {}), "conditions": found["conditions"], "attempts": seen.attempts}
    return found


@dataclass(frozen=True)
class VersionLook:
    """A published version as the ledger has it: what never changes (`spec`'s fields), and how it stands."""

    version: int
    digest: str
    parent: str | None
    run_key: str
    consent_sequence: int
    reason: str
    root: str | None = None
    rubric: str | None = None
    policy_text: str | None = None
    code: str | None = None
    state: VersionState = "Superseded"
    examples: int | None = None
    splits: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    policies: tuple[str, ...] = ()


def version_name(line: str, version: int) -> str:
    return f"{line[:48].rstrip('-.')}-v{version}"


def version_object(line: Json, look: VersionLook) -> Json:
    spec = DatasetVersionSpec(
        line=line["metadata"]["name"],
        dataset=line["spec"]["dataset"],
        version=look.version,
        digest=look.digest,
        parent=look.parent,
        run_key=look.run_key,
        root=look.root,
        rubric=look.rubric,
        policy_text=look.policy_text,
        code=look.code,
        consent_sequence=look.consent_sequence,
        reason=look.reason,
    )
    return _object("DatasetVersion", version_name(line["metadata"]["name"], look.version), line, spec)


def version_status(version: Json, look: VersionLook, *, now: str) -> Json:
    if look.state == "Tainted":
        text = "somebody in it withdrew and is not erased from it yet; train on nothing that holds them"
        consent = Condition("ConsentVerified", "False", "SubjectWithdrew", text)
    elif look.state == "Redacted":
        text = "whoever withdrew is erased from it; its root verifies as before"
        consent = Condition("ConsentVerified", "True", "SubjectsErased", text)
    else:
        consent = Condition("ConsentVerified", "True", "ConsentHolds", "everyone in it consents as of the ledger")
    return DatasetVersionStatus(
        observed_generation=generation(version),
        conditions=conditions(version, [consent], now=now),
        state=look.state,
        examples=look.examples,
        splits=dict(look.splits) or None,
        policies=look.policies[:100],
    ).json_value()


def surplus(found: Sequence[Json], keep: int, *, running: Sequence[str] = ()) -> list[Json]:
    """Finished objects beyond the newest `keep`, oldest first. `running` names run keys that are not finished."""
    finished = [item for item in found if item["spec"].get("runKey") not in running or "digest" in item["spec"]]
    order = sorted(finished, key=lambda item: (item["spec"].get("version", 0), _made(item), _name(item)))
    return order[: max(0, len(order) - keep)]


# --- approvals and erasures -----------------------------------------------------------------------------------


def approval_status(approval: Json, decision: ApprovalDecision, *, now: str) -> Json:
    return ApprovalStatus(
        observed_generation=generation(approval),
        conditions=conditions(approval, [decision.condition], now=now),
    ).json_value()


def erasure_spec(request: Json) -> ErasureSpec:
    """The spec of an ErasureRequest object; without a deadline, a day from when it was made."""
    spec, made = request["spec"], request["metadata"].get("creationTimestamp")
    deadline = spec.get("deadline")
    due = moment(deadline) if deadline else (moment(made) if made else datetime.now(UTC)) + PATIENCE
    return ErasureSpec(subject=spec["subject"], deadline=due, remediation=spec.get("remediation", "retrain"))


def erasure_status(
    request: Json, spec: ErasureSpec, seen: ErasureObservation, decision: ErasureDecision, *, now: str
) -> Json:
    readable = bool(seen.ledger_verifies)
    done = seen.erased if decision.phase == "Erased" else None
    found = ErasureRequestStatus(
        observed_generation=generation(request),
        conditions=conditions(request, decision.conditions, now=now),
        phase=decision.phase,
        attempts=seen.attempts,
        deadline=stamp(spec.deadline),
        datasets=seen.heads if readable else None,
        payloads=done.payloads if done else None,
        events=done.events if done else None,
        policies=done.policies if done else None,
        proof=done.proof if done else None,
        completed_at=stamp(done.completed_at) if done else None,
    ).json_value()
    return found if readable else {**request.get("status", {}), **found}


# --- what all kinds share -------------------------------------------------------------------------------------


def stamp(when: datetime) -> str:
    """RFC 3339, to the second, as the API server writes times."""
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str) -> datetime:
    """An RFC 3339 time with its zone."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def conditions(about: Json, found: Sequence[Condition], *, now: str) -> tuple[ResourceCondition, ...]:
    """In the API's shape. `lastTransitionTime` moves only when a condition's status does, so that a status which says
    nothing new can be told from one that does."""
    before = {item["type"]: item for item in about.get("status", {}).get("conditions", [])}
    return tuple(
        ResourceCondition(
            type=item.type,
            status=item.status,
            reason=item.reason,
            message=item.message,
            observed_generation=generation(about),
            last_transition_time=old["lastTransitionTime"]
            if (old := before.get(item.type)) is not None and old["status"] == item.status
            else now,
        )
        for item in found
    )


def says_more(about: Json, new: Json) -> bool:
    """Whether writing `new` would change the status. A write for nothing would wake the watcher again, forever."""
    return bool(without_nulls(new) != without_nulls(about.get("status", {})))


def replacing(about: Json, new: Json) -> Json:
    """`new` as the merge patch that leaves nothing of the status before it: what is gone is null, at every depth."""
    return _over(about.get("status", {}), new)


def _over(old: Json, new: Json) -> Json:
    both = {
        key: _over(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
        for key, value in new.items()
    }
    return {**dict.fromkeys(old.keys() - new.keys()), **both}


def news(about: Json, found: Sequence[Condition], kinds: Sequence[str]) -> list[Condition]:
    """Conditions of these types whose reason is not what the status shows: what deserves an Event."""
    before = {item["type"]: item["reason"] for item in about.get("status", {}).get("conditions", [])}
    told = [item for item in found if item.type in kinds and item.reason not in QUIET]
    return [item for item in told if before.get(item.type) != item.reason]


def event(about: Json, condition: Condition, *, now: str) -> Json:
    """An Event about a condition, for `kubectl describe`. `now` (RFC 3339) tells one piece of news from the next."""
    meta = about["metadata"]
    wanted = SERIOUS.get(condition.type)
    serious = wanted is not None and condition.status != wanted
    letters = "".join(character for character in now.lower() if character.isalnum())
    name = f"{meta['name'][:40].rstrip('-.')}.{condition.type.lower()}.{condition.reason.lower()}.{letters}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": about["kind"],
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


def owner(about: Json) -> Json:
    meta = about["metadata"]
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": about["kind"],
        "name": meta["name"],
        "uid": meta["uid"],
        "controller": True,
        "blockOwnerDeletion": False,  # true would need the right to write finalizers, and could hold a namespace up
    }


def without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _object(kind: str, name: str, line: Json, spec: Part) -> Json:
    return {
        "apiVersion": BY_KIND[kind].api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": line["metadata"]["namespace"],
            "labels": {LINE_LABEL: line["metadata"]["name"]},
            "ownerReferences": [owner(line)],
        },
        "spec": spec.json_value(),
    }


def generation(about: Json) -> int:
    return int(about["metadata"].get("generation", 1))


def _made(item: Json) -> str:
    return str(item["metadata"].get("creationTimestamp", ""))


def _name(item: Json) -> str:
    return str(item["metadata"]["name"])
