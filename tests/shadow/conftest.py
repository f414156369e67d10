"""A loopback endpoint that answers like a policy, so that what goes wrong with it can be chosen.

It is a real HTTP server with OpenAI's wire format; its answer is a function of what it was asked, so that two
endpoints agree exactly when they were asked the same.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from plumbline.records import digest_of


class Endpoint:
    """`mode`: ok, error (500), wrong (400), hang, garbage, nested (JSON too deep to read), moved (a redirect to
    `elsewhere`), cut (a stream that breaks), silent (one that begins and says nothing), empty (one that ends so).
    Counts and keeps requests.

    `states` is what it says of itself at /v1/models/NAME, as a Plumbline predictor does; None for a foreign server.
    `calls` are tools that it calls instead of answering.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = "ok"
        self.delay_s = 0.0
        self.elsewhere = ""
        self.states: dict[str, str] | None = None
        self.lists: list[str] | None = None
        self.calls: list[dict[str, str]] = []
        self.policy = digest_of(name)
        self.answer: Callable[[dict[str, Any]], str] = lambda body: f"{name} says {digest_of(body['messages'])[7:15]}"
        self.seen: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.left = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> "Endpoint":
        started = threading.Event()

        async def setup() -> None:
            app = web.Application(client_max_size=1 << 26)
            app.router.add_post("/v1/chat/completions", self._chat)
            app.router.add_get("/v1/models/{name}", self._model)
            app.router.add_get("/v1/models", self._models)
            self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
            await self._runner.setup()
            site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
            await site.start()
            self.port = self._runner.addresses[0][1]
            started.set()

        def run() -> None:
            self._loop = asyncio.new_event_loop()
            self._loop.run_until_complete(setup())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(10)
        return self

    def stop(self) -> None:
        """Die: the port refuses connections; `start` revives it on the same port."""
        assert self._runner is not None and self._thread is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        if self.states is None or (self.lists is not None and request.match_info["name"] not in self.lists):
            return web.json_response({"error": {"message": "no"}}, status=404)
        return web.json_response(
            {"id": request.match_info["name"], "plumbline": {"policy": self.policy, **self.states}}
        )

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self.lists is None:
            return web.json_response({"error": {"message": "no"}}, status=404)
        return web.json_response({"data": [{"id": name} for name in self.lists]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(({k.lower(): v for k, v in request.headers.items()}, body))
        try:
            if self.mode == "hang":
                await asyncio.sleep(3600)
            await asyncio.sleep(self.delay_s)
            return await self._answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left += 1
            raise

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        headers = {"x-plumbline-policy": self.policy, "x-of-the-policy": "kept"}
        if self.mode in ("error", "wrong"):
            status = 500 if self.mode == "error" else 400
            return web.json_response({"error": {"message": self.mode, "type": "x"}}, status=status, headers=headers)
        if self.mode == "garbage":
            return web.Response(body=b"<html>", headers=headers)
        if self.mode == "nested":
            return web.Response(body=b'{"choices":' + 3_000 * b"[", headers=headers)
        if self.mode == "moved":
            return web.Response(status=307, headers=headers | {"location": f"{self.elsewhere}/chat/completions"})
        text = self.answer(body)
        if not body.get("stream"):
            calls = [{"id": str(i), "type": "function", "function": call} for i, call in enumerate(self.calls)]
            message = {"role": "assistant", "content": None if calls else text} | (
                {"tool_calls": calls} if calls else {}
            )
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": len(text.split()), "total_tokens": 0}
            answer = {"id": "c", "object": "chat.completion", "model": body.get("model"), "choices": [choice]}
            answer["usage"] = usage
            return web.json_response(answer, headers=headers)
        response = web.StreamResponse(headers=headers | {"content-type": "text/event-stream"})
        await response.prepare(request)
        if self.mode == "silent":
            await asyncio.sleep(3600)
        if self.mode == "empty":
            return response
        for index, word in enumerate(text.split(" ")):
            delta = {"content": word if index == 0 else " " + word}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await self._event(response, {"model": body.get("model"), "choices": [choice]})
            await asyncio.sleep(self.delay_s)
            if self.mode == "cut":
                assert request.transport is not None
                request.transport.abort()
                return response
        await self._event(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _event(self, response: web.StreamResponse, value: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(value).encode() + b"\n\n")


@pytest.fixture
def reference() -> Iterator[Endpoint]:
    endpoint = Endpoint("reference").start()
    yield endpoint
    endpoint.stop()


@pytest.fixture
def aligned() -> Iterator[Endpoint]:
    endpoint = Endpoint("aligned").start()
    yield endpoint
    endpoint.stop()
