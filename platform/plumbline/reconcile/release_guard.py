"""What admission asks about releases, and whether it is in force: the rules, as they stand in the chart, word for word.

Three rules in two policies: a Release names a policy that its release may move to; whoever is named asked for it; and
the list that says so (PassingDecisions) is written by an operator's account alone. The operator reads the policies and
their bindings as the API server has them, and moves nothing while one is missing or weaker.
"""

from collections.abc import Mapping
from typing import Any

from plumbline.reconcile.admission_guard import covers_all

RELEASES = "releases.plumbline.dev"
DECISIONS = "passingdecisions.plumbline.dev"
LIST = "plumbline"  # the name of the one PassingDecisions of a namespace

UNCHANGED = "request.operation == 'UPDATE' && object.spec == oldObject.spec"
MAY_MOVE = (
    f"{UNCHANGED} || params.spec.releases.exists(release, release.name == object.metadata.name &&"
    " (release.serving == object.spec.policy || object.spec.policy in release.before ||"
    " release.passed.exists(one, one.policy == object.spec.policy)))"
)
SAME_REQUESTER = f"{UNCHANGED} || request.userInfo.username == object.spec.requestedBy"
OWN_OPERATOR = (
    "request.userInfo.username.startsWith('system:serviceaccount:' + namespaceObject.metadata.name + ':') &&"
    " request.userInfo.username.endsWith('-operator')"
)
RULES = {RELEASES: (MAY_MOVE, SAME_REQUESTER), DECISIONS: (OWN_OPERATOR,)}
KINDS = {RELEASES: "releases", DECISIONS: "passingdecisions"}
PARAMETER_KIND = {"apiVersion": "plumbline.dev/v1alpha1", "kind": "PassingDecisions"}
PARAMETER = {"name": LIST, "parameterNotFoundAction": "Deny"}


def release_guard_problem(name: str, policy: Mapping[str, Any] | None, binding: Mapping[str, Any] | None) -> str:
    """What is wrong with one of the two policies (`RELEASES`, `DECISIONS`) and its binding; empty if nothing is."""
    if policy is None or binding is None:
        return f"the ValidatingAdmissionPolicy {name} or its binding is not installed"
    spec, bound = policy.get("spec", {}), binding.get("spec", {})
    said = {" ".join(rule.get("expression", "").split()) for rule in spec.get("validations", [])}
    if not set(RULES[name]) <= said:
        return f"the policy {name} does not ask what it should"
    if spec.get("failurePolicy", "Fail") != "Fail" or spec.get("matchConditions"):
        return f"the policy {name} lets some requests through unchecked"
    if not covers_all(spec, KINDS[name], ("CREATE", "UPDATE")):
        return f"the policy {name} covers some requests only"
    if bound.get("policyName") != name or "Deny" not in bound.get("validationActions", []):
        return f"the binding {name} does not deny"
    if bound.get("matchResources"):
        return f"the binding {name} covers some requests only"
    if name == RELEASES and (
        spec.get("paramKind") != PARAMETER_KIND
        or {key: bound.get("paramRef", {}).get(key) for key in PARAMETER} != PARAMETER
        or bound.get("paramRef", {}).get("namespace")
    ):
        return f"the binding {name} does not read the operator's list of the namespace"
    return ""
