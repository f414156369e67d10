"""ShadowEvaluations: a Job for each step of one from a file, a look at the router's monitor for one that is live."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from api_server import ApiServer, Json
from controllers import Controller
from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.reconcile import kubernetes, resources, shadow_objects
from plumbline.reconcile.cluster_observer import ClusterObserver
from plumbline.reconcile.shadow_evaluation import (
    EvaluationObservation,
    EvaluationSpec,
    StartStep,
    reconcile_evaluation,
)
from plumbline.reconcile.shadow_steps import observe
from plumbline.records.shadow import ShadowStatus
from plumbline.stores import Ledger

logger = logging.getLogger("plumbline.operator")
PATIENCE = aiohttp.ClientTimeout(total=2.0)  # a monitor that hangs must not keep the queue from others
MOST_BYTES = 4 << 20
FRESH_SECONDS = 5.0  # counts of a busy router differ at each look, and a status that is written is looked at again


class ShadowController(Controller):
    """Evaluations: the next step's Job, and the status, which is the ledger's and the monitor's word."""

    def __init__(
        self, api: ApiServer, observer: ClusterObserver, leads: Callable[[], bool], jobs: kubernetes.JobSettings
    ) -> None:
        super().__init__(api, observer, leads)
        self.jobs = jobs
        self._said: dict[str, tuple[float, ShadowStatus | None]] = {}

    async def look(self, namespace: str, name: str) -> bool:
        """False when there is no such evaluation any more: its Jobs go with it."""
        evaluation = await self.api.get("ShadowEvaluation", namespace, name)
        if evaluation is None or evaluation["metadata"].get("deletionTimestamp"):
            return False
        evaluation = {**evaluation, "kind": "ShadowEvaluation"}
        jobs = await self.api.find("Job", namespace, f"{shadow_objects.EVALUATION_LABEL}={kubernetes.label(name)}")
        spec = shadow_objects.evaluation_spec(evaluation)
        seen = await asyncio.to_thread(read, self.observer.ledger, shadow_objects.evaluation_key(evaluation), spec)
        if spec.live:
            said = await self._monitor(evaluation["spec"]["source"]["live"]["monitor"])
            seen = dataclasses.replace(seen, monitor=said)
        else:
            running, failures, failed_at = shadow_objects.attempts(evaluation, jobs, dict(seen.steps))
            known = all(shadow_objects.endpoints(evaluation, self.jobs))
            seen = dataclasses.replace(seen, job=running, failures=failures, failed_at=failed_at, endpoints=known)
        moment = datetime.now(UTC)
        decision = reconcile_evaluation(spec, seen, moment)
        if isinstance(decision.action, StartStep):
            await self._start(decision.action, evaluation)
        now = resources.stamp(moment)
        told = resources.news(evaluation, decision.conditions, shadow_objects.NEWS)
        status = shadow_objects.evaluation_status(evaluation, spec, seen, decision, now=now)
        await self.report(evaluation, status, told, now)
        return True

    async def _monitor(self, url: str) -> ShadowStatus | None:
        """What a monitor says, asked for every few seconds at most; silence is remembered as long."""
        now = time.monotonic()
        self._said = {known: said for known, said in self._said.items() if now - said[0] < FRESH_SECONDS}
        if url not in self._said:
            self._said[url] = (now, await monitor(url))
        return self._said[url][1]

    async def _start(self, action: StartStep, evaluation: Json) -> None:
        job = shadow_objects.step_job(action, evaluation, self.jobs)
        self.check()
        if await self.api.create(job) is not None:
            logger.info("%s: started", job["metadata"]["name"])


def read(ledger: Path | str, key: str, spec: EvaluationSpec) -> EvaluationObservation:
    """What the ledger says, opened for this reading; one that cannot be read is a fact to report."""
    try:
        with Ledger(ledger, must_exist=True) as opened:
            return observe(opened, key, spec)
    except (PlumblineError, OSError, ValueError) as error:  # ValueError: a record of a version not known here
        logger.warning("shadow evaluation: %s", error)
        return EvaluationObservation(ledger=False)


async def monitor(url: str) -> ShadowStatus | None:
    """What a router's monitor says; None when it does not, in time and in words that are understood."""
    try:
        async with (
            aiohttp.ClientSession(timeout=PATIENCE) as session,
            session.get(f"{url.rstrip('/')}/v1/status", allow_redirects=False) as answer,
        ):
            body = bytearray()
            async for piece in answer.content.iter_any():  # read(n) would return what happens to be there already
                body += piece
                if len(body) > MOST_BYTES:
                    raise ValueError("more than a look at an experiment can be")
            return ShadowStatus.model_validate_json(bytes(body)) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValidationError, ValueError, OSError) as error:
        logger.info("%s: the monitor did not say how it stands (%s)", url, type(error).__name__)
        return None
