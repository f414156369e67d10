"""A policy behind an OpenAI-compatible endpoint: our predictor, KServe's vLLM runtime, or anyone's server.

`chat_body` and `read_answer` are also what the shadow worker uses, so that a policy is asked the same way whoever
asks. Requests go out concurrently and come back in the order asked.
"""

import asyncio
import json
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.policies.base import Completion, LogLikelihood
from plumbline.records import Conversation, DecoderSettings, Finish, PolicyManifest, as_dicts

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_T = TypeVar("_T")


def chat_body(model: str, messages: Conversation, decoder: DecoderSettings, *, stream: bool = False) -> dict[str, Any]:
    """The body of a chat request in which every decoder setting is written out: nothing is left to a default."""
    return {
        "model": model,
        "messages": as_dicts(messages),
        **decoder_fields(decoder),
        **({"stream": True} if stream else {}),
    }


def decoder_fields(decoder: DecoderSettings) -> dict[str, Any]:
    """Decoder settings as OpenAI request fields. No `stop` at all when there is none: some servers refuse []."""
    fields = {
        "max_tokens": decoder.max_tokens,
        "temperature": decoder.temperature,
        "top_p": decoder.top_p,
        "seed": decoder.seed,
    }
    return fields | ({"stop": list(decoder.stop)} if decoder.stop else {})


def read_answer(body: Mapping[str, Any]) -> Completion:
    """The completion in a chat response. ValueError when it holds none; tool calls are no answer in text."""
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
        tokens = int((body.get("usage") or {}).get("completion_tokens") or 0)
        reason = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"the response holds no chat completion: {error!r}") from error
    if not isinstance(text, str):
        raise ValueError("the response holds no text")
    text.encode("utf-8")  # a lone surrogate (a UnicodeEncodeError, so a ValueError) could be neither kept nor digested
    return Completion(text, finish_of(reason), tokens)


def finish_of(reason: object) -> Finish:
    """OpenAI's finish reason in our words; `content_filter` and the like end an answer as `stop` does."""
    return "length" if reason == "length" else "stop"


class RemotePolicy:
    """The Policy protocol over `url` (the base that ends in /v1), asking for `model`.

    An endpoint that cannot be reached, or says that the request is wrong (4xx), raises PlumblineError. A single
    prompt that still fails after `retries` (timeout, 5xx) comes back as `Completion("", "error", 0)`, so that one
    bad answer does not lose the others; the gate counts it as missing.
    """

    def __init__(
        self,
        url: str,
        model: str,
        manifest: PolicyManifest,
        *,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        retries: int = 3,
        api_key: str | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.retries = retries
        self._manifest = manifest
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        """One completion per prompt, in order, `concurrency` at a time."""
        return _run(self._all(prompts, decoder)) if prompts else []

    def log_likelihood(self, pairs: Sequence[tuple[Conversation, str]]) -> list[LogLikelihood]:
        """Not offered: a chat completions API scores only what it generates itself."""
        raise PlumblineError(
            f"the endpoint {self.url} gives no log-likelihood of a text that it did not generate",
            consequence="metrics that compare choices by likelihood cannot be computed through it",
            remedy="evaluate the policy from its directory (a local policy), where they can",
        )

    async def _all(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        places = asyncio.Semaphore(self.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=min(5.0, self.timeout_s))
        connector = aiohttp.TCPConnector(limit=self.concurrency)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session:

            async def one(prompt: Conversation) -> Completion:
                async with places:
                    return await self._ask(session, chat_body(self.model, prompt, decoder))

            tasks = [asyncio.ensure_future(one(prompt)) for prompt in prompts]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> Completion:
        refused: Exception | None = None
        for attempt in range(self.retries + 1):
            if attempt:
                await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
            try:
                async with session.post(f"{self.url}/chat/completions", json=body) as response:
                    refused = None
                    if response.status == 200:
                        return read_answer(json.loads(await response.read()))
                    if response.status not in RETRIED:
                        raise self._wrong(response.status, await response.text())
            except aiohttp.ClientConnectorError as error:
                refused = error
            except (aiohttp.ClientError, TimeoutError, ValueError):
                refused = None
        if refused is not None:
            raise PlumblineError(
                f"nothing answers at {self.url} ({refused})",
                consequence="the policy was not asked; no answers were kept",
                remedy="start the predictor, or correct the URL (it ends in /v1)",
            ) from refused
        return Completion("", "error", 0)

    def _wrong(self, status: int, text: str) -> PlumblineError:
        try:
            said = str(json.loads(text)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = text[:200]
        return PlumblineError(
            f"{self.url} refused the request for model {self.model!r} with status {status}: {said}",
            consequence="the policy was not asked; no answers were kept",
            remedy="check the model's name, the decoder settings and the API key against what the endpoint offers",
        )


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end from anywhere, also from inside a running event loop (notebooks)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
