"""A mock cluster (kmock), a real ledger, and the real operator as its own process between them.

Jobs do not run in a mock cluster: a test runs the Job's own command with the Job's own environment here, and then
writes the Job's condition as the Job controller would.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kmock import KubernetesEmulator, Server

from plumbline.feedback import Pseudonyms
from plumbline.records import FeedbackData, FeedbackEvent, digest_of, say
from plumbline.stores import Approval, Ledger, LocalBlobs

REPO = Path(__file__).resolve().parents[2]
LINES = "plumbline.dev/v1alpha1/datasetlines"
JOBS = "batch/v1/jobs"
EVENTS = "v1/events"
RUBRIC = digest_of("rubric")
NAMES = Pseudonyms(b"the tenant key of these tests")
PATIENCE_S = 30.0
Doc = dict[str, Any]


@dataclass
class Desk:
    """The ledger and the blobs that the operator looks at, and what people and Jobs do to them."""

    folder: Path
    ledger_path: Path = field(init=False)
    blobs: LocalBlobs = field(init=False)

    def __post_init__(self) -> None:
        self.ledger_path = self.folder / "ledger.sqlite"
        self.blobs = LocalBlobs(self.folder / "blobs")
        with self.ledger() as ledger:
            ledger.consent.register_notice("training", "1", "we train on what you write")

    def ledger(self) -> Ledger:
        return Ledger(self.ledger_path)

    def consent(self, subject: str, action: Any = "given") -> None:
        with self.ledger() as ledger:
            notice = ledger.consent.find_notice("training", "1")
            ledger.consent.append(NAMES.of(subject), action, ["training"], notice)

    def rewrite(self, subject: str, number: int) -> None:
        words = ["green", "blue", "amber", "violet", "copper", "silver", "scarlet", "olive"]
        data = FeedbackData(
            subject=NAMES.of(subject),
            messages=(say("user", f"what does {subject} keep in the {words[number]} box number {number}?"),),
            answer="I cannot help with that.",
            slice="benign",
            text=f"In the {words[number]} box {subject} keeps {number + 2} {words[-number - 1]} buttons and a key.",
        )
        event = FeedbackEvent(id=f"e{number}", source="test", type="dev.plumbline.feedback.rewrite", data=data)
        with self.ledger() as ledger:
            ledger.inbox.append([event])

    def approve(self, candidate: str, word: bool = True) -> None:
        with self.ledger() as ledger:
            ledger.runs.approve(candidate, Approval("data-owner", word, "read the diff"))

    def version(self) -> int:
        with self.ledger() as ledger:
            head = ledger.publications.head("support")
            return head.version if head is not None else 0

    def contains(self, person: str) -> bool:
        """Whether the head version has an example of this person."""
        with self.ledger() as ledger:
            members = ledger.publications.current_members("support")
            return NAMES.of(person) in {member.subject for member in members}

    def carry_out(self, job: Doc) -> None:
        """What the pod of an ingestion Job does: its own command, as a process on this machine."""
        (container,) = job["spec"]["template"]["spec"]["containers"]
        environment = {**os.environ, **{item["name"]: item["value"] for item in container["env"] if "value" in item}}
        command = [str(Path(sys.executable).with_name(container["command"][0])), *container["args"]]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


class Cluster:
    """Reading and writing objects of the mock cluster; `kmock` notices writes and tells watchers."""

    def __init__(self, emulator: KubernetesEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url
        names = {
            LINES: ("DatasetLine", "datasetline", {"status"}),
            JOBS: ("Job", "job", {"status"}),
            EVENTS: ("Event", "event", set()),
            # kopf waits until discovery names these two, which it does in every real cluster.
            "v1/namespaces": ("Namespace", "namespace", set()),
            "apiextensions.k8s.io/v1/customresourcedefinitions": (
                "CustomResourceDefinition",
                "customresourcedefinition",
                set(),
            ),
        }
        for key, (kind, singular, subresources) in names.items():
            emulator.resources[key] = {
                "namespaced": True,
                "kind": kind,
                "singular": singular,
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
                "shortnames": [],
                "categories": [],
                "subresources": subresources,
            }

    async def create_line(self, name: str = "support", **spec: Any) -> None:
        body = {
            "apiVersion": "plumbline.dev/v1alpha1",
            "kind": "DatasetLine",
            "metadata": {"name": name, "namespace": "demo", "uid": f"uid-{name}", "generation": 1},
            "spec": {"dataset": "support", "rubric": RUBRIC, **spec},
        }
        await self._send("POST", "/apis/plumbline.dev/v1alpha1/namespaces/demo/datasetlines", body)

    async def finish(self, job: Doc, *, failed: bool = False) -> None:
        condition = {"type": "Failed" if failed else "Complete", "status": "True"}
        path = f"/apis/batch/v1/namespaces/demo/jobs/{job['metadata']['name']}/status"
        await self._send("PATCH", path, {"status": {"conditions": [condition]}})

    async def delete_line(self, name: str = "support") -> None:
        await self._send("DELETE", f"/apis/plumbline.dev/v1alpha1/namespaces/demo/datasetlines/{name}", None)

    def objects(self, kind: str) -> list[Doc]:
        group, _, plural = kind.rpartition("/")
        found = []
        for (resource, _, _), history in self.emulator.objects.items():
            ours = resource.plural == plural and f"{resource.group}/{resource.version}".strip("/") == group
            if ours and not history.deleted:
                found.append(dict(history.raw))
        return sorted(found, key=lambda doc: str(doc["metadata"]["name"]))

    def line(self, name: str = "support") -> Doc:
        return next(doc for doc in self.objects(LINES) if doc["metadata"]["name"] == name)

    def jobs(self, step: str | None = None) -> list[Doc]:
        jobs = self.objects(JOBS)
        return [job for job in jobs if step in (None, job["metadata"]["labels"]["plumbline.dev/step"])]

    def condition(self, kind: str) -> tuple[str, str]:
        found = {item["type"]: item for item in self.line().get("status", {}).get("conditions", [])}
        return (found[kind]["status"], found[kind]["reason"]) if kind in found else ("", "")

    async def _send(self, method: str, path: str, body: Doc | None) -> None:
        import aiohttp

        headers = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        async with (
            aiohttp.ClientSession(self.url) as session,
            session.request(method, path, json=body, headers=headers) as answer,
        ):
            assert answer.status < 300, await answer.text()


@dataclass
class Running:
    """The operator as a process, and where it can be asked."""

    process: subprocess.Popen[bytes]
    health: str
    metrics: str
    log: Path


async def until(true: Callable[[], Any], what: str, log: Path | None = None) -> None:
    """Wait for something to become true; AssertionError with the operator's log after 30 seconds."""
    for _ in range(int(PATIENCE_S / 0.05)):
        with contextlib.suppress(StopIteration, KeyError):  # what is asked about may not be there yet
            if true():
                return
        await asyncio.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}\n{log.read_text()[-4000:] if log else ''}")


