"""Every setup in charts/plumbline/ci lints and renders; schemas are test_schemas.py's, but for kinds without one."""

import subprocess
from collections.abc import Callable
from typing import Any

from chart_tools import CHART, CHARTS, SETUPS, Doc

Helm = Callable[..., "subprocess.CompletedProcess[str]"]

# Kinds whose definitions are not at hand: the fields that this chart may use, after their published APIs.
# monitoring.coreos.com/v1, karpenter.sh/v1, kueue.x-k8s.io/v1beta1 and v1beta2, gateway.networking.k8s.io/v1.
SHAPES: dict[str, dict[str, set[str]]] = {
    "ServiceMonitor": {"spec": {"selector", "endpoints"}, "spec.endpoints": {"port", "path", "interval"}},
    "PodMonitor": {
        "spec": {"selector", "podMetricsEndpoints"},
        "spec.podMetricsEndpoints": {"portNumber", "path", "interval"},
    },
    "PrometheusRule": {
        "spec": {"groups"},
        "spec.groups": {"name", "interval", "rules"},
        "spec.groups.rules": {"alert", "record", "expr", "for", "labels", "annotations"},
    },
    "NodePool": {
        "spec": {"template", "limits", "disruption"},
        "spec.template": {"metadata", "spec"},
        "spec.template.spec": {"nodeClassRef", "requirements", "taints"},
        "spec.template.spec.nodeClassRef": {"group", "kind", "name"},
        "spec.template.spec.requirements": {"key", "operator", "values"},
        "spec.template.spec.taints": {"key", "value", "effect"},
        "spec.disruption": {"consolidationPolicy", "consolidateAfter"},
    },
    "ResourceFlavor": {"spec": {"nodeLabels", "tolerations"}},
    "ClusterQueue": {
        "spec": {"namespaceSelector", "resourceGroups", "cohort", "cohortName", "preemption"},
        "spec.preemption": {"withinClusterQueue", "reclaimWithinCohort"},
        "spec.resourceGroups": {"coveredResources", "flavors"},
        "spec.resourceGroups.flavors": {"name", "resources"},
        "spec.resourceGroups.flavors.resources": {"name", "nominalQuota"},
    },
    "LocalQueue": {"spec": {"clusterQueue"}},
    "HTTPRoute": {
        "spec": {"parentRefs", "hostnames", "rules"},
        "spec.parentRefs": {"name", "namespace", "sectionName"},
        "spec.rules": {"matches", "backendRefs"},
        "spec.rules.matches": {"path"},
        "spec.rules.matches.path": {"type", "value"},
        "spec.rules.backendRefs": {"name", "port", "weight"},
    },
}


def at(value: Any, path: list[str]) -> list[Doc]:
    """The objects at a dotted path; lists are walked through."""
    if isinstance(value, list):
        return [found for item in value for found in at(item, path)]
    if not path:
        return [value]
    return at(value[path[0]], path[1:]) if path[0] in value else []


def test_helm_lints_without_a_warning(helm: Helm, setup: str) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{setup}-values.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout and "[ERROR]" not in done.stdout


def test_helm_lints_the_definitions(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHARTS / "plumbline-crds"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_setups_enough_to_render_every_template(render: Callable[..., list[Doc]]) -> None:
    kinds = {doc["kind"] for setup in SETUPS for doc in render(setup)}
    assert kinds >= {
        "Deployment", "StatefulSet", "Service", "ServiceAccount", "Role", "RoleBinding", "ConfigMap",
        "PersistentVolumeClaim", "NetworkPolicy", "PodDisruptionBudget", "Job", "CronJob", "Pod",
        "RayJob", "InferenceService", *SHAPES,
    }  # fmt: skip
    assert len(SETUPS) >= 8


def test_other_kinds_use_only_published_fields(render: Callable[..., list[Doc]], setup: str) -> None:
    for doc in render(setup):
        for path, fields in SHAPES.get(doc["kind"], {}).items():
            for found in at(doc, path.split(".")):
                assert set(found) <= fields, f"{doc['kind']} {path}: {set(found) - fields}"


def test_an_aa_experiment_asks_the_reference_twice_and_nobody_else(render: Callable[..., list[Doc]]) -> None:
    """Its router does not start beside another policy, and a worker that is told of one asks that."""

    def asked(mode: str) -> dict[str, list[str]]:
        docs = render("cpu-everything", f"shadow.mode={mode}")
        (router,) = [doc for doc in docs if doc["kind"] == "StatefulSet" and doc["metadata"]["name"].endswith("router")]
        containers = router["spec"]["template"]["spec"]["containers"]
        names = ("--reference=", "--aligned=")
        return {
            one["name"]: [part.split("=")[0] for part in one["args"] if part.startswith(names)] for one in containers
        }

    assert asked("aa") == {"router": ["--reference"], "worker": ["--reference"]}
    assert asked("shadow") == asked("ab") == {name: ["--reference", "--aligned"] for name in asked("aa")}


def test_another_share_of_an_ab_experiment_has_a_spool_of_its_own(render: Callable[..., list[Doc]]) -> None:
    """A router that finds the spool of other settings does not start, and users ask routers."""

    def spools(*sets: str) -> set[str]:
        docs = render("cpu-everything", "shadow.mode=ab", *sets)
        (router,) = [doc for doc in docs if doc["kind"] == "StatefulSet" and doc["metadata"]["name"].endswith("router")]
        containers = router["spec"]["template"]["spec"]["containers"]
        return {part for one in containers for part in one["args"] if part.startswith("--spool=")}

    (few,), (all_of_them,) = spools(), spools("shadow.abShare=1")
    assert few == "--spool=/spool/shadow-1-ab-0.05" and all_of_them != few
