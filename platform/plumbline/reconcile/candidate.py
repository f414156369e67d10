"""What happens next to a candidate: the policy trained on one dataset version, on its way to users or not.

A pure function of what was seen, like `dataset_line`. The order of its questions is the policy: train, evaluate,
decide, shadow; then move the release only if the gate passed *and* the shadow's verdict is PASS. A refused
candidate is shadowed all the same: its pairs show reviewers what it breaks, and users never see it.
"""

from dataclasses import dataclass

from plumbline.records import Verdict


@dataclass(frozen=True)
class CandidateObservation:
    """One look at a candidate. Digests are None until the thing exists.

    `shadow_balanced`: spooled == paired + shed. `shadow_passed`: its verdict is PASS, at the planned size. Both None
    until a shadow was run. `serving`: the policy that the release names.
    `released`: it was released once, and something else has been since.
    """

    dataset: str
    policy: str | None = None
    report: str | None = None
    verdict: Verdict | None = None
    shadow_balanced: bool | None = None
    shadow_passed: bool | None = None
    serving: str | None = None
    released: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Train:
    """Train the reference on `dataset` under the candidate's objective; resume if it was begun."""

    dataset: str


@dataclass(frozen=True)
class Evaluate:
    """Ask reference and candidate every held-out item and write the paired report."""

    policy: str


@dataclass(frozen=True)
class Decide:
    """Hold the report against the rubric's margins and record the decision."""

    report: str


@dataclass(frozen=True)
class Shadow:
    """Serve both side by side behind the router, and pair live traffic."""

    policy: str


@dataclass(frozen=True)
class Promote:
    """Move the release to `policy`; the ledger refuses it without a passing decision for this very digest."""

    policy: str


@dataclass(frozen=True)
class Refuse:
    """Record that the candidate is not released, and why. Users keep what they have."""

    policy: str
    reason: str


@dataclass(frozen=True)
class Done:
    """Nothing left to do for this candidate."""

    reason: str


CandidateAction = Train | Evaluate | Decide | Shadow | Promote | Refuse | Done


def reconcile(seen: CandidateObservation) -> CandidateAction:
    """The next action for a candidate. Total: every observation has exactly one."""
    if seen.policy is None:
        return Train(seen.dataset)
    if seen.report is None:
        return Evaluate(seen.policy)
    if seen.verdict is None:
        return Decide(seen.report)
    if seen.shadow_balanced is None:
        return Shadow(seen.policy)
    if seen.serving == seen.policy:
        return Done("Released")
    if seen.released:
        return Done("Superseded")
    if seen.refused:
        return Done("Refused")
    if seen.verdict is not Verdict.PASS:
        return Refuse(seen.policy, f"the gate said {seen.verdict.value}")
    if not seen.shadow_balanced:
        return Refuse(seen.policy, "the shadow's account does not balance")
    if not seen.shadow_passed:
        return Refuse(seen.policy, "the shadow verdict on live traffic is not PASS")
    return Promote(seen.policy)
