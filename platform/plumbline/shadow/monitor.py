"""The monitor: a running experiment over HTTP, for dashboards and for those who shift traffic; and the kill switch.

    GET /healthz                       200 ok
    GET /metrics                       Prometheus text
    GET /v1/status                     a `ShadowStatus` as JSON
    GET /v1/value?metric=M&slice=S     one number as a JSON body (Argo Rollouts' web provider); 404 for what is unknown
                                       &bound=low|high|difference|worst_low|worst_high|reference|aligned|n (default low)

It stands beside the router on a port of its own, because looking must never cost a user time. `look` reads what changed
and trips the spool's switch when harm is proven; an ASGI lifespan calls it every `every_s` seconds, in a thread. An A/B
experiment that it cannot look at (a judge without a card for the policy, say) is tripped as well. Every look is told to
the spool: where none is, users of an A/B experiment get the reference (switch.py). What a scrape shows is the last
look, never older than `max_age_s` where somebody asks this app itself.
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from plumbline.errors import PlumblineError
from plumbline.metrics import CATALOGUE, Metrics
from plumbline.records.shadow import ShadowEstimate, ShadowPlan, ShadowStatus
from plumbline.shadow.observed import ALL, Judge, Labels, Scorer
from plumbline.shadow.planning import read_plan
from plumbline.shadow.spool import Spool
from plumbline.shadow.spool_state import LOOKED
from plumbline.shadow.watching import Watch

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
TELL_S = 1.0  # between two words to the routers that somebody looks
BLIND = 3  # looks in a row that fail, after which users of an A/B experiment get the reference
VALUES = ("low", "high", "difference", "worst_low", "worst_high", "reference", "aligned", "n", "sessions", "lost")
TEXT = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"


class Monitor:
    """An ASGI application over one spool. `judge` reads texts; give `Labels` for one whose thresholds differ."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        judge: Judge | Labels,
        plan: ShadowPlan,
        *,
        scorer: Scorer | None = None,
        every_s: float = 5.0,
        max_age_s: float = 1.0,
    ) -> None:
        self.spool = spool
        self.metrics = metrics
        self.every_s = every_s
        self.max_age_s = max_age_s
        self.watch = Watch(spool, judge if isinstance(judge, Labels) else Labels(judge), plan, scorer)
        self._lock = threading.Lock()
        self._status: ShadowStatus | None = None
        self._looked = 0.0
        self._told = float("-inf")
        self._complained = ""
        metrics.registry.register(Gauges(self))

    @property
    def latest(self) -> ShadowStatus | None:
        """The last look; None before the first."""
        return self._status

    def look(self) -> ShadowStatus:
        """Read what changed, and trip the switch when harm is proven."""
        with self._lock:
            return self._look()

    def check_harm(self) -> str | None:
        """`look`, for whoever runs it on a clock; why the switch is thrown, None while it is not."""
        return self.look().tripped

    def fresh(self) -> ShadowStatus:
        """The last look if it is young enough, else a new one."""
        with self._lock:
            if self._status is not None and time.monotonic() - self._looked < self.max_age_s:
                return self._status
            return self._look()

    def _look(self) -> ShadowStatus:
        with contextlib.suppress(PlumblineError):  # one that cannot be read is no reason to stop looking
            # It may be written beside a router that runs already, as long as there is no pair.
            self.watch.plan = read_plan(self.spool.directory) or self.watch.plan
        changed = self.watch.refresh()
        if changed and self.spool.tripped() is None and (why := self.watch.harm()) is not None:
            self.spool.trip(why)
        self._status = self.watch.status()
        self._looked = time.monotonic()
        if self._looked - self._told >= TELL_S:  # a look that nobody can be told of has failed
            self.spool.tell(LOOKED, f"{time.time():.6f}")
            self._told = self._looked
        return self._status

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            status, kind, body = await self._answer(scope)
            headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(self, scope: Message) -> tuple[int, str, bytes]:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return _fault(405, f"{scope['method']} is not for reading", "use GET")
        try:
            match path:
                case "/healthz":
                    return 200, "text/plain", b"ok\n"
                case "/metrics":
                    await asyncio.to_thread(self.fresh)
                    return 200, TEXT, await asyncio.to_thread(self.metrics.render)
                case "/v1/status":
                    seen = await asyncio.to_thread(self.fresh)
                    return 200, JSON, seen.model_dump_json().encode()
                case "/v1/value":
                    asked = parse_qs(scope.get("query_string", b"").decode("latin-1"))
                    return _value(await asyncio.to_thread(self.fresh), {name: said[-1] for name, said in asked.items()})
        except Exception as error:  # One bad look must not end the monitor: the next may succeed.
            self._complain(error)
            return _fault(503, f"the monitor could not look: {_words(error)}", "ask again, or read its log")
        return _fault(404, f"there is nothing at {path}", "ask /metrics, /healthz, /v1/status or /v1/value")

    async def _live(self, receive: Receive, send: Send) -> None:
        looking: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                looking = asyncio.create_task(self._keep_looking())
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if looking is not None:
                    looking.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await looking
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _keep_looking(self) -> None:
        blind = 0
        while True:
            try:
                await asyncio.to_thread(self.look)
                blind = 0
            except Exception as error:
                self._complain(error)
                blind += 1
                if blind == BLIND and self.spool.experiment.mode == "ab":
                    with contextlib.suppress(sqlite3.Error):  # what cannot be written cannot be read: as good as thrown
                        self.spool.trip(f"nobody can see whether it does harm: {_words(error)}")
            await asyncio.sleep(self.every_s)

    def _complain(self, error: Exception) -> None:
        """To the log, once for as long as it is the same."""
        if _words(error) != self._complained:
            self._complained = _words(error)
            logging.getLogger("plumbline").error("the monitor could not look", exc_info=error)


