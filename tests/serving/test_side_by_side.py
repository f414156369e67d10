"""Reference and aligned served by real predictors, the router in front, asked by the real `openai` client."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from plumbline.policies.local import LocalPolicy
from plumbline.policies.remote import RemotePolicy
from plumbline.records import DecoderSettings, say
from plumbline.serving import PredictorProcess
from plumbline.shadow import Experiment, ShadowRun, start_shadow, summarise

EXPERIMENT = Experiment(name="side-by-side", salt="grain", decoder=DecoderSettings(max_tokens=10))


def ask(client: openai.OpenAI, text: str, i: int = 0, **more: Any) -> str:
    messages: list[Any] = [{"role": "user", "content": text}]
    headers = {"x-plumbline-subject": f"u{i % 5}", "x-plumbline-session": f"s{i % 10}", "x-plumbline-slice": "benign"}
    answer = client.chat.completions.create(model="reference", messages=messages, extra_headers=headers, **more)
    if not more.get("stream"):
        return str(answer.choices[0].message.content)
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


@pytest.fixture
def run(predictor: PredictorProcess, tmp_path: Path) -> Any:
    with start_shadow(
        predictor.openai_url, predictor.openai_url, tmp_path, EXPERIMENT, consent=lambda subject: subject != "u0"
    ) as shadow:
        yield shadow


def test_users_get_the_reference_and_pairs_hold_what_each_policy_says_alone(
    run: ShadowRun, policies: dict[str, Path]
) -> None:
    client = openai.OpenAI(base_url=run.openai_url, api_key="secret", max_retries=0)
    texts = [f"who is ana {'ana ' * (i % 4)}?" for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda i: ask(client, texts[i], i, stream=bool(i % 2)), range(40)))
    prompts = [(say("user", text),) for text in texts]
    expected = {
        name: [c.text for c in LocalPolicy.load(path).generate(prompts, EXPERIMENT.decoder)]
        for name, path in policies.items()
    }
    assert seen == expected["reference"]

    assert run.drain(60)
    counts = run.counts()
    assert counts.balanced and (counts.spooled, counts.paired, counts.shed) == (40, 32, {"no_consent": 8})
    by_text = {text: i for i, text in enumerate(texts)}
    for pair in run.pairs():
        i = by_text[pair.spooled.messages[0].content]
        assert pair.reference.text == expected["reference"][i]
        assert pair.aligned.text == expected["aligned"][i]
        assert pair.reference.policy != pair.aligned.policy
        assert pair.spooled.decoder == EXPERIMENT.decoder
    summary = summarise(run.pairs(), lambda text: "comply", counts)
    assert summary.sessions == 8 and summary.refusal_shift["benign"][0] == 0.0


def test_the_aligned_policy_cannot_be_reached_through_the_router(run: ShadowRun) -> None:
    client = openai.OpenAI(base_url=run.openai_url, api_key="secret", max_retries=0)
    assert [model.id for model in client.models.list()] == ["reference"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="aligned", messages=[{"role": "user", "content": "hi"}])


def test_a_remote_policy_answers_as_the_local_one(predictor: PredictorProcess, policies: dict[str, Path]) -> None:
    local = LocalPolicy.load(policies["aligned"])
    remote = RemotePolicy(predictor.openai_url, "aligned", local.manifest)
    prompts = [(say("user", f"who is ana {'ana ' * (i % 3)}?"),) for i in range(9)]
    for decoder in (DecoderSettings(max_tokens=8), DecoderSettings(max_tokens=8, temperature=1.0, seed=5)):
        assert remote.generate(prompts, decoder) == local.generate(prompts, decoder)


def test_requests_per_second_through_the_router_with_both_legs_answering(run: ShadowRun) -> None:
    """A loose floor, far below what a quiet machine does, so that a tenfold loss is noticed."""
    client = openai.OpenAI(base_url=run.openai_url, api_key="secret", max_retries=0)
    ask(client, "warm up")
    begun = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: ask(client, "who is ana ?", i, max_tokens=8), range(160)))
    assert 160 / (time.monotonic() - begun) > 10
