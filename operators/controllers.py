"""What a look is, by kind: observe, decide, interpret, report. Each is safe to call at any time, any number of times.

observe    objects and Jobs from the API server, everything else from the ledger (in that order: a Job that ends
           in between is still seen as running, so its work is never started twice)
decide     plumbline.reconcile, which knows nothing of Kubernetes
interpret  plumbline.reconcile.kubernetes and .resources: Jobs, objects, statuses, Events
"""

import abc
import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from api_server import ApiServer, Json

from plumbline.metrics import Metrics
from plumbline.reconcile import kubernetes, resources
from plumbline.reconcile.approval import POLICY, guard_problem, judge
from plumbline.reconcile.cluster_observer import ClusterObserver, LineLook
from plumbline.reconcile.dataset_line import (
    Action,
    Cancel,
    Condition,
    LineObservation,
    LineSpec,
    PendingRun,
    Publish,
    Reject,
    StartIngestion,
    StartRemoval,
    reconcile,
)
from plumbline.reconcile.erasure_request import StartErasure, reconcile_erasure
from plumbline.reconcile.ingestion_run import RunObservation, describe
from plumbline.reconcile.ledger_observer import Reading
from plumbline.records.resources import IngestionRunSpec
from plumbline.stores import Approval, Lease, StaleLease

logger = logging.getLogger("plumbline.operator")
GUARD_SECONDS = 60.0
Written = TypeVar("Written")


class NotLeading(Exception):
    """The lease went away in the middle of a look: whoever holds it does the rest."""


class LookAgain(Exception):
    """Something is on its way that this look needs; the next one will find it."""


class Controller(abc.ABC):
    """What all looks share. `leads` is asked again before everything that is written."""

    def __init__(self, api: ApiServer, observer: ClusterObserver, leads: Callable[[], bool]) -> None:
        self.api = api
        self.observer = observer
        self.leads = leads

    @abc.abstractmethod
    async def look(self, namespace: str, name: str) -> bool:
        """False when there is no such object any more."""

    async def report(self, about: Json, status: Json, told: list[Condition], now: str) -> None:
        """Events first: the status is what says that they were told."""
        if not resources.says_more(about, status):
            return
        self.check()
        for condition in told:
            await self.api.create(resources.event(about, condition, now=now))
        await self.api.patch_status(about, resources.replacing(about, status))

    def check(self) -> None:
        if not self.leads():
            raise NotLeading


