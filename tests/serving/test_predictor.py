"""A real predictor process, asked by the real `openai` client and by plain HTTP."""

import json
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say
from plumbline.serving import PredictorProcess

ASK: list[Any] = [{"role": "user", "content": "who is ana ?"}]
ALONE = DecoderSettings(max_tokens=12)


@pytest.fixture(scope="module")
def client(predictor: PredictorProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=predictor.openai_url, api_key="unused", max_retries=0)


@pytest.fixture(scope="module")
def local(policies: dict[str, Path]) -> dict[str, LocalPolicy]:
    return {name: LocalPolicy.load(path) for name, path in policies.items()}


def post(url: str, body: bytes | dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, dict(response.headers), json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return str(response.read().decode())


@pytest.mark.parametrize("name", ["reference", "aligned"])
def test_chat_gives_what_the_policy_gives_alone(
    client: openai.OpenAI, local: dict[str, LocalPolicy], name: str
) -> None:
    answer = client.chat.completions.create(model=name, messages=ASK)
    expected = local[name].generate([(say("user", "who is ana ?"),)], ALONE)[0]
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish
    assert answer.usage is not None and answer.usage.completion_tokens == expected.tokens
    assert answer.usage.prompt_tokens == len(local[name].template.prompt_ids([(say("user", "who is ana ?"),)])[0])


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="aligned", messages=ASK)
    chunks = list(
        client.chat.completions.create(
            model="aligned", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(1 for piece in pieces if piece) > 1, "it came in one piece: nothing was streamed"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage is not None and chunks[-1].usage.prompt_tokens > 0


def test_concurrent_requests_get_the_answers_they_get_alone(
    client: openai.OpenAI, local: dict[str, LocalPolicy]
) -> None:
    texts = [f"who is ana {'ana ' * (i % 5)}?" for i in range(24)]
    expected = local["reference"].generate([(say("user", text),) for text in texts], ALONE)

    def ask(text: str) -> str | None:
        messages: list[Any] = [{"role": "user", "content": text}]
        return client.chat.completions.create(model="reference", messages=messages).choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, texts)) == [completion.text for completion in expected]


