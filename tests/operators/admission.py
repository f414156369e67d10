"""Admission as an API server does it: the chart's own policies, evaluated for each request that they match.

What a test cluster enforces is what the chart would install, word for word: a rule that refuses too much or too little
shows in the stories of the operator.
"""

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import celpy
import yaml

Doc = dict[str, Any]
CHART = Path(__file__).resolve().parents[2] / "charts" / "plumbline-crds" / "templates" / "admission.yaml"
OPERATOR = "system:serviceaccount:demo:plumbline-operator"  # whom the operator's token stands for


def chart_policies() -> list[Doc]:
    """The ValidatingAdmissionPolicies of the chart and their bindings. What Helm fills in is labels and no more."""
    plain = re.sub(r"(?m)^.*\{\{.*\n", "", CHART.read_text("utf-8"))
    docs = [doc for doc in yaml.safe_load_all(plain) if doc and doc["kind"].startswith("ValidatingAdmission")]
    return [{**doc, "metadata": {"name": doc["metadata"]["name"]}} for doc in docs]


@functools.cache
def _program(rule: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def cel(rule: str, **values: Any) -> Any:
    return _program(rule).evaluate({name: celpy.json_to_cel(value) for name, value in values.items()})


def refusal(
    policies: Iterable[Doc],
    bindings: Iterable[Doc],
    *,
    plural: str,
    operation: str,
    user: str,
    new: Doc,
    old: Doc | None,
    find: Callable[[str, str], Doc | None],
) -> str:
    """What is said to a request that is refused; empty for one that is admitted. `find` looks a parameter object up by
    kind and name, in the namespace of the request."""
    known = {policy["metadata"]["name"]: policy["spec"] for policy in policies}
    for binding in bindings:
        bound = binding["spec"]
        policy = known.get(bound["policyName"], {})
        rules = policy.get("matchConstraints", {}).get("resourceRules", [])
        if not any(plural in rule["resources"] and operation in rule["operations"] for rule in rules):
            continue
        asked: Doc = {
            "request": {"operation": operation, "userInfo": {"username": user}},
            "namespaceObject": {"metadata": {"name": new["metadata"]["namespace"]}},
            "object": new,
            "oldObject": old,
        }
        if "paramKind" in policy:
            asked["params"] = find(policy["paramKind"]["kind"], bound["paramRef"]["name"])
            if asked["params"] is None:
                if bound["paramRef"]["parameterNotFoundAction"] == "Deny":
                    return "no params found for policy binding with `Deny` parameterNotFoundAction"
                continue
        for rule in policy["validations"]:
            if not cel(rule["expression"], **asked):
                said = cel(rule["messageExpression"], **asked) if "messageExpression" in rule else rule["message"]
                return f"ValidatingAdmissionPolicy '{bound['policyName']}' denied request: {said}"
    return ""
