"""The KServe predictor: policies behind KServe's own server, with OpenAI-compatible routes that need no vLLM.

    python -m plumbline.serving.predictor --policy DIR --name reference --port 8080
    python -m plumbline.serving.predictor --policy reference=DIR --policy aligned=DIR --port 8080

Routes, each under both `/openai/v1` (KServe's prefix) and `/v1` (vLLM's):

    POST chat/completions   JSON, or server-sent events with stream=true
    POST completions        raw text, no template
    GET  models, models/NAME   KServe's and OpenAI's shapes merged: {"models": [..], "object": "list", "data": [..]}

KServe's remain: /v1/models/NAME:predict, /v2/health/{live,ready}, /v2/models, /metrics. Its `/v1/models` would clash
with OpenAI's, so ours comes first and answers both kinds of client. The socket listens only after every policy has
loaded, so a probe of /v2/health/ready can never see a server without weights. `/metrics` is KServe's, over the
process-wide Prometheus registry; ours are registered into it.

Not supported: n > 1, tools, log probabilities, penalties; each is refused by name. One batch runs to its longest
answer (no continuous batching).
"""

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import REGISTRY

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.policies.base import Completion
from plumbline.policies.local import LocalPolicy
from plumbline.policies.template import ChatTemplate
from plumbline.records import Conversation, DecoderSettings, Message, PolicyManifest
from plumbline.serving import openai_api as wire
from plumbline.serving.batcher import Batcher, Overloaded
from plumbline.serving.kserve_sdk import FASTAPI_APP_IMPORT_STRING, Model, ModelServer, RESTServer, app
from plumbline.sockets import listen

MAX_BODY = 1 << 20
REQUEST_ID = re.compile(r"^[A-Za-z0-9._:-]{1,128}$")


class RawText(ChatTemplate):
    """No template: the prompt's text as it is, for `completions`."""

    def prompt_ids(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer([prompt[-1].content for prompt in prompts])["input_ids"]]


class PolicyModel(Model):  # type: ignore[misc]  # kserve is untyped
    """One policy as a KServe model. `leg` labels its metrics: `reference` or `aligned`."""

    def __init__(self, name: str, directory: Path, batcher: Batcher, metrics: Metrics, leg: str | None = None) -> None:
        super().__init__(name)
        self.directory = directory
        self.batcher = batcher
        self.metrics = metrics
        self._leg = leg

    def load(self) -> bool:
        """Load the policy; PlumblineError when its files or its template are not what its manifest names."""
        loaded = LocalPolicy.load(self.directory)
        self.policy = LocalPolicy(loaded.model, loaded.template, loaded.manifest)
        self.raw = LocalPolicy(loaded.model, RawText(loaded.tokenizer, self.name), loaded.manifest)
        self.policy.generate([(Message(role="user", content="hello"),)], DecoderSettings(max_tokens=2))
        self.ready = True
        return True

    @property
    def manifest(self) -> PolicyManifest:
        return self.policy.manifest

    @property
    def leg(self) -> str:
        return self._leg or self.manifest.role

    def headers(self, decoder: DecoderSettings) -> dict[str, str]:
        """What made this answer, by digest."""
        return {
            "x-plumbline-policy": self.manifest.digest,
            "x-plumbline-template": self.manifest.template,
            "x-plumbline-dataset": self.manifest.dataset or "none",
            "x-plumbline-rubric": self.manifest.rubric or "none",
            "x-plumbline-decoder": decoder.digest,
        }

    def describe(self) -> wire.Json:
        """KServe's `{name, ready}` and OpenAI's model object in one, with the digests."""
        digests = {k.removeprefix("x-plumbline-"): v for k, v in self.headers(self.manifest.decoder).items()}
        return {
            "name": self.name,
            "ready": self.ready,
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "plumbline",
            "plumbline": digests,
        }

    async def predict(self, payload: Any, headers: Mapping[str, str] | None = None, **_: Any) -> wire.Json:
        """KServe's V1 protocol: `{"instances": [{"messages": [...]}]}` gives `{"predictions": [{"content": ..}]}`."""
        rows = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("messages") for row in rows):
            raise wire.ApiError(400, 'send {"instances": [{"messages": [...]}]}', param="instances")
        calls = [
            wire.parse(wire.dumps({**row, "model": self.name}), "chat", self.manifest.decoder, self.policy.context)
            for row in rows
        ]
        started = time.perf_counter()
        lengths = [len(ids) for ids in self.policy.template.prompt_ids([call.messages for call in calls])]
        answers = await asyncio.gather(
            *(
                self.batcher.generate(self.policy, call.messages, call.decoder, length)
                for call, length in zip(calls, lengths, strict=True)
            )
        )
        for answer in answers:
            _count(self, answer.finish, started, answer.tokens)
        return {"predictions": [{"content": a.text, "finish_reason": a.finish} for a in answers]}


