"""A policy behind an OpenAI-compatible endpoint: our predictor, KServe's vLLM runtime, or anyone's server.

`chat_body` and `read_answer` are also what the shadow worker uses, so that a policy is asked the same way whoever
asks. Requests go out concurrently and come back in the order asked.

Chat gives no likelihood of a text that the server did not write. Where it offers `/completions` with `echo` and
`logprobs` for token ids (vLLM), that is used: the ids come from `template`, the policy's own chat template and
tokenizer, or from the server's `/tokenize`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.policies.base import Completion, Interrupted, LogLikelihood, NoLikelihood
from plumbline.policies.endpoint import POLICY_HEADER, ServedPolicy
from plumbline.records import Conversation, DecoderSettings, Finish, PolicyManifest, as_dicts, say

if TYPE_CHECKING:
    from plumbline.policies.template import ChatTemplate

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_T = TypeVar("_T")
_A = TypeVar("_A")


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

    An endpoint that cannot be reached, refuses the key or the model, states another policy than the manifest's, or
    fails `concurrency` prompts in a row raises Interrupted, with the answers so far. A single prompt that still fails
    after `retries` (timeout, 5xx), or that is refused (400, 413, 422), comes back as `Completion("", "error", 0)`, so
    that one bad answer does not lose the others; the gate counts it as missing.
    """

    place = "endpoint"

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
        template: "ChatTemplate | None" = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.retries = retries
        self.template = template
        self.last_failure = ""
        self._manifest = manifest
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def manifest(self) -> PolicyManifest:
        return self._manifest

    @property
    def verified(self) -> bool:
        """Whether the digest is stated by a Plumbline predictor, which checked its weights, and by every answer."""
        return isinstance(self._manifest, ServedPolicy)

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        """One completion per prompt, in order, `concurrency` at a time."""

        async def one(session: aiohttp.ClientSession, prompt: Conversation) -> Completion:
            body = chat_body(self.model, prompt, decoder)
            return await self._post(session, f"{self.url}/chat/completions", body, read_answer)

        found = self._each(prompts, one)
        return [Completion("", "error", 0) if answer is None else answer for answer in found]

    def log_likelihood(self, pairs: Sequence[tuple[Conversation, str]]) -> list[LogLikelihood]:
        """log pi(answer | prompt) of each answer's text, end-of-turn excluded, as the server computes it. Raises
        NoLikelihood where it does not; a request that fails gives a total that is not a number."""

        async def one(session: aiohttp.ClientSession, pair: tuple[Conversation, str]) -> LogLikelihood:
            ids, start = await self._ids(session, *pair)
            echo = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
            body = {"model": self.model, "prompt": ids, **echo}
            total = await self._offered(
                session, f"{self.url}/completions", body, lambda found: _read_echo(found, start, len(ids))
            )
            return LogLikelihood(total, len(ids) - start, len(pair[1].encode()))

        found = self._each(pairs, one)
        return [LogLikelihood(float("nan"), 0, 0) if value is None else value for value in found]

    async def _ids(self, session: aiohttp.ClientSession, prompt: Conversation, answer: str) -> tuple[list[int], int]:
        """The ids of prompt and answer, and where the answer begins."""
        if self.template is not None:
            from plumbline.policies.template import with_answer

            [[row]] = self.template.encode([with_answer(prompt, answer)], turns="last")
            start = row.content.index(True) if any(row.content) else len(row.ids)
            end = len(row.ids) - row.content[::-1].index(True) if any(row.content) else len(row.ids)
            return row.ids[:end], start
        turns: list[list[int]] = []
        for messages, more in (
            (prompt, {"add_generation_prompt": True}),
            ((*prompt, say("assistant", answer)), {"add_generation_prompt": False, "continue_final_message": True}),
        ):
            body = {"model": self.model, "messages": as_dicts(messages), "add_special_tokens": False, **more}
            root = self.url.removesuffix("/v1")
            turns.append(await self._offered(session, f"{root}/tokenize", body, lambda found: list(found["tokens"])))
        asked, whole = turns
        if whole[: len(asked)] != asked:
            raise NoLikelihood(
                f"the endpoint {self.url} tokenises a prompt otherwise when an answer follows",
                consequence="metrics that compare choices by likelihood cannot be computed through it",
                remedy="name the policy's tokenizer and template with --tokenizer, or evaluate it from its directory",
            )
        return whole, len(asked)

    async def _offered(
        self, session: aiohttp.ClientSession, url: str, body: dict[str, Any], read: Callable[[Any], _T]
    ) -> _T:
        """What a route that not every server has says."""
        try:
            return await self._post(session, url, body, read)
        except _Refused as refused:
            raise NoLikelihood(
                f"the endpoint {self.url} gives no log-likelihood of a text that it did not generate"
                f" ({url.rpartition('/')[2]}: {refused})",
                consequence="metrics that compare choices by likelihood cannot be computed through it",
                remedy="evaluate the policy from its directory, or serve it with vLLM (completions with echo and"
                " logprobs) and name its tokenizer with --tokenizer",
            ) from refused

    def _each(self, asked: Sequence[_A], one: Callable[[aiohttp.ClientSession, _A], Awaitable[_T]]) -> list[_T | None]:
        """Every request, `concurrency` at a time, in order; None for one that failed. Raises Interrupted when the
        endpoint is lost: what it had answered is in `done`."""
        done: list[_T | None] = [None] * len(asked)
        lost: list[PlumblineError] = []
        in_a_row = 0

        async def run() -> None:
            places = asyncio.Semaphore(self.concurrency)
            timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=min(5.0, self.timeout_s))
            connector = aiohttp.TCPConnector(limit=self.concurrency)
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session:
                await asyncio.gather(*(guarded(session, places, index) for index in range(len(asked))))

        async def guarded(session: aiohttp.ClientSession, places: asyncio.Semaphore, index: int) -> None:
            nonlocal in_a_row
            async with places:
                if lost:
                    return
                try:
                    done[index] = await one(session, asked[index])
                    in_a_row = 0
                except PlumblineError as error:
                    lost.append(error)
                except (_Refused, _Failed) as error:
                    in_a_row, self.last_failure = in_a_row + 1, str(error)
                    if in_a_row >= self.concurrency:
                        lost.append(self._gone(f"{in_a_row} requests in a row failed: {error}"))

        if asked:
            _run(run())
        if lost:
            fault = lost[0]
            if isinstance(fault, Interrupted):
                fault.done = done  # type: ignore[assignment]  # completions or likelihoods, as asked
            raise fault
        return done

    async def _post(
        self, session: aiohttp.ClientSession, url: str, body: dict[str, Any], read: Callable[[Any], _T]
    ) -> _T:
        """The answer, asked for again after failures that may pass. Raises _Refused for a request that is wrong in
        itself, _Failed when the retries are used up, Interrupted when the endpoint is lost."""
        failed = "no answer"
        refused: Exception | None = None
        for attempt in range(self.retries + 1):
            if attempt:
                await asyncio.sleep(min(5.0, 0.1 * 2**attempt))
            refused = None
            try:
                async with session.post(url, json=body) as response:
                    if response.status == 200:
                        self._same_policy(response.headers.get(POLICY_HEADER))
                        return read(json.loads(await response.read()))
                    said = _words(await response.text())
                    if response.status in (401, 403) or (response.status == 404 and url.endswith("/chat/completions")):
                        raise self._wrong(response.status, said)
                    if response.status not in RETRIED:
                        raise _Refused(f"status {response.status}: {said}")
                    failed = f"status {response.status}: {said}"
            except aiohttp.ClientConnectorError as error:
                refused = error
            except TimeoutError:
                failed = f"no answer within {self.timeout_s:g} s"
            except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
                failed = f"{type(error).__name__}: {error}"
        if refused is not None:
            raise self._gone(f"nothing answers at {self.url} ({refused})")
        raise _Failed(failed)

    def _same_policy(self, stated: str | None) -> None:
        if isinstance(self._manifest, ServedPolicy) and stated not in (None, self._manifest.digest):
            raise Interrupted(
                f"{self.url} now serves another policy as {self.model!r}: {str(stated)[:19]}",
                consequence="the evaluation stops: answers of two policies would be mixed; finished ones are kept",
                remedy="run the same command again to evaluate what is served now",
            )

    def _gone(self, fact: str) -> Interrupted:
        fact = fact if self.url in fact else f"{self.url}: {fact}"
        return Interrupted(
            fact,
            consequence="the evaluation stops; finished answers are kept",
            remedy="see that the endpoint runs and is fast enough (--timeout, --concurrency), then run the same command"
            " again: it goes on where it stopped",
        )

    def _wrong(self, status: int, said: str) -> Interrupted:
        return Interrupted(
            f"{self.url} refused the request for model {self.model!r} with status {status}: {said}",
            consequence="the evaluation stops; finished answers are kept",
            remedy="check the model's name and the API key against what the endpoint offers",
        )


class _Refused(Exception):
    """The server says that this one request is wrong."""


class _Failed(Exception):
    """This one request got no answer."""


def _words(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]


def _read_echo(body: Any, start: int, end: int) -> float:
    """The sum of an echoed prompt's log-probabilities from `start` to `end`. _Refused where the server ignored `echo`
    or `logprobs`."""
    try:
        values = body["choices"][0]["logprobs"]["token_logprobs"]
        if len(values) < end:
            raise _Refused("the answer does not echo the prompt")
        return float(sum(float(value) for value in values[start:end]))
    except (KeyError, IndexError, TypeError) as error:
        raise _Refused("the answer holds no log-probabilities of the prompt") from error


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end from anywhere, also from inside a running event loop (notebooks)."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
