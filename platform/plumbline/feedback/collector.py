"""The collector: feedback and consent over HTTP, acknowledged only when durable.

    POST /v1/events    CloudEvents 1.0: structured (application/cloudevents+json), batch
                       (application/cloudevents-batch+json) or binary (application/json with ce-* headers)
    POST /v1/consent   {"action": "give" | "withdraw", "identity": ..., "purposes": [...],
                        "notice": {"id": ..., "version": ..., "language": "en"}, "valid_until": "..."}
    GET  /healthz, /metrics

Every source has its own bearer token, and may send events of its own `source` only. The person is named by the
source as it knows them: in the envelope attribute `subject` (`ce-subject`), or for a whole request in the header
`X-Plumbline-Identity` (both percent-encoded in headers); it becomes a keyed pseudonym before storage (events.py).

    202 {"outcome": "accepted"}    durable: committed and fsynced
    200 {"outcome": "duplicate"}   (source, id, type) with this very body is there already
    409 {"outcome": "conflict"}    the same key with another body; it went to quarantine
    207 {"results": [...]}         a batch with events that were refused; the others are durable
    400, 401, 403, 413, 415, 429   {"reason": ..., "detail": ...}; nothing was stored

Handlers do not commit one by one: a single writer drains what has gathered and commits it together, so that one
fsync carries many events and each is still acknowledged only after it.
"""

import asyncio
import hmac
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from plumbline.errors import PlumblineError
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.events import Refused, bind, parse_json
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.telemetry import record_ledger
from plumbline.metrics import Metrics
from plumbline.records import FeedbackEvent
from plumbline.stores import Ledger, Receipt

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_STATUS = {"accepted": 202, "duplicate": 200, "conflict": 409}
_MOST_PER_COMMIT = 2000


@dataclass(frozen=True)
class CollectorConfig:
    """`tokens` maps a source to its bearer token. Sizes in bytes; rates in events per second with a burst."""

    tokens: Mapping[str, str]
    max_body: int = 4 * 1024 * 1024
    max_event: int = 64 * 1024
    max_batch: int = 2000
    source_rate: float = 5000.0
    source_burst: int = 20_000
    subject_rate: float = 50.0
    subject_burst: int = 1000


