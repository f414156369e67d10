"""What the doctor says about a cluster: one cluster that has all, and a table of what one thing less means."""

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from plumbline import __version__
from plumbline.errors import PlumblineError
from plumbline.reconcile.approval import POLICY
from plumbline.reconcile.cluster_check import NEEDED_FIELDS, findings, lacking_fields, version_of
from plumbline.reconcile.cluster_finding import Finding
from plumbline.reconcile.cluster_pools import amount
from plumbline.reconcile.cluster_questions import (
    FORBIDDEN,
    GUARDS,
    RAYJOBS,
    SERVICES,
    Facts,
    Questions,
    Right,
    fullname,
    merged,
    questions,
)
from plumbline.reconcile.crds import definition
from plumbline.reconcile.release_guard import RELEASES
from plumbline.records.resources import RESOURCES

CHARTS = Path(__file__).resolve().parents[2] / "charts"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "crds"
Doc = dict[str, Any]
Change = Callable[[Facts], Facts]
POOL = {
    "name": "train-a100",
    "purpose": "train",
    "count": 2,
    "minCount": 2,
    "maxCount": 4,
    "gpusPerNode": 8,
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "resources": {"cpu": "90", "memory": "900Gi"},
    "sharedMemory": "64Gi",
}
EVERYTHING: Doc = {
    "pools": [POOL],
    "existingSecret": "keys",
    "ledger": {"existingSecret": "stores"},
    "blobs": {"url": "s3://bucket/blobs", "existingSecret": "stores"},
    "storage": {"policies": {"storageClassName": "files"}},
    "training": {"rayJob": {"enabled": True}},
    "serving": {"enabled": True, "canary": {"enabled": True}},
    "shadow": {"enabled": True},
    "monitoring": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "karpenter": {"enabled": True},
    "kueue": {"enabled": True},
}


def crd_knowing(version: str, *paths: str) -> Doc:
    """A definition whose schema knows these fields and no others."""
    whole: Doc = {"type": "object", "properties": {}}
    for path in paths:
        node = whole
        for part in path.split("."):
            node = node.setdefault("properties", {}).setdefault(part, {"type": "object"})
    return {"spec": {"versions": [{"name": version, "served": True, "schema": {"openAPIV3Schema": whole}}]}}


def installed(resource: Any) -> Doc:
    """Our definition as the API server gives it back."""
    accepted = {"conditions": [{"type": "Established", "status": "True"}], "storedVersions": [resource.version]}
    return {**definition(resource), "status": accepted}


def node(name: str, **labels: str) -> Doc:
    return {
        "metadata": {"name": name, "labels": {"plumbline.dev/pool": "train-a100", **labels}},
        "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "allocatable": {"cpu": "95500m", "memory": "1000Gi", "nvidia.com/gpu": "8"},
        },
    }


def deployment(name: str, image: str, namespace: str = "system", **labels: str) -> Doc:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
        "status": {"readyReplicas": 1},
    }


def storage_class(name: str, provisioner: str, default: bool = False) -> Doc:
    marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}, "provisioner": provisioner}


@functools.cache
def admission() -> list[Doc]:
    """The admission policies and bindings as they stand in the chart, without what helm fills in."""
    text = (CHARTS / "plumbline-crds" / "templates" / "admission.yaml").read_text("utf-8")
    return list(yaml.safe_load_all(re.sub(r"\{\{-? .*?-?\}\}", "", text)))


def guards() -> dict[str, tuple[Doc, Doc]]:
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    found = {(doc["kind"], doc["metadata"]["name"]): doc for doc in admission()}
    return {name: (found[kinds[0], name], found[kinds[1], name]) for name in GUARDS}


def asked_for(values: Doc) -> Questions:
    return questions(values, namespace="demo", release="plumbline")