@dataclass
class Api:
    """The OpenAI-compatible routes over a set of models."""

    models: Mapping[str, PolicyModel]

    def router(self) -> APIRouter:
        router = APIRouter()
        for prefix in ("/openai/v1", "/v1"):
            router.add_api_route(f"{prefix}/chat/completions", self.chat, methods=["POST"], response_model=None)
            router.add_api_route(f"{prefix}/completions", self.complete, methods=["POST"], response_model=None)
            router.add_api_route(f"{prefix}/models", self.list_models, methods=["GET"], response_model=None)
            router.add_api_route(f"{prefix}/models/{{name}}", self.one_model, methods=["GET"], response_model=None)
        return router

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, "chat")

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, "text")

    async def list_models(self) -> Response:
        described = [model.describe() for model in self.models.values()]
        return JSONResponse({"models": list(self.models), "object": "list", "data": described})

    async def one_model(self, name: str) -> Response:
        try:
            return JSONResponse(self._find(name).describe())
        except wire.ApiError as error:
            return _refused(error, {})

    def _find(self, name: str) -> PolicyModel:
        model = self.models.get(name)
        if model is None:
            serves = ", ".join(self.models)
            raise wire.ApiError(
                404,
                f"the model {name!r} does not exist; this predictor serves {serves}",
                param="model",
                code="model_not_found",
            )
        return model

    async def _answer(self, request: Request, kind: wire.Kind) -> Response:
        started = time.perf_counter()
        given = request.headers.get("x-request-id", "")
        request_id = given if REQUEST_ID.match(given) else uuid.uuid4().hex
        named = {"x-request-id": request_id}
        try:
            raw = await _body(request)
            model = self._find(str(wire.read_object(raw).get("model") or ""))
            call = wire.parse(raw, kind, model.manifest.decoder, model.policy.context)
            policy = model.policy if kind == "chat" else model.raw
            headers = named | model.headers(call.decoder)
            prompt = len(policy.template.prompt_ids([call.messages])[0])
            if call.stream:
                events = self._events(model, policy, call, request_id, started, prompt)
                return StreamingResponse(events, media_type="text/event-stream", headers=headers)
            work = model.batcher.generate(policy, call.messages, call.decoder, prompt)
            completion = await _unless_gone(request, work)
            if completion is None:
                _count(model, "client_abort", started, 0)
                return Response(status_code=499)
            _count(model, completion.finish, started, completion.tokens)
            answer = wire.dumps(wire.whole(call, request_id, completion, prompt))
            return Response(answer, media_type="application/json", headers=headers)
        except wire.ApiError as error:
            return _refused(error, named)
        except Overloaded as error:
            return _refused(wire.ApiError(503, f"overloaded: {error}"), named | {"retry-after": "1"})
        except PlumblineError as error:  # the template refuses this conversation
            return _refused(wire.ApiError(400, error.fact, param="messages"), named)
        except Exception:
            logging.getLogger("plumbline").exception("request %s failed", request_id)
            return _refused(wire.ApiError(500, "the predictor failed; its log has the request id"), named)

    async def _events(
        self, model: PolicyModel, policy: LocalPolicy, call: wire.Call, request_id: str, started: float, prompt: int
    ) -> AsyncIterator[bytes]:
        """Server-sent events. An error after the first byte can only be an event: the status has been sent."""
        finish, tokens = "client_abort", 0
        try:
            if call.kind == "chat":
                yield wire.chunk(call, request_id, "", first=True)
            async with contextlib.aclosing(model.batcher.stream(policy, call.messages, call.decoder)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, str):
                        tokens += 1
                        yield wire.chunk(call, request_id, piece)
                        continue
                    finish, tokens = piece.finish, piece.tokens
                    yield wire.chunk(call, request_id, None, piece.finish)
                    if call.usage_in_stream:
                        yield wire.usage_chunk(call, request_id, prompt, piece)
            yield wire.DONE
        except (Overloaded, PlumblineError) as error:
            finish = "error"
            fact = error.fact if isinstance(error, PlumblineError) else str(error)
            yield wire.event(wire.ApiError(503 if isinstance(error, Overloaded) else 400, fact).body())
        finally:
            _count(model, finish, started, tokens)


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise wire.ApiError(413, f"the body is over {MAX_BODY} bytes", code="body_too_large")
        parts.append(part)
    return b"".join(parts)


