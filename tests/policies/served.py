"""An OpenAI-compatible endpoint over a local policy, in a thread, with the routes of a vLLM server and their faults."""

import asyncio
import json
import threading
from typing import Any

from aiohttp import web

from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, Message


class Served:
    """`dies_after` answers it hangs; `likelihoods` offers /tokenize and echoed log-probabilities; `stated` is what it
    says of itself as a Plumbline predictor does; `key` is the one it wants."""

    def __init__(self, policy: LocalPolicy) -> None:
        self.policy = policy
        self.dies_after: int | None = None
        self.likelihoods = True
        self.stated: dict[str, str] | None = None
        self.key: str | None = None
        self.answered = 0
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.run_forever()

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_post("/tokenize", self._tokenize)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._started.set()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        if request.path.endswith("completions") and self.dies_after is not None and self.answered >= self.dies_after:
            await asyncio.sleep(30)
        found: web.StreamResponse = await handler(request)
        return found

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"} | ({"plumbline": self.stated} if self.stated else {})]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        messages = tuple(Message.model_validate(message) for message in body["messages"])
        if messages[-1].content == "refuse me":
            return web.json_response({"error": {"message": "too long"}}, status=400)
        [said] = self.policy.generate([messages], DecoderSettings(max_tokens=body["max_tokens"]))
        self.answered += 1
        choice = {"message": {"role": "assistant", "content": said.text}, "finish_reason": said.finish}
        headers = {"x-plumbline-policy": self.stated["policy"]} if self.stated else {}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": said.tokens}}, headers=headers)

    async def _complete(self, request: web.Request) -> web.Response:
        import torch

        body = json.loads(await request.read())
        if not self.likelihoods:
            return web.json_response({"error": {"message": "echo=True is not supported"}}, status=400)
        with torch.no_grad():
            logp = self.policy.model(torch.tensor([body["prompt"]])).logits[0].float().log_softmax(-1)
        values = [None, *(float(logp[i - 1, token]) for i, token in enumerate(body["prompt"]) if i), -1.0]
        self.answered += 1
        return web.json_response({"choices": [{"text": "", "logprobs": {"token_logprobs": values}}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        if not self.likelihoods:
            return web.json_response({"error": {"message": "not found"}}, status=404)
        tokenizer, messages = self.policy.tokenizer, body["messages"]
        ids = tokenizer.apply_chat_template(
            messages,
            add_generation_prompt=body["add_generation_prompt"],
            continue_final_message=body.get("continue_final_message", False),
            return_dict=False,
        )
        return web.json_response({"tokens": ids, "count": len(ids)})
