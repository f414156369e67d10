"""Whether an Approval object counts: one pure function of what it says and what the ledger knows.

Admission has made sure that the approver is whoever asked (a ValidatingAdmissionPolicy compares the two). What it
cannot see is asked here: whether that policy is in force at all, whether a run waits with this candidate, and whether
the approver wrote any of it. Authors are known by pseudonym only, and admission cannot make one: that is why four
eyes has two halves, and why names of authors are nowhere in the cluster.

Fails closed: what cannot be checked is not recorded, and is looked at again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from plumbline.reconcile.admission_guard import covers_all
from plumbline.reconcile.dataset_line import Condition
from plumbline.records.canonical import short

Verdict = Literal["record", "recorded", "refuse", "wait"]
POLICY = "approvals.plumbline.dev"
SAME_PERSON = "request.userInfo.username == object.spec.approver"
NO_MACHINE = (
    "!request.userInfo.username.startsWith('system:serviceaccount:')"
    " && !request.userInfo.username.startsWith('system:node:')"
)


@dataclass(frozen=True)
class ApprovalObservation:
    """One look. `waiting`: an open run has this candidate. `known`: the ledger has the candidate at all.

    `authors` and `approver` are pseudonyms; None where they could not be made or read. `stored` is the approver's
    word on this candidate in the ledger. `guarded` is what is wrong with the admission policy, empty if nothing.
    """

    guarded: str = ""
    ledger_verifies: bool | None = True
    waiting: bool = False
    authors: frozenset[str] | None = None
    approver: str | None = None
    stored: bool | None = None
    others: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class ApprovalDecision:
    """`record`: write the word into the ledger. The rest changes nothing there."""

    verdict: Verdict
    condition: Condition


def judge(candidate: str, approved: bool, seen: ApprovalObservation) -> ApprovalDecision:
    """What becomes of a word on `candidate`."""
    if not seen.ledger_verifies:
        return _say("wait", "Unknown", "LedgerUnreadable", "the ledger cannot be relied on; it is looked at again")
    if seen.stored is not None:
        if seen.stored == approved:
            return _say("recorded", "True", "Recorded", "the word is in the ledger")
        return _say("refuse", "False", "AlreadyDecided", "the approver's first word on this candidate was another")
    if seen.guarded:
        return _say("wait", "Unknown", "NotGuarded", f"nothing says that the approver is who asked: {seen.guarded}")
    if not seen.waiting:
        return _say("wait", "False", "NoSuchCandidate", f"no run waits with candidate {short(candidate)}")
    if seen.authors is None or seen.approver is None:
        return _say("wait", "Unknown", "AuthorsUnknown", "who wrote it cannot be compared with the approver")
    if seen.approver in seen.authors:
        return _say("refuse", "False", "ApproverIsAuthor", "the approver wrote some of it; somebody else must look")
    return _say("record", "True", "Recorded", "the word is in the ledger")


def guard_problem(policy: Mapping[str, Any] | None, binding: Mapping[str, Any] | None) -> str:
    """What is wrong with the admission policy and its binding as the API server has them; empty if nothing is."""
    if policy is None or binding is None:
        return f"the ValidatingAdmissionPolicy {POLICY} or its binding is not installed"
    spec, bound = policy.get("spec", {}), binding.get("spec", {})
    said = {" ".join(rule.get("expression", "").split()) for rule in spec.get("validations", [])}
    if SAME_PERSON not in said:
        return f"the policy {POLICY} does not compare the approver with the account that asks"
    if NO_MACHINE not in said:
        return f"the policy {POLICY} lets machines give their word"
    if spec.get("failurePolicy", "Fail") != "Fail" or spec.get("matchConditions"):
        return f"the policy {POLICY} lets some requests through unchecked"
    if not covers_all(spec, "approvals", ("CREATE",)):
        return f"the policy {POLICY} covers some requests only"
    if bound.get("policyName") != POLICY or "Deny" not in bound.get("validationActions", []):
        return f"the binding {POLICY} does not deny"
    if bound.get("matchResources"):
        return f"the binding {POLICY} covers some requests only"
    return ""


def _say(verdict: Verdict, status: Literal["True", "False", "Unknown"], reason: str, text: str) -> ApprovalDecision:
    return ApprovalDecision(verdict, Condition("Verified", status, reason, text))
