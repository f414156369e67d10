"""The operator: sees DatasetLine objects, asks the reconcile core what is next, and lets Kubernetes do it.

Run by `kopf run /app/operators/plumbline_operator.py --standalone --namespace NS`. It is a thin shell on purpose:

    observe    line and Jobs from the API server, everything else from the ledger (in that order: a Job that ends
               in between is still seen as running, so its work is never started twice)
    decide     plumbline.reconcile.dataset_line.reconcile, which knows nothing of Kubernetes
    interpret  plumbline.reconcile.kubernetes: Jobs, a status, Events

Level-based: an event about a line or one of its Jobs only says *look again*, and so does a timer. Handlers are
`on.event` and the timer is our own, because kopf's timers and change handlers put a finalizer on the object, and
then neither it nor its namespace can be deleted while the operator is down. Nothing here needs a finalizer: Jobs
belong to their line and go with it, and the truth is in the ledger.
"""
# mypy: disable-error-code="untyped-decorator"

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from api_server import ApiServer, Json
from prometheus_client import start_http_server

from plumbline.evaluation import export_gauges
from plumbline.metrics import Metrics
from plumbline.reconcile import kubernetes
from plumbline.reconcile.dataset_line import (
    Action,
    Cancel,
    LineObservation,
    Publish,
    Reject,
    StartIngestion,
    StartRemoval,
    reconcile,
)
from plumbline.reconcile.ledger_observer import LedgerObserver, LineObserver, Reading

Key = tuple[str, str]  # namespace, name
logger = logging.getLogger("plumbline.operator")


@dataclasses.dataclass(frozen=True)
class Settings:
    """From the environment, which the chart sets."""

    ledger: Path
    blobs: Path
    jobs: Path
    resync_seconds: float = 60.0
    metrics_port: int = 9090

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        return cls(
            ledger=Path(environment.get("PLUMBLINE_LEDGER", "/data/ledger.sqlite")),
            blobs=Path(environment.get("PLUMBLINE_BLOBS", "/data/blobs")),
            jobs=Path(environment.get("PLUMBLINE_JOBS", "/etc/plumbline/jobs.yaml")),
            resync_seconds=float(environment.get("PLUMBLINE_RESYNC_SECONDS", "60")),
            metrics_port=int(environment.get("PLUMBLINE_METRICS_PORT", "9090")),
        )


class Operator:
    """Knows which lines there are and looks at them, one look per line at a time."""

    def __init__(self, api: ApiServer, observer: LineObserver, jobs: kubernetes.JobSettings) -> None:
        self.api = api
        self.observer = observer
        self.jobs = jobs
        self.metrics = Metrics()
        self.lines: dict[Key, asyncio.Lock] = {}
        self.looked = time.monotonic()

    async def look(self, namespace: str, name: str) -> None:
        """Observe, decide, interpret, report. Safe to call at any time, any number of times."""
        lock = self.lines.setdefault((namespace, name), asyncio.Lock())
        async with lock:
            line = await self.api.line(namespace, name)
            if line is None or line["metadata"].get("deletionTimestamp"):
                self.forget(namespace, name)
                return
            jobs = await self.api.jobs(namespace, f"{kubernetes.LINE_LABEL}={name}")
            spec = kubernetes.line_spec(line)
            reading = await asyncio.to_thread(self.observer.read, spec)
            seen = observation(line, jobs, reading)
            decision = reconcile(spec, seen)
            for action in decision.actions:
                await self._interpret(action, line, jobs)
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            total = sum(reading.examples.values()) if seen.head is not None else None
            status = kubernetes.status(line, seen, decision, examples=total, now=now)
            for condition in kubernetes.news(line, decision):
                await self.api.create_event(kubernetes.event(line, condition, now=now))
            if kubernetes.says_more(line, status):
                await self.api.patch_status(namespace, name, status)
            if reading.problem:
                logger.warning("%s/%s: %s", namespace, name, reading.problem)
            export(self.metrics, spec.dataset, reading)
            self.looked = time.monotonic()

    def forget(self, namespace: str, name: str) -> None:
        self.lines.pop((namespace, name), None)

    async def resync(self, seconds: float) -> None:
        """Look at every known line, again and again: what no event tells (a withdrawal, an approval) is found so."""
        while True:
            await asyncio.sleep(seconds)
            for key in list(self.lines):
                await self.try_look(*key)
            if not self.lines:
                self.looked = time.monotonic()

    async def try_look(self, namespace: str, name: str) -> None:
        """A look whose failure is logged and left to the next one: one broken line must not starve the others."""
        try:
            await self.look(namespace, name)
        except (aiohttp.ClientError, TimeoutError, kopf.TemporaryError) as error:
            logger.warning("%s/%s: the API server did not answer as needed: %s", namespace, name, error)

    async def _interpret(self, action: Action, line: Json, jobs: list[Json]) -> None:
        """Carry out one action. Asking for approval and waiting are told by status and Events alone."""
        match action:
            case StartIngestion() | StartRemoval() | Publish() | Reject():
                job = kubernetes.job(action, line, self.jobs)
                name = job["metadata"]["name"]
                if await self.api.create_job(job):
                    logger.info("%s: started", name)
                elif any(done["metadata"]["name"] == name and kubernetes.job_outcome(done) for done in jobs):
                    logger.warning("%s: ended without moving the run on; read its log, then delete it", name)
                else:
                    logger.info("%s: is there already", name)
            case Cancel(run_key=run_key):
                for job in jobs:
                    active = kubernetes.active_job([job])
                    if active is not None and active.run_key == run_key:
                        await self.api.delete_job(job["metadata"]["namespace"], job["metadata"]["name"])


