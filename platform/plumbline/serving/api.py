"""The OpenAI-compatible routes over a set of policies, and what KServe's own routes would otherwise get wrong."""

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from plumbline.serving import openai_answers as answers
from plumbline.serving import openai_api as wire
from plumbline.serving.batcher import Asked, Overloaded, Piece
from plumbline.serving.models import PolicyModel, reply_of
from plumbline.serving.openai_answers import Reply
from plumbline.serving.schema import PREFIXES

MAX_BODY = 1 << 20
REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


@dataclass
class Api:
    """Each route stands under KServe's prefix and under vLLM's."""

    models: Mapping[str, PolicyModel]

    def router(self) -> APIRouter:
        router = APIRouter(include_in_schema=False)
        for prefix in PREFIXES:
            for path, route, methods in (
                (f"{prefix}/models", self.list_models, ["GET", "HEAD"]),
                (f"{prefix}/models/{{name}}", self.one_model, ["GET", "HEAD"]),
            ):
                router.add_api_route(path, route, methods=methods, response_model=None)
                router.add_api_route(path, _options(methods), methods=["OPTIONS"], response_model=None)
            for path, asked in ((f"{prefix}/chat/completions", self.chat), (f"{prefix}/completions", self.complete)):
                # Starlette's plain routes: FastAPI would look for dependencies at each request
                router.add_route(path, asked, ["POST"], include_in_schema=False)
                router.add_route(path, _options(["POST"]), ["OPTIONS"], include_in_schema=False)
        router.add_api_route("/v2/health/ready", self.ready, methods=["GET", "HEAD"], response_model=None)
        for action in ("load", "unload"):
            path = f"/v2/repository/models/{{name}}/{action}"
            router.add_api_route(path, self.change, methods=["POST"], response_model=None)
        return router

    async def ready(self) -> Response:
        """KServe's own says ready whatever its models say."""
        ready = all([await model.healthy() for model in self.models.values()])
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    async def change(self, name: str) -> Response:
        fact = "policies are loaded when the predictor starts, and stay; start another predictor"
        return refused(wire.ApiError(405, fact, code="fixed_policies"), {"allow": ""})

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, "chat")

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, "text")

    async def list_models(self) -> Response:
        described = [model.describe() for model in self.models.values()]
        return JSONResponse({"models": list(self.models), "object": "list", "data": described})

    async def one_model(self, name: str) -> Response:
        try:
            model = self._find(name)
            return JSONResponse(model.describe(), headers=model.headers(model.manifest.decoder))
        except wire.ApiError as error:
            return refused(error)

    def _find(self, name: str) -> PolicyModel:
        model = self.models.get(name)
        if model is None:
            raise wire.ApiError(
                404,
                f"the model {name!r} does not exist; this predictor serves {', '.join(self.models)}",
                param="model",
                code="model_not_found",
            )
        return model

    async def _answer(self, request: Request, kind: wire.Kind) -> Response:
        started = time.perf_counter()
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.match(given) else f"{random.getrandbits(128):032x}"
        headers = {"x-request-id": request_id}
        model: PolicyModel | None = None
        try:
            raw = await _body(request)
            found = self._find(_name(raw))
            call = wire.parse(raw, kind, found.manifest.decoder, found.policy.context)
            model = found
            headers |= model.headers(call.decoder)
            ids = await model.read(call)
            reply = await model.stopped(call, ids)
            if reply is None and call.stream and not model.guards.on("output"):
                asked = model.batcher.ask(ids, call.decoder, call.top, aloud=True)
                events = _events(model, call, asked, request_id, started)
                return _Stream(events, asked, media_type="text/event-stream", headers=headers)
            reply = reply or await _unless_gone(request, model.whole(call, ids))
        except wire.ApiError as error:
            if model is not None and error.status >= 500:
                model.count("error", started)
            return refused(error, headers)
        except Overloaded as error:
            assert model is not None
            model.count("overloaded", started)
            again = {"retry-after": str(error.again_s)}
            return refused(wire.ApiError(503, f"overloaded: {error}", code="overloaded"), headers | again)
        except Exception:
            logging.getLogger("plumbline").exception("request %s failed", request_id)
            if model is not None:
                model.count("error", started)
            return refused(wire.ApiError(500, "the predictor failed; its log has the request id"), headers)
        if reply is None:
            model.count("client_abort", started)
            return Response(status_code=499)
        model.count(reply.finish, started, reply)
        if reply.blocked:
            headers["x-plumbline-blocked"] = reply.blocked
        if call.stream:
            said = b"".join(answers.spoken(call, request_id, reply, model.spell))
            return Response(said, media_type="text/event-stream", headers=headers)
        body = answers.dumps(answers.whole(call, request_id, reply, model.spell))
        return Response(body, media_type="application/json", headers=headers)


class _Stream(StreamingResponse):
    """Frees its slot also where the client left before the first event."""

    def __init__(self, events: AsyncIterator[bytes], asked: Asked, **more: Any) -> None:
        super().__init__(events, **more)
        self.asked = asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.asked.leave()


async def _events(
    model: PolicyModel, call: wire.Call, asked: Asked, request_id: str, started: float
) -> AsyncIterator[bytes]:
    """Server-sent events, piece by piece. An error after the first byte can only be an event: the status was sent."""
    reply: Reply | None = None
    finish = "client_abort"
    speller = answers.Speller(model.spell)
    try:
        if call.kind == "chat":
            yield answers.chunk(call, request_id, "", first=True)
        while isinstance(item := await asked.next(), Piece):
            entries = speller.take(item.logprobs) if call.top is not None else None
            yield answers.chunk(call, request_id, item.text, entries=entries)
        reply = reply_of(item, asked.answer.ids)
        finish = reply.finish
        for event in answers.last_chunks(call, request_id, reply):
            yield event
    except Overloaded as error:
        finish = "error"
        yield answers.event(wire.ApiError(503, str(error)).body())
    except Exception:
        finish = "error"
        logging.getLogger("plumbline").exception("request %s failed", request_id)
        yield answers.event(wire.ApiError(500, "the predictor failed; its log has the request id").body())
    finally:
        asked.leave()
        model.count(finish, started, reply)


def _name(raw: bytes) -> str:
    name = wire.read_object(raw).get("model")
    if not isinstance(name, str) or not name:
        raise wire.ApiError(400, "model must name a policy", param="model")
    return name


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise wire.ApiError(413, f"the body is over {MAX_BODY} bytes", code="body_too_large")
        parts.append(part)
    return b"".join(parts)


async def _unless_gone(request: Request, work: Awaitable[Reply]) -> Reply | None:
    """The result of `work`, or None when the client hung up first; the work is then cancelled."""
    answer = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await answer if answer.done() else None
    finally:
        gone.cancel()
        answer.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _options(methods: list[str]) -> Any:
    async def options(_: Request) -> Response:
        return Response(status_code=204, headers={"allow": ", ".join([*methods, "OPTIONS"])})

    return options


def refused(error: wire.ApiError, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=dict(headers or {}))


async def on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, wire.ApiError)
    return refused(error)