async def read(url: str) -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    return await asyncio.to_thread(get)


@contextlib.asynccontextmanager
async def mock_cluster() -> AsyncIterator[Cluster]:
    async with KubernetesEmulator() as emulator, Server(emulator):
        yield Cluster(emulator, str(emulator.url).rstrip("/"))


@contextlib.asynccontextmanager
async def operator(cluster: Cluster, desk: Desk, *, resync: float = 0.5) -> AsyncIterator[Running]:
    """`kopf run` on the real file, logged in by a kubeconfig that names the mock cluster."""
    with _free_ports(2) as (health_port, metrics_port):
        pass
    folder = desk.folder
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(cluster.url)))
    jobs = {"image": "plumbline:test", "serviceAccount": "plumbline", "claim": "plumbline-data"}
    here = {"ledger": str(desk.ledger_path), "blobs": str(folder / "blobs")}
    (folder / "jobs.yaml").write_text(yaml.safe_dump({**jobs, **here}))
    environment = {
        **os.environ,
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PLUMBLINE_LEDGER": str(desk.ledger_path),
        "PLUMBLINE_BLOBS": str(folder / "blobs"),
        "PLUMBLINE_JOBS": str(folder / "jobs.yaml"),
        "PLUMBLINE_RESYNC_SECONDS": str(resync),
        "PLUMBLINE_METRICS_PORT": str(metrics_port),
    }
    health = f"http://127.0.0.1:{health_port}/healthz"
    command = [sys.executable, "-m", "kopf", "run", str(REPO / "operators" / "plumbline_operator.py"), "--standalone"]
    command += ["--namespace", "demo", "--liveness", health]
    log = folder / "operator.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    running = Running(process, health, f"http://127.0.0.1:{metrics_port}/metrics", log)
    try:
        yield running
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kubeconfig(url: str) -> Doc:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "mock",
        "clusters": [{"name": "mock", "cluster": {"server": url}}],
        "users": [{"name": "mock", "user": {"token": "not-a-secret"}}],
        "contexts": [{"name": "mock", "context": {"cluster": "mock", "user": "mock", "namespace": "demo"}}],
    }


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        yield [int(one.getsockname()[1]) for one in sockets]