def observation(line: Json, jobs: list[Json], reading: Reading) -> LineObservation:
    """Both halves of one look put together: the ledger's, and what Kubernetes knows of Jobs and of what was said."""
    seen = reading.observation()
    pending = seen.pending
    if pending is not None:
        asked = kubernetes.approval_requested(line, pending.candidate)
        pending = dataclasses.replace(pending, approval_requested=asked)
    job, failures = kubernetes.active_job(jobs), kubernetes.failures(jobs)
    return dataclasses.replace(seen, pending=pending, job=job, failures=failures)


def export(metrics: Metrics, dataset: str, reading: Reading) -> None:
    """Gauges from one reading. What could not be read keeps its last value; only the ledger's word is set to 0."""
    metrics.gauge("plumbline_consent_ledger_valid").set(1 if reading.verifies else 0)
    if not reading.verifies:
        return
    metrics.gauge("plumbline_consent_ledger_sequence").set(reading.consent_sequence)
    if reading.head is not None:
        metrics.gauge("plumbline_dataset_version").labels(dataset).set(reading.head.version)
    for split, count in reading.examples.items():
        metrics.gauge("plumbline_dataset_examples").labels(dataset, split).set(count)
    if reading.accepted is not None:
        metrics.gauge("plumbline_ingestion_accepted").labels(dataset).set(reading.accepted)
    for reason, count in reading.rejected.items():
        metrics.gauge("plumbline_ingestion_rejected").labels(dataset, reason).set(count)
    if reading.decision is not None and reading.report is not None:
        export_gauges(reading.report, reading.decision, metrics)


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
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=kubernetes.GROUP)
    settings.persistence.finalizer = f"{kubernetes.GROUP}/unused"

    found = Settings.from_environment(os.environ)
    jobs = kubernetes.JobSettings.from_yaml(found.jobs.read_text("utf-8"))
    observer = LedgerObserver(found.ledger, found.blobs)
    memo.api = memo.get("api") or ApiServer()
    memo.operator = Operator(memo.api, observer, jobs)
    memo.resync_seconds = found.resync_seconds
    memo.resync = asyncio.create_task(memo.operator.resync(found.resync_seconds))
    memo.metrics = start_http_server(found.metrics_port, registry=memo.operator.metrics.registry)


@kopf.on.cleanup()
async def stop(memo: kopf.Memo, **_: Any) -> None:
    memo.resync.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await memo.resync
    server, thread = memo.metrics
    await asyncio.to_thread(server.shutdown)
    server.server_close()
    thread.join()
    await memo.api.close()


@kopf.on.login()
async def login(memo: kopf.Memo, **kwargs: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, or a kubeconfig outside a cluster; once for kopf's watching and our requests."""
    info = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
    if info is not None:
        memo.api = memo.get("api") or ApiServer()
        await memo.api.connect(info)
    return info


@kopf.on.probe(id="seconds_since_last_look")
def alive(memo: kopf.Memo, **_: Any) -> float:
    """Liveness: fails (500, and a restart) when no look has ended for ten resync intervals."""
    age: float = time.monotonic() - memo.operator.looked
    if age > 10 * memo.resync_seconds:
        raise kopf.PermanentError(f"no look at a line has ended for {age:.0f} s")
    return round(age, 1)


@kopf.on.event(kubernetes.GROUP, kubernetes.VERSION, kubernetes.PLURAL)
async def on_line(event: Mapping[str, Any], namespace: str, name: str, memo: kopf.Memo, **_: Any) -> None:
    if event.get("type") == "DELETED":
        memo.operator.forget(namespace, name)
    else:
        await memo.operator.try_look(namespace, name)


@kopf.on.event("batch", "v1", "jobs", labels={kubernetes.LINE_LABEL: kopf.PRESENT})
async def on_job(labels: Mapping[str, str], namespace: str, memo: kopf.Memo, **_: Any) -> None:
    await memo.operator.try_look(namespace, labels[kubernetes.LINE_LABEL])
