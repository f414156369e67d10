"""A policy behind an endpoint: order, retries, and which failures are whose."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web

from plumbline.errors import PlumblineError
from plumbline.policies.base import Completion, Policy
from plumbline.policies.remote import RemotePolicy, chat_body, read_answer
from plumbline.records import DecoderSettings, PolicyManifest, digest_of, say

MANIFEST = PolicyManifest(
    name="far", role="aligned", weights=digest_of(1), tokenizer=digest_of(2), template=digest_of(3)
)
DECODER = DecoderSettings(max_tokens=9, temperature=0.5, seed=4, stop=("x",))


class Far:
    """An endpoint that echoes in capitals, slower for earlier prompts; `failures` are statuses to give first."""

    def __init__(self) -> None:
        self.failures: list[int] = []
        self.seen: list[dict[str, Any]] = []
        self.together = self.most = 0
        self.url = ""
        self.keys: set[str | None] = set()

    async def chat(self, request: web.Request) -> web.Response:
        self.keys.add(request.headers.get("authorization"))
        body = await request.json()
        self.seen.append(body)
        text = body["messages"][-1]["content"]
        if self.failures:
            status = self.failures.pop(0)
            return web.json_response({"error": {"message": f"no: {status}"}}, status=status)
        if text == "always fails":
            return web.Response(status=500)
        self.together += 1
        self.most = max(self.most, self.together)
        await asyncio.sleep(0.05 if text.endswith("0") else 0.005)
        self.together -= 1
        choice = {"message": {"role": "assistant", "content": text.upper()}, "finish_reason": "length"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": 3}})


@pytest.fixture
def far() -> Iterator[Far]:
    endpoint, loop, started = Far(), asyncio.new_event_loop(), threading.Event()

    async def setup() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", endpoint.chat)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set()

    def run() -> None:
        loop.run_until_complete(setup())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    yield endpoint
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def prompts(n: int) -> list[tuple[Any, ...]]:
    return [(say("system", "be kind"), say("user", f"q{i}")) for i in range(n)]


def test_it_is_a_policy_and_answers_in_the_order_asked(far: Far) -> None:
    policy = RemotePolicy(far.url, "m", MANIFEST, concurrency=4, api_key="k")
    assert isinstance(policy, Policy)
    answers = policy.generate(prompts(20), DECODER)
    assert answers == [Completion(f"Q{i}", "length", 3) for i in range(20)]
    assert 1 < far.most <= 4
    assert far.keys == {"Bearer k"}
    assert policy.generate([], DECODER) == []


def test_every_decoder_setting_is_written_out(far: Far) -> None:
    RemotePolicy(far.url, "m", MANIFEST).generate(prompts(1), DECODER)
    assert far.seen[0] == {
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q0"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 4,
        "stop": ["x"],
    }
    assert "stop" not in chat_body("m", prompts(1)[0], DecoderSettings())


def test_passing_failures_are_retried(far: Far) -> None:
    far.failures = [503, 429, 500]
    assert RemotePolicy(far.url, "m", MANIFEST).generate(prompts(1), DECODER)[0].text == "Q0"


def test_one_prompt_that_keeps_failing_does_not_lose_the_others(far: Far) -> None:
    asked = [*prompts(3), (say("user", "always fails"),)]
    answers = RemotePolicy(far.url, "m", MANIFEST, retries=1).generate(asked, DECODER)
    assert [answer.finish for answer in answers] == ["length"] * 3 + ["error"]
    assert answers[3] == Completion("", "error", 0)


def test_a_request_that_is_wrong_is_an_error_with_the_endpoints_words(far: Far) -> None:
    far.failures = [404]
    with pytest.raises(PlumblineError, match="no: 404") as refused:
        RemotePolicy(far.url, "m", MANIFEST).generate(prompts(1), DECODER)
    assert "model's name" in refused.value.remedy
    assert len(far.seen) == 1, "a request that is wrong was asked again"


def test_nothing_listening_is_an_error_with_a_remedy() -> None:
    policy = RemotePolicy("http://127.0.0.1:9/v1", "m", MANIFEST, retries=1)
    with pytest.raises(PlumblineError, match="nothing answers at http://127.0.0.1:9/v1"):
        policy.generate(prompts(2), DECODER)


def test_log_likelihood_is_refused_rather_than_made_up(far: Far) -> None:
    with pytest.raises(PlumblineError, match="gives no log-likelihood"):
        RemotePolicy(far.url, "m", MANIFEST).log_likelihood([(prompts(1)[0], "yes")])


def test_it_works_from_inside_a_running_event_loop(far: Far) -> None:
    async def notebook() -> list[Completion]:
        return RemotePolicy(far.url, "m", MANIFEST).generate(prompts(1), DECODER)

    assert asyncio.run(notebook())[0].text == "Q0"


@pytest.mark.parametrize(
    "body", [{}, {"choices": []}, {"choices": [{"message": {"content": None, "tool_calls": []}}]}, {"choices": "x"}, []]
)
def test_a_response_without_text_is_no_answer(body: Any) -> None:
    with pytest.raises(ValueError, match="holds no"):
        read_answer(body)
