"""The charts and the operator on a real API server. Skipped unless KUBECONFIG names one.

Jobs' pods need the project's image, which a test cluster may not have: what a pod would do is tested in
tests/operators, by running the Job's own command.
"""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, CHARTS, REPO, SETUPS
from cluster_tools import Kubectl, OperatorProcess, account_kubeconfig
from operator_tools import RUBRIC, Desk, until

from plumbline.records.resources import RESOURCES


def line(**spec: Any) -> str:
    body = {
        "apiVersion": "plumbline.dev/v1alpha1",
        "kind": "DatasetLine",
        "metadata": {"name": "support"},
        "spec": {"dataset": "support", "rubric": RUBRIC, **spec},
    }
    return json.dumps(body)


def known_kinds(kubectl: Kubectl) -> set[str]:
    rows = kubectl("api-resources", "--no-headers", "--output=wide").stdout.splitlines()
    return {field for row in rows for field in row.split() if field[:1].isupper()}


@pytest.mark.parametrize("setup", SETUPS)
def test_every_setup_passes_a_strict_server_side_dry_run(
    kubectl: Kubectl, template: Callable[..., str], namespace: str, setup: str
) -> None:
    values = str(CHART / "ci" / f"{setup}-values.yaml")
    docs = list(yaml.safe_load_all(template("plumbline", "--namespace", namespace, "--values", values)))
    kinds = known_kinds(kubectl)
    sent = [doc for doc in docs if doc and doc["kind"] in kinds]
    assert sent
    text = yaml.safe_dump_all(sent)
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "--namespace", namespace, "-f", "-")
    done = kubectl(*apply, stdin=text)
    assert "Warning" not in done.stderr, done.stderr  # Pod Security warns about what it would refuse


def test_the_plain_rayjob_passes_a_strict_server_side_dry_run(kubectl: Kubectl, namespace: str) -> None:
    if "RayJob" not in known_kinds(kubectl):
        pytest.skip("KubeRay's definitions are not installed in this cluster")
    manifest = str(REPO / "jobs" / "sft.rayjob.yaml")
    kubectl("create", "--dry-run=server", "--validate=strict", "--namespace", namespace, "-f", manifest)


@pytest.mark.usefixtures("definitions")
def test_the_definition_guards_the_line(kubectl: Kubectl, namespace: str) -> None:
    scope = ("--namespace", namespace)
    kubectl("create", *scope, "-f", "-", stdin=line())
    stored = json.loads(kubectl("get", *scope, "dsl", "support", "-o", "json").stdout)
    assert stored["spec"]["approvalsRequired"] == 1 and stored["spec"]["suspended"] is False
    renamed = kubectl(
        "patch", *scope, "dsl", "support", "--type=merge", "-p", '{"spec": {"dataset": "other"}}', check=False
    )
    assert renamed.returncode != 0 and "cannot be changed" in renamed.stderr
    for wrong in ({"rubric": "v1"}, {"approvals": 1}):
        refused = kubectl("create", *scope, "--validate=strict", "-f", "-", stdin=line(**wrong), check=False)
        assert refused.returncode != 0
    assert "CONSENT" in kubectl("get", *scope, "dsl").stdout


