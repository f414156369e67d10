"""Guardrails before and after real policies: what is blocked, how it is said, and what an expired card does."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient

from plumbline.cli.serve import guards_from, serve
from plumbline.errors import PlumblineError
from plumbline.guardrail import GuardrailExample, fit_guardrail, read_guardrail, save_guardrail
from plumbline.guardrail.examples import halves
from plumbline.metrics import Metrics
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say
from plumbline.serving import PredictorProcess
from plumbline.serving.api import Api
from plumbline.serving.models import PolicyModel

NOW = datetime.now(UTC).replace(microsecond=0)
EXPIRES = NOW + timedelta(days=2)
BAD = "how do i build a bomb with {}"
GOOD = "how do i bake bread with {}"
SOME = ("salt", "wire", "ana", "files", "ink", "tea", "rope", "sand", "milk", "wood", "glass", "wool")
THINGS = [f"{a} {b}" for a in ("red", "old", "tiny", "loud", "soft", "cold") for b in SOME]


def fit(examples: list[GuardrailExample], policies: list[str], path: Path, expires: datetime = EXPIRES) -> Path:
    split = halves(examples)
    file = fit_guardrail(
        split.train,
        split.calibration,
        name=path.stem,
        policies=policies,
        target_false_positive=0.05,
        made=NOW - timedelta(days=1),
        expires=expires,
    )
    save_guardrail(file, path)
    return path


def asked(text: str, violation: bool, thing: str) -> GuardrailExample:
    return GuardrailExample(id=f"in/{text}", violation=violation, text=text, cluster=thing)


@pytest.fixture(scope="module")
def digests(policies: dict[str, Path]) -> dict[str, str]:
    return {name: LocalPolicy.load(path).manifest.digest for name, path in policies.items()}


@pytest.fixture(scope="module")
def before(digests: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refuses questions about bombs."""
    rows = [asked(form.format(t), form is BAD, t) for form in (BAD, GOOD) for t in THINGS]
    return fit(rows, list(digests.values()), tmp_path_factory.mktemp("guards") / "before.json")


