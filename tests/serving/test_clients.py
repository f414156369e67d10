"""Clients that others wrote work unchanged, at the predictor and through the router: the openai package, and curl."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from plumbline.records import DecoderSettings
from plumbline.serving import PredictorProcess
from plumbline.shadow import Experiment, start_shadow

ASK: list[Any] = [{"role": "user", "content": "who is ana ?"}]
SERVICES = ("predictor", "router")


@pytest.fixture(scope="module")
def urls(predictor: PredictorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    experiment = Experiment(name="clients", salt="grain", decoder=DecoderSettings(max_tokens=12))
    folder: Path = tmp_path_factory.mktemp("clients")
    with start_shadow(predictor.openai_url, None, folder, experiment) as shadow:
        yield {"predictor": predictor.openai_url, "router": shadow.openai_url}


@pytest.fixture(params=SERVICES)
def url(request: pytest.FixtureRequest, urls: dict[str, str]) -> str:
    return urls[request.param]


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=60)


def said(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def test_chat_whole_and_streamed_say_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="reference", messages=ASK)
    assert whole.object == "chat.completion" and whole.choices[0].message.role == "assistant" and said(whole)
    assert whole.usage is not None and whole.usage.total_tokens > whole.usage.completion_tokens > 0
    chunks = list(
        client.chat.completions.create(
            model="reference", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == said(whole) and sum(map(bool, pieces)) > 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage


def test_the_clients_own_helper_for_streams_puts_the_answer_together(client: openai.OpenAI) -> None:
    whole = said(client.chat.completions.create(model="reference", messages=ASK))
    with client.chat.completions.stream(model="reference", messages=ASK, stop=whole[5:7]) as stream:
        final = stream.get_final_completion()
    assert said(final) == whole[: whole.index(whole[5:7])]


def test_the_asynchronous_client_asks_many_at_once(url: str, client: openai.OpenAI) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="unused", max_retries=0) as many:
            asked = [many.chat.completions.create(model="reference", messages=ASK, max_tokens=n) for n in range(2, 10)]
            return [said(answer) for answer in await asyncio.gather(*asked)]

    longest = said(client.chat.completions.create(model="reference", messages=ASK, max_tokens=9))
    answers = asyncio.run(ask_all())
    assert all(longest.startswith(answer.rstrip("�")) for answer in answers) and answers[-1] == longest


def test_stop_seed_and_limits_are_kept(client: openai.OpenAI) -> None:
    whole = said(client.chat.completions.create(model="reference", messages=ASK))
    stop = whole[3]
    cut = client.chat.completions.create(model="reference", messages=ASK, stop=stop)
    assert said(cut) == whole[: whole.index(stop)] and cut.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model="reference", messages=ASK, max_completion_tokens=2)
    assert short.usage is not None and short.usage.completion_tokens == 2
    assert short.choices[0].finish_reason == "length"

    def drawn(seed: int) -> str:
        settings: Any = {"temperature": 1.5, "top_p": 0.95, "seed": seed}
        return said(client.chat.completions.create(model="reference", messages=ASK, **settings))

    assert drawn(1) == drawn(1) and len({drawn(seed) for seed in range(4)}) > 1


def test_log_probabilities_are_those_of_the_tokens_that_were_said(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="reference", messages=ASK, logprobs=True, top_logprobs=3)
    assert answer.choices[0].logprobs is not None and answer.usage is not None
    tokens = answer.choices[0].logprobs.content or []
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob, "greedy says the likeliest"
    assert all(token.token in said(answer) for token in tokens if token.bytes)


def test_the_smallest_temperature_is_as_good_as_greedy_and_harms_nobody(client: openai.OpenAI) -> None:
    """Schemathesis found it: logits over 1e-169 are no number."""
    greedy = said(client.chat.completions.create(model="reference", messages=ASK, max_tokens=40, temperature=0))
    temperatures = [(0.0, 1e-12, 1e-169, 5e-324)[i % 4] for i in range(16)]

    def ask(temperature: float) -> str:
        settings: Any = {"temperature": temperature, "seed": 1, "max_tokens": 40}
        return said(client.chat.completions.create(model="reference", messages=ASK, **settings))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, temperatures)) == [greedy] * 16


def test_raw_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="reference", prompt="who is ana ?", max_tokens=5)
    assert answer.object == "text_completion" and answer.usage is not None and answer.usage.completion_tokens == 5
    streamed = client.completions.create(model="reference", prompt="who is ana ?", max_tokens=5, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_models_are_listed_and_every_answer_names_its_policy(
    client: openai.OpenAI, predictor: PredictorProcess
) -> None:
    assert "reference" in [model.id for model in client.models.list()]
    raw = client.chat.completions.with_raw_response.create(model="reference", messages=ASK)
    with urllib.request.urlopen(f"{predictor.openai_url}/models/reference") as described:
        digests = json.loads(described.read())["plumbline"]
    assert raw.headers["x-plumbline-policy"] == digests["policy"]
    assert raw.headers["x-plumbline-template"] == digests["template"]
    assert said(raw.parse())


def test_errors_become_the_clients_exceptions(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="nobody", messages=ASK)
    assert missing.value.code == "model_not_found" and missing.value.type == "invalid_request_error"
    for fault, name in (({"n": 2}, "n"), ({"temperature": 3}, "temperature"), ({"messages": []}, "messages")):
        with pytest.raises(openai.BadRequestError) as refused:
            create(**{"model": "reference", "messages": ASK, **fault})
        assert refused.value.param == name, name
    with pytest.raises(openai.APIStatusError) as large:
        create(model="reference", messages=[{"role": "user", "content": "x" * (1 << 20)}])
    assert large.value.status_code == 413 and large.value.code == "body_too_large"


def test_a_policy_that_is_away_is_an_internal_server_error(tmp_path: Path) -> None:
    with start_shadow("http://127.0.0.1:9/v1", None, tmp_path, Experiment(name="away", salt="grain")) as shadow:
        lonely = openai.OpenAI(base_url=shadow.openai_url, api_key="unused", max_retries=0)
        with pytest.raises(openai.InternalServerError) as away:
            lonely.chat.completions.create(model="reference", messages=ASK)
    assert away.value.status_code == 502
    with pytest.raises(openai.APIConnectionError):
        lonely.chat.completions.create(model="reference", messages=ASK)


def aborted(predictor: PredictorProcess) -> float:
    with urllib.request.urlopen(f"{predictor.url}/metrics") as scrape:
        lines = scrape.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if 'plumbline_requests_total{finish="client_abort"' in line
    )


def test_leaving_a_stream_frees_its_place(client: openai.OpenAI, predictor: PredictorProcess) -> None:
    before = aborted(predictor)
    until = time.monotonic() + 30
    while aborted(predictor) < before + 3 and time.monotonic() < until:  # a short answer may end before its reader goes
        stream = client.chat.completions.create(model="reference", messages=ASK, max_tokens=150, stream=True)
        next(iter(stream))
        stream.close()
    assert aborted(predictor) >= before + 3
    assert said(client.chat.completions.create(model="reference", messages=ASK))


# --- curl -----------------------------------------------------------------------------------------------------------


def curl(*words: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    return subprocess.run(["curl", "-sS", "--max-time", "60", *words], capture_output=True, text=True)


def body(**more: Any) -> str:
    return json.dumps({"model": "reference", "messages": ASK, **more})


def test_curl_gets_an_answer(url: str, client: openai.OpenAI) -> None:
    done = curl(f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body(max_tokens=8))
    answer = json.loads(done.stdout)
    expected = client.chat.completions.create(model="reference", messages=ASK, max_tokens=8)
    assert answer["choices"][0]["message"]["content"] == said(expected)
    listed = json.loads(curl(f"{url}/models").stdout)
    assert listed["object"] == "list"


def test_curl_sees_events_end_in_done(url: str) -> None:
    done = curl("-N", "-D", "-", f"{url}/chat/completions", "-d", body(stream=True, max_tokens=8))
    head, _, events = done.stdout.partition("\n\n" if "\r\n\r\n" not in done.stdout else "\r\n\r\n")
    assert "content-type: text/event-stream" in head.lower()
    lines = [line for line in events.splitlines() if line]
    assert len(lines) > 4 and all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-d", "{"], 400),
        (["-d", "[1]"], 400),
        (["-d", body(model="nobody")], 404),
        (["-X", "DELETE"], 405),
        (["-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked", "-d", body(max_tokens=2)], 200),
    ],
)
def test_curl_is_told_what_was_wrong(url: str, words: list[str], status: int) -> None:
    done = curl("-w", "\n%{http_code}", f"{url}/chat/completions", *words)
    said_, _, code = done.stdout.rpartition("\n")
    assert int(code) == status, said_
    if status in (400, 404):
        assert set(json.loads(said_)["error"]) == {"message", "type", "param", "code"}


def test_curl_learns_by_its_exit_code(url: str) -> None:
    assert curl("--fail", f"{url}/chat/completions", "-d", body(model="nobody")).returncode == 22
    assert curl("--fail", f"{url}/chat/completions", "-d", body(max_tokens=2)).returncode == 0