def test_sampling_is_reproducible_by_seed(client: openai.OpenAI) -> None:
    def ask(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="reference", messages=ASK, temperature=1.5, top_p=0.9, seed=seed, max_tokens=20
        )
        return answer.choices[0].message.content

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="reference", messages=ASK).choices[0].message.content or ""
    assert len(whole) > 4
    stop = whole[3]
    cut = client.chat.completions.create(model="reference", messages=ASK, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_a_streamed_answer_never_shows_the_beginning_of_a_stop_text(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="reference", messages=ASK, max_tokens=40).choices[0].message.content
    assert whole is not None and len(whole) > 20
    for stop in (whole[6:12], whole[10:14], whole[3:18]):
        chunks = client.chat.completions.create(
            model="reference", messages=ASK, max_tokens=40, stop=[stop, "never said"], stream=True
        )
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert said == whole[: whole.index(stop)]


def test_completions_take_raw_text_without_a_template(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="reference", prompt="who is ana ?", max_tokens=6)
    assert answer.object == "text_completion"
    assert answer.usage is not None and answer.usage.completion_tokens <= 6
    chat = client.chat.completions.create(model="reference", messages=ASK, max_tokens=6)
    assert chat.usage is not None and answer.usage.prompt_tokens < chat.usage.prompt_tokens


def test_headers_name_what_made_the_answer(predictor: PredictorProcess, local: dict[str, LocalPolicy]) -> None:
    manifest = local["aligned"].manifest
    body = {"model": "aligned", "messages": ASK, "max_tokens": 5}
    _, headers, _ = post(f"{predictor.openai_url}/chat/completions", body)
    assert headers["x-plumbline-policy"] == manifest.digest
    assert headers["x-plumbline-template"] == manifest.template
    assert headers["x-plumbline-dataset"] == manifest.dataset
    assert headers["x-plumbline-rubric"] == manifest.rubric
    assert headers["x-plumbline-decoder"] == manifest.decoder.model_copy(update={"max_tokens": 5}).digest


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"n": True}, "n"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 256}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    predictor: PredictorProcess, asked: dict[str, Any], param: str
) -> None:
    body = {"model": "reference", "messages": ASK} | asked
    status, _, answer = post(f"{predictor.openai_url}/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, param)
    assert answer["error"]["type"] == "invalid_request_error"


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this predictor serves reference, aligned"):
        client.chat.completions.create(model="nobody", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="n=2"):
        client.chat.completions.create(model="reference", messages=ASK, n=2)


@pytest.mark.parametrize(
    ("body", "status"), [(b"{", 400), (b"[]", 400), (b'{"model":"\\ud800"}', 400), (b" " * (1 << 21), 413)]
)
def test_a_body_that_cannot_be_read_is_refused_in_openais_shape(
    predictor: PredictorProcess, body: bytes, status: int
) -> None:
    seen, _, answer = post(f"{predictor.openai_url}/chat/completions", body)
    assert seen == status
    assert answer["error"]["message"]


def test_both_prefixes_serve_openai_and_kserve_clients_alike(predictor: PredictorProcess) -> None:
    for prefix in ("/v1", "/openai/v1"):
        models = json.loads(get(f"{predictor.url}{prefix}/models"))
        assert models["models"] == ["reference", "aligned"]
        assert [model["id"] for model in models["data"]] == ["reference", "aligned"]
        status, _, _ = post(f"{predictor.url}{prefix}/chat/completions", {"model": "aligned", "messages": ASK})
        assert status == 200
    one = json.loads(get(f"{predictor.url}/v1/models/aligned"))
    assert one["ready"] is True and one["plumbline"]["policy"].startswith("sha256:")


def test_kserves_own_protocol_still_works(predictor: PredictorProcess, local: dict[str, LocalPolicy]) -> None:
    rows = {"instances": [{"messages": ASK}, {"messages": ASK, "max_tokens": 3}]}
    status, _, answer = post(f"{predictor.url}/v1/models/reference:predict", rows)
    whole = local["reference"].generate([(say("user", "who is ana ?"),)], ALONE)[0]
    assert status == 200
    assert answer["predictions"][0] == {"content": whole.text, "finish_reason": whole.finish}
    assert len(answer["predictions"]) == 2
    status, _, answer = post(f"{predictor.url}/v1/models/reference:predict", {"instances": "x"})
    assert status == 400 and "instances" in answer["error"]  # KServe's own check, in its own shape
    status, _, answer = post(f"{predictor.url}/v1/models/reference:predict", {"instances": [{"messages": 3}]})
    assert status == 400 and answer["error"]["param"] == "messages"


def test_metrics_count_requests_and_tokens_by_leg(predictor: PredictorProcess) -> None:
    def tokens() -> dict[str, float]:
        lines = [
            line for line in get(f"{predictor.url}/metrics").splitlines() if line.startswith("plumbline_tokens_total")
        ]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    before = tokens()
    _, _, answer = post(f"{predictor.openai_url}/chat/completions", {"model": "aligned", "messages": ASK})
    after = tokens()
    assert after["aligned"] - before.get("aligned", 0) == answer["usage"]["completion_tokens"]
    assert after.get("reference") == before.get("reference")
    assert 'plumbline_request_seconds_count{leg="aligned"}' in get(f"{predictor.url}/metrics")


def test_a_client_that_drops_a_stream_frees_its_slot(predictor: PredictorProcess, client: openai.OpenAI) -> None:
    body = json.dumps({"model": "reference", "messages": ASK, "stream": True, "max_tokens": 200}).encode()
    head = f"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    def aborted() -> float:
        named = 'plumbline_requests_total{finish="client_abort",leg="reference"}'
        return sum(float(line.split()[-1]) for line in get(f"{predictor.url}/metrics").splitlines() if named in line)

    before = aborted()
    for _ in range(5):
        with socket.create_connection((predictor.host, predictor.port)) as raw:
            raw.sendall(head + body)
            raw.recv(600)  # the head and a first event; then hang up
    deadline = time.monotonic() + 60
    while aborted() < before + 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert aborted() == before + 5
    answer = client.chat.completions.create(model="reference", messages=ASK, timeout=10)
    assert answer.choices[0].message.content


def said(chunks: Any) -> tuple[str, list[Any]]:
    parts = [chunk.choices[0] for chunk in chunks]
    noted = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
    return "".join(part.delta.content or "" for part in parts), noted


def test_log_probabilities_are_the_same_whole_and_streamed(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "aligned", "messages": ASK, "logprobs": True, "top_logprobs": 3, "max_tokens": 9}
    choice = client.chat.completions.create(**ask).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    content = choice.logprobs.content
    assert 0 < len(content) <= 9 and all(len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in content), "greedy takes the likeliest"
    text, streamed = said(client.chat.completions.create(**ask, stream=True))
    assert text == choice.message.content
    assert streamed == content
    assert text is not None and len(text) > 6
    cut = ask | {"stop": [text[3:6]], "max_tokens": 40}
    whole = client.chat.completions.create(**cut).choices[0]
    assert whole.logprobs is not None and whole.logprobs.content is not None
    assert said(client.chat.completions.create(**cut, stream=True))[1] == whole.logprobs.content
    assert len(whole.logprobs.content) <= 4, "the stop text's own tokens are not part of the answer"
    raw = client.completions.create(model="aligned", prompt="who is ana ?", logprobs=2, max_tokens=4).choices[0]
    assert raw.logprobs is not None and raw.logprobs.tokens is not None
    assert len(raw.logprobs.tokens) == len(raw.logprobs.token_logprobs or []) == len(raw.logprobs.text_offset or []) > 0


def test_a_stream_names_what_made_it_in_its_headers_too(predictor: PredictorProcess) -> None:
    body = json.dumps({"model": "aligned", "messages": ASK, "stream": True}).encode()
    request = urllib.request.Request(f"{predictor.openai_url}/chat/completions", body)
    with urllib.request.urlopen(request) as response:
        streamed = dict(response.headers)
        assert response.read().endswith(b"data: [DONE]\n\n")
    _, whole, _ = post(f"{predictor.openai_url}/chat/completions", {"model": "aligned", "messages": ASK})
    names = [name for name in whole if name.startswith("x-plumbline-")]
    assert len(names) == 5 and all(streamed[name] == whole[name] for name in names)
    assert streamed["content-type"].startswith("text/event-stream")


def test_a_prompt_that_does_not_fit_is_refused_and_not_cut(predictor: PredictorProcess) -> None:
    body = {"model": "reference", "messages": [{"role": "user", "content": "x " * 400}]}
    status, _, answer = post(f"{predictor.openai_url}/chat/completions", body)
    assert (status, answer["error"]["code"], answer["error"]["param"]) == (400, "context_length_exceeded", "messages")


def test_other_methods_are_answered_as_http_says(predictor: PredictorProcess) -> None:
    def ask(method: str, path: str) -> tuple[int, dict[str, str]]:
        request = urllib.request.Request(predictor.url + path, method=method)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, dict(response.headers)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers)

    assert ask("HEAD", "/v1/models/aligned")[1]["x-plumbline-policy"].startswith("sha256:")
    status, headers = ask("OPTIONS", "/v1/chat/completions")
    assert status == 204 and headers["allow"] == "POST, OPTIONS"
    assert ask("GET", "/v1/chat/completions")[0] == 405
    assert ask("HEAD", "/v2/health/ready")[0] == 200
    assert ask("POST", "/v2/repository/models/aligned/unload")[0] == 405
    assert ask("HEAD", "/v1/models/aligned")[0] == 200, "it is still there"


def test_the_openapi_document_describes_what_is_answered(predictor: PredictorProcess) -> None:
    import jsonschema

    document = json.loads(get(f"{predictor.url}/openapi.json"))

    def check(schema: dict[str, Any], value: Any) -> None:
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}).validate(value)

    def schema_of(path: str, method: str, status: str) -> dict[str, Any]:
        return dict(document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"])

    check(schema_of("/v1/models", "get", "200"), json.loads(get(f"{predictor.url}/v1/models")))
    check(schema_of("/v1/models/{name}", "get", "200"), json.loads(get(f"{predictor.url}/v1/models/aligned")))
    for path, asked in (
        ("/v1/chat/completions", {"messages": ASK, "logprobs": True, "n": 1, "user": "u"}),
        ("/v1/completions", {"prompt": "who ?", "max_tokens": 3}),
    ):
        body = {"model": "reference", **asked}
        check(document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"], body)
        check(schema_of(path, "post", "200"), post(predictor.url + path, body)[2])
        wrong = body | {"made_up": 1}
        with pytest.raises(jsonschema.ValidationError):
            check(document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"], wrong)
        check(schema_of(path, "post", "400"), post(predictor.url + path, wrong)[2])
