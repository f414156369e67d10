"""The collector: feedback and consent over HTTP, acknowledged only when durable.

    POST /v1/events    CloudEvents 1.0: structured (application/cloudevents+json), batch
                       (application/cloudevents-batch+json) or binary (JSON with ce-* headers)
    /v1/consent        give, withdraw, show and verify consent: see consent_routes.py
    GET  /healthz, /metrics

Every source has its own bearer token, and may send events of its own `source` only (access.py). The person is named by
the source as it knows them: in the envelope attribute `subject` (`ce-subject`), or for a whole request in the header
`X-Plumbline-Identity` (both percent-encoded in headers); it becomes a keyed pseudonym before storage (events.py).

    202 {"outcome": "accepted"}    durable: committed and fsynced
    200 {"outcome": "duplicate"}   (source, id, type) with this very body is there already
    409 {"outcome": "conflict"}    the same key with another body; it went to quarantine
    207 {"results": [...]}         a batch with events that were refused; the others are durable
    400, 401, 403, 413, 415, 429   {"reason": ..., "detail": ...}; nothing was stored
    503                            the ledger cannot be written, or too much waits: send it again

Large bodies are parsed on a thread of their own and taken in slices, and writing is another's work (writer.py): a
withdrawal does not wait for a batch.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from pydantic_core import to_json

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.access import (
    UNKNOWN,
    Buckets,
    Permission,
    Source,
    check_signature,
    identify,
    sources_of,
)
from plumbline.feedback.collect.consent_routes import ConsentRoutes
from plumbline.feedback.collect.events import MAX_EVENT, json_type, take
from plumbline.feedback.collect.running import RunningCollector, run_application, start_application
from plumbline.feedback.collect.strict_json import Refused, parse_json
from plumbline.feedback.collect.writer import Writer
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.telemetry import record_ledger
from plumbline.metrics import Metrics
from plumbline.stores import Ledger, Receipt
from plumbline.stores.inbox import Landed

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_STATUS = {"accepted": 202, "duplicate": 200, "conflict": 409}
_SLICE = 20  # events of a batch that are read in one go
_PATIENCE = 0.05  # seconds that a slice waits for consent requests, at most: a flood of them stops no events
_LARGE = 64 * 1024  # bytes; larger bodies are parsed aside


@dataclass(frozen=True)
class CollectorConfig:
    """`sources` maps a source to its token (events only) or to a `Source`. Sizes in bytes; rates in events per second
    with a burst."""

    sources: Mapping[str, str | Source]
    max_body: int = 4 * 1024 * 1024
    max_event: int = MAX_EVENT
    max_batch: int = 2000
    source_rate: float = 5000.0
    source_burst: int = 20_000
    subject_rate: float = 50.0
    subject_burst: int = 1000


class Collector:
    """The web application: one writing thread, one that parses large bodies, one that verifies."""

    def __init__(
        self, ledger: Ledger, pseudonyms: Pseudonyms, config: CollectorConfig, metrics: Metrics | None = None
    ) -> None:
        self.config = config
        self.metrics = metrics or Metrics()
        self.sources = sources_of(config.sources)
        self._ledger = ledger
        self._pseudonyms = pseudonyms
        self._consent = ConsentRoutes(self, ledger, ConsentDesk(ledger, pseudonyms))
        self._rates = Buckets(config.source_rate, config.source_burst)
        self._subjects = Buckets(config.subject_rate, config.subject_burst)
        self._refused: Counter[tuple[str, str]] = Counter()
        self._urgent = 0
        self._one_batch: asyncio.Lock
        self._verified = -float("inf")
        self._writer: Writer
        self._aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collector-parse")
        self._audit = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collector-audit")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self.config.max_body, middlewares=[self._answer_refusals])
        app.router.add_post("/v1/events", self._events)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        self._consent.add_to(app)
        app.cleanup_ctx.append(self._running)
        return app

    # --- what handlers and routes share -----------------------------------------------------------------------

    async def admit(self, request: web.Request, permission: Permission) -> tuple[str, Source, bytes, Any]:
        """The source by its token and, where it signs, its signature, with the body and the moment of signing."""
        name = identify(request.headers.get("Authorization", ""), self.sources)
        if name is None:
            raise Refused(401, "unauthenticated", "no source has this token")
        source = self.sources[name]
        if permission not in source.may:
            raise Refused(403, f"may_not_send_{permission}", f"this source may not send {permission}")
        if not self._rates.take(name):
            raise Refused(429, "source_rate", "this source sends faster than it may; send again later")
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refused(415, "encoded_body", "send the body as it is, not compressed")
        body = await request.read()
        signed = body if request.method == "POST" else request.path_qs.encode()
        return name, source, body, check_signature(source, request.headers, signed)

    async def parse(self, body: bytes) -> Any:
        if len(body) <= _LARGE:
            return parse_json(body)
        return await asyncio.get_running_loop().run_in_executor(self._aside, parse_json, body)

    @contextlib.asynccontextmanager
    async def urgent(self) -> AsyncIterator[None]:
        """While somebody is in here, batches pause at their next slice."""
        self._urgent += 1
        try:
            yield
        finally:
            self._urgent -= 1

    async def urgently(self, call: Any) -> Any:
        """Run a call on the writing thread, before the events that wait."""
        return await asyncio.wrap_future(self._writer.urgent(call))

    async def _give_way(self) -> None:
        """Let others have a turn, and those who are urgent several."""
        await asyncio.sleep(0)
        until = time.monotonic() + _PATIENCE
        while self._urgent and time.monotonic() < until:
            await asyncio.sleep(0.001)

    async def audited(self, call: Any) -> Any:
        """Run a call that reads much on the thread that is for it."""
        return await asyncio.get_running_loop().run_in_executor(self._audit, call)

    # --- events -----------------------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.Response:
        name, source, body, _ = await self.admit(request, "events")
        header = request.headers.get("X-Plumbline-Identity")
        if header and source.hmac_secret:
            raise Refused(400, "unsigned_headers", "a source that signs names the person inside the body")
        identity = header_text(header) if header else None
        if request.content_type == BATCH:
            return await self._batch(body, name, identity)
        if request.content_type == STRUCTURED:
            raw = await self.parse(body)
        elif "ce-id" in request.headers:
            if source.hmac_secret:
                raise Refused(400, "unsigned_headers", "a source that signs uses structured or batch mode")
            raw = await self._binary(request, body)
        else:
            raise Refused(415, "not_cloudevents", f"send {STRUCTURED}, {BATCH}, or JSON with ce-* headers")
        event = self._take(raw, len(body), name, identity)
        outcome = (await self._store([event]))[0].outcome
        self._count(name, outcome)
        return web.json_response({"outcome": outcome, "id": event.id}, status=_STATUS[outcome])

    async def _binary(self, request: web.Request, body: bytes) -> dict[str, Any]:
        if not json_type(request.headers.get("Content-Type", "application/json")):
            raise Refused(415, "not_json_data", "data is taken as JSON only: put a comment's words into data.text")
        attributes: dict[str, Any] = {}
        for header, value in request.headers.items():
            attribute = header.lower()
            if attribute.startswith("ce-"):
                if attribute[3:] in attributes:
                    raise Refused(400, "bad_header", "a ce-* header is there twice")
                attributes[attribute[3:]] = header_text(value)
        if body.lstrip()[:5] == b"data:":
            raise Refused(400, "streamed_body", "a streamed answer is not put together here: log it whole")
        return {**attributes, "data": await self.parse(body)}

    async def _batch(self, body: bytes, source: str, identity: str | None) -> web.Response:
        async with self._one_batch:  # several at once would be no faster, and in everybody's way
            results, events, places = await self._read_batch(body, source, identity)
        for place, receipt in zip(places, await self._store(events), strict=True):
            results[place] |= {"status": _STATUS[receipt.outcome], "outcome": receipt.outcome}
        for outcome, number in Counter(result["outcome"] for result in results if "outcome" in result).items():
            self._count(source, outcome, number)
        statuses = {result["status"] for result in results}
        status = 207 if statuses - {200, 202} else 200 if statuses <= {200} else 202
        counts = Counter(str(result.get("outcome") or result["reason"]) for result in results)
        said = to_json({"counts": counts, "results": results})
        return web.Response(body=said, status=status, content_type="application/json")

    async def _read_batch(
        self, body: bytes, source: str, identity: str | None
    ) -> tuple[list[dict[str, Any]], list[Landed], list[int]]:
        """A result per event, the events that are good, and their places among the results."""
        raws = await self.parse(body)
        if not isinstance(raws, list):
            raise Refused(400, "not_a_batch", "a batch is a JSON array of events")
        if len(raws) > self.config.max_batch:
            raise Refused(413, "batch_too_long", f"a batch has at most {self.config.max_batch} events")
        results: list[dict[str, Any]] = []
        events: list[Landed] = []
        places: list[int] = []
        for number, raw in enumerate(raws):
            if number % _SLICE == _SLICE - 1:
                await self._give_way()
            try:
                if number and not self._rates.take(source):  # the request itself has paid for the first
                    raise Refused(429, "source_rate", "this source sends faster than it may; send again later")
                size = len(body) if len(body) <= self.config.max_event else len(to_json(raw))
                events.append(self._take(raw, size, source, identity))
                places.append(len(results))
                results.append({"id": events[-1].id})
            except Refused as refused:
                self._refuse(source, refused.reason)
                results.append({"status": refused.status, "reason": refused.reason, "detail": refused.text})
        return results, events, places

    def _take(self, raw: Any, size: int, source: str, identity: str | None) -> Landed:
        if size > self.config.max_event:
            raise Refused(413, "too_large", f"an event has at most {self.config.max_event} bytes")
        event = take(raw, source, self._pseudonyms, identity)
        if not self._subjects.take(event.subject):
            raise Refused(429, "subject_rate", "this person's events come faster than they may; send again later")
        return event

    async def _store(self, events: list[Landed]) -> list[Receipt]:
        return await asyncio.wrap_future(self._writer.events(events)) if events else []

    # --- counts, health, life ---------------------------------------------------------------------------------

    @web.middleware
    async def _answer_refusals(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
            return response
        except Refused as refused:
            error = refused
        except web.HTTPRequestEntityTooLarge:
            error = Refused(413, "too_large", f"the body is larger than {self.config.max_body} bytes")
        except PlumblineError as fault:
            error = Refused(503, "unavailable", fault.fact)
        self._refuse(identify(request.headers.get("Authorization", ""), self.sources) or UNKNOWN, error.reason)
        said = {"reason": error.reason, "detail": error.text}
        return web.json_response(said, status=error.status, headers=_RETRY if error.status in (429, 503) else None)

    def _count(self, source: str, outcome: str, number: int = 1) -> None:
        self.metrics.counter("plumbline_feedback_events").labels(source=source, outcome=outcome).inc(number)

    def _refuse(self, source: str, reason: str) -> None:
        self._count(source, reason)
        self._refused[source, reason] += 1

    async def _healthz(self, request: web.Request) -> web.Response:
        last = await self.audited(self._ledger.inbox.last_sequence)
        return web.json_response({"status": "ok", "events": last})

    async def _metrics(self, request: web.Request) -> web.Response:
        await self.audited(self._observe_ledger)
        return web.Response(body=self.metrics.render(), content_type="text/plain", charset="utf-8")

    def _observe_ledger(self) -> None:
        """The chain is verified at most once a minute: that reads all of it, and scrapes are frequent."""
        due = time.monotonic() - self._verified > 60
        record_ledger(self.metrics, self._ledger, verify=due)
        for reason, number in self._ledger.inbox.quarantined().items():
            self.metrics.gauge("plumbline_feedback_quarantined").labels(reason=reason).set(number)
        self._verified = time.monotonic() if due else self._verified

    async def _running(self, app: web.Application) -> AsyncIterator[None]:
        self._writer = Writer(self._ledger.inbox, self.metrics)
        self._one_batch = asyncio.Lock()
        counting = asyncio.create_task(self._keep_counts())
        yield
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        self._write_counts()
        for thread in (self._aside, self._audit):
            thread.shutdown(wait=True)
        self._writer.close()

    async def _keep_counts(self) -> None:
        """Refusals reach the ledger once a second: a flood of nonsense costs no flood of commits."""
        while True:
            await asyncio.sleep(1.0)
            self._write_counts()

    def _write_counts(self) -> None:
        if self._refused:
            counts, self._refused = self._refused, Counter()
            self._writer.urgent(lambda: self._ledger.inbox.count_refused(counts))


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
    return start_application(collector.application, host, port, collector.metrics)


def run_collector(
    ledger: Ledger, pseudonyms: Pseudonyms, config: CollectorConfig, *, host: str = "127.0.0.1", port: int = 8088
) -> None:
    """Serve until interrupted. PlumblineError when the port is taken."""
    run_application(Collector(ledger, pseudonyms, config).application(), host, port)


_RETRY = {"Retry-After": "1"}


def header_text(value: str) -> str:
    """A header's text: ASCII, with everything else percent-encoded as UTF-8."""
    try:
        if value.isascii():
            return unquote(value, errors="strict")
    except UnicodeDecodeError:
        pass
    raise Refused(400, "bad_header", "a header is not percent-encoded UTF-8")
