"""One thread that does all of a policy's torch work: batches what waits, and interleaves streams.

Why a thread of our own: the event loop must stay free to accept and to notice who hung up, and a policy takes one
caller at a time. Requests that arrive within a few milliseconds, and all that came while the last batch ran, go
together when they are alike: same decoder settings and same prompt length, which is what a policy can ask together
without padding (padding would change an answer's last bits). The oldest request decides which kind goes first, so that
the others gather company meanwhile. Streams advance one piece per turn, so none starves another.

    waiting   a a b a        batch [a a a]   then [b]
    streams   s1 s2          s1.next s2.next between batches

A request whose client left before its batch began is dropped; a stream whose client left stops at the next piece.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from plumbline.policies.base import Completion
from plumbline.records import Conversation, DecoderSettings


class StreamingPolicy(Protocol):
    """What the batcher asks of a policy. `stream` may return its `Completion` as the generator's value."""

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]: ...

    def stream(self, prompt: Conversation, decoder: DecoderSettings) -> Iterator[str]: ...


class Overloaded(Exception):
    """More requests wait than the batcher holds."""


@dataclass
class _Ask:
    policy: StreamingPolicy
    prompt: Conversation
    decoder: DecoderSettings
    length: int
    answer: "Future[Completion]" = field(default_factory=Future)

    def alike(self, other: "_Ask") -> bool:
        return self.policy is other.policy and self.length == other.length and self.decoder == other.decoder


@dataclass
class _Stream:
    policy: StreamingPolicy
    prompt: Conversation
    decoder: DecoderSettings
    tell: Callable[[str | Completion | BaseException], None]
    left: threading.Event = field(default_factory=threading.Event)
    pieces: Iterator[str] | None = None
    said: list[str] = field(default_factory=list)


class Batcher:
    """Start with `start()`, end with `close()`. `max_batch` rows at once, `window_s` seconds to gather them."""

    def __init__(self, *, max_batch: int = 32, window_s: float = 0.003, max_waiting: int = 1024) -> None:
        self.max_batch = max_batch
        self.window_s = window_s
        self.max_waiting = max_waiting
        self._waiting: deque[_Ask] = deque()
        self._streams: list[_Stream] = []
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="plumbline-batcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def load(self) -> int:
        """Requests waiting or streaming."""
        return len(self._waiting) + len(self._streams)

    async def generate(
        self, policy: StreamingPolicy, prompt: Conversation, decoder: DecoderSettings, length: int = 0
    ) -> Completion:
        """The whole answer to a prompt of `length` tokens. Cancelling the awaiting task frees its place."""
        ask = _Ask(policy, prompt, decoder, length)
        with self._work:
            self._admit()
            self._waiting.append(ask)
            self._work.notify()
        return await asyncio.wrap_future(ask.answer)

    async def stream(
        self, policy: StreamingPolicy, prompt: Conversation, decoder: DecoderSettings
    ) -> AsyncGenerator[str | Completion, None]:
        """Pieces of the answer as they come, then its `Completion`. Closing the iterator frees the slot."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | Completion | BaseException] = asyncio.Queue()
        stream = _Stream(policy, prompt, decoder, lambda item: _tell(loop, heard, item))
        with self._work:
            self._admit()
            self._streams.append(stream)
            self._work.notify()
        try:
            while True:
                item = await heard.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Completion):
                    return
        finally:
            stream.left.set()

    def _admit(self) -> None:
        if self._closed or self.load >= self.max_waiting:
            raise Overloaded(f"{self.load} requests wait already")

    # The thread's side.

    def _run(self) -> None:
        while True:
            with self._work:
                while not (self._waiting or self._streams or self._closed):
                    self._work.wait()
                if self._closed:
                    break
                if self._waiting and not self._streams:
                    self._gather()
                batch = self._take()
                streams = list(self._streams)
            if batch:
                self._answer(batch)
            for stream in streams:
                if self._advance(stream):
                    with self._work:
                        self._streams.remove(stream)
        ended = Overloaded("the predictor is stopping")
        for ask in self._waiting:
            if ask.answer.set_running_or_notify_cancel():
                ask.answer.set_exception(ended)
        for stream in self._streams:
            stream.tell(ended)

    def _gather(self) -> None:
        """Wait a moment for company; the lock is free meanwhile."""
        until = time.monotonic() + self.window_s
        while len(self._waiting) < self.max_batch and not self._closed:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._work.wait(left)

    def _take(self) -> list[_Ask]:
        batch: list[_Ask] = []
        others: deque[_Ask] = deque()
        while self._waiting and len(batch) < self.max_batch:
            ask = self._waiting.popleft()
            if batch and not ask.alike(batch[0]):
                others.append(ask)
            elif ask.answer.set_running_or_notify_cancel():
                batch.append(ask)
        self._waiting.extendleft(reversed(others))
        return batch

    def _answer(self, batch: list[_Ask]) -> None:
        try:
            answers = batch[0].policy.generate([ask.prompt for ask in batch], batch[0].decoder)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
            else:  # One prompt that cannot be rendered must not take its neighbours with it.
                for ask in batch:
                    self._answer([ask])
            return
        for ask, answer in zip(batch, answers, strict=True):
            ask.answer.set_result(answer)

    def _advance(self, stream: _Stream) -> bool:
        """One piece of a stream; True when it has ended or its reader has left."""
        if stream.left.is_set():
            return True
        try:
            if stream.pieces is None:
                stream.pieces = stream.policy.stream(stream.prompt, stream.decoder)
            piece = next(stream.pieces)
        except StopIteration as end:
            stream.tell(end.value if isinstance(end.value, Completion) else _guess(stream))
            return True
        except BaseException as error:
            stream.tell(error)
            return True
        stream.said.append(piece)
        stream.tell(piece)
        return False


def _guess(stream: _Stream) -> Completion:
    """For a policy whose stream does not say how it ended: a piece is about a token."""
    full = len(stream.said) >= stream.decoder.max_tokens
    return Completion("".join(stream.said), "length" if full else "stop", len(stream.said))


def _tell(
    loop: asyncio.AbstractEventLoop,
    heard: "asyncio.Queue[str | Completion | BaseException]",
    item: str | Completion | BaseException,
) -> None:
    try:
        loop.call_soon_threadsafe(heard.put_nowait, item)
    except RuntimeError:  # The loop has closed: nobody listens any more.
        return