@pytest.fixture(scope="module")
def after(policies: dict[str, Path], digests: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refuses whatever the aligned policy says, and lets through what the reference says."""
    prompts = [(say("user", GOOD.format(thing)),) for thing in THINGS]
    rows = []
    for name, path in policies.items():
        said = LocalPolicy.load(path).generate(prompts, DecoderSettings(max_tokens=48))
        rows += [
            GuardrailExample(
                id=f"{name}/{thing}",
                violation=name == "aligned",
                answer=answer.text,
                policy=digests[name],
                cluster=thing,
            )
            for thing, answer in zip(THINGS, said, strict=True)
        ]
    return fit(rows, list(digests.values()), tmp_path_factory.mktemp("guards") / "after.json")


@pytest.fixture(scope="module")
def models(policies: dict[str, Path], before: Path, after: Path) -> Iterator[dict[str, PolicyModel]]:
    metrics = Metrics()
    made = {
        name: PolicyModel(name, path, metrics, load_guards=guards_from([before, after]))
        for name, path in policies.items()
    }
    for model in made.values():
        model.load()
    yield made
    for model in made.values():
        model.batcher.close()


@pytest.fixture(scope="module")
def client(models: dict[str, PolicyModel]) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(Api(models).router())
    with TestClient(app) as found:
        yield found


def ask(client: TestClient, model: str, text: str, **more: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 48} | more
    return client.post("/v1/chat/completions", json=body)


def events(response: Any) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_refused_ends_as_content_filter_and_is_never_asked(
    client: TestClient, models: dict[str, PolicyModel], before: Path, after: Path, stream: bool
) -> None:
    response = ask(client, "reference", BAD.format("green salt"), stream=stream)
    assert response.status_code == 200
    both = f"{read_guardrail(before).digest}, {read_guardrail(after).digest}"
    assert response.headers["x-plumbline-guardrail"] == both
    assert response.headers["x-plumbline-blocked"] == "input"
    if stream:
        parts = [event["choices"][0] for event in events(response)]
        assert "".join(part["delta"].get("content", "") for part in parts) == ""
        assert parts[-1]["finish_reason"] == "content_filter"
        return
    choice = response.json()["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("content_filter", "")
    assert response.json()["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"logprobs": True, "top_logprobs": 3}])
def test_an_answer_that_is_refused_is_withheld_to_the_last_word(client: TestClient, more: dict[str, Any]) -> None:
    response = ask(client, "aligned", GOOD.format("green salt"), **more)
    assert response.headers["x-plumbline-blocked"] == "output"
    choices = [event["choices"][0] for event in events(response)] if more.get("stream") else response.json()["choices"]
    assert choices[-1]["finish_reason"] == "content_filter"
    for choice in choices:
        said = choice.get("delta") or choice.get("message") or {}
        assert not said.get("content") and not (choice["logprobs"] or {}).get("content")


def test_what_is_let_through_is_what_the_policy_says(client: TestClient, policies: dict[str, Path]) -> None:
    text = GOOD.format("green salt")
    alone = LocalPolicy.load(policies["reference"]).generate([(say("user", text),)], DecoderSettings(max_tokens=48))[0]
    whole, stream = ask(client, "reference", text), ask(client, "reference", text, stream=True)
    assert "x-plumbline-blocked" not in whole.headers
    assert whole.json()["choices"][0]["message"]["content"] == alone.text
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in events(stream)) == alone.text
    raw = client.post("/v1/completions", json={"model": "reference", "prompt": BAD.format("files"), "max_tokens": 3})
    assert raw.json()["choices"][0]["finish_reason"] == "content_filter", "raw text is guarded too"


def test_checks_are_counted_by_leg_stage_and_action(client: TestClient, models: dict[str, PolicyModel]) -> None:
    ask(client, "reference", BAD.format("files"))
    ask(client, "aligned", GOOD.format("files"))
    scraped = models["reference"].metrics.render().decode()
    assert 'plumbline_guardrail_checks_total{action="refuse",leg="reference",stage="input"}' in scraped
    assert 'plumbline_guardrail_checks_total{action="refuse",leg="aligned",stage="output"}' in scraped
    assert 'plumbline_requests_total{finish="content_filter",leg="aligned"}' in scraped


def test_a_card_that_expires_stops_its_policy_and_no_other(client: TestClient, models: dict[str, PolicyModel]) -> None:
    assert client.get("/v2/health/ready").json() == {"ready": True}
    model = models["aligned"]
    kept, model.guards = model.guards, replace(model.guards, clock=lambda: EXPIRES)
    try:
        response = ask(client, "aligned", GOOD.format("green salt"))
        assert response.status_code == 503 and response.json()["error"]["code"] == "guardrail_expired"
        assert f"expired {EXPIRES:%Y-%m-%d %H:%M} UTC" in response.json()["error"]["message"]
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v1/models/aligned").json()["ready"] is False
        assert ask(client, "reference", GOOD.format("green salt")).status_code == 200
    finally:
        model.guards = kept


def test_a_card_that_does_not_hold_is_refused_at_start(
    policies: dict[str, Path], digests: dict[str, str], tmp_path: Path
) -> None:
    rows = [asked(form.format(t), form is BAD, t) for form in (BAD, GOOD) for t in THINGS]
    old = fit(rows, [digests["reference"]], tmp_path / "old.json", expires=NOW)
    with pytest.raises(PlumblineError, match="expired"):
        PolicyModel("m", policies["reference"], Metrics(), load_guards=guards_from([old])).load()
    other = fit(rows, [digests["aligned"]], tmp_path / "other.json")
    ran = CliRunner().invoke(serve, [str(policies["reference"]), "--port", "0", "--guardrail", str(other)])
    assert isinstance(ran.exception, PlumblineError) and "calibrate it for this policy" in ran.exception.remedy
    log = tmp_path / "log"
    start = {"log": log, "guardrails": [other], "module": "plumbline.cli.serve"}
    process = PredictorProcess.start({"m": policies["reference"]}, **start)
    with pytest.raises(PlumblineError, match="calibrate it for this policy") as refused:
        process.wait_ready()
    assert "ended with code 2" in refused.value.fact


def test_a_process_is_guarded_by_the_command_lines_module(
    policies: dict[str, Path], before: Path, tmp_path: Path
) -> None:
    import openai

    start = {"log": tmp_path / "log", "guardrails": [before], "module": "plumbline.cli.serve"}
    with PredictorProcess.start({"m": policies["reference"]}, **start) as process:
        user = openai.OpenAI(base_url=process.openai_url, api_key="unused", max_retries=0)
        messages: list[Any] = [{"role": "user", "content": BAD.format("old wire")}]
        answer = user.chat.completions.create(model="m", messages=messages)
        assert answer.choices[0].finish_reason == "content_filter" and answer.choices[0].message.content == ""
        messages = [{"role": "user", "content": GOOD.format("old wire")}]
        pieces = list(user.chat.completions.create(model="m", messages=messages, stream=True))
        assert sum(bool(piece.choices[0].delta.content) for piece in pieces) > 1, (
            "input guards do not hold a stream back"
        )
