"""The operator: sees Plumbline's objects, asks the reconcile core what is next, and lets Kubernetes do it.

Run by `kopf run /app/operators/plumbline_operator.py --standalone --namespace NS`. It is a thin shell on purpose:

    watch        kopf, here: an event about an object or one of its Jobs only says *look again*, and so does a timer
    queue        work_queue.py: one look per object at a time, failures backed off
    look         controllers.py: observe, decide (plumbline.reconcile), interpret, report
    lead         leadership.py: of several operators, the one that holds the Lease works

Handlers are `on.event` and the timer is our own, because kopf's timers and change handlers put a finalizer on the
object, and then neither it nor its namespace can be deleted while the operator is down. Nothing here needs one: what
belongs to a line goes with it, an erasure that has begun goes on without its request, and the truth is in the ledger.
"""
# mypy: disable-error-code="untyped-decorator"

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import kopf
from api_server import ApiServer
from controllers import ApprovalController, Controller, ErasureController, LineController, NotLeading
from leadership import Leadership
from prometheus_client import start_http_server
from release_controller import PassingController, ReleaseController
from shadow_controller import ShadowController
from work_queue import Key, WorkQueue

from plumbline.errors import PlumblineError
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.metrics import Metrics
from plumbline.reconcile import kubernetes
from plumbline.reconcile.cluster_observer import ClusterObserver
from plumbline.reconcile.ledger_gauges import LedgerGauges
from plumbline.reconcile.release_guard import LIST
from plumbline.reconcile.resources import GROUP, LINE_LABEL
from plumbline.reconcile.shadow_objects import EVALUATION_LABEL
from plumbline.records.resources import RESOURCES, Resource
from plumbline.stores import Lease

LINE, APPROVAL, ERASURE = "DatasetLine", "Approval", "ErasureRequest"
RELEASE, PASSING = "Release", "PassingDecisions"
EVALUATION = "ShadowEvaluation"
logger = logging.getLogger("plumbline.operator")


@dataclasses.dataclass(frozen=True)
class Settings:
    """From the environment, which the chart sets. `ledger` is a path or a URL, `blobs` a directory or s3://."""

    ledger: str
    blobs: str
    jobs: Path
    namespace: str
    tenant_key: str = ""
    username_prefix: str = ""
    release_max_age_days: int = 30
    resync_seconds: float = 60.0
    lease_seconds: int = 15
    metrics_port: int = 9090

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        return cls(
            ledger=environment.get("PLUMBLINE_LEDGER", "/data/ledger.sqlite"),
            blobs=environment.get("PLUMBLINE_BLOBS", "/data/blobs"),
            jobs=Path(environment.get("PLUMBLINE_JOBS", "/etc/plumbline/jobs.yaml")),
            namespace=environment.get("PLUMBLINE_NAMESPACE", "default"),
            tenant_key=environment.get("PLUMBLINE_TENANT_KEY", ""),
            username_prefix=environment.get("PLUMBLINE_USERNAME_PREFIX", ""),
            release_max_age_days=int(environment.get("PLUMBLINE_RELEASE_MAX_AGE_DAYS", "30")),
            resync_seconds=float(environment.get("PLUMBLINE_RESYNC_SECONDS", "60")),
            lease_seconds=int(environment.get("PLUMBLINE_LEASE_SECONDS", "15")),
            metrics_port=int(environment.get("PLUMBLINE_METRICS_PORT", "9090")),
        )

    def names(self) -> Pseudonyms | None:
        """What makes pseudonyms: the key given, or the file beside a ledger that is a file. Never a new one."""
        if self.tenant_key:
            try:
                return Pseudonyms(bytes.fromhex(self.tenant_key))
            except ValueError as error:
                raise PlumblineError(
                    "PLUMBLINE_TENANT_KEY is not hexadecimal",
                    consequence="the operator does not start: it could not tell an approver from an author",
                    remedy="give the key that makes the sources' pseudonyms, as hexadecimal digits",
                ) from error
        beside = Path(self.ledger).with_name("tenant.key")
        return Pseudonyms(beside.read_bytes()) if "://" not in self.ledger and beside.is_file() else None


