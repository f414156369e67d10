"""A mock cluster (kmock), a real ledger, and the real operator as its own process between them.

Jobs do not run in a mock cluster: a test runs the Job's own command with the Job's own environment here, and then
writes the Job's condition as the Job controller would.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from admission import chart_policies
from backends import Backend
from emulator import TESTS, ApiServerEmulator, Weather
from kmock import Server

from plumbline.errors import PlumblineError
from plumbline.feedback import Pseudonyms
from plumbline.records import FeedbackData, FeedbackEvent, digest_bytes, digest_of, say
from plumbline.records.resources import BY_KIND, RESOURCES
from plumbline.stores import Approval, Ledger

REPO = Path(__file__).resolve().parents[2]
GROUP = "plumbline.dev/v1alpha1"
LINES, RUNS, VERSIONS, APPROVALS, ERASURES, EVALUATIONS = (
    f"{GROUP}/{BY_KIND[kind].plural}"
    for kind in ("DatasetLine", "IngestionRun", "DatasetVersion", "Approval", "ErasureRequest", "ShadowEvaluation")
)
RELEASES, PASSING = (f"{GROUP}/{BY_KIND[kind].plural}" for kind in ("Release", "PassingDecisions"))
JOBS = "batch/v1/jobs"
EVENTS = "v1/events"
LEASES = "coordination.k8s.io/v1/leases"
POLICIES = "admissionregistration.k8s.io/v1/validatingadmissionpolicies"
BINDINGS = "admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
RUBRIC = digest_of("rubric")
TENANT_KEY = b"the tenant key of these tests"
NAMES = Pseudonyms(TENANT_KEY)
PATIENCE_S = 90.0
Doc = dict[str, Any]


@dataclass
class Desk:
    """The ledger and the blobs that the operator looks at, and what people and Jobs do to them."""

    folder: Path
    backend: Backend | None = None
    ledger_path: Any = field(init=False)  # a Path, or the URL of the backend's
    blobs_place: Path | str = field(init=False)

    def __post_init__(self) -> None:
        self.ledger_path = self.backend.ledger if self.backend else self.folder / "ledger.sqlite"
        self.blobs_place = self.backend.blobs if self.backend else self.folder / "blobs"
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
        """The head version's number, without waiting for anybody: whoever holds the ledger may be paused. -1: busy."""
        if isinstance(self.ledger_path, str):
            with self.ledger() as ledger:
                head = ledger.publications.head("support")
                return head.version if head is not None else 0
        address = f"file:{self.ledger_path}?mode=ro"
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(address, uri=True, timeout=0.1)) as database,
        ):
            return int(database.execute("SELECT COALESCE(MAX(version), 0) FROM publication").fetchone()[0])
        return -1

    async def insist(self, act: Callable[..., None], *arguments: Any) -> None:
        """What people do to the ledger, again until it is not held by somebody who is paused."""
        for _ in range(20):
            with contextlib.suppress(PlumblineError):
                return await asyncio.to_thread(act, *arguments)
            await asyncio.sleep(0.2)
        raise AssertionError("the ledger stayed locked")

    def contains(self, person: str) -> bool:
        """Whether the head version has an example of this person."""
        with self.ledger() as ledger:
            held = ledger.lineage.of_subject(NAMES.of(person)).memberships
            return any(member.dataset == "support" and member.removed_in is None for member in held)

    async def carry_out(self, job: Doc) -> None:
        """What the pod of a Job does: its own command, as a process on this machine."""
        done = self.start(job)
        out, _ = await asyncio.to_thread(done.communicate, timeout=120)
        assert done.returncode == 0, out

    def start(self, job: Doc) -> "subprocess.Popen[str]":
        (container,) = job["spec"]["template"]["spec"]["containers"]
        environment = {**os.environ, **{item["name"]: item["value"] for item in container["env"] if "value" in item}}
        command = [str(Path(sys.executable).with_name(container["command"][0])), *container["args"]]
        return subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )


def subject_digest(person: str) -> str:
    """What an ErasureRequest names a person by."""
    return digest_bytes(NAMES.of(person).encode())