async def _unless_gone(request: Request, work: Awaitable[Completion]) -> Completion | None:
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


def _refused(error: wire.ApiError, headers: Mapping[str, str]) -> Response:
    return JSONResponse(error.body(), status_code=error.status, headers=dict(headers))


def _count(model: PolicyModel, finish: str, started: float, tokens: int) -> None:
    model.metrics.counter("plumbline_requests").labels(model.leg, finish).inc()
    model.metrics.histogram("plumbline_request_seconds").labels(model.leg).observe(time.perf_counter() - started)
    model.metrics.counter("plumbline_tokens").labels(model.leg).inc(tokens)


def serve(policies: Mapping[str, Path], bound: socket.socket, *, leg: str | None = None) -> None:
    """Load, then serve until SIGTERM on a socket that is bound but does not listen yet."""
    metrics = Metrics(registry=REGISTRY)
    models: dict[str, PolicyModel] = {}
    server = ModelServer(http_port=bound.getsockname()[1], enable_grpc=False, enable_latency_logging=False)
    _quiet_request_logs()
    for name, directory in policies.items():
        model = PolicyModel(name, directory, Batcher(), metrics, leg)
        model.load()
        model.batcher.start()
        server.register_model(model)
        models[name] = model
    app.include_router(Api(models).router())
    app.add_exception_handler(wire.ApiError, _on_api_error)
    rest = RESTServer(
        FASTAPI_APP_IMPORT_STRING, server.dataplane, server.model_repository_extension, server.http_port, grace_period=5
    )
    try:
        rest.run(sockets=[bound])
    finally:
        for model in models.values():
            model.batcher.close()


async def _on_api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, wire.ApiError)
    return _refused(error, {})


def _quiet_request_logs() -> None:
    """KServe writes three lines per request; they say nothing that the metrics do not, and cost throughput."""
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)


def _leave_with_parent() -> None:
    """End when the process that started us is gone: its end of our standard input closes. Orphans hold ports."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="plumbline-parent-watch", daemon=True).start()


def read_policies(given: Sequence[str], name: str | None) -> dict[str, Path]:
    """`DIR` (named by --name), or `NAME=DIR` any number of times."""
    policies: dict[str, Path] = {}
    for text in given:
        label, _, directory = text.rpartition("=")
        label = label or name or Path(directory).name
        if label in policies:
            raise PlumblineError(
                f"two policies are named {label!r}",
                consequence="nothing was served, since a request could not say which it means",
                remedy="give each its own name: --policy NAME=DIR",
            )
        policies[label] = Path(directory)
    return policies


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, bind, load, serve. Exits 2 with a remedy on anything a user can put right."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.serving.predictor", allow_abbrev=False)
    parser.add_argument("--policy", action="append", required=True, metavar="[NAME=]DIR")
    parser.add_argument("--name", help="name of a single policy (default: its directory's)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container (default: loopback only)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--leg", choices=["reference", "aligned"], help="metrics label (default: the manifest's role)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument("--fd", type=int, help="inherited socket to serve on, instead of --host and --port")
    parser.add_argument("--leave-with-parent", action="store_true", help="end when standard input closes")
    options = parser.parse_args(argv)
    try:
        policies = read_policies(options.policy, options.name)
        bound = listen(options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
        if options.leave_with_parent:
            _leave_with_parent()
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        serve(policies, bound, leg=options.leg)
    except PlumblineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
