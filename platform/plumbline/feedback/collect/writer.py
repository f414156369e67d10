"""The one thread that writes: events in commits of a hundred, and consent before them.

Handlers do not commit one by one: what has gathered is committed together, so that one fsync carries many events and
each is still acknowledged only after it. A commit is never longer than `PORTION` events, also when a request brings
thousands; between two commits everything urgent goes first. So a withdrawal waits for at most one portion, whatever
is in the queue.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.strict_json import Refused
from plumbline.metrics import Metrics
from plumbline.records import FeedbackEvent
from plumbline.stores import Inbox, Receipt
from plumbline.stores.inbox import Landed

T = TypeVar("T")
PORTION = 100
MOST_WAITING = 20_000  # events


@dataclass
class _Request:
    """`taken` of its events were taken for a commit; those that are durable have receipts."""

    events: Sequence[FeedbackEvent | Landed]
    done: "Future[list[Receipt]]" = field(default_factory=Future)
    taken: int = 0
    receipts: list[Receipt] = field(default_factory=list)


class Writer:
    """Starts on construction; `close` writes what waits and ends the thread."""

    def __init__(self, inbox: Inbox, metrics: Metrics) -> None:
        self._inbox, self._metrics = inbox, metrics
        self._turn = threading.Condition()
        self._urgent: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._requests: deque[_Request] = deque()
        self._waiting = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="collector-writer", daemon=True)
        self._thread.start()

    def events(self, events: Sequence[FeedbackEvent | Landed]) -> "Future[list[Receipt]]":
        """Receipts, once all are durable. Refused when too much waits already: better now than out of memory."""
        request = _Request(events)
        with self._turn:
            if self._waiting + len(events) > MOST_WAITING:
                raise Refused(503, "busy", "too many events wait to be written; send these again in a second")
            self._requests.append(request)
            self._waiting += len(events)
            self._turn.notify()
        return request.done

    def urgent(self, call: Callable[[], T]) -> "Future[T]":
        """Run a call on the writing thread, before all events that wait."""
        done: Future[T] = Future()
        with self._turn:
            self._urgent.append((call, done))
            self._turn.notify()
        return done

    def close(self) -> None:
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._turn:
                while not (self._urgent or self._requests or self._closed):
                    self._turn.wait()
                if not self._urgent and not self._requests:
                    return
                urgent = self._urgent.popleft() if self._urgent else None
                portion = [] if urgent else self._portion()
            if urgent:
                _attempt(*urgent)
            else:
                self._write(portion)

    def _portion(self) -> list[tuple[_Request, Sequence[FeedbackEvent | Landed]]]:
        """The next events, of as many requests as fit. A request stays in front until its last event is taken."""
        portion: list[tuple[_Request, Sequence[FeedbackEvent | Landed]]] = []
        room = PORTION
        while self._requests and room:
            request = self._requests[0]
            events = request.events[request.taken : request.taken + room]
            request.taken += len(events)
            portion.append((request, events))
            room -= len(events)
            self._waiting -= len(events)
            if request.taken == len(request.events):
                self._requests.popleft()
        return portion

    def _write(self, portion: list[tuple[_Request, Sequence[FeedbackEvent | Landed]]]) -> None:
        started = time.perf_counter()
        try:
            receipts = self._inbox.append([event for _, events in portion for event in events])
        except Exception as error:  # the writer outlives a full disk; each sender hears of it
            if len(portion) > 1 and not isinstance(error, PlumblineError):
                for one in portion:  # one of them may be the cause: the others are innocent
                    self._write([one])
                return
            for request, _ in portion:
                self._give_up(request, error)
            return
        self._metrics.histogram("plumbline_feedback_commit_seconds").observe(time.perf_counter() - started)
        start = 0
        for request, events in portion:
            request.receipts += receipts[start : start + len(events)]
            start += len(events)
            if len(request.receipts) == len(request.events):
                _answer(request.done, request.receipts)

    def _give_up(self, request: _Request, error: Exception) -> None:
        """The request failed as a whole: what waits of it is not written. What was written is a duplicate next time."""
        with self._turn:
            if self._requests and self._requests[0] is request:
                self._requests.popleft()
                self._waiting -= len(request.events) - request.taken
        _answer(request.done, error)


def _attempt(call: Callable[[], T], done: "Future[T]") -> None:
    try:
        _answer(done, call())
    except Exception as error:  # the writer goes on; whoever asked hears of it
        _answer(done, error)


def _answer(done: "Future[Any]", answer: Any) -> None:
    with contextlib.suppress(InvalidStateError):  # whoever asked has gone
        if isinstance(answer, Exception):
            done.set_exception(answer)
        else:
            done.set_result(answer)