@pytest.mark.usefixtures("definitions")
def test_the_operators_account_may_do_its_work_and_no_more(
    kubectl: Kubectl, template: Callable[..., str], namespace: str
) -> None:
    docs = yaml.safe_load_all(template("plumbline", "--namespace", namespace))
    rights = [doc for doc in docs if doc and doc["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "--server-side", "--namespace", namespace, "-f", "-", stdin=yaml.safe_dump_all(rights))
    account = f"system:serviceaccount:{namespace}:plumbline-operator"

    def may(*question: str) -> bool:
        done = kubectl("auth", "can-i", *question, "--namespace", namespace, f"--as={account}", check=False)
        return done.stdout.strip() == "yes"

    kinds = [f"{resource.plural}.{resource.group}" for resource in RESOURCES]
    for allowed in (
        *(("watch", kind) for kind in kinds),
        *(("patch", kind, "--subresource=status") for kind in kinds),
        ("create", "ingestionruns.plumbline.dev"),
        ("delete", "datasetversions.plumbline.dev"),
        ("create", "jobs.batch"),
        ("delete", "jobs.batch"),
        ("create", "leases.coordination.k8s.io"),
        ("update", "leases.coordination.k8s.io/plumbline-operator"),
        ("create", "events"),
        ("create", "passingdecisions.plumbline.dev"),
        ("update", "passingdecisions.plumbline.dev/plumbline"),
        *(
            ("get", f"validatingadmissionpolicies.admissionregistration.k8s.io/{kind}.plumbline.dev")
            for kind in ("approvals", "releases", "passingdecisions")
        ),
    ):
        assert may(*allowed), allowed
    for denied in (
        *(("patch", kind) for kind in kinds),
        ("delete", "datasetlines.plumbline.dev"),
        ("create", "approvals.plumbline.dev"),
        ("delete", "approvals.plumbline.dev"),
        ("create", "erasurerequests.plumbline.dev"),
        ("create", "releases.plumbline.dev"),
        ("update", "releases.plumbline.dev"),
        ("update", "passingdecisions.plumbline.dev/another"),
        ("update", "leases.coordination.k8s.io/another"),
        ("list", "validatingadmissionpolicies.admissionregistration.k8s.io"),
        ("get", "secrets"),
        ("create", "pods", "--subresource=exec"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("list", "jobs.batch", "--all-namespaces"),
    ):
        assert not may(*denied), denied


@pytest.mark.usefixtures("definitions")
def test_a_line_is_reconciled_and_its_namespace_goes_while_the_operator_is_down(
    kubectl: Kubectl, template: Callable[..., str], namespace: str, tmp_path: Path
) -> None:
    scope = ("--namespace", namespace)
    desk = Desk(tmp_path)
    desk.consent("ada")
    desk.rewrite("ada", 0)

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kubectl("get", *scope, "dsl", "support", "-o", "json").stdout)
        return dict(found.get("status", {}))

    def jobs() -> list[dict[str, Any]]:
        return list(json.loads(kubectl("get", *scope, "jobs", "-o", "json").stdout)["items"])

    with OperatorProcess(desk, namespace, account_kubeconfig(kubectl, template, namespace, tmp_path)) as operator:
        log = operator.log
        kubectl("create", *scope, "-f", "-", stdin=line())
        asyncio.run(until(lambda: jobs(), "a Job", log))
        asyncio.run(until(lambda: status().get("phase") == "Ingesting", "the phase", log))
        (job,) = jobs()
        assert job["metadata"]["ownerReferences"][0]["kind"] == "IngestionRun"
        time.sleep(5)
        assert len(jobs()) == 1
        conditions = {item["type"]: item for item in status()["conditions"]}
        assert conditions["ConsentVerified"]["status"] == "True"
        assert "finalizers" not in json.loads(kubectl("get", *scope, "dsl", "support", "-o", "json").stdout)["metadata"]

        kept = desk.ledger_path.read_bytes()
        desk.ledger_path.write_bytes(b"no database" * 100)
        asyncio.run(until(lambda: status().get("phase") == "Blocked", "failing closed", log))
        desk.ledger_path.write_bytes(kept)
    kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=120s")


EXAMPLES = sorted((CHARTS / "plumbline" / "examples").glob("*.yaml"))


@pytest.mark.usefixtures("definitions")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted_and_what_is_fixed_in_it_cannot_be_changed(
    kubectl: Kubectl, namespace: str, path: Path
) -> None:
    me = json.loads(kubectl("auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]["username"]
    for doc in yaml.safe_load_all(path.read_text()):
        if doc["kind"] == "Approval":
            doc["spec"]["approver"] = me
        if doc["kind"] in ("Release", "PassingDecisions"):  # refused as they are: test_story has them accepted
            continue
        kubectl("create", "--namespace", namespace, "--validate=strict", "-f", "-", stdin=json.dumps(doc))
        resource = next(resource for resource in RESOURCES if resource.kind == doc["kind"])
        which = f"{resource.plural}.{resource.group}/{doc['metadata']['name']}"
        if not resource.fixed:
            continue
        name = next(iter(doc["spec"]))
        value = doc["spec"][name]
        other = value + 1 if isinstance(value, int) else f"{value[:-1]}{'0' if value[-1] != '0' else '1'}"
        patch = json.dumps({"spec": {name: other}})
        done = kubectl("patch", "--namespace", namespace, which, "--type=merge", "-p", patch, check=False)
        assert done.returncode != 0 and resource.fixed in done.stderr, done.stderr
        header = kubectl("get", "--namespace", namespace, resource.plural).stdout.splitlines()[0]
        assert all(column in header for column, _, _ in resource.columns)


@pytest.mark.usefixtures("definitions")
def test_nobody_speaks_for_anybody_else_and_no_machine_speaks(kubectl: Kubectl, namespace: str) -> None:
    scope = ("--namespace", namespace)
    robot = f"system:serviceaccount:{namespace}:default"
    for user in ("olga@example.org", robot):
        kubectl(
            "create", "rolebinding", f"approver-{len(user)}", *scope, "--clusterrole=plumbline-approvals-approver",
            f"--user={user}",
        )  # fmt: skip

    def approve(as_user: str, approver: str) -> "subprocess.CompletedProcess[str]":
        spec = {"candidate": RUBRIC, "approver": approver, "decision": "approved", "reason": "ReadTheDiff"}
        body = {
            "apiVersion": "plumbline.dev/v1alpha1",
            "kind": "Approval",
            "metadata": {"generateName": "word-"},
            "spec": spec,
        }
        return kubectl("create", *scope, f"--as={as_user}", "-f", "-", stdin=json.dumps(body), check=False)

    def refused(as_user: str, approver: str, because: str) -> bool:
        """Whether it is, within half a minute: policies and roles are in force a moment after they were written."""
        for _ in range(30):
            if because in approve(as_user, approver).stderr:
                return True
            time.sleep(1)
        return False

    assert refused("olga@example.org", "otto@example.org", "your own user name, olga@example.org")
    assert refused(robot, robot, "machines have none")
    done = approve("olga@example.org", "olga@example.org")
    assert done.returncode == 0, done.stderr
    assert "forbidden" in approve("otto@example.org", "otto@example.org").stderr.lower(), "nobody approves by default"