class Operator:
    """Knows which objects there are, and has those looked at that an event or the clock names."""

    def __init__(self, api: ApiServer, settings: Settings) -> None:
        jobs = kubernetes.JobSettings.from_yaml(settings.jobs.read_text("utf-8"))
        self.settings = settings
        self.observer = ClusterObserver(
            settings.ledger,
            settings.blobs,
            names=settings.names,
            prefix=settings.username_prefix,
            max_age=timedelta(days=settings.release_max_age_days),
        )
        self.me = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.leadership = Leadership(
            api, settings.namespace, self.me, seconds=settings.lease_seconds, on_taken=self._taken
        )
        self.metrics = Metrics()
        self.gauges = LedgerGauges(settings.ledger, settings.blobs, self.metrics)
        self.queue = WorkQueue(self._look, most_seconds=settings.resync_seconds)
        self.passing: Key = (PASSING, settings.namespace, LIST)
        self.known: set[Key] = {self.passing}  # what admission reads is there before anybody asks for anything
        self.looked = time.monotonic()
        self._fence: Lease | None = None
        self._fencing: asyncio.Task[None] | None = None
        leads = self._leads
        self.controllers: dict[str, Controller] = {
            LINE: LineController(api, self.observer, leads, jobs, self.metrics),
            APPROVAL: ApprovalController(api, self.observer, leads, lambda: self._fence, self._fence_lost),
            ERASURE: ErasureController(api, self.observer, leads, jobs),
            RELEASE: ReleaseController(api, self.observer, leads, lambda: self._fence, self._fence_lost),
            PASSING: PassingController(api, self.observer, leads),
            EVALUATION: ShadowController(api, self.observer, leads, jobs),
        }

    def seen(self, kind: str, namespace: str, name: str) -> None:
        self.known.add((kind, namespace, name))
        self.queue.ask((kind, namespace, name))

    def gone(self, kind: str, namespace: str, name: str) -> None:
        if (kind, namespace, name) == self.passing:
            self.queue.ask(self.passing)  # it is made again
            return
        self.known.discard((kind, namespace, name))

    async def resync(self) -> None:
        """Look at everything known, again and again: what no event tells (a withdrawal, a deadline) is found so."""
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            self.ask_all()

    async def show_ledger(self) -> None:
        """Export what the ledger holds about no line in particular, led or not: the same from every operator."""
        while True:
            if problem := await asyncio.to_thread(self.gauges.look):
                logger.warning("the ledger's gauges stand still: %s", problem)
            await asyncio.sleep(self.settings.resync_seconds)

    def ask_all(self) -> None:
        for key in sorted(self.known):
            self.queue.ask(key)

    @property
    def idle_seconds(self) -> float:
        """Since a look ended; for one that only follows, since it asked for the lease."""
        waits = not self._leads()
        return time.monotonic() - max(self.looked, self.leadership.asked if waits else 0.0)

    async def _look(self, key: Key) -> None:
        if not self._leads():
            return
        kind, namespace, name = key
        try:
            if await self.controllers[kind].look(namespace, name):
                if kind == APPROVAL:
                    self._ask_lines(namespace)
                if kind == RELEASE:
                    self.queue.ask(self.passing)  # whereto it may move depends on where it is
            else:
                self.known.discard(key)
        except NotLeading:
            logger.info("%s: left to whoever leads", "/".join(key))
        self.looked = time.monotonic()

    def _ask_lines(self, namespace: str) -> None:
        for kind, where, name in sorted(self.known):
            if kind == LINE and where == namespace:
                self.queue.ask((kind, where, name))

    def _leads(self) -> bool:
        return self.leadership.held

    def _fence_lost(self) -> None:
        self._fence = None
        self.leadership.again()

    def _taken(self) -> None:
        """Look at everything, and get a new fencing token; until it is there, no approval is recorded."""
        self._fence = None
        if self._fencing is None or self._fencing.done():
            self._fencing = asyncio.create_task(self._get_fence())
        self.ask_all()

    async def _get_fence(self) -> None:
        with contextlib.suppress(PlumblineError):  # whoever needs it asks again
            self._fence = await asyncio.to_thread(
                self.observer.fence, self.settings.namespace, self.me, self.settings.lease_seconds
            )