class LineController(Controller):
    """Lines, and the runs and versions below them."""

    def __init__(
        self,
        api: ApiServer,
        observer: ClusterObserver,
        leads: Callable[[], bool],
        jobs: kubernetes.JobSettings,
        metrics: Metrics,
    ) -> None:
        super().__init__(api, observer, leads)
        self.jobs = jobs
        self.metrics = metrics

    async def look(self, namespace: str, name: str) -> bool:
        """False when there is no such line any more: its runs, versions and Jobs go with it."""
        line = await self.api.get("DatasetLine", namespace, name)
        if line is None or line["metadata"].get("deletionTimestamp"):
            return False
        selector = f"{resources.LINE_LABEL}={name}"
        runs = await self.api.find("IngestionRun", namespace, selector)
        versions = await self.api.find("DatasetVersion", namespace, selector)
        jobs = await self.api.find("Job", namespace, selector)
        spec, history = kubernetes.line_spec(line), line["spec"].get("historyLimit", 20)
        known = [IngestionRunSpec.model_validate(run["spec"]) for run in runs]
        look = await asyncio.to_thread(self.observer.look, spec, known, history)
        seen = observation(line, runs, jobs, look.reading)
        decision = reconcile(spec, seen)
        if seen.pending is not None:
            runs = await self._shown(line, runs, _pending_spec(line, seen.pending))
        for action in decision.actions:
            await self._interpret(action, line, seen, runs, jobs)

        now = resources.stamp(datetime.now(UTC))
        total = sum(look.reading.examples.values()) if seen.head is not None else None
        status = kubernetes.status(line, seen, decision, examples=total, now=now)
        await self.report(line, status, kubernetes.line_news(line, decision), now)
        for run in runs:
            await self._report_run(run, spec, look, jobs, seen, now)
        if look.reading.verifies:
            await self._show_versions(line, versions, look, now)
            await self._drop(resources.surplus(runs, history, running=_unfinished(look)))
        if look.reading.problem:
            logger.warning("%s/%s: %s", namespace, name, look.reading.problem)
        export(self.metrics, spec.dataset, look.reading)
        return True

    async def _interpret(
        self, action: Action, line: Json, seen: LineObservation, runs: list[Json], jobs: list[Json]
    ) -> None:
        """Carry out one action. Asking for approval and waiting are told by status and Events alone."""
        match action:
            case StartIngestion() | StartRemoval() | Publish() | Reject():
                wanted = _run_spec(action, line, seen)
                (run,) = [
                    run for run in await self._shown(line, runs, wanted) if run["spec"]["runKey"] == action.run_key
                ]
                job = kubernetes.job(action, line, run, self.jobs)
                name = job["metadata"]["name"]
                self.check()
                if await self.api.create(job) is not None:
                    logger.info("%s: started", name)
                elif any(done["metadata"]["name"] == name and kubernetes.job_outcome(done) for done in jobs):
                    logger.warning("%s: ended without moving the run on; read its log, then delete it", name)
                else:
                    logger.info("%s: is there already", name)
            case Cancel(run_key=run_key):
                for job in jobs:
                    active = kubernetes.active_job([job])
                    if active is not None and active.run_key == run_key:
                        self.check()
                        await self.api.delete(job, foreground=True)

    async def _shown(self, line: Json, runs: list[Json], spec: IngestionRunSpec) -> list[Json]:
        """The runs, with one for this spec: as it is, or made now."""
        if any(run["spec"]["runKey"] == spec.run_key for run in runs):
            return runs
        wanted = resources.run_object(line, spec)
        meta = wanted["metadata"]
        self.check()
        made = await self.api.create(wanted) or await self.api.get("IngestionRun", meta["namespace"], meta["name"])
        if made is None:
            raise LookAgain(f"{meta['name']} was deleted just now")
        return [*runs, {**made, "kind": "IngestionRun"}]

    async def _report_run(
        self, run: Json, spec: LineSpec, look: LineLook, jobs: list[Json], line: LineObservation, now: str
    ) -> None:
        key, kind = run["spec"]["runKey"], run["spec"]["kind"]
        active = kubernetes.active_job([job for job in jobs if kubernetes.active_job([job]) is not None])
        seen = dataclasses.replace(
            look.runs.get(key, RunObservation(readable=bool(look.reading.verifies))),
            job=active is not None and active.run_key == key,
            attempts=line.failures.get(key, 0),
        )
        decision = describe(kind, spec.approvals_required, spec.max_attempts, seen)
        told = resources.news(run, decision.conditions, ("Approved", "Published", "Degraded"))
        await self.report(run, resources.run_status(run, seen, decision, now=now), told, now)

    async def _show_versions(self, line: Json, versions: list[Json], look: LineLook, now: str) -> None:
        """The ledger's newest versions as objects. One that says something else (a ledger put back) is made again."""
        there = {version["metadata"]["name"]: version for version in versions}
        for found in look.versions:
            wanted = resources.version_object(line, found)
            shown = there.get(wanted["metadata"]["name"])
            if shown is not None and shown["spec"] != wanted["spec"]:
                self.check()
                await self.api.delete(shown)
                shown = None
            if shown is None:
                self.check()
                shown = await self.api.create(wanted)
            if shown is not None:
                shown = {**shown, "kind": "DatasetVersion"}
                await self.report(shown, resources.version_status(shown, found, now=now), [], now)
        kept = {resources.version_name(line["metadata"]["name"], found.version) for found in look.versions}
        await self._drop([version for name, version in there.items() if name not in kept])

    async def _drop(self, items: list[Json]) -> None:
        for item in items:
            self.check()
            await self.api.delete(item)


class FencedController(Controller):
    """What looks share that write into the ledger: the fencing token, and admission, which is not taken on trust."""

    def __init__(
        self,
        api: ApiServer,
        observer: ClusterObserver,
        leads: Callable[[], bool],
        fence: Callable[[], Lease | None],
        fence_lost: Callable[[], None],
    ) -> None:
        super().__init__(api, observer, leads)
        self.fence = fence
        self.fence_lost = fence_lost
        self._guard: tuple[float, str] = (float("-inf"), "")

    @abc.abstractmethod
    async def guard(self) -> str:
        """What is wrong with admission now; empty when nothing is."""

    async def guarded(self) -> str:
        """`guard`, asked for once a minute, and at each look while something is wrong."""
        at, problem = self._guard
        if time.monotonic() - at > GUARD_SECONDS or problem:
            problem = await self.guard()
            self._guard = (time.monotonic(), problem)
        return problem

    async def write(self, call: Callable[..., Written], *arguments: object) -> Written:
        """`call(*arguments, lease)` in a thread. LookAgain while there is no token, or when it is another's by now."""
        self.check()
        if (lease := self.fence()) is None:
            self.fence_lost()
            raise LookAgain("there is no fencing token yet")
        try:
            return await asyncio.to_thread(call, *arguments, lease)
        except StaleLease as error:
            self.fence_lost()
            raise LookAgain(error.fact) from error