class _Buckets:
    """Token buckets by name, forgotten when full again."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> bool:
        now = self._clock()
        left, then = self._left.get(name, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._left[name] = (left - allowed, now)
        if len(self._left) > 50_000:
            horizon = now - self._burst / self._rate
            self._left = {name: state for name, state in self._left.items() if state[1] > horizon}
        return allowed


class Collector:
    """The web application. One writer task per application commits what the handlers gather."""

    def __init__(
        self, ledger: Ledger, pseudonyms: Pseudonyms, config: CollectorConfig, metrics: Metrics | None = None
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self._ledger = ledger
        self._pseudonyms = pseudonyms
        self._desk = ConsentDesk(ledger, pseudonyms)
        self._sources = _Buckets(config.source_rate, config.source_burst)
        self._subjects = _Buckets(config.subject_rate, config.subject_burst)
        self._queue: asyncio.Queue[tuple[list[FeedbackEvent], asyncio.Future[list[Receipt]]]]
        self._verified = -math.inf
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collector-ledger")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self.config.max_body, middlewares=[self._answer_refusals])
        app.router.add_post("/v1/events", self._events)
        app.router.add_post("/v1/consent", self._consent)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        app.cleanup_ctx.append(self._writer)
        return app

    # --- handlers ---------------------------------------------------------------------------------------------

    @web.middleware
    async def _answer_refusals(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except Refused as refused:
            self._count(self._source(request) or "unknown", refused.reason)
            return web.json_response({"reason": refused.reason, "detail": refused.text}, status=refused.status)
        except web.HTTPRequestEntityTooLarge:
            self._count(self._source(request) or "unknown", "too_large")
            detail = f"the body is larger than {self.config.max_body} bytes"
            return web.json_response({"reason": "too_large", "detail": detail}, status=413)
        except PlumblineError as error:
            return web.json_response({"reason": "unavailable", "detail": error.fact}, status=503)

    async def _events(self, request: web.Request) -> web.Response:
        source = self._authenticate(request)
        header = request.headers.get("X-Plumbline-Identity")
        identity = unquote(header) if header else None
        if request.content_type == BATCH:
            return await self._batch(await request.read(), source, identity)
        body = await request.read()
        if request.content_type == STRUCTURED:
            raw = parse_json(body)
        elif request.content_type == "application/json" and "ce-id" in request.headers:
            attributes = {
                name[3:].lower(): unquote(value)
                for name, value in request.headers.items()
                if name.lower().startswith("ce-")
            }
            raw = {**attributes, "data": parse_json(body)}
        else:
            raise Refused(415, "not_cloudevents", f"send {STRUCTURED}, {BATCH}, or JSON with ce-* headers")
        event = self._take(raw, len(body), source, identity)
        outcome = (await self._store([event]))[0].outcome
        self._count(source, outcome)
        return web.json_response({"outcome": outcome, "id": event.id}, status=_STATUS[outcome])

    async def _batch(self, body: bytes, source: str, identity: str | None) -> web.Response:
        raws = parse_json(body)
        if not isinstance(raws, list):
            raise Refused(400, "not_a_batch", "a batch is a JSON array of events")
        if len(raws) > self.config.max_batch:
            raise Refused(413, "batch_too_long", f"a batch has at most {self.config.max_batch} events")
        results: list[dict[str, Any]] = []
        events: list[FeedbackEvent] = []
        places: list[int] = []
        for raw in raws:
            try:
                events.append(self._take(raw, _size(raw), source, identity))
                places.append(len(results))
                results.append({"id": events[-1].id})
            except Refused as refused:
                self._count(source, refused.reason)
                results.append({"status": refused.status, "reason": refused.reason, "detail": refused.text})
        for place, receipt in zip(places, await self._store(events), strict=True):
            results[place] |= {"status": _STATUS[receipt.outcome], "outcome": receipt.outcome}
            self._count(source, receipt.outcome)
        statuses = {result["status"] for result in results}
        status = 207 if statuses - {200, 202} else 200 if statuses <= {200} else 202
        counts: dict[str, int] = {}
        for result in results:
            name = str(result.get("outcome") or result["reason"])
            counts[name] = counts.get(name, 0) + 1
        return web.json_response({"counts": counts, "results": results}, status=status)

    async def _consent(self, request: web.Request) -> web.Response:
        source = self._authenticate(request)
        raw = parse_json(await request.read())
        try:
            identity, action = str(raw["identity"]), raw["action"]
            purposes = [str(purpose) for purpose in raw.get("purposes", [])]
            notice = raw.get("notice") or {}
            until = raw.get("valid_until")
            valid_until = None if until is None else datetime.fromisoformat(until)
            if action not in ("give", "withdraw") or not identity or (action == "give" and not purposes):
                raise ValueError("action is give (with purposes and notice) or withdraw")
            call = self._give(identity, purposes, notice, valid_until, source) if action == "give" else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Refused(400, "malformed", f"not a consent request: {type(error).__name__}") from None
        call = call or (lambda: self._desk.withdraw(identity, purposes, method=f"http:{source}"))  # type: ignore[arg-type]
        try:
            entry = await asyncio.get_running_loop().run_in_executor(self._disk, call)
        except (PlumblineError, ValueError) as error:
            text = error.fact if isinstance(error, PlumblineError) else "unknown purpose"
            raise Refused(404 if action == "withdraw" else 400, "consent_refused", text) from None
        done = {"subject": entry.subject, "sequence": entry.sequence, "action": entry.action, "digest": entry.digest}
        return web.json_response(done, status=201)

    def _give(
        self, identity: str, purposes: Any, notice: dict[str, Any], valid_until: datetime | None, source: str
    ) -> Callable[[], Any]:
        id, version, language = str(notice["id"]), str(notice["version"]), str(notice.get("language", "en"))

        def give() -> Any:
            known = self._ledger.consent.find_notice(id, version, language=language)
            return self._desk.give(identity, purposes, known, valid_until=valid_until, method=f"http:{source}")

        return give

    async def _healthz(self, request: web.Request) -> web.Response:
        last = await asyncio.get_running_loop().run_in_executor(self._disk, self._ledger.inbox.last_sequence)
        return web.json_response({"status": "ok", "events": last})

    async def _metrics(self, request: web.Request) -> web.Response:
        await asyncio.get_running_loop().run_in_executor(self._disk, self._observe_ledger)
        return web.Response(body=self.metrics.render(), content_type="text/plain", charset="utf-8")

    def _observe_ledger(self) -> None:
        """The chain is verified at most once a minute: that reads all of it, and scrapes are frequent."""
        due = time.monotonic() - self._verified > 60
        record_ledger(self.metrics, self._ledger, verify=due)
        self._verified = time.monotonic() if due else self._verified

    # --- what handlers share ----------------------------------------------------------------------------------

    def _source(self, request: web.Request) -> str | None:
        """The source whose bearer token the request carries; every token is compared, in constant time each."""
        given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        found = [source for source, token in self.config.tokens.items() if hmac.compare_digest(given, token.encode())]
        return found[0] if found else None

    def _authenticate(self, request: web.Request) -> str:
        source = self._source(request)
        if source is None:
            raise Refused(401, "unauthenticated", "no source has this bearer token")
        return source

    def _take(self, raw: Any, size: int, source: str, identity: str | None) -> FeedbackEvent:
        if size > self.config.max_event:
            raise Refused(413, "too_large", f"an event has at most {self.config.max_event} bytes")
        if not self._sources.take(source):
            raise Refused(429, "source_rate", "this source sends faster than it may; send again later")
        event = bind(raw, source, self._pseudonyms, identity)
        if not self._subjects.take(event.data.subject):
            raise Refused(429, "subject_rate", "this person's events come faster than they may; send again later")
        return event

    def _count(self, source: str, outcome: str) -> None:
        self.metrics.counter("plumbline_feedback_events").labels(source=source, outcome=outcome).inc()

    async def _store(self, events: list[FeedbackEvent]) -> list[Receipt]:
        if not events:
            return []
        done: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()
        await self._queue.put((events, done))
        return await done

    async def _writer(self, app: web.Application) -> Any:
        self._queue = asyncio.Queue(maxsize=1000)
        task = asyncio.create_task(self._write())
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._disk.shutdown(wait=True)

    async def _write(self) -> None:
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty() and sum(len(events) for events, _ in waiting) < _MOST_PER_COMMIT:
                waiting.append(self._queue.get_nowait())
            everything = [event for events, _ in waiting for event in events]
            try:
                receipts = await asyncio.get_running_loop().run_in_executor(
                    self._disk, self._ledger.inbox.append, everything
                )
            except Exception as error:  # the writer outlives a full disk; each sender hears of it
                for _, done in waiting:
                    if not done.done():
                        done.set_exception(error)
                continue
            start = 0
            for events, done in waiting:
                if not done.done():
                    done.set_result(receipts[start : start + len(events)])
                start += len(events)


@dataclass
class RunningCollector:
    """A collector in a background thread. Use as a context manager, or call `stop`."""

    url: str
    port: int
    metrics: Metrics
    _stop: Callable[[], None] = field(repr=False)

    def stop(self) -> None:
        self._stop()

    def __enter__(self) -> "RunningCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_collector(
    ledger: Ledger,
    pseudonyms: Pseudonyms,
    config: CollectorConfig,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    metrics: Metrics | None = None,
) -> RunningCollector:
    """Start a collector in a thread of its own and return when it answers. Port 0 picks a free one.

    PlumblineError when the port is taken.
    """
    collector = Collector(ledger, pseudonyms, config, metrics)
    loop = asyncio.new_event_loop()
    started: threading.Event = threading.Event()
    state: dict[str, Any] = {}

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(collector.application(), access_log=None)
        try:
            loop.run_until_complete(runner.setup())
            loop.run_until_complete(web.TCPSite(runner, host, port).start())
            state["port"] = runner.addresses[0][1]
            started.set()
            loop.run_forever()
        except OSError as error:
            state["error"] = error
        finally:
            loop.run_until_complete(runner.cleanup())
            loop.close()
            started.set()

    thread = threading.Thread(target=serve, name="collector", daemon=True)
    thread.start()
    started.wait()
    if "error" in state:
        raise _port_taken(host, port, state["error"]) from state["error"]

    def stop() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    return RunningCollector(f"http://{host}:{state['port']}", state["port"], collector.metrics, stop)


def run_collector(
    ledger: Ledger, pseudonyms: Pseudonyms, config: CollectorConfig, *, host: str = "127.0.0.1", port: int = 8088
) -> None:
    """Serve until interrupted. PlumblineError when the port is taken."""
    app = Collector(ledger, pseudonyms, config).application()
    try:
        web.run_app(app, host=host, port=port, access_log=None, print=lambda *_: None)
    except OSError as error:
        raise _port_taken(host, port, error) from error


def _size(raw: Any) -> int:
    """Roughly the bytes of one event inside a batch; the body as a whole was bounded before."""
    return len(str(raw))


def _port_taken(host: str, port: int, error: OSError) -> PlumblineError:
    return PlumblineError(
        f"the collector cannot listen on {host}:{port}: {error.strerror or error}",
        consequence="no events are taken",
        remedy="end what uses the port, or choose another (0 picks a free one)",
    )
