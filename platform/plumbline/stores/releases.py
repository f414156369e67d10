"""Policies, gate decisions, shadow verdicts and the release: which policy serves users, and why.

The release is the one mutable pointer, and even it is a history: the current release is the last entry, and no
entry is ever altered. It moves forward only to a policy that holds a stored PASS decision of its own; the first entry,
which names what users have before anything was compared, is the only one without. `promote` wants a passing shadow
verdict about those very digests too, or a reason why there is none, which stays in the audit trail. `rollback` goes
back to what users had before, at once: that needs a reason and no verdict.
"""

from datetime import timedelta
from typing import Any, Literal, get_args

from plumbline.errors import PlumblineError
from plumbline.records import GateDecision, Objective, PolicyManifest, ReleaseEntry, Verdict, short
from plumbline.records.shadow import ReleaseAction, ReleaseAudit, ShadowVerdict
from plumbline.stores.database import Database, timestamp

Remediation = Literal["no-action", "retrain", "adapter-removal", "retire", "unsupported"]
REMEDIATIONS: tuple[str, ...] = get_args(Remediation)
MAX_AGE = timedelta(days=30)  # of a shadow verdict that a promotion rests on


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

    # --- shadow verdicts ------------------------------------------------------------------------------------------

    def record_shadow(self, verdict: ShadowVerdict) -> str:
        """Store the verdict of a shadow experiment; recording it again changes nothing. Returns its digest."""
        self._database.execute(
            "INSERT INTO shadow_verdict VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (verdict.digest, verdict.experiment, verdict.reference, verdict.aligned, verdict.verdict.value,
             int(verdict.decided), verdict.model_dump_json(), self._database.now()),
        )  # fmt: skip
        return verdict.digest

    def settle_shadow(self, found: ShadowVerdict) -> ShadowVerdict:
        """Store what a look found and return what holds: what was decided before, if something was, because a fixed
        horizon has one look; except that a kill switch, whose rule holds at every look, ends an earlier PASS."""
        before = self.decided_shadow(found.experiment, found.reference, found.aligned)
        stopped = found.tripped is not None and found.decided
        said = found if before is None or stopped else before
        self.record_shadow(said)
        return said

    def shadow_verdict(self, digest: str) -> ShadowVerdict | None:
        found = self._database.value("SELECT body FROM shadow_verdict WHERE digest = ?", (digest,))
        return None if found is None else ShadowVerdict.model_validate_json(found)

    def decided_shadow(self, experiment: str, reference: str, aligned: str) -> ShadowVerdict | None:
        """What was decided about an experiment on two policies; None while nothing was. A fixed horizon has one look:
        the first."""
        found = self._database.value(
            "SELECT body FROM shadow_verdict WHERE experiment = ? AND reference = ? AND aligned = ? AND decided = 1"
            " ORDER BY recorded_at, digest",
            (experiment, reference, aligned),
        )
        return None if found is None else ShadowVerdict.model_validate_json(found)

    def passing_shadow(self, reference: str, aligned: str, *, max_age: timedelta | None = None) -> ShadowVerdict | None:
        """The newest shadow verdict about these two policies, if it is a PASS and no older than `max_age`.

        A later REGRESSED about them takes an earlier PASS away. What was not decided changes nothing, and a PASS of an
        experiment that was decided before does not count.
        """
        since = "" if max_age is None else timestamp(self._database.clock() - max_age)
        return self._passing_shadow(reference, aligned, since)

    def _passing_shadow(self, reference: str, aligned: str, since: str) -> ShadowVerdict | None:
        row = self._database.row(
            "SELECT verdict, body FROM shadow_verdict AS one WHERE reference = ? AND aligned = ? AND decided = 1 AND"
            " (verdict = 'REGRESSED' OR verdict = 'PASS' AND NOT EXISTS (SELECT 1 FROM shadow_verdict AS first WHERE"
            " first.experiment = one.experiment AND first.reference = one.reference AND first.aligned = one.aligned AND"
            " first.decided = 1 AND (first.recorded_at, first.digest) < (one.recorded_at, one.digest)))"
            " AND recorded_at >= ? ORDER BY recorded_at DESC, digest DESC",
            (reference, aligned, since),
        )
        passed = row is not None and row["verdict"] == Verdict.PASS.value
        return ShadowVerdict.model_validate_json(row["body"]) if row is not None and passed else None

    # --- the release ----------------------------------------------------------------------------------------------

    def promote(
        self,
        release: str,
        policy: str,
        *,
        reason: str,
        actor: str,
        decision: str | None = None,
        without_shadow: str | None = None,
        max_age: timedelta = MAX_AGE,
    ) -> ReleaseAudit:
        """Point a release at a policy with a passing gate decision (the newest about it, unless one is named) and a
        passing, fresh shadow verdict against what users have now. `without_shadow` is why there is no such verdict.

        What was rolled back needs a shadow verdict from after that. The first policy of a release needs neither.
        Raises PlumblineError, and users keep what they have, where any of it is not so.
        """
        with self._database.transaction():
            current = self.current_release(release)
            shadow = None
            if current is not None and current.policy != policy:
                decision = decision or self._newest_decision(release, current.policy, policy)
                if without_shadow is None:
                    shadow = self._require_shadow(release, policy, current, max_age)
            if current is None or current.policy != policy:
                self._append(release, policy, decision, reason, actor, "promote", shadow, without_shadow)
            return self.release_audit(release)[-1]

    def grounds(self, release: str, policy: str, *, max_age: timedelta = MAX_AGE) -> tuple[str, str]:
        """What a promotion would rest on: the digests of the gate decision and of the shadow verdict, both passing,
        both about this very policy against what users have now, neither older than `max_age`.

        Raises PlumblineError, saying what is missing. A release that names no policy yet has no grounds: its first
        entry is a person's word about what users have.
        """
        current = self.current_release(release)
        if current is None:
            raise _refused(release, policy, "it names no policy yet, and nothing can be compared with what users have")
        decision = self._newest_decision(release, current.policy, policy)
        self._require_pass(release, policy, decision, current)
        recorded = self._database.value("SELECT recorded_at FROM decision WHERE digest = ?", (decision,))
        if recorded < timestamp(self._database.clock() - max_age):
            raise _refused(release, policy, f"decision {short(decision)} is older than {max_age.days} days")
        return decision, self._require_shadow(release, policy, current, max_age)

    def names(self) -> list[str]:
        """Every release that names a policy."""
        return [str(row[0]) for row in self._database.rows("SELECT DISTINCT release FROM release ORDER BY release")]

    def recorded_at(self, digest: str) -> str:
        """When a gate decision or a shadow verdict was recorded; empty for one that is not stored."""
        for table in ("decision", "shadow_verdict"):
            found = self._database.value(f"SELECT recorded_at FROM {table} WHERE digest = ?", (digest,))
            if found is not None:
                return str(found)
        return ""

    def earlier(self, release: str) -> list[ReleaseAudit]:
        """What users had before the present policy, the last first: whereto a rollback may go. What was rolled back is
        not among it."""
        served: list[ReleaseAudit] = []
        for entry in self.release_audit(release):
            if entry.action != "rollback":
                served.append(entry)
            while served and served[-1].policy != entry.policy:
                served.pop()
        return [entry for entry in reversed(served) if entry.policy != served[-1].policy]

    def rollback(self, release: str, *, reason: str, actor: str, to: str | None = None) -> ReleaseAudit:
        """Point a release at the policy that users had before the present one; again, at the one before that. `to`
        names one of those before, and goes back to it in one move.

        Raises PlumblineError where there is none.
        """
        with self._database.transaction():
            earlier = [entry for entry in self.earlier(release) if to in (None, entry.policy)]
            if not earlier:
                raise PlumblineError(
                    f"release {release!r} names no policy before the present one"
                    if to is None
                    else f"release {release!r} did not name policy {short(to)} before the present one",
                    consequence="users keep the policy they have",
                    remedy="see `plumb release history`; another policy takes `plumb release promote`",
                )
            self._append(release, earlier[0].policy, earlier[0].decision, reason, actor, "rollback", None, None)
            return self.release_audit(release)[-1]

    def release_audit(self, release: str) -> list[ReleaseAudit]:
        """Every move of a release with why it was allowed, oldest first."""
        rows = self._database.rows(
            "SELECT release.*, action, previous, shadow, without_shadow FROM release LEFT JOIN release_audit"
            " ON release_audit.release = release.release AND release_audit.sequence = release.sequence"
            " WHERE release.release = ? ORDER BY release.sequence",
            (release,),
        )
        found: list[ReleaseAudit] = []
        for row in rows:
            said = {name: row[name] for name in ReleaseAudit.model_fields}
            said["action"] = said["action"] or "move"
            said["previous"] = said["previous"] or (found[-1].policy if found else None)
            found.append(ReleaseAudit(**said))
        return found

    def move_release(self, release: str, policy: str, decision: str | None, reason: str, actor: str) -> ReleaseEntry:
        """Point a release at a policy. Moving it to where it stands, for the same decision, changes nothing."""
        with self._database.transaction():
            current = self.current_release(release)
            if current is not None and (current.policy, current.decision) == (policy, decision):
                return current
            return self._append(release, policy, decision, reason, actor, "move", None, None)

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

    def _append(
        self,
        release: str,
        policy: str,
        decision: str | None,
        reason: str,
        actor: str,
        action: ReleaseAction,
        shadow: str | None,
        without_shadow: str | None,
    ) -> ReleaseEntry:
        """One more entry with its audit line, in the open transaction; forward only with a PASS."""
        current = self.current_release(release)
        if action != "rollback":
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
        self._database.insert(
            "release_audit",
            release=release,
            sequence=entry.sequence,
            action=action,
            previous=current.policy if current else None,
            shadow=shadow,
            without_shadow=without_shadow,
        )
        return entry

    def _taken_back(self, decision: GateDecision) -> bool:
        """Whether the gate said REGRESSED about the same two policies after this decision."""
        found = self._database.value(
            "SELECT 1 FROM decision AS later, decision AS this WHERE this.digest = ? AND later.verdict = 'REGRESSED'"
            " AND later.aligned = this.aligned AND later.reference = this.reference AND"
            " (later.recorded_at, later.digest) > (this.recorded_at, this.digest)",
            (decision.digest,),
        )
        return found is not None

    def _newest_decision(self, release: str, reference: str, policy: str) -> str:
        """The newest recorded decision about a policy against what users have; whether it passes is asked later."""
        found = [one for one in self.decisions(policy) if one.reference == reference]
        if not found:
            raise _refused(release, policy, f"no gate decision compares it with {short(reference)}, what users have")
        return found[-1].digest

    def _require_shadow(self, release: str, policy: str, current: ReleaseEntry, max_age: timedelta) -> str:
        since = timestamp(self._database.clock() - max_age)
        left = [
            entry.recorded_at
            for entry in self.release_audit(release)
            if entry.action == "rollback" and entry.previous == policy
        ]
        verdict = self._passing_shadow(current.policy, policy, max([since, *left]))
        if verdict is not None:
            return verdict.digest
        older = self._passing_shadow(current.policy, policy, "")
        if older is None:
            why = f"no shadow verdict says PASS about it against {short(current.policy)}, what users have"
        elif left and max(left) > since:
            why = "it was rolled back, and no shadow verdict from after that says PASS"
        else:
            why = f"the shadow verdict that says PASS is older than {max_age.days} days"
        raise PlumblineError(
            f"release {release!r} does not move to policy {short(policy)}: {why}",
            consequence="users keep the policy they have",
            remedy="run a shadow experiment and `plumb shadow verdict`, or say --without-shadow REASON, which is kept",
        )

    def _require_pass(self, release: str, policy: str, digest: str, current: ReleaseEntry | None) -> None:
        """A stored PASS about this very policy, against what users have now (and so never against itself)."""
        decision = self.decision(digest)
        if decision is None:
            raise _refused(release, policy, f"decision {short(digest)} is not stored")
        if decision.aligned != policy:
            raise _refused(release, policy, f"decision {short(digest)} is about policy {short(decision.aligned)}")
        if decision.verdict is not Verdict.PASS:
            raise _refused(release, policy, f"decision {short(digest)} is {decision.verdict.value}")
        if self._taken_back(decision):
            raise _refused(
                release, policy, f"decision {short(digest)} was followed by a REGRESSED about the same policies"
            )
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