class Cluster:
    """Reading and writing objects of the mock cluster; `kmock` notices writes and tells watchers."""

    def __init__(self, emulator: ApiServerEmulator, url: str) -> None:
        self.emulator = emulator
        self.url = url
        names = {f"{GROUP}/{item.plural}": (item.kind, {"status"}) for item in RESOURCES} | {
            JOBS: ("Job", {"status"}),
            EVENTS: ("Event", set()),
            LEASES: ("Lease", set()),
            POLICIES: ("ValidatingAdmissionPolicy", set()),
            BINDINGS: ("ValidatingAdmissionPolicyBinding", set()),
            # kopf waits until discovery names these two, which it does in every real cluster.
            "v1/namespaces": ("Namespace", set()),
            "apiextensions.k8s.io/v1/customresourcedefinitions": ("CustomResourceDefinition", set()),
        }
        for key, (kind, subresources) in names.items():
            emulator.resources[key] = {
                "namespaced": key not in (POLICIES, BINDINGS),
                "kind": kind,
                "singular": kind.lower(),
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
                "shortnames": [],
                "categories": [],
                "subresources": subresources,
            }

    async def guard(self) -> None:
        """The chart's admission policies and their bindings, which hold from here on."""
        for doc in chart_policies():
            plural = "validatingadmissionpolic" + ("ybindings" if doc["kind"].endswith("Binding") else "ies")
            await self._send("POST", f"/apis/{doc['apiVersion']}/{plural}", doc)

    async def create(self, key: str, kind: str, name: str, spec: Doc, *, by: str = "") -> None:
        """Make an object as the user `by`; as whom the spec names, if nobody else is said."""
        group, _, plural = key.rpartition("/")
        body = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "demo"}, "spec": spec}
        by = by or spec.get("approver") or spec.get("requestedBy") or "somebody"
        await self._send("POST", f"/apis/{group}/namespaces/demo/{plural}", body, by)

    async def change(self, key: str, name: str, change: Doc, *, by: str) -> None:
        """Merge a change into an object, as the user `by`."""
        group, _, plural = key.rpartition("/")
        await self._send("PATCH", f"/apis/{group}/namespaces/demo/{plural}/{name}", change, by)

    async def create_line(self, name: str = "support", **spec: Any) -> None:
        await self.create(LINES, "DatasetLine", name, {"dataset": name, "rubric": RUBRIC, **spec})

    async def approve(self, candidate: str, approver: str = "olga", decision: str = "approved") -> None:
        spec = {"candidate": candidate, "approver": approver, "decision": decision, "reason": "ReadTheDiff"}
        await self.create(APPROVALS, "Approval", f"{approver.replace(':', '-')}-{candidate[-12:]}", spec)

    async def erase(self, person: str, name: str = "letter-1", **spec: Any) -> None:
        await self.create(ERASURES, "ErasureRequest", name, {"subject": subject_digest(person), **spec})

    async def finish(self, job: Doc, *, failed: bool = False) -> None:
        condition = {"type": "Failed" if failed else "Complete", "status": "True"}
        path = f"/apis/batch/v1/namespaces/demo/jobs/{job['metadata']['name']}/status"
        await self._send("PATCH", path, {"status": {"conditions": [condition]}})

    async def delete(self, key: str, name: str) -> None:
        group, _, plural = key.rpartition("/")
        await self._send("DELETE", f"/apis/{group}/namespaces/demo/{plural}/{name}", None)

    def objects(self, kind: str) -> list[Doc]:
        group, _, plural = kind.rpartition("/")
        found = []
        for (resource, _, _), history in self.emulator.objects.items():
            ours = resource.plural == plural and f"{resource.group}/{resource.version}".strip("/") == group
            if ours and not history.deleted:
                found.append(dict(history.raw))
        return sorted(found, key=lambda doc: str(doc["metadata"]["name"]))

    def one(self, kind: str, name: str) -> Doc:
        return next(doc for doc in self.objects(kind) if doc["metadata"]["name"] == name)

    def line(self, name: str = "support") -> Doc:
        return self.one(LINES, name)

    def candidate(self) -> str | None:
        """The digest that waits for approval, if one does."""
        status = self.line().get("status", {})
        waits = status.get("phase") == "AwaitingApproval"
        return status["pendingRun"].get("candidate") if waits and "pendingRun" in status else None

    def jobs(self, step: str | None = None) -> list[Doc]:
        jobs = self.objects(JOBS)
        return [job for job in jobs if step in (None, job["metadata"]["labels"]["plumbline.dev/step"])]

    def unfinished(self) -> list[Doc]:
        return [job for job in self.jobs() if not job.get("status", {}).get("conditions")]

    def made(self, kind: str) -> list[str]:
        """Names of the objects of a kind that were ever created, in order."""
        return [doc["metadata"]["name"] for doc in self.emulator.created if doc["kind"] == kind]

    def condition(self, kind: str, about: Doc | None = None) -> tuple[str, str]:
        found = {item["type"]: item for item in (about or self.line()).get("status", {}).get("conditions", [])}
        return (found[kind]["status"], found[kind]["reason"]) if kind in found else ("", "")

    async def _send(self, method: str, path: str, body: Doc | None, by: str = "somebody") -> None:
        headers = {"User-Agent": TESTS, "Impersonate-User": by}
        if method == "PATCH":
            headers["Content-Type"] = "application/merge-patch+json"
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
    """Wait for something to become true; AssertionError with the operator's log after `PATIENCE_S`."""
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
async def mock_cluster(weather: Weather | None = None, *, guarded: bool = True) -> AsyncIterator[Cluster]:
    async with ApiServerEmulator(weather=weather or Weather()) as emulator, Server(emulator):
        cluster = Cluster(emulator, str(emulator.url).rstrip("/"))
        if guarded:
            await cluster.guard()
        yield cluster


