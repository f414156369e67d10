"""The thread that does all of a policy's torch work, around the engine of `plumbline.policies.engine`.

Why a thread of our own: the event loop must stay free to accept and to notice who hung up, and an engine takes one
caller at a time. At every step it takes in who came, lets go of who left, and tells each what is new; what there is to
tell goes to the event loop in one call per step.

    event loop   ask --> came            pieces <-- told
    thread               came, left --> engine.step() --> told

A client that leaves frees its slot at the next step. Beyond `max_waiting` requests are refused, with a guess of when to
come again; those that wait are served in the order in which they came.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from plumbline.policies.base import Completion
from plumbline.policies.engine import Answer, Engine, TokenLogprob
from plumbline.records import DecoderSettings

READ_TOKENS = 512  # of prompts, between two steps of those who speak
GATHER_S = 0.002  # that a prompt may wait for others to be read with, while somebody speaks
ENOUGH = 8
LOGGED = 64


class Overloaded(Exception):
    """More requests wait than the batcher holds, or it is stopping. `again_s`: when it is worth another try."""

    def __init__(self, fact: str, again_s: int = 1) -> None:
        super().__init__(fact)
        self.again_s = again_s


@dataclass(frozen=True)
class Piece:
    """What a stream says at once: maybe no text yet, and the tokens noted since the last piece."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A whole answer. `first_token_s`: from asking to its first token."""

    completion: Completion
    logprobs: tuple[TokenLogprob, ...]
    first_token_s: float


Told = Piece | Answered | BaseException


@dataclass(eq=False)
class Asked:
    """One request to a batcher. Whoever holds it calls `leave` at the end, whatever happened: that frees the slot."""

    answer: Answer
    batcher: "Batcher"
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    heard: "asyncio.Queue[Told]" = field(default_factory=asyncio.Queue)
    came: float = field(default_factory=time.perf_counter)
    _first: float | None = None

    async def next(self) -> Piece | Answered:
        """The next piece of a stream; at last, and without a stream at once, the whole."""
        told = await self.heard.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def leave(self) -> None:
        if not self.answer.ended:
            self.batcher.leave(self)

    def news(self) -> list[Told]:
        """What the last step added that must be told."""
        answer = self.answer
        if self._first is None:
            self._first = time.perf_counter()
        found: list[Told] = []
        if answer.finish == "error":
            return [ArithmeticError("the policy's logits are not numbers")]
        if answer.aloud:
            piece = Piece(answer.piece(), answer.told())
            if piece.text or piece.logprobs:
                found.append(piece)
        if answer.ended:
            found.append(Answered(answer.completion, tuple(answer.logprobs), self._first - self.came))
        return found


@dataclass(eq=False)
class Batcher:
    """Start with `start(engine)`, end with `close()`. `load` may be read from any thread."""

    max_waiting: int = 1024
    _came: deque[Asked] = field(default_factory=deque)
    _left: list[Asked] = field(default_factory=list)
    _asks: dict[Answer, Asked] = field(default_factory=dict)
    _ends: deque[float] = field(default_factory=lambda: deque(maxlen=LOGGED))
    _work: threading.Condition = field(default_factory=threading.Condition)
    _closed: bool = False
    _engine: Engine | None = None
    _thread: threading.Thread | None = None

    def start(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = threading.Thread(target=self._run, args=(engine,), name="plumbline-batcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        if self._thread is not None:
            self._thread.join(timeout=10)

    @property
    def load(self) -> tuple[int, int]:
        """(slots busy, requests that wait)."""
        if self._engine is None:
            return 0, len(self._came)
        return self._engine.busy, len(self._came) + len(self._engine.waiting)

    def ask(self, ids: list[int], decoder: DecoderSettings, top: int | None = None, *, aloud: bool = False) -> Asked:
        """A prompt of these tokens, in pieces if `aloud`. To be called on an event loop. Raises Overloaded."""
        asked = Asked(Answer(ids, decoder, top, aloud), self)
        with self._work:
            if self._closed:
                raise Overloaded("the predictor is stopping")
            busy, waiting = self.load
            places = 0 if self._engine is None else self._engine.places
            if busy + waiting >= places + self.max_waiting:
                raise Overloaded(f"{waiting} requests wait already", self._again_s(waiting))
            self._came.append(asked)
            self._work.notify()
        return asked

    async def answer(self, ids: list[int], decoder: DecoderSettings, top: int | None = None) -> Answered:
        """The whole answer. Cancelling the awaiting task frees its slot."""
        asked = self.ask(ids, decoder, top)
        try:
            told = await asked.next()
        finally:
            asked.leave()
        assert isinstance(told, Answered)
        return told

    def leave(self, asked: Asked) -> None:
        with self._work:
            self._left.append(asked)
            self._work.notify()

    def _again_s(self, waiting: int) -> int:
        """Seconds until those that wait now are answered, going by the last answers; 1 to 60."""
        if len(self._ends) < 2:
            return 1
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return round(min(60.0, max(1.0, waiting * each)))

    # The thread's side.

    def _run(self, engine: Engine) -> None:
        while True:
            with self._work:
                while not (self._came or self._left or self._asks or self._closed):
                    self._work.wait()
                if self._closed:
                    break
                came, self._came = self._came, deque()
                left, self._left = self._left, []
                for ask in came:
                    self._asks[ask.answer] = ask
                    engine.ask(ask.answer)
            for gone in left:
                if self._asks.pop(gone.answer, None) is not None:
                    engine.drop(gone.answer)
            try:
                if not self._gathering(engine):
                    self._pass_on(engine.admit(READ_TOKENS))
                self._pass_on(engine.advance())
            except Exception as error:
                engine.clear()
                _tell([(ask, [error]) for ask in self._asks.values()])
                self._asks.clear()
        ended = Overloaded("the predictor is stopping")
        _tell([(ask, [ended]) for ask in (*self._came, *self._asks.values())])

    def _gathering(self, engine: Engine) -> bool:
        """Whether the oldest that waits may have company soon: a pass for eight prompts costs little more than two."""
        if not engine.waiting or not engine.busy or len(engine.waiting) >= ENOUGH:
            return False
        return time.perf_counter() - self._asks[engine.waiting[0]].came < GATHER_S

    def _pass_on(self, grown: Sequence[Answer]) -> None:
        told = [(self._asks[answer], self._asks[answer].news()) for answer in grown if answer in self._asks]
        for ask, _ in told:
            if ask.answer.ended:
                del self._asks[ask.answer]
                self._ends.append(time.monotonic())
        _tell(told)


def _tell(told: Sequence[tuple[Asked, Sequence[Told]]]) -> None:
    """Each event loop hears all that is for it in one call."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Asked, Sequence[Told]]]] = {}
    for ask, news in told:
        if news:
            by_loop.setdefault(ask.loop, []).append((ask, news))
    for loop, mine in by_loop.items():
        try:
            loop.call_soon_threadsafe(_hear, mine)
        except RuntimeError:  # The loop has closed: nobody listens any more.
            continue


def _hear(told: Sequence[tuple[Asked, Sequence[Told]]]) -> None:
    for ask, news in told:
        for item in news:
            ask.heard.put_nowait(item)