def whole(asked: Questions) -> Facts:
    """A cluster that has all that is asked for."""
    ours = {"app.kubernetes.io/name": "plumbline", "app.kubernetes.io/instance": "plumbline"}
    return Facts(
        server="https://cluster",
        version="v1.36.2",
        groups={
            "kueue.x-k8s.io": frozenset({"v1beta1", "v1beta2"}),
            "karpenter.sh": frozenset({"v1"}),
            "monitoring.coreos.com": frozenset({"v1"}),
            "gateway.networking.k8s.io": frozenset({"v1"}),
        },
        namespace={"metadata": {"name": "demo"}},
        crds={
            **{f"{item.plural}.{item.group}": installed(item) for item in RESOURCES},
            **{name: crd_knowing(*fields) for name, fields in NEEDED_FIELDS.items()},
        },
        deployments=[
            deployment("kuberay-operator", "registry.example/kuberay/operator:v1.7.0"),
            deployment("kserve-controller-manager", "kserve/kserve-controller:v0.20.0"),
            deployment("kueue-controller-manager", "registry.example/kueue/kueue:v0.15.1"),
            deployment("karpenter", "public.ecr.aws/karpenter/controller:1.8.1@sha256:0"),
            deployment("prometheus-operator", "registry.example/prometheus-operator/prometheus-operator:v0.86.1"),
            deployment(
                "plumbline-operator", "plumbline:1", "demo", **ours, **{"app.kubernetes.io/version": __version__}
            ),
        ],
        storage_classes=[
            storage_class("disks", "ebs.csi.aws.com", default=True),
            storage_class("files", "efs.csi.aws.com"),
        ],
        nodes=[node("a"), node("b")],
        claims=dict.fromkeys(asked.claims.values()),
        secrets={name: {"metadata": {"name": name}} for name in asked.secrets},
        guards=guards(),
        node_class={"metadata": {"name": "default"}} if asked.node_class else None,
        may=dict.fromkeys(asked.rights, True),
        operator={"metadata": {"name": asked.operator_account}},
        operator_may=dict.fromkeys(asked.operator_rights, True) | dict.fromkeys(FORBIDDEN, False),
    )


def said(values: Doc, change: Change = lambda facts: facts) -> list[Finding]:
    asked = asked_for(values)
    return list(findings(asked, change(whole(asked))))


def bad(found: list[Finding]) -> list[tuple[str, str, str, str]]:
    return [(item.level, item.about, item.what, item.remedy) for item in found if item.level != "ok"]


@pytest.mark.parametrize("values", [{}, {"storage": {"policies": {"storageClassName": "files"}}}, EVERYTHING])
def test_a_cluster_that_has_all_is_told_so(values: Doc) -> None:
    found = said(values)
    expected = ["policies volume: class disks"] if not values else []  # the default disks give a volume to one node
    assert [item for _, _, item, _ in bad(found) if not any(item.startswith(e) for e in expected)] == []
    abouts = {item.about for item in found}
    assert {"kubernetes", "definitions", "admission", "KubeRay", "KServe", "storage", "permissions"} <= abouts
    if values is EVERYTHING:
        assert {"Kueue", "Karpenter", "Prometheus Operator", "Gateway API", "node pools", "running"} <= abouts


def without(name: str, key: str) -> Change:
    return lambda facts: replace(facts, **{name: {k: v for k, v in getattr(facts, name).items() if k != key}})


def put(name: str, key: Any, value: Any) -> Change:
    return lambda facts: replace(facts, **{name: {**getattr(facts, name), key: value}})


def swap(name: str, value: Any) -> Change:
    return lambda facts: replace(facts, **{name: value})


def nodes(edit: Callable[[Doc], Any]) -> Change:
    def change(facts: Facts) -> Facts:
        found = copy.deepcopy(list(facts.nodes or ()))
        edit(found[0])
        return replace(facts, nodes=found)

    return change


def image(name: str, new: str) -> Change:
    def change(facts: Facts) -> Facts:
        found = [
            deployment(name, new) if item["metadata"]["name"] == name else item for item in facts.deployments or ()
        ]
        return replace(facts, deployments=found)

    return change


def asleep(name: str) -> Change:
    def change(facts: Facts) -> Facts:
        found = copy.deepcopy(list(facts.deployments or ()))
        next(item for item in found if item["metadata"]["name"] == name)["status"] = {}
        return replace(facts, deployments=found)

    return change


def claim(phase: str, mode: str = "ReadWriteOnce") -> Doc:
    return {"spec": {"accessModes": [mode]}, "status": {"phase": phase}}


def altered() -> Doc:
    found = copy.deepcopy(installed(RESOURCES[0]))
    del found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"]
    return found


