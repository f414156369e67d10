"""The definitions: generated from the records, structural, bounded, immutable where they say so; and four eyes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import pytest
import yaml
from chart_tools import CHARTS, KUBERNETES, REPO, Doc, strict

from plumbline.reconcile.approval import POLICY, SAME_PERSON, guard_problem
from plumbline.reconcile.crds import definition, main, schema
from plumbline.reconcile.release_guard import DECISIONS, RELEASES, release_guard_problem
from plumbline.records.resources import BY_KIND, RESOURCES, Resource

FOLDER = CHARTS / "plumbline-crds" / "templates"
EXAMPLES = sorted((CHARTS / "plumbline" / "examples").glob("*.yaml"))
KINDS = [resource.kind for resource in RESOURCES]
Rendered = Callable[..., list[Doc]]


@pytest.fixture(scope="module")
def rendered(helm: Callable[..., "subprocess.CompletedProcess[str]"]) -> Rendered:
    def run(*arguments: str) -> list[Doc]:
        done = helm("template", "crds", str(CHARTS / "plumbline-crds"), "--kube-version", KUBERNETES, *arguments)
        assert done.returncode == 0, done.stderr
        return [doc for doc in yaml.safe_load_all(done.stdout) if doc]

    return run


def cel(rule: str, **values: Any) -> Any:
    environment = celpy.Environment()
    program = environment.program(environment.compile(rule))
    return program.evaluate({name: celpy.json_to_cel(value) for name, value in values.items()})


def schema_of(resource: Resource) -> Doc:
    found: Doc = definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: Doc, path: str = "") -> Iterator[tuple[str, Doc]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


# --- generated ------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(FOLDER)]) == 0, capsys.readouterr().out
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {item.plural for item in RESOURCES} | {"admission", "roles"}


def test_a_drift_is_noticed_and_put_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    edited = tmp_path / "approvals.yaml"
    edited.write_text(edited.read_text().replace("maxLength: 253", "maxLength: 254"))
    assert main(["--check", str(tmp_path)]) == 1
    assert "approvals.yaml: differs" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 0 and main(["--check", str(tmp_path)]) == 0


def test_it_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "plumbline.reconcile.crds", "--check", str(FOLDER)], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("version", ["1.30", "1.36", kubernetes_validate.latest_version()])
def test_every_object_of_the_chart_validates_strictly(rendered: Rendered, version: str) -> None:
    docs = rendered()
    assert sorted(doc["spec"]["names"]["kind"] for doc in docs if doc["kind"] == "CustomResourceDefinition") == sorted(
        KINDS
    )
    for doc in docs:
        kubernetes_validate.validate(doc, version, strict=True)


def test_definitions_and_their_guard_are_kept_on_uninstall_unless_told_otherwise(rendered: Rendered) -> None:
    for arguments, kept in (((), True), (("--set", "keep=false"), False)):
        for doc in rendered(*arguments):
            if doc["kind"] in (
                "CustomResourceDefinition",
                "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding",
            ):
                found = doc["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
                assert found is kept, doc["metadata"]["name"]


# --- structural -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_structural_and_every_size_in_it_has_a_bound(kind: str) -> None:
    for path, node in nodes(schema_of(BY_KIND[kind])):
        assert "type" in node, f"{path} has no type"
        assert not set(node) & {"$ref", "anyOf", "oneOf", "allOf", "not", "title", "const", "prefixItems"}, path
        assert not ("properties" in node and "additionalProperties" in node), path
        if path.startswith((".spec", ".status")):
            if node["type"] == "string":
                assert "maxLength" in node or "enum" in node, f"{path} may be of any length"
            if node["type"] == "array":
                assert "maxItems" in node, path
            if node["type"] == "object" and "additionalProperties" in node:
                assert "maxProperties" in node, path
        if path.count(".") == 2 and "[]" not in path and path.startswith((".spec.", ".status.")):
            assert node.get("description"), f"{path} has no description for kubectl explain"
        assert "default" not in node or path.startswith(".spec."), f"{path}: defaults are for what people write"
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"] and rule["message"][0].islower(), path


def test_the_name_of_a_line_is_one_that_a_label_can_hold() -> None:
    """Its runs, versions and Jobs are found by it; an API server refuses longer values, in selectors too."""
    metadata = schema_of(BY_KIND["DatasetLine"])["properties"]["metadata"]
    assert metadata == {"type": "object", "properties": {"name": {"type": "string", "maxLength": 63}}}


def most_bytes(schema: Doc) -> int:
    """The longest JSON that a schema admits. A text with a pattern is ASCII here; others take up to four bytes each."""
    if schema["type"] == "object":
        inner = [len(name) + 4 + most_bytes(one) for name, one in schema.get("properties", {}).items()]
        more = schema.get("additionalProperties")
        return 2 + sum(inner) + (schema["maxProperties"] * (256 + most_bytes(more)) if more else 0)
    if schema["type"] == "array":
        return 2 + int(schema["maxItems"]) * (1 + most_bytes(schema["items"]))
    if schema["type"] == "string":
        ascii_only = "pattern" in schema or "format" in schema
        longest = max(map(len, schema["enum"])) if "enum" in schema else schema["maxLength"] * (1 if ascii_only else 4)
        return 2 + int(longest)
    return 20


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_object_that_a_definition_admits_is_one_that_etcd_takes(kind: str) -> None:
    """1.5 MiB a request, unless a cluster says otherwise: an object that outgrows it is written never again."""
    whole = schema_of(BY_KIND[kind])["properties"]
    assert most_bytes(whole["spec"]) + most_bytes(whole["status"]) < 1.4 * 2**20


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_are_a_map_by_type_with_the_generation_they_are_about(kind: str) -> None:
    status = schema_of(BY_KIND[kind])["properties"]["status"]["properties"]
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map" and conditions["x-kubernetes-list-map-keys"] == ["type"]
    inner = conditions["items"]
    assert set(inner["required"]) == {"type", "status", "reason", "message", "lastTransitionTime"}
    assert {"observedGeneration"} <= set(inner["properties"]) and "observedGeneration" in status


@pytest.mark.parametrize("kind", KINDS)
def test_columns_lead_to_fields_that_exist(kind: str) -> None:
    resource, whole = BY_KIND[kind], schema_of(BY_KIND[kind])
    version = definition(resource)["spec"]["versions"][0]
    assert version["subresources"] == {"status": {}}
    names = [column["name"] for column in version["additionalPrinterColumns"]]
    assert names[-1] == "AGE" and len(names) == len(set(names))
    if kind == "DatasetLine":
        assert names == ["VERSION", "EXAMPLES", "CONSENT", "APPROVED", "PHASE", "AGE"]
    for _, kind_of, path in resource.columns:
        if "conditions[?" in path:
            continue
        node = whole
        for part in path.strip(".").split("."):
            node = node["properties"][part]
        assert node["type"] == kind_of, path


def test_names_are_short_distinct_and_in_one_category() -> None:
    names = [definition(resource)["spec"]["names"] for resource in RESOURCES]
    assert all(found["categories"] == ["plumbline"] for found in names)
    shorts = [short for found in names for short in found["shortNames"]]
    assert len(shorts) == len(set(shorts)) == len(RESOURCES)


# --- rules ----------------------------------------------------------------------------------------------------


def example(kind: str) -> Doc:
    found = [doc for path in EXAMPLES for doc in yaml.safe_load_all(path.read_text()) if doc and doc["kind"] == kind]
    assert found, f"no example of a {kind}"
    return dict(found[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fixed_cannot_be_changed_and_the_message_says_what_to_do(kind: str) -> None:
    resource = BY_KIND[kind]
    spec = schema_of(resource)["properties"]["spec"]
    if kind in ("Release", "PassingDecisions"):
        assert not resource.fixed and "x-kubernetes-validations" not in spec  # a pointer, and a list: meant to move
        return
    if not resource.fixed:
        (rule,) = spec["properties"]["dataset"]["x-kubernetes-validations"]
        assert cel(rule["rule"], self="a", oldSelf="a") and not cel(rule["rule"], self="b", oldSelf="a")
        assert "make another DatasetLine" in rule["message"]
        return
    (rule,) = spec["x-kubernetes-validations"]
    before = example(kind)["spec"]
    assert cel(rule["rule"], self=before, oldSelf=before)
    for name in before:
        value = before[name]
        other = {**value, "x": "x"} if isinstance(value, dict) else value + (1 if isinstance(value, int) else "x")
        changed = {**before, name: other}
        assert not cel(rule["rule"], self=changed, oldSelf=before), name
        less = {key: value for key, value in before.items() if key != name}
        assert not cel(rule["rule"], self=less, oldSelf=before), f"{name} taken away"
    assert rule["message"] == resource.fixed


def test_a_source_is_either_a_file_or_a_router_and_a_file_lies_in_one_place() -> None:
    source = schema_of(BY_KIND["ShadowEvaluation"])["properties"]["spec"]["properties"]["source"]
    file, live = {"path": "requests/first.jsonl"}, {"monitor": "http://plumbline-router:81"}
    (either,) = source["x-kubernetes-validations"]
    for good in ({"requests": file}, {"live": live}):
        assert cel(either["rule"], self=good)
    for bad in ({}, {"requests": file, "live": live}):
        assert not cel(either["rule"], self=bad)
    (one,) = source["properties"]["requests"]["x-kubernetes-validations"]
    blob = {"blob": "sha256:" + 64 * "0"}
    assert cel(one["rule"], self=file) and cel(one["rule"], self=blob)
    assert not cel(one["rule"], self={"consentedBy": "Olga"}) and not cel(one["rule"], self=file | blob)
    assert "exactly one" in either["message"] and "exactly one" in one["message"]


EVERY: Doc = {
    "apiGroups": ["plumbline.dev"],
    "apiVersions": ["v1alpha1"],
    "operations": ["CREATE"],
    "resources": ["approvals"],
}
OF_RELEASES: Doc = {**EVERY, "operations": ["CREATE", "UPDATE"], "resources": ["releases"]}


def test_what_an_api_server_adds_to_a_guard_makes_it_no_weaker(rendered: Rendered) -> None:
    for name, plural in ((POLICY, "approvals"), (RELEASES, "releases"), (DECISIONS, "passingdecisions")):
        docs = policies(rendered, name)
        policy, binding = docs["ValidatingAdmissionPolicy"], docs["ValidatingAdmissionPolicyBinding"]
        matched = policy["spec"]["matchConstraints"]
        rules = [{**rule, "scope": "*"} for rule in matched["resourceRules"]]
        selectors: Doc = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
        stored = {**policy, "spec": {**policy["spec"], "matchConstraints": {"resourceRules": rules, **selectors}}}
        said = guard_problem(stored, binding) if name == POLICY else release_guard_problem(name, stored, binding)
        assert said == "", plural


def test_admission_lets_people_speak_for_themselves_only(rendered: Rendered) -> None:
    docs = {doc["kind"]: doc for doc in rendered() if doc["metadata"]["name"] == POLICY}
    policy, binding = docs["ValidatingAdmissionPolicy"], docs["ValidatingAdmissionPolicyBinding"]
    assert guard_problem(policy, binding) == ""

    def refused(username: str, approver: str) -> list[str]:
        asked = {"request": {"userInfo": {"username": username}}, "object": {"spec": {"approver": approver}}}
        return [rule["message"] for rule in policy["spec"]["validations"] if not cel(rule["expression"], **asked)]

    assert refused("olga@example.org", "olga@example.org") == []
    assert "your own user name" in refused("olga@example.org", "otto@example.org")[0]
    robot = "system:serviceaccount:demo:plumbline-operator"
    assert "machines have none" in refused(robot, robot)[0]
    assert refused("system:node:n1", "system:node:n1")
    (own,) = [rule for rule in policy["spec"]["validations"] if rule["expression"] == SAME_PERSON]
    asked = {"request": {"userInfo": {"username": "olga"}}}
    assert str(cel(own["messageExpression"], **asked)) == "spec.approver must be your own user name, olga"
    (matched,) = policy["spec"]["matchConstraints"]["resourceRules"]
    assert matched["operations"] == ["CREATE"] and matched["resources"] == ["approvals"]


@pytest.mark.parametrize(
    ("where", "weaker"),
    [
        ("policy", None),
        ("binding", None),
        ("policy", {"failurePolicy": "Ignore"}),
        ("policy", {"validations": []}),
        ("policy", {"matchConditions": [{"name": "x", "expression": "false"}]}),
        ("policy", {"validations": [{"expression": SAME_PERSON}]}),
        ("policy", {"matchConstraints": {"resourceRules": [{**EVERY, "resources": ["releases"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [{**EVERY, "operations": ["DELETE"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [EVERY], "namespaceSelector": {"matchLabels": {"a": "b"}}}}),
        ("binding", {"validationActions": ["Audit"]}),
        ("binding", {"matchResources": {"namespaceSelector": {}}}),
        ("binding", {"policyName": "other"}),
    ],
)
def test_a_guard_that_is_missing_or_weaker_is_noticed(rendered: Rendered, where: str, weaker: Doc | None) -> None:
    docs = {doc["kind"]: doc for doc in rendered() if doc["metadata"]["name"] == POLICY}
    found: dict[str, Any] = {
        "policy": docs["ValidatingAdmissionPolicy"],
        "binding": docs["ValidatingAdmissionPolicyBinding"],
    }
    found[where] = None if weaker is None else {**found[where], "spec": {**found[where]["spec"], **weaker}}
    assert guard_problem(found["policy"], found["binding"])


def policies(rendered: Rendered, name: str) -> dict[str, Doc]:
    """The ValidatingAdmissionPolicy of this name and its binding, by kind."""
    return {doc["kind"]: doc for doc in rendered() if doc["metadata"]["name"] == name}


POLICY_A, POLICY_B, POLICY_C = (f"sha256:{letter * 64}" for letter in "abc")
LISTED = {
    "readable": True,
    "releases": [{"name": "default", "serving": POLICY_A, "before": [], "passed": [{"policy": POLICY_B}]}],
}


def test_admission_lets_a_release_move_only_whereto_the_list_says_and_only_whoever_asks_be_named(
    rendered: Rendered,
) -> None:
    docs = policies(rendered, RELEASES)
    policy, binding = docs["ValidatingAdmissionPolicy"], docs["ValidatingAdmissionPolicyBinding"]
    assert release_guard_problem(RELEASES, policy, binding) == ""

    def refused(
        policy_digest: str, *, name: str = "default", by: str = "olga", old: Doc | None = None, **listed: Any
    ) -> list[str]:
        new = {"metadata": {"name": name}, "spec": {"policy": policy_digest, "requestedBy": "olga", "reason": "Read"}}
        asked = {
            "request": {"userInfo": {"username": by}, "operation": "UPDATE" if old else "CREATE"},
            "object": new,
            "oldObject": old,
            "params": {"spec": {**LISTED, **listed}},
        }
        rules = policy["spec"]["validations"]
        return [str(cel(rule["messageExpression"], **asked)) for rule in rules if not cel(rule["expression"], **asked)]

    assert refused(POLICY_B) == [] and refused(POLICY_A) == []
    (said,) = refused(POLICY_C)
    for part in ("no passing, fresh gate decision and shadow verdict", "users keep", "plumb gate --record", POLICY_C):
        assert part in said
    before = [{**LISTED["releases"][0], "before": [POLICY_C]}]  # type: ignore[index]
    assert refused(POLICY_C, releases=before) == [], "a rollback"
    assert "names no such release" in refused(POLICY_B, name="another")[0]
    assert "could not read the ledger" in refused(POLICY_B, readable=False, releases=[])[0]
    assert refused(POLICY_B, by="otto") == ["spec.requestedBy must be your own user name, otto"]
    # What leaves the spec alone passes, whoever does it and whatever has become of the policy since.
    same = {"spec": {"policy": POLICY_C, "requestedBy": "olga", "reason": "Read"}}
    assert refused(POLICY_C, by="otto", old=same) == []
    assert len(refused(POLICY_C, by="otto", old={"spec": {**same["spec"], "reason": "Other"}})) == 2


def test_admission_lets_nobody_but_an_operator_of_the_namespace_write_the_list(rendered: Rendered) -> None:
    docs = policies(rendered, DECISIONS)
    policy, binding = docs["ValidatingAdmissionPolicy"], docs["ValidatingAdmissionPolicyBinding"]
    assert release_guard_problem(DECISIONS, policy, binding) == ""
    (rule,) = policy["spec"]["validations"]
    for username, may in (
        ("system:serviceaccount:demo:plumbline-operator", True),
        ("system:serviceaccount:demo:second-plumbline-operator", True),
        ("system:serviceaccount:other:plumbline-operator", False),
        ("system:serviceaccount:demo:default", False),
        ("olga@example.org", False),
        ("system:admin", False),
    ):
        asked = {
            "request": {"userInfo": {"username": username}},
            "namespaceObject": {"metadata": {"name": "demo"}},
        }
        assert cel(rule["expression"], **asked) == may, username


@pytest.mark.parametrize(
    ("where", "weaker"),
    [
        ("policy", None),
        ("binding", None),
        ("policy", {"failurePolicy": "Ignore"}),
        ("policy", {"validations": []}),
        ("policy", {"matchConditions": [{"name": "x", "expression": "false"}]}),
        ("policy", {"matchConstraints": {"resourceRules": [{**OF_RELEASES, "operations": ["CREATE"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [{**OF_RELEASES, "resourceNames": ["another"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [{**OF_RELEASES, "apiVersions": ["v2"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [{**OF_RELEASES, "apiGroups": ["example.org"]}]}}),
        ("policy", {"matchConstraints": {"resourceRules": [{**OF_RELEASES, "scope": "Cluster"}]}}),
        ("policy", {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}),
        ("binding", {"validationActions": ["Warn"]}),
        ("binding", {"matchResources": {"namespaceSelector": {}}}),
        ("binding", {"paramRef": {"name": "plumbline", "parameterNotFoundAction": "Allow"}}),
        ("binding", {"paramRef": {"name": "mine", "parameterNotFoundAction": "Deny"}}),
        ("binding", {"paramRef": {"name": "plumbline", "namespace": "x", "parameterNotFoundAction": "Deny"}}),
    ],
)
def test_a_guard_of_releases_that_is_missing_or_weaker_is_noticed(
    rendered: Rendered, where: str, weaker: Doc | None
) -> None:
    docs = policies(rendered, RELEASES)
    found: dict[str, Any] = {
        "policy": docs["ValidatingAdmissionPolicy"],
        "binding": docs["ValidatingAdmissionPolicyBinding"],
    }
    found[where] = None if weaker is None else {**found[where], "spec": {**found[where]["spec"], **weaker}}
    assert release_guard_problem(RELEASES, found["policy"], found["binding"])


def test_roles_say_what_they_mean_and_nobody_approves_by_default(rendered: Rendered) -> None:
    roles = {doc["metadata"]["name"]: doc for doc in rendered() if doc["kind"] == "ClusterRole"}
    for resource in RESOURCES:
        assert f"plumbline-{resource.plural}-viewer" in roles
    for name, role in roles.items():
        assert "*" not in json.dumps(role["rules"]), name
        given = [label for label in role["metadata"]["labels"] if "aggregate-to" in label]
        if name.endswith("-viewer"):
            assert given == ["rbac.authorization.k8s.io/aggregate-to-view"]
            assert role["rules"][0]["verbs"] == ["get", "list", "watch"]
        if name.rpartition("-")[2] in ("approver", "eraser", "releaser", "evaluator"):
            assert given == []
    for plural in ("ingestionruns", "datasetversions", "passingdecisions"):
        assert "create" not in roles[f"plumbline-{plural}-editor"]["rules"][0]["verbs"], "the operator makes them"


@pytest.mark.parametrize(
    ("role", "plural"), [("approvals-approver", "ingestionruns"), ("releases-releaser", "passingdecisions")]
)
def test_whoever_decides_may_read_what_the_decision_is_about_and_no_more(
    rendered: Rendered, role: str, plural: str
) -> None:
    """`kubectl get irun` shows the candidate; a refused Release says to look at the PassingDecisions."""
    (found,) = [doc for doc in rendered() if doc["metadata"]["name"] == f"plumbline-{role}"]
    _, reads = found["rules"]
    assert reads == {"apiGroups": ["plumbline.dev"], "resources": [plural], "verbs": ["get", "list", "watch"]}


# --- examples -------------------------------------------------------------------------------------------------


def problems(doc: Doc) -> list[str]:
    schema = strict(schema_of(BY_KIND[doc["kind"]]))
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(doc)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_valid(path: Path) -> None:
    docs = [doc for doc in yaml.safe_load_all(path.read_text()) if doc]
    assert docs
    for doc in docs:
        assert doc["apiVersion"] == BY_KIND[doc["kind"]].api_version and doc["metadata"]["name"]
        assert problems(doc) == []


def test_there_is_an_example_of_every_kind() -> None:
    for kind in KINDS:
        example(kind)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("DatasetLine", {"rubric": "v1"}),
        ("DatasetLine", {"dataset": "Support Desk"}),
        ("DatasetLine", {"approvalsRequired": -1}),
        ("DatasetLine", {"approvals": 1}),
        ("Approval", {"decision": "maybe"}),
        ("Approval", {"reason": "I have read it, and ana@example.org says"}),
        ("Approval", {"candidate": "latest"}),
        ("ErasureRequest", {"subject": "ana@example.org"}),
        ("ErasureRequest", {"subject": "s-0123456789abcdef0123456789abcdef"}),
        ("ErasureRequest", {"remediation": "unlearn"}),
        ("IngestionRun", {"kind": "rebuild"}),
        ("DatasetVersion", {"version": 0}),
        ("ShadowEvaluation", {"reference": "latest"}),
        ("ShadowEvaluation", {"experiment": "what ana@example.org asked"}),
        ("ShadowEvaluation", {"source": {"requests": {"path": "../ledger.sqlite"}}}),
        ("ShadowEvaluation", {"source": {"requests": {"path": "/etc/passwd"}}}),
        ("ShadowEvaluation", {"source": {"requests": {"path": "a.jsonl", "consentedBy": "ana said so"}}}),
        ("ShadowEvaluation", {"source": {"live": {"monitor": "http://user:password@router:81"}}}),
        ("ShadowEvaluation", {"margins": {"benignRefusal": "0.0"}}),
        ("ShadowEvaluation", {"margins": {"helpfulness": "0.1"}}),
        ("ShadowEvaluation", {"aaSessions": 3}),
        ("Release", {"policy": "latest"}),
        ("Release", {"reason": "because olga@example.org says so"}),
        ("PassingDecisions", {"releases": [{"name": "default"}]}),
    ],
)
def test_a_wrong_object_is_refused(kind: str, wrong: Doc) -> None:
    good = example(kind)
    assert problems(good) == []
    assert problems({**good, "spec": {**good["spec"], **wrong}})
    assert problems({key: value for key, value in good.items() if key != "spec"})


def test_nothing_in_a_definition_asks_for_a_person_or_a_text() -> None:
    """What could hold either has a closed shape: a digest, a count, a word, a name of an object; or is the approver."""
    open_text = {
        path
        for resource in RESOURCES
        for path, node in nodes(schema(resource.spec), resource.kind)
        if node["type"] == "string" and not {"pattern", "enum", "format"} & set(node)
    }
    assert open_text == {"Approval.approver", "Release.requestedBy"}


def test_the_page_names_every_kind() -> None:
    page = (REPO / "docs" / "kubernetes.md").read_text()
    assert all(f"`{kind}`" in page for kind in KINDS)