class Gauges(Collector):
    """The last look as Prometheus gauges; a scrape computes nothing."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        seen = self.monitor.latest
        if seen is None:
            return
        families: dict[str, GaugeMetricFamily] = {}

        def put(name: str, value: float, *labels: str) -> None:
            if name not in families:
                _, text, names = CATALOGUE[name]
                families[name] = GaugeMetricFamily(name, text, labels=names)
            families[name].add_metric(labels, value)

        for metric, one in seen.requirements.items():
            put("plumbline_gate_state", one.state.exit_code, "shadow", metric)
            put("plumbline_gate_margin", one.margin, "shadow", metric)
            put("plumbline_shadow_alarm", one.alarm, seen.experiment, metric)
            put("plumbline_shadow_planned_sessions", one.planned, seen.experiment, metric)
            put("plumbline_shadow_worst_lower", one.estimate.worst_low, seen.experiment, metric)
            put("plumbline_shadow_worst_upper", one.estimate.worst_high, seen.experiment, metric)
            _bounds(put, seen.experiment, one.estimate)
        for of_slice in seen.slices.values():
            for estimate in of_slice.values():
                _bounds(put, seen.experiment, estimate)
        for name, share in seen.lost_share.items():
            put("plumbline_shadow_lost_share", share, seen.experiment, name)
        for times, gauge in (
            (seen.latency_ms, "plumbline_shadow_latency_seconds"),
            (seen.first_ms, "plumbline_shadow_first_token_seconds"),
        ):
            for key, milliseconds in times.items():
                leg, _, quantile = key.partition("_p")
                put(gauge, milliseconds / 1000, seen.experiment, leg, f"0.{quantile}")
        for leg, tokens in seen.tokens.items():
            put("plumbline_shadow_tokens", tokens, seen.experiment, leg)
        put("plumbline_shadow_same_text", seen.same_text, seen.experiment)
        put("plumbline_shadow_tripped", seen.tripped is not None, seen.experiment)
        yield from families.values()


def _bounds(put: Callable[..., None], experiment: str, estimate: ShadowEstimate) -> None:
    labels = (experiment, estimate.metric, estimate.slice)
    put("plumbline_cs_lower", estimate.low, *labels)
    put("plumbline_cs_upper", estimate.high, *labels)
    put("plumbline_shadow_difference", estimate.difference, *labels)
    put("plumbline_shadow_sessions", estimate.sessions, *labels)


def _value(seen: ShadowStatus, asked: dict[str, str]) -> tuple[int, str, bytes]:
    metric, name, bound = asked.get("metric", ""), asked.get("slice", ALL), asked.get("bound", "low")
    requirement = seen.requirements.get(metric)
    estimate = requirement.estimate if requirement and name == ALL else seen.slices.get(name, {}).get(metric)
    if estimate is None:
        known = ", ".join(sorted({*seen.requirements, *(m for one in seen.slices.values() for m in one)}))
        return _fault(404, f"there is no {metric or 'metric'!r} on slice {name!r}", f"known are {known}, on slice all")
    if bound not in VALUES:
        return _fault(404, f"there is no bound {bound!r}", f"ask for one of {', '.join(VALUES)}")
    return 200, JSON, json.dumps(getattr(estimate, bound)).encode()


def _words(error: Exception) -> str:
    return error.fact if isinstance(error, PlumblineError) else f"{type(error).__name__}: {error}"


def _fault(status: int, fact: str, remedy: str) -> tuple[int, str, bytes]:
    return status, JSON, json.dumps({"error": {"message": f"{fact}; {remedy}", "type": "invalid_request"}}).encode()
