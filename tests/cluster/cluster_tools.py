"""A namespace of a real cluster, and the operator as a process that runs under the chart's own service account."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from chart_tools import REPO
from operator_tools import TENANT_KEY, Desk, until

Doc = dict[str, Any]
Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]
ACCOUNT = "plumbline-operator"


def doc(kind: str, name: str, spec: Doc) -> str:
    """An object of ours as JSON, for `kubectl create -f -`."""
    return json.dumps({"apiVersion": "plumbline.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})


def account_kubeconfig(kubectl: Kubectl, template: Callable[..., str], namespace: str, folder: Path) -> Path:
    """The chart's account with its rights and no others, as a kubeconfig with a token of an hour."""
    docs = yaml.safe_load_all(template("plumbline", "--namespace", namespace))
    rights = [one for one in docs if one and one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    kubectl("apply", "--server-side", "--namespace", namespace, "-f", "-", stdin=yaml.safe_dump_all(rights))
    token = kubectl("create", "token", ACCOUNT, "--namespace", namespace, "--duration=1h").stdout.strip()
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout)
    (context,) = config["contexts"]
    config["users"] = [{"name": ACCOUNT, "user": {"token": token}}]
    context["context"] |= {"user": ACCOUNT, "namespace": namespace}
    path = folder / "operator.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


@dataclass
class OperatorProcess:
    """`kopf run` on the real file, as a pod would run it. `killed` again and again, it goes on where the ledger is."""

    desk: Desk
    namespace: str
    kubeconfig: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def log(self) -> Path:
        return self.desk.folder / "operator.log"

    def start(self) -> None:
        folder = self.desk.folder
        here = f"ledger: {self.desk.ledger_path}\nblobs: {folder / 'blobs'}\n"
        (folder / "jobs.yaml").write_text("image: plumbline:absent\nserviceAccount: default\nclaim: data\n" + here)
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "PLUMBLINE_LEDGER": str(self.desk.ledger_path),
            "PLUMBLINE_BLOBS": str(folder / "blobs"),
            "PLUMBLINE_JOBS": str(folder / "jobs.yaml"),
            "PLUMBLINE_NAMESPACE": self.namespace,
            "PLUMBLINE_TENANT_KEY": TENANT_KEY.hex(),
            "PLUMBLINE_RESYNC_SECONDS": "2",
            "PLUMBLINE_LEASE_SECONDS": "5",
            "PLUMBLINE_METRICS_PORT": "0",
        }
        file = REPO / "operators" / "plumbline_operator.py"
        command = [sys.executable, "-m", "kopf", "run", str(file), "--standalone", "--namespace", self.namespace]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "OperatorProcess":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass
class Namespace:
    """Reading and writing in one namespace with kubectl, as whoever is named."""

    kubectl: Kubectl
    name: str

    def run(
        self, *arguments: str, by: str = "", stdin: str | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        who = (f"--as={by}",) if by else ()
        return self.kubectl(*arguments, "--namespace", self.name, *who, stdin=stdin, check=check)

    def read(self, *what: str) -> Doc:
        found: Doc = json.loads(self.run("get", *what, "-o", "json").stdout)
        return found

    def status(self, kind: str, name: str) -> Doc:
        """The status; empty while there is no such object."""
        done = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(done.stdout).get("status", {})) if done.stdout.strip() else {}

    def condition(self, kind: str, name: str, of: str) -> tuple[str, str]:
        found = {one["type"]: one for one in self.status(kind, name).get("conditions", [])}
        return (found[of]["status"], found[of]["reason"]) if of in found else ("", "")

    def create(self, kind: str, name: str, spec: Doc, *, by: str = "") -> None:
        self.run("create", "-f", "-", by=by, stdin=doc(kind, name, spec))

    def denied(self, kind: str, name: str, spec: Doc, *, because: str, by: str = "") -> str:
        """What the API server says to a request that it refuses, which is to hold `because`. Policies, roles and lists
        are in force a moment after they were written; until then it admits, or refuses for another reason."""
        said = "it was admitted"
        for _ in range(30):
            done = self.run("create", "-f", "-", by=by, stdin=doc(kind, name, spec), check=False)
            if done.returncode != 0 and because in (said := done.stderr):
                return said
            self.run("delete", kind, name, "--ignore-not-found")
            time.sleep(1)
        raise AssertionError(f"{kind} {name} was not refused because of {because!r}: {said}")

    def patch(self, kind: str, name: str, change: Doc, *, by: str = "") -> "subprocess.CompletedProcess[str]":
        return self.run("patch", kind, name, "--type=merge", "-p", json.dumps(change), by=by, check=False)

    async def carry_out(self, desk: Desk, step: str, log: Path) -> None:
        """What a pod and the Job controller would do: the Job's own command here, and then its end."""
        which = ("jobs", "-l", f"plumbline.dev/step={step}")

        def waiting() -> list[Doc]:
            return [one for one in self.read(*which)["items"] if not one.get("status", {}).get("conditions")]

        await until(waiting, f"a Job to {step}", log)
        (job,) = waiting()
        await desk.carry_out(job)
        name = job["metadata"]["name"]
        for _ in range(20):
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            change = json.dumps({"status": complete(self.status("job", name), now)})
            done = self.run("patch", "job", name, "--subresource=status", "--type=merge", "-p", change, check=False)
            if done.returncode == 0:
                return
            await asyncio.sleep(0.5)  # a Job controller wrote in between, and what it wrote may not be taken back
        raise AssertionError(f"Job {name} could not be said to be complete: {done.stderr}")


def complete(status: Doc, now: str) -> Doc:
    """The status of a Job that did its work, after whatever a Job controller has said of it. An API server refuses one
    that changes when the Job began, or that is complete while a pod of it (which waits for an image) is at work."""
    began = status.get("startTime", now)
    now = max(now, began)
    ended = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("SuccessCriteriaMet", "Complete")]
    pods = {"active": 0, "ready": 0, "terminating": 0, "succeeded": 1}
    return {"conditions": ended, "startTime": began, "completionTime": now, **pods}