class ApprovalController(FencedController):
    """People's words on candidates: checked once more, and written into the ledger under a fencing token."""

    async def look(self, namespace: str, name: str) -> bool:
        approval = await self.api.get("Approval", namespace, name)
        if approval is None or approval["metadata"].get("deletionTimestamp"):
            return False
        spec = approval["spec"]
        candidate, approved = spec["candidate"], spec["decision"] == "approved"
        seen = await asyncio.to_thread(self.observer.approval, candidate, spec["approver"])
        seen = dataclasses.replace(seen, guarded=await self.guarded())
        decision = judge(candidate, approved, seen)
        if decision.verdict == "record":
            await self.write(self.observer.record, candidate, Approval(spec["approver"], approved, spec["reason"]))
            logger.info("%s/%s: %s, recorded", namespace, name, spec["decision"])
        now = resources.stamp(datetime.now(UTC))
        told = resources.news(approval, [decision.condition], ("Verified",))
        await self.report(approval, resources.approval_status(approval, decision, now=now), told, now)
        return True

    async def guard(self) -> str:
        return guard_problem(*await self.api.admission(POLICY))


class ErasureController(Controller):
    """Erasures: one Job each, and what the ledger says came of it."""

    def __init__(
        self,
        api: ApiServer,
        observer: ClusterObserver,
        leads: Callable[[], bool],
        jobs: kubernetes.JobSettings,
    ) -> None:
        super().__init__(api, observer, leads)
        self.jobs = jobs

    async def look(self, namespace: str, name: str) -> bool:
        request = await self.api.get("ErasureRequest", namespace, name)
        if request is None or request["metadata"].get("deletionTimestamp"):
            return False
        jobs = await self.api.find("Job", namespace, f"{kubernetes.ERASURE_LABEL}={kubernetes.label(name)}")
        spec = resources.erasure_spec(request)
        running, attempts = kubernetes.erasure_attempts(request, jobs)
        seen = dataclasses.replace(
            await asyncio.to_thread(self.observer.erasure, spec.subject),
            job=running,
            attempts=attempts,
            told=request.get("status", {}).get("phase") == "Erased",
        )
        moment = datetime.now(UTC)
        decision = reconcile_erasure(spec, seen, moment)
        if isinstance(decision.action, StartErasure):
            job = kubernetes.erasure_job(request, decision.action.attempt, self.jobs)
            self.check()
            if await self.api.create(job) is not None:
                logger.info("%s: started", job["metadata"]["name"])
        now = resources.stamp(moment)
        told = resources.news(request, decision.conditions, ("Withdrawn", "Erased", "DeadlineMet", "Degraded"))
        status = resources.erasure_status(request, spec, seen, decision, now=now)
        await self.report(request, status, told, now)
        return True


def observation(line: Json, runs: list[Json], jobs: list[Json], reading: Reading) -> LineObservation:
    """Both halves of one look put together: the ledger's, and what Kubernetes knows of Jobs and of what was said."""
    seen = reading.observation()
    pending = seen.pending
    if pending is not None:
        asked = kubernetes.approval_requested(line, pending.candidate)
        pending = dataclasses.replace(pending, approval_requested=asked)
    job, failures = kubernetes.active_job(jobs), kubernetes.failures(jobs, runs)
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


def _unfinished(look: LineLook) -> list[str]:
    return [key for key, run in look.runs.items() if run.state in (None, "open")]


def _pending_spec(line: Json, run: PendingRun) -> IngestionRunSpec:
    return IngestionRunSpec(
        line=line["metadata"]["name"],
        dataset=line["spec"]["dataset"],
        run_key=run.run_key,
        kind="ingestion",
        parent=run.parent,
        from_sequence=run.from_seq,
        to_sequence=run.to_seq,
        rubric=run.rubric,
    )


def _run_spec(
    action: StartIngestion | StartRemoval | Publish | Reject, line: Json, seen: LineObservation
) -> IngestionRunSpec:
    """What the run of an action is about. The same run has the same spec, whoever writes it down first."""
    name, spec = line["metadata"]["name"], line["spec"]
    parent = seen.head.digest if seen.head is not None else None
    match action:
        case StartRemoval(run_key=key, consent_sequence=sequence):
            return IngestionRunSpec(
                line=name, dataset=spec["dataset"], run_key=key, kind="removal", parent=parent,
                consent_sequence=sequence,
            )  # fmt: skip
        case StartIngestion(run_key=key, from_seq=first, to_seq=last):
            return IngestionRunSpec(
                line=name, dataset=spec["dataset"], run_key=key, kind="ingestion", parent=parent,
                from_sequence=first, to_sequence=last, rubric=spec["rubric"],
            )  # fmt: skip
        case Publish() | Reject():
            assert seen.pending is not None  # reconcile publishes and rejects pending runs only
            return _pending_spec(line, seen.pending)
