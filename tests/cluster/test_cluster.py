"""The charts and the operator on a real API server. Skipped unless KUBECONFIG names one.

Jobs' pods need the project's image, which a test cluster may not have: what a pod would do is tested in
tests/operators, by running the Job's own command.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, REPO, SETUPS
from operator_tools import RUBRIC, Desk, until

Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


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

    for allowed in (
        ("watch", "datasetlines.plumbline.dev"),
        ("patch", "datasetlines.plumbline.dev", "--subresource=status"),
        ("create", "jobs.batch"),
        ("delete", "jobs.batch"),
        ("create", "events"),
    ):
        assert may(*allowed), allowed
    for denied in (
        ("patch", "datasetlines.plumbline.dev"),
        ("delete", "datasetlines.plumbline.dev"),
        ("get", "secrets"),
        ("create", "pods", "--subresource=exec"),
        ("create", "roles.rbac.authorization.k8s.io"),
        ("list", "jobs.batch", "--all-namespaces"),
    ):
        assert not may(*denied), denied


@contextlib.contextmanager
def running_operator(desk: Desk, namespace: str) -> Iterator[Path]:
    (desk.folder / "jobs.yaml").write_text("image: plumbline:absent\nserviceAccount: default\nclaim: data\n")
    environment = {
        **os.environ,
        "PLUMBLINE_LEDGER": str(desk.ledger_path),
        "PLUMBLINE_BLOBS": str(desk.folder / "blobs"),
        "PLUMBLINE_JOBS": str(desk.folder / "jobs.yaml"),
        "PLUMBLINE_RESYNC_SECONDS": "2",
        "PLUMBLINE_METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "kopf", "run", str(REPO / "operators" / "plumbline_operator.py"), "--standalone"]
    log = desk.folder / "operator.log"
    with log.open("ab") as out:
        process = subprocess.Popen([*command, "--namespace", namespace], env=environment, stdout=out, stderr=out)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.mark.usefixtures("definitions")
def test_a_line_is_reconciled_and_its_namespace_goes_while_the_operator_is_down(
    kubectl: Kubectl, namespace: str, tmp_path: Path
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

    with running_operator(desk, namespace) as log:
        kubectl("create", *scope, "-f", "-", stdin=line())
        asyncio.run(until(lambda: jobs(), "a Job", log))
        asyncio.run(until(lambda: status().get("phase") == "Ingesting", "the phase", log))
        (job,) = jobs()
        assert job["metadata"]["ownerReferences"][0]["kind"] == "DatasetLine"
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
