"""The shadow router: users are served from the reference; what they were told is remembered for the aligned policy.

Raw ASGI, because this is the one part in users' way. It fails open: nothing that happens to the spool, the consent
ledger or the aligned policy changes a status, a byte or a header of an answer. What it does change is the request:
decoder settings and seed are written out, so that the aligned policy can later be asked the very same thing.

    user --> router ==> reference          bytes pass as they come, server-sent events too
               |  tee
               v
            recorder --> spool             after the answer, off the event loop

Served: POST chat/completions (recorded) and completions (not), GET models, each under /v1 and /openai/v1; /healthz;
/metrics. Only the experiment's reference model can be named: no user can choose the aligned policy through here.
Users' credentials go to the reference and are kept nowhere. `x-plumbline-session`, `-subject` (a pseudonym) and
`-slice` must be set by the gateway in front, which strips them from users' own requests.

A client that leaves closes its upstream request. An interrupted stream is kept as `client_abort`; a request that
left before any answer is shed as such. Responses that are no answer (4xx, 5xx) are not part of the comparison and
are only counted by status. What a pair cannot hold (requests.py) passes through and is shed as `unsupported`.

In an A/B experiment a share of the sampled sessions is answered by the aligned policy (aligned_leg.py), under the same
model name, until the kill switch is thrown. Where it fails before the user has seen a byte, the reference answers, and
the request is shed as `error`.
"""

import asyncio
import contextlib
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any

import aiohttp

from plumbline.metrics import Metrics
from plumbline.policies.openai_error import error_body
from plumbline.policies.remote import decoder_fields
from plumbline.records import DecoderSettings
from plumbline.shadow.aligned_leg import AlignedLeg
from plumbline.shadow.exchange import HOP_BY_HOP, Event, Exchange, Send
from plumbline.shadow.legs import assigned
from plumbline.shadow.openapi import document
from plumbline.shadow.recorder import Recorder, Served, no_answer
from plumbline.shadow.requests import held
from plumbline.shadow.sampling import IDENTIFIER, SLICE, UNLABELLED, Experiment, pinned, sampled, session_pseudonym

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Headers = list[tuple[bytes, bytes]]

REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")
PREFIX = re.compile(r"^(?:/openai)?/v1/(chat/completions|completions|models)(?:(?<=models)/([^/:]+))?$")
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"accept-encoding", b"x-request-id", b"ce-id", b"expect"}


class _ClientGone(Exception):
    pass


