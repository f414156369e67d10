"""The whole story on a real API server, under the chart's own service account, killed at each step.

A line, a run, a word by its author and words by others, a version, an erasure; a Release refused, accepted, gone back.
Where no node runs the image, the Jobs' own commands run here. Skipped unless KUBECONFIG names a cluster.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from chart_tools import CHART, find_helm
from cluster_tools import Doc, Kubectl, Namespace, OperatorProcess, account_kubeconfig
from operator_tools import RUBRIC, Desk, subject_digest, until

from evidence import gate, shadow
from plumbline.records import digest_of
from plumbline.records.resources import RESOURCES

REFERENCE, ALIGNED, OTHER = digest_of("reference"), digest_of("aligned"), digest_of("other")
OLGA, OTTO = "olga@example.org", "otto@example.org"


@pytest.mark.usefixtures("definitions")
def test_from_an_empty_namespace_to_a_refused_and_then_an_accepted_release(
    kubectl: Kubectl, template: Callable[..., str], namespace: str, tmp_path: Path
) -> None:
    here, desk = Namespace(kubectl, namespace), Desk(tmp_path)
    for number, who in enumerate(("ada", "ben")):
        desk.consent(who)
        desk.rewrite(who, number)
    with desk.ledger() as ledger:
        ledger.releases.promote("default", REFERENCE, reason="what users have", actor="owner")
    for user in (OLGA, OTTO, "ada"):
        for role in ("approvals-approver", "releases-releaser"):
            name = f"{role}-{user.split('@')[0]}"
            here.run("create", "rolebinding", name, f"--clusterrole=plumbline-{role}", f"--user={user}")

    operator = OperatorProcess(desk, namespace, account_kubeconfig(kubectl, template, namespace, tmp_path))

    async def reached(true: Callable[[], object], what: str) -> None:
        """A step of the story; then the operator is killed, and another takes over."""
        await until(true, what, operator.log)
        operator.kill()
        operator.start()

    async def story() -> None:
        here.create("DatasetLine", "support", {"dataset": "support", "rubric": RUBRIC})
        await reached(lambda: here.status("dsl", "support").get("phase") == "Ingesting", "ingesting")
        await here.carry_out(desk, "ingest", operator.log)
        await reached(lambda: here.status("dsl", "support").get("phase") == "AwaitingApproval", "a candidate")
        candidate = here.status("dsl", "support")["pendingRun"]["candidate"]

        # Four eyes: nobody speaks for another, an author's word does not count, a word once given stands.
        word = {"candidate": candidate, "approver": OLGA, "decision": "approved", "reason": "ReadTheDiff"}
        here.denied("Approval", "forged", word, by=OTTO, because=f"your own user name, {OTTO}")
        here.create("Approval", "own", {**word, "approver": "ada"}, by="ada")
        await reached(lambda: here.condition("appr", "own", "Verified") == ("False", "ApproverIsAuthor"), "her own")
        here.create("Approval", "word", word, by=OLGA)
        changed = here.patch("appr", "word", {"spec": {"decision": "rejected"}})
        assert changed.returncode != 0 and "a word once given stands" in changed.stderr
        await reached(lambda: here.condition("appr", "word", "Verified")[0] == "True", "another's word")
        await here.carry_out(desk, "publish", operator.log)
        await reached(lambda: here.status("dsv", "support-v1").get("state") == "Active", "the version")
        changed = here.patch("dsv", "support-v1", {"spec": {"digest": OTHER}})
        assert changed.returncode != 0 and "cannot be changed" in changed.stderr

        desk.consent("ada", "withdrawn")
        here.create("ErasureRequest", "letter", {"subject": subject_digest("ada")})
        await reached(lambda: here.status("erase", "letter").get("phase") in ("Removing", "Erasing"), "the erasure")
        await here.carry_out(desk, "erase", operator.log)
        await reached(lambda: here.status("erase", "letter").get("phase") == "Erased", "erased")

        await releases()

    async def releases() -> None:
        def listed() -> Doc:
            spec = here.read("passing", "plumbline")["spec"]
            return dict(spec["releases"][0]) if spec["releases"] else {"serving": None, "passed": [], "before": []}

        await until(lambda: here.run("get", "passing", "plumbline", check=False).returncode == 0, "it", operator.log)
        await reached(lambda: listed()["serving"] == REFERENCE, "the list")
        wanted = {"policy": ALIGNED, "requestedBy": OLGA, "reason": "ReadTheReport"}
        said = here.denied("Release", "default", wanted, by=OLGA, because="no passing, fresh gate decision")
        assert "users keep the policy they have" in said
        generous = {"spec": {"releases": [{"name": "default", "serving": ALIGNED, "passed": [], "before": []}]}}
        forged = here.patch("passing", "plumbline", generous)  # as the cluster's administrator
        assert forged.returncode != 0 and "nobody else writes it" in forged.stderr

        with desk.ledger() as ledger:
            ledger.releases.record_decision(gate(REFERENCE, ALIGNED))
            ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED))
        await reached(lambda: [one["policy"] for one in listed()["passed"]] == [ALIGNED], "what passed")
        here.denied("Release", "default", wanted, by=OTTO, because=f"your own user name, {OTTO}")
        here.create("Release", "default", wanted, by=OLGA)
        await reached(lambda: here.status("rel", "default").get("phase") == "Released", "the release")
        changed = here.patch("rel", "default", {"spec": {"policy": OTHER}}, by=OLGA)
        assert changed.returncode != 0 and "no passing, fresh gate decision" in changed.stderr

        await reached(lambda: listed()["before"] == [REFERENCE], "the way back")
        back = here.patch(
            "rel", "default", {"spec": {"policy": REFERENCE, "requestedBy": OTTO, "reason": "UsersComplain"}}, by=OTTO
        )
        assert back.returncode == 0, back.stderr
        await reached(lambda: here.status("rel", "default").get("serving") == REFERENCE, "the rollback")
        with desk.ledger() as ledger:
            audit = [(one.action, one.policy, one.actor) for one in ledger.releases.release_audit("default")]
        assert audit[1:] == [("promote", ALIGNED, OLGA), ("rollback", REFERENCE, OTTO)]

    with operator:
        asyncio.run(story())
    for resource in RESOURCES:
        for item in here.read(resource.plural)["items"]:
            assert "finalizers" not in item["metadata"], resource.kind
    kubectl("delete", "namespace", namespace, "--wait=true", "--timeout=120s")  # while the operator is down


@pytest.mark.usefixtures("definitions")
def test_without_the_list_no_release_is_admitted(kubectl: Kubectl, namespace: str) -> None:
    here = Namespace(kubectl, namespace)
    me = json.loads(kubectl("auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]["username"]
    asked: Doc = {"policy": ALIGNED, "requestedBy": me, "reason": "ReadTheReport"}
    here.denied("Release", "default", asked, because="parameterNotFoundAction")
    spec: Doc = {"readable": True, "releases": []}
    here.denied("PassingDecisions", "plumbline", spec, because="nobody else writes it")


@pytest.mark.usefixtures("definitions")
def test_an_installation_becomes_ready_and_its_time_and_its_objects_are_printed(
    kubectl: Kubectl, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`PLUMBLINE_TEST_IMAGE` (REPOSITORY:TAG) names the project's image where the cluster's nodes can pull it."""
    image = os.environ.get("PLUMBLINE_TEST_IMAGE", "")
    repository, _, tag = image.rpartition(":")
    helm, scope = str(find_helm()), ("--namespace", namespace)
    kubectl("create", "secret", "generic", "plumbline-sources", *scope, '--from-literal=sources.json={"test": "token"}')
    chosen = ("--set", f"image.repository={repository}", "--set", f"image.tag={tag}") if image else ()
    began = time.monotonic()
    done = subprocess.run(
        [helm, "install", "plumbline", str(CHART), *scope, *chosen, *(("--wait", "--timeout", "8m") if image else ())],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    manifest = subprocess.run(
        [helm, "get", "manifest", "plumbline", *scope], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    made = [f"{one['kind']}/{one['metadata']['name']}" for one in yaml.safe_load_all(manifest) if one]
    with capsys.disabled():
        print(f"\nhelm install: {len(made)} objects in {took:.1f} s" + (", all of them ready" if image else ""))
        print("\n".join(f"  {one}" for one in sorted(made)))
    for one in made:
        assert kubectl("get", one, *scope, check=False).returncode == 0, f"{one} is not there"
    subprocess.run([helm, "uninstall", "plumbline", *scope], capture_output=True, timeout=120, check=True)
    kept = kubectl("get", "crds", "-o", "name").stdout
    assert all(f"{resource.plural}.{resource.group}" in kept for resource in RESOURCES), "uninstalling keeps them"
    if not image:
        pytest.skip("installed; not waited for: PLUMBLINE_TEST_IMAGE names no image that the nodes could pull")
