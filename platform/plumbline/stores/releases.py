"""Policies, gate decisions and the release: which policy serves users, and why.

The release is the one mutable pointer, and even it is a history: the current release is the last entry, and no
entry is ever altered. It moves only to a policy that holds a stored PASS decision of its own; the first entry,
which names what users have before anything was compared, is the only one without.
"""

from typing import Any, Literal, get_args

from plumbline.errors import PlumblineError
from plumbline.records import GateDecision, Objective, PolicyManifest, ReleaseEntry, Verdict, short
from plumbline.stores.database import Database

Remediation = Literal["no-action", "retrain", "adapter-removal", "retire", "unsupported"]
REMEDIATIONS: tuple[str, ...] = get_args(Remediation)


class Releases:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record_policy(self, manifest: PolicyManifest, objective: Objective | None = None) -> str:
        """Note a policy and the dataset versions it was trained on (replay included). Returns its digest."""
        policy = manifest.digest
        datasets = {("dataset", manifest.dataset)}
        if objective is not None:
            datasets |= {("dataset", objective.dataset), ("replay", objective.replay)}
        with self._database.transaction():
            self._database.execute(
                "INSERT INTO policy VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (policy, manifest.name, manifest.role, manifest.base_policy, manifest.objective,
                 manifest.model_dump_json(), self._database.now()),
            )  # fmt: skip
            self._database.insert_many(
                "INSERT INTO policy_dataset VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(policy, digest, use) for use, digest in sorted(datasets, key=str) if digest is not None],
            )
        return policy

    def policy(self, policy: str) -> PolicyManifest | None:
        found = self._database.value("SELECT manifest FROM policy WHERE policy = ?", (policy,))
        return None if found is None else PolicyManifest.model_validate_json(found)

    def policies(self) -> list[PolicyManifest]:
        rows = self._database.rows("SELECT manifest FROM policy ORDER BY recorded_at, policy")
        return [PolicyManifest.model_validate_json(row["manifest"]) for row in rows]

    def record_decision(self, decision: GateDecision) -> str:
        """Store a gate decision; recording it again changes nothing. Returns its digest."""
        self._database.execute(
            "INSERT INTO decision VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (decision.digest, decision.reference, decision.aligned, decision.verdict.value,
             decision.model_dump_json(), self._database.now()),
        )  # fmt: skip
        return decision.digest

    def decision(self, digest: str) -> GateDecision | None:
        found = self._database.value("SELECT decision FROM decision WHERE digest = ?", (digest,))
        return None if found is None else GateDecision.model_validate_json(found)

    def decisions(self, aligned: str | None = None) -> list[GateDecision]:
        """Decisions, oldest first; of one aligned policy when it is named."""
        where, parameters = ("", ()) if aligned is None else ("WHERE aligned = ?", (aligned,))
        rows = self._database.rows(f"SELECT decision FROM decision {where} ORDER BY recorded_at, digest", parameters)
        return [GateDecision.model_validate_json(row["decision"]) for row in rows]

    def move_release(self, release: str, policy: str, decision: str | None, reason: str, actor: str) -> ReleaseEntry:
        """Point a release at a policy. Moving it to where it stands, for the same decision, changes nothing."""
        with self._database.transaction():
            current = self.current_release(release)
            if current is not None and (current.policy, current.decision) == (policy, decision):
                return current
            if decision is None and current is not None:
                raise _refused(release, policy, "no gate decision is named")
            if decision is not None:
                self._require_pass(release, policy, decision, current)
            entry = ReleaseEntry(
                sequence=1 if current is None else current.sequence + 1,
                release=release,
                policy=policy,
                decision=decision,
                reason=reason,
                actor=actor,
            )
            self._database.insert("release", **entry.model_dump(), recorded_at=self._database.now())
            return entry

    def current_release(self, release: str) -> ReleaseEntry | None:
        history = self.release_history(release)
        return history[-1] if history else None

    def release_history(self, release: str) -> list[ReleaseEntry]:
        rows = self._database.rows("SELECT * FROM release WHERE release = ? ORDER BY sequence", (release,))
        return [_entry(row) for row in rows]

    def flag(self, policy: str, subject: str, remediation: Remediation, *, reason: str, actor: str) -> None:
        """Record what is done about a policy that was trained on an erased subject. Never claims unlearning."""
        if remediation not in REMEDIATIONS:
            raise PlumblineError(
                f"{remediation!r} is not a remediation",
                consequence="nothing was recorded for the policy",
                remedy=f"use one of {', '.join(REMEDIATIONS)}",
            )
        with self._database.transaction():
            known = self._database.value(
                "SELECT 1 FROM remediation WHERE policy = ? AND subject = ? AND remediation = ?",
                (policy, subject, remediation),
            )
            if known is None:
                self._database.insert(
                    "remediation",
                    policy=policy,
                    subject=subject,
                    remediation=remediation,
                    reason=reason,
                    actor=actor,
                    recorded_at=self._database.now(),
                )

    def flags(self, policy: str) -> list[tuple[str, str, str]]:
        """(subject, remediation, reason) recorded for a policy, oldest first."""
        rows = self._database.rows(
            "SELECT subject, remediation, reason FROM remediation WHERE policy = ? ORDER BY sequence", (policy,)
        )
        return [(row[0], row[1], row[2]) for row in rows]

    def _require_pass(self, release: str, policy: str, digest: str, current: ReleaseEntry | None) -> None:
        """A stored PASS about this very policy, against what users have now (and so never against itself)."""
        decision = self.decision(digest)
        if decision is None:
            raise _refused(release, policy, f"decision {short(digest)} is not stored")
        if decision.aligned != policy:
            raise _refused(release, policy, f"decision {short(digest)} is about policy {short(decision.aligned)}")
        if decision.verdict is not Verdict.PASS:
            raise _refused(release, policy, f"decision {short(digest)} is {decision.verdict.value}")
        if decision.own_margins:
            raise _refused(release, policy, f"decision {short(digest)} was not held to the rubric's own margins")
        if current is not None and decision.reference != current.policy:
            against = f"compares with {short(decision.reference)}, users have {short(current.policy)}"
            raise _refused(release, policy, f"decision {short(digest)} {against}")


def _entry(row: Any) -> ReleaseEntry:
    return ReleaseEntry(**{name: row[name] for name in ReleaseEntry.model_fields})


def _refused(release: str, policy: str, why: str) -> PlumblineError:
    return PlumblineError(
        f"release {release!r} does not move to policy {short(policy)}: {why}",
        consequence="users keep the policy they have",
        remedy="run the gate on this very policy and release it with the decision that says PASS",
    )
