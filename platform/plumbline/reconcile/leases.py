"""Who of several operators works: a Lease of coordination.k8s.io, taken and renewed by pure rules.

It saves work and nothing else. A paused holder may wake up and go on; clocks differ; so no promise rests on it: Jobs
are named by what they do, and what is written into the ledger carries a fencing token that the ledger checks.

Nobody's clock is compared with anybody else's. A lease has run out when this process has watched it, unchanged, for
as long as it lasts, by its own monotonic clock: the rule of Kubernetes' own components.
"""

from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Sighting:
    """A lease as it was first seen so: `at` is this process's monotonic time."""

    holder: str
    renewed: str
    at: float


@dataclass(frozen=True)
class Claim:
    """What to do about a lease: write `body` (taking or renewing), or nothing; and what to remember."""

    body: Json | None
    seen: Sighting


def claim(lease: Json | None, me: str, seconds: int, before: Sighting | None, *, now: float, stamp: str) -> Claim:
    """Take a lease that is free or has run out, renew one's own, follow anybody else's. `stamp` is RFC 3339 with
    microseconds, for people; `now` is monotonic."""
    spec = (lease or {}).get("spec", {})
    holder, renewed = spec.get("holderIdentity") or "", str(spec.get("renewTime") or "")
    seen = Sighting(holder, renewed, now)
    if before is not None and (before.holder, before.renewed) == (holder, renewed):
        seen = before
    if holder not in ("", me) and now - seen.at <= float(spec.get("leaseDurationSeconds") or seconds):
        return Claim(None, seen)
    mine = holder == me
    body = {
        "holderIdentity": me,
        "leaseDurationSeconds": seconds,
        "acquireTime": spec.get("acquireTime") if mine else stamp,
        "renewTime": stamp,
        "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not mine),
    }
    return Claim(body, seen)


def lease_object(name: str, namespace: str, spec: Json, lease: Json | None) -> Json:
    """The whole object to create, or to replace `lease` with: its resource version makes a race lose."""
    meta = {"name": name, "namespace": namespace}
    if lease is not None:
        meta["resourceVersion"] = lease["metadata"]["resourceVersion"]
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
