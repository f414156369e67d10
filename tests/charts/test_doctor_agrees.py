"""`plumb doctor --cluster` asks about what the charts really need: defaults, rights, secrets, admission policies."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from chart_tools import CHART, CHARTS, KUBERNETES, SETUPS, Doc
from schema_tools import load_all

from plumbline.reconcile.cluster_questions import DEFAULTS, FORBIDDEN, GUARDS, Questions, Right, questions

Render = Callable[..., list[Doc]]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
CLUSTER_SCOPED = {
    "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy", "PriorityClass",
    "ValidatingAdmissionPolicyBinding", "NodePool", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass",
}  # fmt: skip


def plural(kind: str) -> str:
    name = kind.lower()
    if name.endswith(("policy", "class")):
        return name.removesuffix("y") + "ies" if name.endswith("y") else f"{name}es"
    return f"{name}s"


def asked(setup: str) -> Questions:
    values = yaml.safe_load((CHART / "ci" / f"{setup}-values.yaml").read_text("utf-8")) or {}
    return questions(values, namespace="demo", release="rel")


@pytest.fixture(scope="module")
def crds(helm: Helm) -> list[Doc]:
    done = helm("template", "crds", str(CHARTS / "plumbline-crds"), "--kube-version", KUBERNETES)
    assert done.returncode == 0, done.stderr
    return load_all(done.stdout)


def test_its_defaults_are_the_charts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))

    def same(mine: Any, theirs: Any, path: str) -> None:
        if isinstance(mine, dict):
            assert isinstance(theirs, dict), path
            for key, inner in mine.items():
                assert key in theirs, f"{path}.{key} is no value of the chart"
                same(inner, theirs[key], f"{path}.{key}")
        else:
            assert mine == theirs, path

    same(DEFAULTS, values, "values")


def test_it_asks_for_the_right_to_make_every_object_of_every_setup(render: Render, setup: str, crds: list[Doc]) -> None:
    rights = set(asked(setup).rights)
    for doc in [*render(setup), *crds]:
        group = doc["apiVersion"].rpartition("/")[0]
        for verb in ("create", "patch"):
            right = Right(verb, group, plural(doc["kind"]), doc["kind"] in CLUSTER_SCOPED)
            assert right in rights, f"{setup}: {doc['kind']} {doc['metadata']['name']} takes the right to {right}"


def test_it_asks_for_no_right_that_no_setup_needs(render: Render, crds: list[Doc]) -> None:
    made = {plural(doc["kind"]) for setup in SETUPS for doc in [*render(setup), *crds]} | {"secrets"}
    assert {right.resource for setup in SETUPS for right in asked(setup).rights} <= made


def granted(role: Doc) -> set[tuple[str, str, str, str]]:
    return {
        (verb, group, *(resource.split("/") if "/" in resource else (resource, "")))
        for rule in role["rules"]
        if "resourceNames" not in rule  # what is granted for one name only is not asked for in general
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_it_asks_whether_the_operator_may_do_what_its_role_says(render: Render) -> None:
    (role,) = [
        doc for doc in render("default") if doc["kind"] == "Role" and doc["metadata"]["name"].endswith("operator")
    ]
    given = granted(role)
    rights = {
        (right.verb, right.group, right.resource, right.subresource) for right in asked("default").operator_rights
    }
    assert rights <= given, "it would miss rights that the chart does not give"
    assert {item[1:] for item in given} == {item[1:] for item in rights}, "it asks about every resource of the Role"
    forbidden = {(right.verb, right.group, right.resource, right.subresource) for right in FORBIDDEN}
    assert not forbidden & given


def secret_names(value: Any) -> Iterator[str]:
    """Names of the secrets that an object refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("secretKeyRef", "secretRef"):
                yield inner["name"]
            elif key == "imagePullSecrets":
                yield from (item["name"] for item in inner)
            elif key == "secret" and isinstance(inner, dict) and "secretName" in inner:
                yield inner["secretName"]
            else:
                yield from secret_names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from secret_names(inner)


def test_it_asks_for_every_secret_that_an_object_refers_to(render: Render, setup: str) -> None:
    referred = {name for doc in render(setup) for name in secret_names(doc)}
    assert referred <= set(asked(setup).secrets), setup


def test_it_asks_for_every_claim_that_is_mounted(render: Render, setup: str) -> None:
    made = {doc["metadata"]["name"] for doc in render(setup) if doc["kind"] == "PersistentVolumeClaim"}
    assert made <= set(asked(setup).claims.values()), setup


def test_it_asks_for_every_admission_policy(crds: list[Doc]) -> None:
    assert {doc["metadata"]["name"] for doc in crds if doc["kind"] == "ValidatingAdmissionPolicy"} == set(GUARDS)
