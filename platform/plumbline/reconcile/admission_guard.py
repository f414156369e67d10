"""Whether a ValidatingAdmissionPolicy asks about every request of a kind of ours: what its rules may not leave out."""

from collections.abc import Collection, Mapping
from typing import Any

from plumbline.records.resources import BY_KIND

OURS = BY_KIND["Approval"]  # all kinds are of one group and version


def covers_all(spec: Mapping[str, Any], plural: str, operations: Collection[str]) -> bool:
    """Whether the `spec` of a policy matches all such operations on all objects of `plural`, whatever they are called,
    in whatever namespace."""
    matched = spec.get("matchConstraints") or {}
    if any(matched.get(key) for key in ("excludeResourceRules", "namespaceSelector", "objectSelector")):
        return False
    return any(_covers(rule, plural, operations) for rule in matched.get("resourceRules", []))


def _covers(rule: Mapping[str, Any], plural: str, operations: Collection[str]) -> bool:
    return (
        plural in rule.get("resources", [])
        and OURS.group in rule.get("apiGroups", [])
        and OURS.version in rule.get("apiVersions", [])
        and set(operations) <= set(rule.get("operations", []))
        and not rule.get("resourceNames")
        and rule.get("scope", "*") in ("*", "Namespaced")
    )
