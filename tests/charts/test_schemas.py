"""Whatever is handed to an API server is valid under every supported version; unknown fields are refused."""

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from chart_tools import CHART, CHARTS, CRDS, KUBERNETES, REPO, SETUPS, Doc, made_by_the_operator, strict
from chart_tools import problems as problems_with_definition
from jsonschema import Draft202012Validator
from schema_tools import VERSIONS, built_in, load_all, problems

from plumbline.reconcile.cluster_check import NEWEST, OLDEST
from plumbline.reconcile.crds import definition
from plumbline.records.resources import BY_KIND

Render = Callable[..., list[Doc]]
DEFINED = {
    "RayJob": "rayjobs.ray.io.yaml",
    "InferenceService": "inferenceservices.serving.kserve.io.yaml",
}
# Groups whose definitions nobody has at hand: test_render.py holds their objects to a list of published fields.
PUBLISHED = {"monitoring.coreos.com", "karpenter.sh", "gateway.networking.k8s.io"}
LISTED = {*PUBLISHED, "kueue.x-k8s.io"}
WRITTEN = sorted([*(REPO / "jobs").glob("*.yaml"), *(CHART / "examples").glob("*.yaml")])


@pytest.fixture(scope="module")
def everything(helm: Callable[..., "subprocess.CompletedProcess[str]"], render: Render) -> list[Doc]:
    """Every different object of both charts in every setup, of jobs/ and the examples, and of the operator."""
    crds = helm("template", "crds", str(CHARTS / "plumbline-crds"), "--kube-version", KUBERNETES)
    assert crds.returncode == 0, crds.stderr
    found = [*load_all(crds.stdout), *made_by_the_operator()]
    found += [doc for path in WRITTEN for doc in load_all(path.read_text("utf-8"))]
    found += [doc for setup in SETUPS for doc in render(setup)]
    return list({json.dumps(doc, sort_keys=True): doc for doc in found}.values())


def group(doc: Doc) -> str:
    return str(doc["apiVersion"]).rpartition("/")[0]


def test_the_doctor_calls_those_versions_supported_that_are_checked_here() -> None:
    assert VERSIONS[0] == ".".join(map(str, OLDEST)) and VERSIONS[-1] == ".".join(map(str, NEWEST))
    assert len(VERSIONS) >= 7


@pytest.mark.parametrize("version", VERSIONS)
def test_built_in_kinds_are_valid_and_have_no_unknown_field(everything: list[Doc], version: str) -> None:
    checked = [doc for doc in everything if built_in(doc, version)]
    assert len({doc["kind"] for doc in checked}) >= 15
    wrong = {f"{doc['kind']}/{doc['metadata']['name']}": said for doc in checked if (said := problems(doc, version))}
    assert wrong == {}


def test_every_kind_is_checked_somewhere(everything: list[Doc]) -> None:
    for doc in everything:
        known = built_in(doc, VERSIONS[0]) or doc["kind"] in DEFINED or doc["kind"] in BY_KIND or group(doc) in LISTED
        assert known, f"nothing checks {doc['apiVersion']} {doc['kind']}"


@pytest.mark.parametrize("kind", sorted(DEFINED))
def test_kinds_of_kuberay_and_kserve_are_valid_and_have_no_unknown_field(everything: list[Doc], kind: str) -> None:
    path = CRDS / DEFINED[kind]
    if not path.is_file():
        pytest.skip(f"the definition {path.name} is not beside the repository (shared/crds)")
    found = [doc for doc in everything if doc["kind"] == kind]
    assert found
    assert [said for doc in found for said in problems_with_definition(doc, path)] == []


def test_a_mistake_in_a_rayjob_is_found(render: Render) -> None:
    path = CRDS / DEFINED["RayJob"]
    if not path.is_file():
        pytest.skip(f"the definition {path.name} is not beside the repository (shared/crds)")
    doc = next(doc for doc in render("gpu-pools") if doc["kind"] == "RayJob")
    for mistake in ({"entrypoint": ["python"]}, {"shutDownAfterJobFinishes": True}, {"backoffLimit": "2"}):
        assert problems_with_definition({**doc, "spec": {**doc["spec"], **mistake}}, path)


def published(docs: list[Doc]) -> list[str]:
    modules, node = REPO / ".tools" / "node_modules", shutil.which("node")
    if node is None or not (modules / "@kubernetes-models" / "gateway-api").is_dir():
        pytest.skip("node or the packages @kubernetes-models are not here; `make tools` fetches the packages")
    command = [node, str(REPO / "tests" / "charts" / "published.mjs"), str(modules)]
    done = subprocess.run(command, input=json.dumps(docs), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def test_kinds_of_prometheus_karpenter_and_the_gateway_have_the_published_types(everything: list[Doc]) -> None:
    """Types, enumerations and required fields; unknown fields are test_render.py's, by lists."""
    found = [doc for doc in everything if group(doc) in PUBLISHED]
    assert {doc["kind"] for doc in found} == {"ServiceMonitor", "PodMonitor", "PrometheusRule", "NodePool", "HTTPRoute"}
    said = published(found)
    assert len(said) == len(found) and set(said) == {""}, [line for line in said if line]
    bad = [{**copy.deepcopy(doc), "spec": {"groups": 1, "rules": 1, "template": 1}} for doc in found]
    assert "" not in published(bad)


def test_our_own_kinds_are_valid_and_have_no_unknown_field(everything: list[Doc]) -> None:
    ours = [doc for doc in everything if doc["kind"] in BY_KIND]
    assert {doc["kind"] for doc in ours} == set(BY_KIND)
    for doc in ours:
        schema = strict(definition(BY_KIND[doc["kind"]])["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        assert [error.message for error in Draft202012Validator(schema).iter_errors(doc)] == []


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all objects inside an object, itself included."""
    if isinstance(value, dict):
        yield path
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))


FREE = {"labels", "annotations", "matchLabels", "nodeSelector", "requests", "limits", "data", "hard", "selector"}


@pytest.mark.parametrize("version", [VERSIONS[0], VERSIONS[-1]])
def test_an_unknown_field_is_found_wherever_it_stands(render: Render, version: str) -> None:
    """A typing error in any object of a Deployment, but in maps whose keys are anybody's."""
    good = next(doc for doc in render("default") if doc["kind"] == "Deployment")
    assert problems(good, version) == []
    places = [path for path in leaves(good) if not path or path[-1] not in FREE or path == ("spec", "selector")]
    assert len(places) > 20
    for path in places:
        bad = copy.deepcopy(good)
        node: Any = bad
        for step in path:
            node = node[step]
        node["ofNoKind"] = 1
        assert any("ofNoKind" in said for said in problems(bad, version)), path


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "replicas"), "one"),
        ("Deployment", ("spec", "template", "spec", "containers"), {}),
        ("Deployment", ("spec", "selector"), None),
        ("Service", ("spec", "ports", 0, "port"), "http"),
        ("NetworkPolicy", ("spec", "policyTypes"), "Ingress"),
        ("PersistentVolumeClaim", ("spec", "accessModes"), "ReadWriteOnce"),
    ],
)
def test_a_value_of_another_type_is_found(render: Render, kind: str, path: tuple[Any, ...], value: Any) -> None:
    bad = copy.deepcopy(next(doc for doc in render("default") if doc["kind"] == kind))
    node: Any = bad
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    if value is None:
        del node[path[-1]]
    assert all(problems(bad, version) for version in VERSIONS)


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(yaml.constructor.ConstructorError, match="'b'. twice"):
        load_all("a: {b: 1, c: 2, b: 3}")
