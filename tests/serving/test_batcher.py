"""The batching thread around the real engine: who comes, who leaves, who must wait, and what goes wrong."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plumbline.policies import decoding
from plumbline.policies.engine import Engine
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say
from plumbline.serving.batcher import Answered, Batcher, Overloaded, Piece

GREEDY = DecoderSettings(max_tokens=8)
LONG = DecoderSettings(max_tokens=800)


@pytest.fixture(scope="module")
def policy(policies: dict[str, Path]) -> LocalPolicy:
    return LocalPolicy.load(policies["reference"])


@pytest.fixture
def engine(policy: LocalPolicy) -> Engine:
    """It never ends by itself, so that a long answer is long."""
    engine = policy.engine()
    engine.stop_ids = frozenset()
    return engine


@pytest.fixture
def batcher(engine: Engine) -> Iterator[Batcher]:
    made = Batcher(max_waiting=4)
    made.start(engine)
    yield made
    made.close()


@pytest.fixture
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The engine takes no step until this is set."""
    go = threading.Event()
    real = engine.admit

    def admit(reads: int | None = None) -> Any:
        go.wait(20)
        return real(reads)

    monkeypatch.setattr(engine, "admit", admit)
    return go


def ids(policy: LocalPolicy, text: str) -> list[int]:
    return policy.template.prompt_ids([(say("user", text),)])[0]


async def until(true: Any) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about in 10 seconds")


def test_whole_answers_and_streams_of_all_settings_are_what_the_policy_says_alone(policy: LocalPolicy) -> None:
    batcher = Batcher()
    batcher.start(policy.engine())
    settings = [
        GREEDY,
        DecoderSettings(max_tokens=5, temperature=1.0, seed=3),
        DecoderSettings(max_tokens=9, stop=("a",)),
    ]
    asked = [(f"who is ana {'ana ' * (i % 6)}?", settings[i % 3], bool(i % 2)) for i in range(24)]

    async def one(text: str, decoder: DecoderSettings, stream: bool) -> str:
        if not stream:
            return (await batcher.answer(ids(policy, text), decoder)).completion.text
        handle = batcher.ask(ids(policy, text), decoder, aloud=True)
        said = ""
        while isinstance(piece := await handle.next(), Piece):
            said += piece.text
        assert piece.completion.text == said
        return said

    async def work() -> list[str]:
        return await asyncio.gather(*(one(*each) for each in asked))

    answers = asyncio.run(work())
    batcher.close()
    assert answers == [policy.generate([(say("user", t),)], decoder)[0].text for t, decoder, _ in asked]


def test_who_comes_late_is_answered_while_a_long_answer_goes_on(policy: LocalPolicy, batcher: Batcher) -> None:
    async def work() -> bool:
        long = batcher.ask(ids(policy, "who is ana ?"), LONG, aloud=True)
        await long.next()
        await batcher.answer(ids(policy, "who is ben ?"), GREEDY)
        speaking = not long.answer.ended
        long.leave()
        return speaking

    assert asyncio.run(work())


def test_a_client_that_leaves_frees_its_slot_or_its_place_in_the_queue(
    policy: LocalPolicy, batcher: Batcher, engine: Engine, held: threading.Event
) -> None:
    prompt = ids(policy, "who is ana ?")

    async def work() -> None:
        speaking = batcher.ask(prompt, LONG, aloud=True)
        held.set()
        await speaking.next()
        assert batcher.load[0] == 1
        held.clear()
        waiting = asyncio.ensure_future(batcher.answer(prompt, LONG))
        await asyncio.sleep(0.01)
        waiting.cancel()
        speaking.leave()
        held.set()
        await until(lambda: batcher.load == (0, 0))
        assert not engine.waiting
        await batcher.answer(prompt, GREEDY)

    asyncio.run(work())
    assert engine.busy == 0


def test_beyond_the_slots_and_the_queue_requests_are_told_when_to_come_again(
    policy: LocalPolicy, batcher: Batcher, engine: Engine, held: threading.Event
) -> None:
    prompt = ids(policy, "who ?")
    most = engine.places + 4

    async def work() -> None:
        asks = [asyncio.ensure_future(batcher.answer(prompt, GREEDY)) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=f"{most} requests wait already") as refused:
            batcher.ask(prompt, GREEDY)
        assert 1 <= refused.value.again_s <= 60
        held.set()
        assert len({answer.completion.text for answer in await asyncio.gather(*asks)}) == 1

    asyncio.run(work())


def test_a_batcher_that_stops_leaves_nobody_waiting(policy: LocalPolicy, batcher: Batcher) -> None:
    prompt = ids(policy, "who ?")

    async def work() -> None:
        asks = [asyncio.ensure_future(batcher.answer(prompt, LONG)) for _ in range(3)]
        await until(lambda: batcher.load[0] == 3)
        await asyncio.to_thread(batcher.close)
        ended = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(each, Overloaded) for each in ended)
        with pytest.raises(Overloaded, match="stopping"):
            await batcher.answer(prompt, GREEDY)

    asyncio.run(work())


def test_a_step_that_fails_is_told_to_all_and_the_next_request_is_answered(
    policy: LocalPolicy, batcher: Batcher, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = ids(policy, "who is ana ?")
    real = decoding.step
    broken = threading.Event()

    def step(*given: Any) -> Any:
        if broken.is_set():
            raise MemoryError("no room")
        return real(*given)

    monkeypatch.setattr(decoding, "step", step)

    async def work() -> None:
        asks = [asyncio.ensure_future(batcher.answer(prompt, LONG)) for _ in range(3)]
        await until(lambda: batcher.load[0] == 3)
        broken.set()
        ended = await asyncio.gather(*asks, return_exceptions=True)
        assert all(isinstance(each, MemoryError) for each in ended)
        broken.clear()
        assert isinstance(await batcher.answer(prompt, GREEDY), Answered)

    asyncio.run(work())


def test_logits_that_are_no_numbers_are_an_error_and_no_answer(
    policy: LocalPolicy, batcher: Batcher, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = engine.model.get_output_embeddings().weight
    kept = weight.detach().clone()

    async def work() -> None:
        with torch.no_grad():
            weight.fill_(torch.nan)
        try:
            with pytest.raises(ArithmeticError, match="not numbers"):
                await batcher.answer(ids(policy, "who ?"), GREEDY)
        finally:
            with torch.no_grad():
                weight.copy_(kept)

    asyncio.run(work())