LINES = f"{RESOURCES[0].plural}.{RESOURCES[0].group}"
OLD = crd_knowing("v1", *(path for path in NEEDED_FIELDS[RAYJOBS][1:] if "preRunning" not in path))
FIXED = {**EVERYTHING, "karpenter": {"enabled": False}}
WEAK = ({"spec": {"validations": []}}, {"spec": {}})


@pytest.mark.parametrize(
    ("values", "change", "level", "about", "what", "remedy"),
    [
        ({}, swap("version", "v1.29.4"), "error", "kubernetes", "v1.29.4", "1.30 or newer"),
        ({}, swap("version", "v1.99.0+k3s1"), "warning", "kubernetes", "newer than any", "1.37"),
        ({}, swap("namespace", None), "warning", "kubernetes", "no namespace demo", "--create-namespace"),
        ({}, without("crds", LINES), "error", "definitions", LINES, "--server-side"),
        ({}, put("crds", LINES, "hidden"), "warning", "definitions", LINES, "right to get CRDs"),
        ({}, put("crds", LINES, altered()), "error", "definitions", "another schema", "chart of this version"),
        ({}, put("crds", LINES, {**definition(RESOURCES[0])}), "error", "definitions", "not accepted", "describe"),
        ({}, put("guards", POLICY, (None, None)), "error", "admission", "not installed", "--server-side"),
        ({}, put("guards", POLICY, WEAK), "error", "admission", "does not compare", "--server-side"),
        ({}, put("guards", POLICY, ("hidden", None)), "warning", "admission", "may not read", "ask somebody"),
        ({}, put("guards", RELEASES, WEAK), "error", "admission", "does not ask what it should", "--server-side"),
        # what values do not ask for is a warning, what they ask for an error
        ({}, without("crds", RAYJOBS), "warning", "KubeRay", "is not installed", "install the KubeRay operator"),
        (EVERYTHING, without("crds", RAYJOBS), "error", "KubeRay", "is not installed", "install the KubeRay operator"),
        ({"pools": [POOL]}, without("crds", RAYJOBS), "error", "KubeRay", "training needs it", "KubeRay"),
        (EVERYTHING, put("crds", RAYJOBS, OLD), "error", "KubeRay", "preRunningDeadlineSeconds", "1.7"),
        (EVERYTHING, put("crds", RAYJOBS, crd_knowing("v1alpha1")), "error", "KubeRay", "does not know v1", "1.7"),
        (EVERYTHING, image("kuberay-operator", "mirror/kuberay/operator:v1.4.2"), "warning", "KubeRay", "1.4", "1.7"),
        (EVERYTHING, asleep("kuberay-operator"), "error", "KubeRay", "is not ready", "kubectl --namespace system"),
        (EVERYTHING, image("kuberay-operator", "other"), "warning", "KubeRay", "no Deployment that acts", "install"),
        (EVERYTHING, without("crds", SERVICES), "error", "KServe", "serving needs it", "Standard mode"),
        ({}, swap("deployments", None), "warning", "KServe", "its version is not seen", "list deployments"),
        (EVERYTHING, put("groups", "kueue.x-k8s.io", frozenset({"v1beta1"})), "error", "Kueue", "v1beta2", "v1beta1"),
        (EVERYTHING, without("groups", "kueue.x-k8s.io"), "error", "Kueue", "not served", "install Kueue"),
        (EVERYTHING, without("groups", "karpenter.sh"), "error", "Karpenter", "not served", "karpenter.enabled"),
        (EVERYTHING, swap("node_class", None), "error", "Karpenter", "no EC2NodeClass default", "name another"),
        (EVERYTHING, without("groups", "monitoring.coreos.com"), "error", "Prometheus Operator", "v1", "a plain"),
        (  # 0.80 is the first that knows a PodMonitor's portNumber
            EVERYTHING, image("prometheus-operator", "registry.example/prometheus-operator:v0.79.2"),
            "warning", "Prometheus Operator", "0.79", "install",
        ),
        (EVERYTHING, without("groups", "gateway.networking.k8s.io"), "error", "Gateway API", "not served", "install"),
        (
            {"review": {"enabled": True, "gateway": {"name": "public"}}},
            without("groups", "gateway.networking.k8s.io"), "error", "Gateway API", "not served", "install",
        ),
        # storage
        ({}, swap("storage_classes", []), "error", "storage", "no storage class is the default", "provisioner"),
        ({}, swap("storage_classes", [storage_class("x", "y")]), "error", "storage", "is the default", "one of x"),
        ({}, lambda facts: facts, "error", "storage", "one node", "ReadWriteMany"),
        (
            {"storage": {"policies": {"storageClassName": "gone"}}},
            lambda facts: facts, "error", "storage", "no storage class gone", "disks, files",
        ),
        ({}, swap("storage_classes", [storage_class("x", "y", True)]), "warning", "storage", "several", "look"),
        ({}, put("claims", "plumbline-data", claim("Pending")), "warning", "storage", "Pending", "pvc"),
        ({}, put("claims", "plumbline-data", claim("Lost")), "error", "storage", "Lost", "describe pvc"),
        (
            {}, put("claims", "plumbline-policies", claim("Bound")),
            "error", "storage", "ask for ReadWriteMany", "existingClaim",
        ),
        (
            {"storage": {"data": {"existingClaim": "mine"}}},
            lambda facts: facts, "error", "storage", "no claim mine", "existingClaim",
        ),
        # node pools
        ({}, swap("nodes", None), "warning", "node pools", "may not list nodes", "right to list"),
        ({}, nodes(lambda n: n["status"]["allocatable"].pop("nvidia.com/gpu")), "ok", "node pools", "8 nvidia", ""),
        (FIXED, nodes(lambda n: n["metadata"]["labels"].clear()), "warning", "node pools", "1 of 2", "label the nodes"),
        (FIXED, nodes(lambda n: n["spec"].update(unschedulable=True)), "error", "node pools", "cordoned", "uncordon"),
        (FIXED, nodes(lambda n: n["status"].update(conditions=[])), "error", "node pools", "is not ready", "describe"),
        (
            FIXED, nodes(lambda n: n["spec"]["taints"].append({"key": "team", "value": "b", "effect": "NoExecute"})),
            "error", "node pools", "team=b:NoExecute", "tolerations of pool train-a100",
        ),
        (
            FIXED, nodes(lambda n: n["status"]["allocatable"].update(memory="800Gi")),
            "error", "node pools", "offers 800Gi memory, and one of its pods asks for 900Gi", "larger nodes",
        ),
        (
            FIXED, nodes(lambda n: n["status"]["allocatable"].pop("nvidia.com/gpu")),
            "error", "node pools", "offers 0 nvidia.com/gpu", "device plugin",
        ),
        ({"pools": [{"name": "x"}]}, lambda facts: facts, "error", "node pools", "not complete", "values.yaml"),
        ({"pools": ["x"]}, lambda facts: facts, "error", "node pools", "not complete", "values.yaml"),
        # secrets and rights
        ({}, put("secrets", "plumbline-sources", None), "error", "secrets", "who may post", "kubectl --namespace demo"),
        ({}, put("secrets", "plumbline-sources", "hidden"), "warning", "secrets", "may not see", "sourcesSecret"),
        (
            {}, put("may", Right("create", "apps", "deployments"), False),
            "error", "permissions", "create deployments.apps", "role `admin`",
        ),
        (
            {}, put("may", Right("create", "apiextensions.k8s.io", "customresourcedefinitions", True), False),
            "warning", "permissions", "whole cluster", "somebody installed already",
        ),
        (
            {}, put("operator_may", Right("create", "batch", "jobs"), False),
            "error", "permissions", "plumbline-operator may not create jobs.batch", "helm upgrade",
        ),
        ({}, put("operator_may", FORBIDDEN[0], True), "error", "permissions", "may get secrets", "remove it"),
        ({}, swap("operator_may", None), "warning", "permissions", "may not ask", "subjectaccessreviews"),
        ({}, asleep("plumbline-operator"), "error", "running", "0 of 1 ready", "describe deployment"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_what_to_do(
    values: Doc, change: Change, level: str, about: str, what: str, remedy: str
) -> None:
    if level == "ok":
        assert any(item.about == about and what in item.what and item.level == "ok" for item in said(values, change))
        return
    assert [
        one for one in bad(said(values, change)) if one[:2] == (level, about) and what in one[2] and remedy in one[3]
    ]


def test_without_the_definitions_somebody_must_be_allowed_to_install_them() -> None:
    def change(facts: Facts) -> Facts:
        right = Right("create", "apiextensions.k8s.io", "customresourcedefinitions", True)
        return replace(facts, crds={}, may={**facts.may, right: False})

    assert ("error", "permissions") in {item[:2] for item in bad(said({}, change))}
    pools = put("may", Right("create", "karpenter.sh", "nodepools", True), False)
    assert any(
        "nodepools.karpenter.sh" in what for level, _, what, _ in bad(said(EVERYTHING, pools)) if level == "error"
    )


def test_whoever_has_karpenter_needs_no_node_yet() -> None:
    (pool,) = [item for item in said(EVERYTHING, swap("nodes", [])) if "pool train-a100" in item.what]
    assert pool.level == "ok" and "Karpenter makes the others" in pool.what
    elastic = {**FIXED, "pools": [{**POOL, "minCount": 0}]}
    (pool,) = [item for item in said(elastic, swap("nodes", [])) if "pool train-a100" in item.what]
    assert pool.level == "warning", "an autoscaler of another kind may make them"


def test_nodes_of_a_pool_without_gpus_are_nobodys_to_make() -> None:
    found = said({**EVERYTHING, "pools": [{**POOL, "gpusPerNode": 0}]}, swap("nodes", []))
    (pool,) = [item for item in found if "train-a100" in item.what]
    assert pool.level == "error" and "label the nodes" in pool.remedy


def test_an_operator_that_is_not_there_is_not_asked_about() -> None:
    assert not any("account" in item.what for item in said({}, swap("operator", None)))
    assert asked_for({"operator": {"enabled": False}}).operator_rights == ()


def test_a_remedy_stands_exactly_where_something_is_to_be_done() -> None:
    for values in ({}, EVERYTHING, FIXED):
        for item in [*said(values), *said(values, swap("deployments", None)), *said(values, swap("nodes", []))]:
            assert bool(item.remedy) is (item.level != "ok"), item


@pytest.mark.parametrize(
    ("text", "number"),
    [("90", 90), ("500m", 0.5), ("900Gi", 900 * 2**30), ("1e3", 1000), ("12E2", 1200), ("2M", 2e6), ("1Ki", 1024)],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, number: float) -> None:
    assert amount(text) == number


@given(st.integers(0, 10**6), st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "Ti"]))
def test_quantities_agree_with_the_kubernetes_client(digits: int, unit: str) -> None:
    from kubernetes.utils import parse_quantity

    assert amount(f"{digits}{unit}") == pytest.approx(float(parse_quantity(f"{digits}{unit}")))


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.36.2-eks-abc", (1, 36)),
        ("1.30+", (1, 30)),
        ("registry:5000/kuberay/operator:v1.7.0", (1, 7)),
        ("x/y@sha256:0", (0, 0)),
        ("public.ecr.aws/karpenter/controller:1.8.1@sha256:0", (1, 8)),
        ("", (0, 0)),
    ],
)
def test_versions_are_found_in_what_carries_them(text: str, version: tuple[int, int]) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize("name", sorted(NEEDED_FIELDS))
def test_the_published_definitions_know_the_needed_fields(name: str) -> None:
    path = SHARED / f"{name}.yaml"
    if not path.is_file():
        pytest.skip(f"the definition {path.name} is not beside the repository (shared/crds)")
    published = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
    version, *paths = NEEDED_FIELDS[name]
    assert lacking_fields(published, version, *paths) == []
    assert lacking_fields(published, version, "spec.nothingLikeIt") == ["spec.nothingLikeIt"]


def test_values_of_another_kind_are_refused() -> None:
    with pytest.raises(PlumblineError, match="serving"):
        asked_for({"serving": True})
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": None}}) == {"a": {"b": 3, "c": 2}}


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("plumbline", {}, "plumbline"),
        ("rel", {}, "rel-plumbline"),
        ("my-plumbline", {}, "my-plumbline"),
        ("rel", {"nameOverride": "p"}, "rel-p"),
        ("rel", {"fullnameOverride": "x" * 50}, "x" * 40),
    ],
)
def test_objects_are_named_as_the_chart_names_them(release: str, values: Doc, name: str) -> None:
    assert fullname({"nameOverride": "", "fullnameOverride": "", **values}, release) == name