@contextlib.asynccontextmanager
async def operator(
    cluster: Cluster,
    desk: Desk,
    *,
    resync: float = 0.5,
    lease: int = 4,
    name: str = "operator",
    keyed: bool = True,
    **settings: Any,
) -> AsyncIterator[Running]:
    """`kopf run` on the real file, logged in by a kubeconfig that names the mock cluster. `settings` are its Jobs'."""
    with _free_ports(2) as (health_port, metrics_port):
        pass
    folder = desk.folder
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(cluster.url)))
    jobs = {"image": "plumbline:test", "serviceAccount": "plumbline", "claim": "plumbline-data"}
    here = {"ledger": str(desk.ledger_path), "blobs": str(desk.blobs_place)}
    (folder / "jobs.yaml").write_text(yaml.safe_dump({**jobs, **here, **settings}))
    environment = {
        **os.environ,
        "KUBECONFIG": str(folder / "kubeconfig"),
        "PLUMBLINE_LEDGER": str(desk.ledger_path),
        "PLUMBLINE_BLOBS": str(desk.blobs_place),
        "PLUMBLINE_JOBS": str(folder / "jobs.yaml"),
        "PLUMBLINE_NAMESPACE": "demo",
        "PLUMBLINE_TENANT_KEY": TENANT_KEY.hex(),
        "PLUMBLINE_USERNAME_PREFIX": "oidc:",
        "PLUMBLINE_RESYNC_SECONDS": str(resync),
        "PLUMBLINE_LEASE_SECONDS": str(lease),
        "PLUMBLINE_METRICS_PORT": str(metrics_port),
    }
    if not keyed:  # it lies beside the ledger, or will
        del environment["PLUMBLINE_TENANT_KEY"]
    health = f"http://127.0.0.1:{health_port}/healthz"
    command = [sys.executable, "-m", "kopf", "run", str(REPO / "operators" / "plumbline_operator.py"), "--standalone"]
    command += ["--namespace", "demo", "--liveness", health]
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    running = Running(process, health, f"http://127.0.0.1:{metrics_port}/metrics", log)
    try:
        yield running
    finally:
        process.send_signal(signal.SIGCONT)
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