class Router:
    """An ASGI application. `reference_url` is the base of an OpenAI-compatible endpoint, ending in /v1.

    `aligned` answers the sessions that an A/B experiment assigns to it; without it all get the reference.
    """

    def __init__(
        self,
        experiment: Experiment,
        reference_url: str,
        recorder: Recorder,
        metrics: Metrics,
        *,
        aligned: AlignedLeg | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        self.experiment = experiment
        self.reference_url = reference_url.rstrip("/")
        self.recorder = recorder
        self.metrics = metrics
        self.aligned = aligned
        self.timeout_s = timeout_s
        self.active = 0
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            self.active += 1
            try:
                await self._http(scope, receive, send)
            finally:
                self.active -= 1

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        watching = None if self.aligned is None else asyncio.create_task(self.aligned.follow())
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self.timeout_s)
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0), timeout=timeout, auto_decompress=False
                )
                await send({"type": "lifespan.startup.complete"})
            else:
                if watching is not None:
                    watching.cancel()
                if self._session is not None:
                    await self._session.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = str(scope["path"]), str(scope["method"])
        if path == "/healthz":
            await _reply(send, 200, b'{"status":"ok"}')
        elif path == "/metrics":
            scrape = await asyncio.to_thread(self.metrics.render)  # it asks the spool, which may be at its disk
            await _reply(send, 200, scrape, content_type=b"text/plain; version=0.0.4; charset=utf-8")
        elif path == "/openapi.json":
            await _reply(send, 200, json.dumps(document(self.experiment.reference_model)).encode())
        elif (match := PREFIX.match(path)) is None:
            await _reply(send, 404, _error(404, f"there is no {method} {path} here"))
        elif method != ("GET" if match[1] == "models" else "POST"):
            await _reply(send, 405, _error(405, f"{path} does not take {method}"))
        else:
            await self._serve(match[1], scope, receive, send, named=match[2])

    async def _serve(self, what: str, scope: Scope, receive: Receive, send: Send, *, named: str | None = None) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        exchange = Exchange(given if REQUEST_ID.match(given) else uuid.uuid4().hex, 4 * self.experiment.max_record)
        served: Served | None = None
        try:
            if what == "models":
                return await self._models(exchange, send, named)
            with exchange.elsewhere():  # the user's network, not ours
                raw = await _body(receive, self.experiment.max_body)
            body = self._understand(raw)
            if isinstance(body, tuple):
                return await self._refuse(exchange, send, *body)
            if what == "chat/completions":
                body, served = self._plan(body, headers, exchange)
            await self._proxy(what, body, scope["headers"], exchange, receive, send)
        except _ClientGone:
            exchange.aborted = True
        finally:
            self._account(exchange, served)

    def _understand(self, raw: bytes | None) -> dict[str, Any] | tuple[int, str, str | None]:
        """The body, or the refusal that it deserves: (status, message, code)."""
        if raw is None:
            return 413, f"the body is over {self.experiment.max_body} bytes", "body_too_large"
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            return 400, f"the body is not JSON: {error}", None
        if not isinstance(body, dict):
            return 400, "the body must be a JSON object", None
        if body.setdefault("model", self.experiment.reference_model) != self.experiment.reference_model:
            return 404, f"the model {body['model']!r} does not exist", "model_not_found"
        return body

    def _plan(
        self, body: dict[str, Any], headers: dict[bytes, bytes], exchange: Exchange
    ) -> tuple[dict[str, Any], Served | None]:
        """The request as both policies will see it, and what to record of it; None when nothing is to be."""
        decoder = pinned(body, self.experiment.decoder, exchange.request_id)
        if decoder is None:
            return body, None  # The reference says what is wrong with it.
        body = {name: value for name, value in body.items() if name != "max_completion_tokens"}
        body |= decoder_fields(decoder)
        session = _text(headers, b"x-plumbline-session") or exchange.request_id
        if not sampled(self.experiment.salt, session, self.experiment.share):
            return body, None
        served = self._draft(body, decoder, session, headers, exchange)
        if self.aligned is not None and self.aligned.lets and served.reason is None:
            named = _text(headers, b"x-plumbline-session")  # without a session nothing could be sticky
            exchange.leg = assigned(self.experiment, named) if named else "reference"
        return body, served

    def _draft(
        self,
        body: dict[str, Any],
        decoder: DecoderSettings,
        session: str,
        headers: dict[bytes, bytes],
        exchange: Exchange,
    ) -> Served:
        slice_ = _text(headers, b"x-plumbline-slice")
        kept = held(body)
        exchange.streamed = body.get("stream") is True
        return Served(
            request=exchange.request_id,
            session=session_pseudonym(self.experiment.salt, session),
            subject=_text(headers, b"x-plumbline-subject"),
            slice=slice_ if SLICE.match(slice_) else UNLABELLED,
            messages=kept[0] if kept else (),
            tools=kept[1] if kept else "",
            decoder=decoder,
            body=b"",
            streamed=exchange.streamed,
            aborted=False,
            latency_ms=0.0,
            policy="",
            reason=None if kept else "unsupported",
        )

    async def _proxy(
        self, what: str, body: dict[str, Any], given: Headers, exchange: Exchange, receive: Receive, send: Send
    ) -> None:
        """Ask the reference and pass its bytes on; leave as soon as the client does."""
        work = asyncio.ensure_future(self._forward(what, body, given, exchange, send))
        gone = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _ClientGone
            await work
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work

    async def _forward(self, what: str, body: dict[str, Any], given: Headers, exchange: Exchange, send: Send) -> None:
        assert self._session is not None, "the ASGI server has not run the lifespan"
        if exchange.leg == "aligned" and self.aligned is not None:
            exchange.asked = time.perf_counter()
            if await self.aligned.answer(self._session, body, exchange, send):
                return
            exchange.leg, exchange.fell_back, exchange.first = "reference", True, None
        url = f"{self.reference_url}/{what}"
        headers = _upstream_headers(given, exchange.request_id)
        data = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        exchange.asked = time.perf_counter()
        try:
            with exchange.elsewhere():
                response = await self._post(url, data, headers)
        except TimeoutError:
            return await self._refuse(exchange, send, 504, "the policy did not answer in time", "timeout")
        except aiohttp.ClientError:
            return await self._refuse(exchange, send, 502, "the policy cannot be reached", "unreachable")
        async with response:
            await send(exchange.begin(response))
            try:
                while True:
                    with exchange.elsewhere():
                        part = await response.content.readany()
                    if not part:
                        break
                    exchange.tee(part)
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except (aiohttp.ClientError, TimeoutError):
                exchange.broken = True
                raise  # The server closes the connection, so the client sees a broken answer as broken.
            exchange.ended = time.perf_counter()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _post(self, url: str, data: bytes, headers: list[tuple[str, str]]) -> aiohttp.ClientResponse:
        """One retry when a kept-alive connection turns out to be closed: nothing of the answer was seen yet."""
        assert self._session is not None
        try:
            return await self._session.post(url, data=data, headers=headers, allow_redirects=False)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            return await self._session.post(url, data=data, headers=headers, allow_redirects=False)

    async def _models(self, exchange: Exchange, send: Send, named: str | None) -> None:
        """The one model that users can name, in a list or by itself."""
        name = self.experiment.reference_model
        if named not in (None, name):
            return await self._refuse(exchange, send, 404, f"the model {named!r} does not exist", "model_not_found")
        one = {"id": name, "object": "model", "created": 0, "owned_by": "plumbline"}
        exchange.status = 200
        shown = {"object": "list", "data": [one]} if named is None else one
        await _reply(send, 200, json.dumps(shown).encode(), request_id=exchange.request_id)

    async def _refuse(self, exchange: Exchange, send: Send, status: int, message: str, code: str | None = None) -> None:
        exchange.status = status
        await _reply(send, status, _error(status, message, code), request_id=exchange.request_id)

    def _account(self, exchange: Exchange, served: Served | None) -> None:
        name = self.experiment.name
        total = time.perf_counter() - exchange.started
        status = "client_abort" if exchange.aborted else f"{exchange.status // 100}xx"
        self.metrics.counter("plumbline_router_requests").labels(name, status).inc()
        overhead = max(0.0, total - exchange.elsewhere_s)
        self.metrics.histogram("plumbline_router_overhead_seconds").labels(name).observe(overhead)
        if served is None or (exchange.status != 200 and not exchange.aborted):
            return
        reason = served.reason
        if exchange.fell_back:
            reason = reason or "error"
        elif exchange.size > exchange.most:
            reason = reason or "oversize"
        elif exchange.broken:
            reason = reason or no_answer(exchange.leg)
        elif exchange.aborted and not (exchange.streamed and exchange.parts):
            reason = reason or "client_abort"
        self.recorder.offer(
            replace(
                served,
                messages=() if reason else served.messages,
                tools="" if reason else served.tools,
                body=b"" if reason else b"".join(exchange.parts),
                leg=exchange.leg,
                aborted=exchange.aborted,
                latency_ms=exchange.latency_ms,
                first_ms=exchange.first_ms,
                policy=exchange.policy,
                reason=reason,
            )
        )


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    text = headers.get(name, b"").decode("latin-1")
    return text if IDENTIFIER.match(text) else ""


def _upstream_headers(given: Headers, request_id: str) -> list[tuple[str, str]]:
    """The user's headers for the reference, and the ids by which KServe's payload logger can join both legs."""
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in given
        if name.lower() not in NOT_FORWARDED and not name.lower().startswith(b"x-plumbline-")
    ]
    ours = {"accept-encoding": "identity", "x-request-id": request_id, "ce-id": request_id}
    return [*kept, *ours.items(), ("x-plumbline-leg", "reference")]


async def _body(receive: Receive, limit: int) -> bytes | None:
    """The request's body; None when it is over the limit, which is noticed before it is all read."""
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise _ClientGone
        part = event.get("body", b"")
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
        if not event.get("more_body", False):
            return b"".join(parts)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error(status: int, message: str, code: str | None = None) -> bytes:
    return json.dumps(error_body(status, message, code=code)).encode()


async def _reply(
    send: Send, status: int, body: bytes, *, content_type: bytes = b"application/json", request_id: str = ""
) -> None:
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    if request_id:
        headers.append((b"x-request-id", request_id.encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