# --- kopf -----------------------------------------------------------------------------------------------------


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> None:
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # a line for every event says nothing
    # Without both, a watch that the network dropped silently is waited for forever.
    settings.watching.server_timeout = 270
    settings.watching.client_timeout = 300
    settings.watching.connect_timeout = 10
    settings.scanning.disabled = True  # no right to list CRDs and namespaces is asked for, so none is used
    settings.posting.enabled = False  # Events are about conditions, not about kopf's handlers
    settings.peering.standalone = True
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.finalizer = f"{GROUP}/unused"

    memo.api = memo.get("api") or ApiServer(functools.partial(credentials, settings))
    memo.operator = Operator(memo.api, Settings.from_environment(os.environ))
    works = (memo.operator.resync(), memo.operator.leadership.run(), memo.operator.show_ledger())
    memo.loops = [asyncio.create_task(work) for work in works]
    memo.metrics = start_http_server(memo.operator.settings.metrics_port, registry=memo.operator.metrics.registry)


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    for loop in memo.loops:
        loop.cancel()
    await asyncio.gather(*memo.loops, return_exceptions=True)
    await memo.operator.queue.close()
    await memo.operator.leadership.release()
    server, thread = memo.metrics
    await asyncio.to_thread(server.shutdown)
    server.server_close()
    thread.join()
    await memo.api.close()


def credentials(settings: kopf.OperatorSettings) -> kopf.ConnectionInfo | None:
    """The pod's service account, or a kubeconfig outside a cluster, as they are now."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


@kopf.on.login()
async def login(settings: kopf.OperatorSettings, memo: kopf.Memo, **_: Any) -> kopf.ConnectionInfo | None:
    """Once for kopf's watching and our requests."""
    info = credentials(settings)
    if info is not None:
        memo.api = memo.get("api") or ApiServer(functools.partial(credentials, settings))
        await memo.api.connect(info)
    return info


@kopf.on.probe(id="seconds_since_last_look")
def alive(memo: kopf.Memo, **_: Any) -> float:
    """Liveness: fails (500, and a restart) when no look has ended for ten resync intervals."""
    age: float = memo.operator.idle_seconds
    if age > 10 * memo.operator.settings.resync_seconds:
        raise kopf.PermanentError(f"no look at an object has ended for {age:.0f} s")
    return round(age, 1)


def watch(resource: Resource) -> None:
    """What an event about an object of this kind says: look at it, or at the line that it belongs to."""

    @kopf.on.event(resource.group, resource.version, resource.plural, id=f"look_at_{resource.plural}")
    async def on_event(
        event: Mapping[str, Any], namespace: str, name: str, labels: Mapping[str, str], memo: kopf.Memo, **_: Any
    ) -> None:
        operator: Operator = memo.operator
        if resource.kind in operator.controllers:
            (operator.gone if event.get("type") == "DELETED" else operator.seen)(resource.kind, namespace, name)
        elif LINE_LABEL in labels:
            operator.queue.ask((LINE, namespace, labels[LINE_LABEL]))


for _resource in RESOURCES:
    watch(_resource)


@kopf.on.event("batch", "v1", "jobs", labels={kubernetes.STEP_LABEL: kopf.PRESENT})
async def on_job(labels: Mapping[str, str], namespace: str, memo: kopf.Memo, **_: Any) -> None:
    operator: Operator = memo.operator
    if LINE_LABEL in labels:
        operator.queue.ask((LINE, namespace, labels[LINE_LABEL]))
    for kind, where, name in sorted(operator.known):
        of = {ERASURE: kubernetes.ERASURE_LABEL, EVALUATION: EVALUATION_LABEL}.get(kind, "")
        if of and where == namespace and kubernetes.label(name) == labels.get(of):
            operator.queue.ask((kind, where, name))
