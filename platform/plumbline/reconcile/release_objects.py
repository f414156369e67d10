"""What the operator writes about releases: the status of a Release, and the list that admission reads.

Pure like `resources.py`: plain values in, plain dicts out.
"""

from typing import Any

from plumbline.reconcile.dataset_line import Condition
from plumbline.reconcile.release import ReleaseDecision, ReleaseObservation
from plumbline.reconcile.release_guard import LIST
from plumbline.reconcile.resources import conditions, generation
from plumbline.records.release_resources import (
    PassingDecisionsSpec,
    PassingDecisionsStatus,
    ReleaseMove,
    ReleaseStatus,
)
from plumbline.records.resources import BY_KIND
from plumbline.stores.release_requests import ReleaseRequest

Json = dict[str, Any]
NEWEST = 10  # moves to show
SETTLED = ("Released", "Superseded", "Refused")


def release_request(release: Json) -> ReleaseRequest:
    """What a Release object asks for. Each change of its spec, and each new object of its name, is another request."""
    meta, spec = release["metadata"], release["spec"]
    return ReleaseRequest(
        request=f"{meta['uid']}/{generation(release)}",
        release=meta["name"],
        policy=spec["policy"],
        requested_by=spec["requestedBy"],
        reason=spec["reason"],
    )


def release_status(release: Json, seen: ReleaseObservation, decision: ReleaseDecision, *, now: str) -> Json:
    """The whole status of a Release. While the ledger cannot be read, what was said of this request stands."""
    before: Json = release.get("status", {})
    if not seen.readable and before.get("phase") in SETTLED and before.get("observedGeneration") == generation(release):
        return before
    moves = tuple(
        ReleaseMove(
            sequence=one.sequence,
            action=one.action,
            policy=one.policy,
            decision=one.decision,
            shadow=one.shadow,
            recorded_at=one.recorded_at,
        )
        for one in seen.moves[:NEWEST]
    )
    found = ReleaseStatus(
        observed_generation=generation(release),
        conditions=conditions(release, decision.conditions, now=now),
        phase=decision.phase,
        serving=seen.serving,
        sequence=seen.decided.sequence if seen.decided is not None else None,
        moves=moves,
    ).json_value()
    return found if seen.readable else {**before, **found, "moves": before.get("moves", [])}


def passing_object(namespace: str, spec: PassingDecisionsSpec) -> Json:
    """The one PassingDecisions of a namespace. It belongs to nobody: without it every Release is refused."""
    return {
        "apiVersion": BY_KIND["PassingDecisions"].api_version,
        "kind": "PassingDecisions",
        "metadata": {"name": LIST, "namespace": namespace},
        "spec": spec.json_value(),
    }


def passing_condition(spec: PassingDecisionsSpec) -> Condition:
    if not spec.readable:
        text = "the ledger cannot be read: the list is empty until it can, and every change of a Release is refused"
        return Condition("Current", "False", "LedgerUnreadable", text)
    count = sum(len(one.passed) for one in spec.releases)
    return Condition("Current", "True", "LedgerRead", f"{len(spec.releases)} releases, {count} policies that passed")


def passing_status(about: Json, condition: Condition, *, now: str) -> Json:
    return PassingDecisionsStatus(
        observed_generation=generation(about), conditions=conditions(about, [condition], now=now)
    ).json_value()
