"""One policy as a KServe model: loaded, guarded, asked through its batcher, and counted."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, Message, PolicyManifest
from plumbline.serving import openai_api as wire
from plumbline.serving.batcher import Answered, Batcher, Overloaded
from plumbline.serving.guards import Guards, LoadGuards
from plumbline.serving.kserve_sdk import Model
from plumbline.serving.openai_answers import Reply, dumps

APART = 20_000  # characters that are tokenised off the event loop


class PolicyModel(Model):  # type: ignore[misc]  # kserve is untyped
    """Not supported here: another policy in its place, or unloading it; start another predictor.

    `leg` labels its metrics, `reference` or `aligned`; by default it is the manifest's role. `load_guards` gives the
    guardrails of a policy by its digest, and raises PlumblineError when one is not for it.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        metrics: Metrics,
        leg: str | None = None,
        load_guards: LoadGuards | None = None,
        max_waiting: int = 1024,
    ) -> None:
        super().__init__(name)
        self.directory = directory
        self.batcher = Batcher(max_waiting)
        self.metrics = metrics
        self._leg = leg
        self._load_guards = load_guards

    def load(self) -> bool:
        """Load the policy; PlumblineError when its files or its template are not what its manifest names, or when a
        guardrail's card does not hold for it."""
        self.policy = LocalPolicy.load(self.directory)
        guards = self._load_guards(self.manifest.digest) if self._load_guards else ()
        self.guards = Guards(guards, self.leg, self.metrics)
        self.policy.generate([(Message(role="user", content="hello"),)], DecoderSettings(max_tokens=2))
        self.batcher.start(self.policy.engine())
        self.ready = True
        return True

    async def healthy(self) -> bool:
        """Ready: loaded, and its guardrails' cards still hold."""
        return bool(self.ready) and self.guards.expired is None

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
            **self.guards.headers,
        }

    def describe(self) -> wire.Json:
        """KServe's `{name, ready}` and OpenAI's model object in one, with the digests."""
        digests = {k.removeprefix("x-plumbline-"): v for k, v in self.headers(self.manifest.decoder).items()}
        return {
            "name": self.name,
            "ready": bool(self.ready) and self.guards.expired is None,
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "plumbline",
            "max_model_len": self.policy.context,
            "plumbline": digests,
        }

    # Asking

    async def read(self, call: wire.Call) -> list[int]:
        """The prompt's tokens: chat in the policy's template, a completion's text as it is. ApiError when its guardrail
        does not hold any more, when the template refuses it, or when prompt and answer do not fit."""
        if (guard := self.guards.expired) is not None:
            raise wire.ApiError(
                503,
                f"the card of the guardrail {guard.name!r} expired {guard.expires:%Y-%m-%d %H:%M} UTC, so nothing is "
                "answered; fit it again on recent examples and restart the predictor with that file",
                code="guardrail_expired",
            )
        long = sum(len(message.content) for message in call.messages) > APART
        try:
            ids = await asyncio.to_thread(self._ids, call) if long else self._ids(call)
        except PlumblineError as error:
            raise wire.ApiError(400, error.fact, param="messages") from error
        if len(ids) + call.decoder.max_tokens > self.policy.context:
            raise wire.ApiError(
                400,
                f"the prompt has {len(ids)} tokens and max_tokens is {call.decoder.max_tokens}; together they may be "
                f"{self.policy.context}",
                param="messages" if call.kind == "chat" else "prompt",
                code="context_length_exceeded",
            )
        return ids

    def _ids(self, call: wire.Call) -> list[int]:
        if call.kind == "chat":
            return self.policy.template.prompt_ids([call.messages])[0]
        return list(self.policy.tokenizer(call.messages[-1].content)["input_ids"]) or [min(self.policy.stop_ids)]

    async def stopped(self, call: wire.Call, ids: list[int]) -> Reply | None:
        """The reply to a request that a guardrail stops before it is asked; None where none does."""
        if await self.guards.refuse(call.messages):
            return Reply("", "content_filter", 0, len(ids), blocked="input")
        return None

    async def whole(self, call: wire.Call, ids: list[int]) -> Reply:
        """The answer, checked. Cancelling it frees its slot."""
        answered = await self.batcher.answer(ids, call.decoder, call.top)
        said = answered.completion
        if await self.guards.refuse(call.messages, said.text):
            return Reply("", "content_filter", said.tokens, len(ids), blocked="output")
        return reply_of(answered, ids)

    async def _either(self, call: wire.Call, ids: list[int]) -> Reply:
        return await self.stopped(call, ids) or await self.whole(call, ids)

    async def predict(self, payload: Any, headers: Mapping[str, str] | None = None, **_: Any) -> wire.Json:
        """KServe's V1 protocol: `{"instances": [{"messages": [...]}]}` gives `{"predictions": [{"content": ..}]}`."""
        rows = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("messages") for row in rows):
            raise wire.ApiError(400, 'send {"instances": [{"messages": [...]}]}', param="instances")
        started = time.perf_counter()
        calls = [
            wire.parse(dumps({**row, "model": self.name}), "chat", self.manifest.decoder, self.policy.context)
            for row in rows
        ]
        asked = [(call, await self.read(call)) for call in calls]
        try:
            replies = await asyncio.gather(*(self._either(call, ids) for call, ids in asked))
        except Overloaded as error:
            raise wire.ApiError(503, f"overloaded: {error}", code="overloaded") from error
        for reply in replies:
            self.count(reply.finish, started, reply)
        return {"predictions": [{"content": reply.text, "finish_reason": reply.finish} for reply in replies]}

    def spell(self, before: Sequence[int], token: int) -> str:
        return self.policy.spell(before, token)

    def count(self, finish: str, started: float, reply: Reply | None = None) -> None:
        """One request more, however it ended."""
        of = self.metrics
        of.counter("plumbline_requests").labels(self.leg, finish).inc()
        of.histogram("plumbline_request_seconds").labels(self.leg).observe(time.perf_counter() - started)
        if reply is not None:
            of.counter("plumbline_tokens").labels(self.leg).inc(reply.tokens)
            of.counter("plumbline_prompt_tokens").labels(self.leg).inc(reply.prompt)
            if reply.first_token_s is not None:
                of.histogram("plumbline_first_token_seconds").labels(self.leg).observe(reply.first_token_s)


def reply_of(answered: Answered, ids: Sequence[int]) -> Reply:
    said = answered.completion
    return Reply(said.text, said.finish, said.tokens, len(ids), answered.logprobs, answered.first_token_s)
