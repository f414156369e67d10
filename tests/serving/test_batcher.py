"""The batching thread, with a policy that says what it was asked together."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from plumbline.policies.base import Completion
from plumbline.records import Conversation, DecoderSettings, say
from plumbline.serving.batcher import Batcher, Overloaded

GREEDY = DecoderSettings(max_tokens=4)


class Recording:
    """Echoes prompts; records each batch; `slow_s` per batch or piece; prompts that say `bad` cannot be asked."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.batches: list[list[str]] = []
        self.pieces = 0
        self.slow_s = slow_s
        self.threads: set[int] = set()

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]:
        self.threads.add(threading.get_ident())
        texts = [prompt[-1].content for prompt in prompts]
        self.batches.append(texts)
        time.sleep(self.slow_s)
        if "bad" in texts:
            raise ValueError("a bad prompt")
        return [Completion(text.upper(), "stop", decoder.max_tokens) for text in texts]

    def stream(self, prompt: Conversation, decoder: DecoderSettings) -> Iterator[str]:
        for letter in prompt[-1].content:
            self.threads.add(threading.get_ident())
            time.sleep(self.slow_s)
            self.pieces += 1
            yield letter


def prompt(text: str) -> Conversation:
    return (say("user", text),)


def test_requests_that_come_together_are_asked_together() -> None:
    policy, batcher = Recording(), Batcher(max_batch=8, window_s=0.05)
    batcher.start()

    async def work() -> list[Completion]:
        return await asyncio.gather(*(batcher.generate(policy, prompt(f"p{i}"), GREEDY) for i in range(20)))

    answers = asyncio.run(work())
    batcher.close()
    assert [answer.text for answer in answers] == [f"P{i}" for i in range(20)]
    assert [len(batch) for batch in policy.batches] == [8, 8, 4]


def test_unequal_decoder_settings_are_never_mixed() -> None:
    policy, batcher = Recording(), Batcher(window_s=0.05)
    batcher.start()
    other = DecoderSettings(max_tokens=9)

    async def work() -> list[Completion]:
        asks = [batcher.generate(policy, prompt(f"p{i}"), other if i % 2 else GREEDY) for i in range(6)]
        return await asyncio.gather(*asks)

    answers = asyncio.run(work())
    batcher.close()
    assert [answer.tokens for answer in answers] == [4, 9] * 3
    assert policy.batches == [["p0", "p2", "p4"], ["p1", "p3", "p5"]]


def test_only_prompts_of_equal_length_are_asked_together_oldest_first() -> None:
    policy, batcher = Recording(), Batcher(window_s=0.05)
    batcher.start()

    async def work() -> list[Completion]:
        return await asyncio.gather(*(batcher.generate(policy, prompt(t), GREEDY, len(t)) for t in ("aa", "b", "cc")))

    answers = asyncio.run(work())
    batcher.close()
    assert [answer.text for answer in answers] == ["AA", "B", "CC"]
    assert policy.batches == [["aa", "cc"], ["b"]]


def test_a_prompt_that_cannot_be_asked_does_not_take_its_neighbours_with_it() -> None:
    policy, batcher = Recording(), Batcher(window_s=0.05)
    batcher.start()

    async def work() -> list[Completion | BaseException]:
        asks = [batcher.generate(policy, prompt(text), GREEDY) for text in ("good", "bad", "fine")]
        return await asyncio.gather(*asks, return_exceptions=True)

    good, bad, fine = asyncio.run(work())
    batcher.close()
    assert isinstance(good, Completion) and isinstance(fine, Completion)
    assert isinstance(bad, ValueError)


def test_a_client_that_leaves_the_queue_is_never_asked() -> None:
    policy, batcher = Recording(slow_s=0.1), Batcher(window_s=0.0)
    batcher.start()

    async def work() -> None:
        first = asyncio.ensure_future(batcher.generate(policy, prompt("first"), GREEDY))
        await asyncio.sleep(0.03)
        left = asyncio.ensure_future(batcher.generate(policy, prompt("left"), GREEDY))
        await asyncio.sleep(0.01)
        left.cancel()
        await first
        await batcher.generate(policy, prompt("last"), GREEDY)

    asyncio.run(work())
    batcher.close()
    assert policy.batches == [["first"], ["last"]]


def test_a_dropped_stream_stops_generating() -> None:
    policy, batcher = Recording(slow_s=0.01), Batcher()
    batcher.start()

    async def work() -> str:
        stream = batcher.stream(policy, prompt("x" * 500), GREEDY)
        first = await anext(stream)
        await stream.aclose()
        assert isinstance(first, str)
        return first

    assert asyncio.run(work()) == "x"
    time.sleep(0.1)
    said = policy.pieces
    time.sleep(0.1)
    assert policy.pieces == said < 50 and batcher.load == 0
    batcher.close()


def test_streams_and_batches_share_the_thread_and_none_waits_for_another_to_end() -> None:
    policy, batcher = Recording(slow_s=0.005), Batcher()
    batcher.start()
    order: list[str] = []

    async def listen(name: str, length: int) -> None:
        async for piece in batcher.stream(policy, prompt(name * length), GREEDY):
            if isinstance(piece, Completion):
                order.append(name)
                assert piece.text == name * length

    async def ask() -> None:
        await batcher.generate(policy, prompt("q"), GREEDY)
        order.append("q")

    async def work() -> None:
        long = asyncio.ensure_future(listen("a", 40))
        await asyncio.sleep(0.02)
        await asyncio.gather(long, listen("b", 5), ask())

    asyncio.run(work())
    batcher.close()
    assert order[-1] == "a" and set(order[:2]) == {"b", "q"}
    assert len(policy.threads) == 1


def test_a_full_queue_is_refused_and_a_closed_batcher_leaves_nobody_waiting() -> None:
    policy, batcher = Recording(slow_s=0.2), Batcher(max_waiting=2, window_s=0.0)
    batcher.start()

    async def work() -> list[Completion | BaseException]:
        asks = [asyncio.ensure_future(batcher.generate(policy, prompt("0"), GREEDY))]
        await asyncio.sleep(0.05)
        asks += [asyncio.ensure_future(batcher.generate(policy, prompt(str(i)), GREEDY)) for i in (1, 2, 3)]
        await asyncio.sleep(0.01)
        await asyncio.to_thread(batcher.close)
        return await asyncio.gather(*asks, return_exceptions=True)

    answers = asyncio.run(work())
    assert isinstance(answers[0], Completion)
    assert all(isinstance(answer, Overloaded) for answer in answers[1:])
    with pytest.raises(Overloaded):
        asyncio.run(batcher.generate(policy, prompt("late"), GREEDY))
