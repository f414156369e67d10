"""`plumb status`: what a RayJob's own status means, asked through the real kubectl or read from what it printed."""

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import yaml


def rayjob(name: str = "sft-1", **status: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "demo"}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": meta, **({"status": status} if status else {})}


SAID = [
    ({}, 3, "waiting", "KubeRay has not looked at it yet"),
    ({"jobDeploymentStatus": "Suspended"}, 3, "waiting", "Kueue has not admitted it"),
    ({"jobDeploymentStatus": "Initializing"}, 3, "waiting", "look for Pending"),
    ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED", "failed": 1}, 3, "waiting", "attempts that failed: 1"),
    ({"jobDeploymentStatus": "Running", "jobStatus": "FAILED"}, 3, "waiting", "whether there is another"),
    ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": "T"}, 3, "running", "started T"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, 0, "succeeded", "it ended well"),
    ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, 1, "failed", "it was stopped"),
    ({"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}, 1, "failed", "logs job/NAME"),
    ({"jobDeploymentStatus": "Failed", "reason": "PreRunningDeadlineExceeded"}, 1, "failed", "plumb doctor --cluster"),
    ({"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}, 1, "failed", "last checkpoint"),
    ({"jobDeploymentStatus": "Failed", "reason": "SubmissionFailed"}, 1, "failed", "8265"),
    ({"jobDeploymentStatus": "ValidationFailed", "message": "no bounds"}, 1, "failed", "message: no bounds"),
    ({"jobDeploymentStatus": "Failed", "reason": "NewInKubeRay2"}, 1, "failed", "for the reason NewInKubeRay2"),
    ({"jobDeploymentStatus": "Dreaming"}, 3, "waiting", "KubeRay says Dreaming"),
]


@pytest.mark.parametrize(("status", "code", "state", "words"), SAID, ids=[str(said[3]) for said in SAID])
def test_each_status_is_said_in_words_with_what_to_do(
    plumb: Any, status: dict[str, Any], code: int, state: str, words: str
) -> None:
    file = plumb.write("job.json", json.dumps(rayjob(**status)))
    said = plumb("status", "-f", file)
    assert said.code == code and words in said.out and said.out.startswith(f"sft-1: {state} ("), said
    assert ("\n  do: " in said.out) or code != 1, "whoever failed is told what to do"
    assert plumb("status", "-f", file, "--json").json["state"] == state


def test_of_several_the_worst_decides_the_exit_code(plumb: Any) -> None:
    good, bad = rayjob("a", jobStatus="SUCCEEDED"), rayjob("b", jobDeploymentStatus="Failed", reason="AppFailed")
    for items, code in (([good], 0), ([good, rayjob("c")], 3), ([good, bad, rayjob("c")], 1), ([], 0)):
        file = plumb.write("list.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        assert plumb("status", "-f", file).code == code


def test_what_is_no_rayjob_is_refused(plumb: Any) -> None:
    for text in ("", "[]", "{}", '{"kind": "Pod"}', '{"kind": "RayJob", "status": 3}', '{"kind": "List"}'):
        assert plumb("status", "-f", plumb.write("job.json", text)).faulted("no RayJob in JSON", "kubectl get rayjob")
    assert plumb("status", "-f", "absent.json").faulted("absent.json", "cannot be read")
    assert plumb("status", "sft-1", "-f", "job.json").faulted("not both")


@pytest.fixture
def cluster(plumb: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An API server that knows RayJobs, and a kubeconfig that leads to it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    jobs: dict[str, Any] = {}
    kinds = {
        "name": "rayjobs",
        "singularName": "rayjob",
        "namespaced": True,
        "kind": "RayJob",
        "verbs": ["get", "list"],
    }
    versions = [{"groupVersion": "ray.io/v1", "version": "v1"}]
    group = {"name": "ray.io", "versions": versions, "preferredVersion": versions[0]}
    told = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]},
        "/apis/ray.io/v1": {"kind": "APIResourceList", "groupVersion": "ray.io/v1", "resources": [kinds]},
    }

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            place = "/apis/ray.io/v1/namespaces/demo/rayjobs"
            found = told.get(path) or jobs.get(path.removeprefix(f"{place}/"))
            if path == place:
                found = {"kind": "RayJobList", "apiVersion": "ray.io/v1", "metadata": {}, "items": list(jobs.values())}
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                       "message": "rayjobs.ray.io not found"}  # fmt: skip
            body = json.dumps(found or missing).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here", "users": [{"name": "me", "user": {}}],
            "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "demo"}}],
        }  # fmt: skip
        monkeypatch.setenv("KUBECONFIG", str(plumb.write("kubeconfig", yaml.safe_dump(config))))
        monkeypatch.setenv("HOME", str(plumb.folder))
        yield jobs
        server.shutdown()


def test_a_cluster_is_asked_through_the_users_own_kubectl(plumb: Any, cluster: dict[str, Any]) -> None:
    cluster["sft-1"] = rayjob(jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    cluster["eval-2"] = rayjob("eval-2", jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    said = plumb("status", "sft-1")
    assert said.code == 1 and said.out.startswith("sft-1: failed (FAILED, Failed, AppFailed)"), said
    assert plumb("status", "eval-2", "--namespace", "demo", "--context", "here").code == 0
    every = plumb("status", "--json")
    assert every.code == 1 and {one["name"] for one in every.json} == {"sft-1", "eval-2"}
    assert plumb("status", "absent").faulted("could not read the RayJob absent", "not found", "ttlSecondsAfterFinished")


def test_without_kubectl_the_pipe_is_named(plumb: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(plumb.folder))
    assert plumb("status", "sft-1").faulted("kubectl is not on PATH", "plumb status -f -")
