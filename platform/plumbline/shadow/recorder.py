"""Between router and spool: a thread that turns served requests into records, so that no user waits for a disk.

The router hands over a `Served` (what was asked, the raw bytes of what was answered) and forgets it. The thread
asks for consent, reads the answer out of the bytes, and appends everything that waits with one fsync. When it cannot
keep up, the hand-over queue is full and the request is shed, counted. Default deny: a consent check that fails
counts as `consent_unavailable`, never as consent.
"""

import contextlib
import json
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from plumbline.records import Answer, Conversation, DecoderSettings, Leg, SpoolRecord
from plumbline.shadow.answers import NO_ANSWER, read_chat, read_events
from plumbline.shadow.spool import Loss, Spool

Consent = Callable[[str], bool]
Head = Callable[[], int]
QUEUE = 4096
IDLE_S = 0.25  # how long what overflowed may wait to be counted when no more requests come
MAX_HELD = 64 << 20  # bytes of bodies between router and spool
GROUP = 256


def nobody(subject: str) -> bool:
    """Default deny."""
    return False


@dataclass(frozen=True)
class Served:
    """A sampled request that a user got an answer to. `reason` is set when it cannot become a pair."""

    request: str
    session: str
    subject: str
    slice: str
    messages: Conversation
    decoder: DecoderSettings
    body: bytes
    streamed: bool
    aborted: bool
    latency_ms: float
    policy: str
    reason: str | None = None
    tools: str = ""
    leg: Leg = "reference"
    first_ms: float | None = None

    @property
    def held(self) -> int:
        """About how much memory it holds, in bytes."""
        return len(self.body) + len(self.tools) + sum(len(message.content) for message in self.messages)


class Recorder:
    """`offer` from the event loop, never blocking; `flush` waits until everything offered is decided."""

    def __init__(self, spool: Spool, consent: Consent, head: Head | None = None) -> None:
        """`head` is the consent ledger's last entry: kept with what is recorded, so that a person who comes back after
        a withdrawal does not bring back what they said before it."""
        self.spool = spool
        self.consent = consent
        self.head = head
        self._queue: queue.Queue[Served | None] = queue.Queue(QUEUE)
        self._lock = threading.Lock()
        self._overflow: Counter[tuple[str, str]] = Counter()
        self._held = 0
        self._thread = threading.Thread(target=self._run, name="plumbline-recorder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=30)

    def offer(self, served: Served) -> None:
        """Hand over; never blocks, never raises."""
        try:
            if self._held > MAX_HELD:
                raise queue.Full
            self._queue.put_nowait(served)
            with self._lock:
                self._held += served.held
        except queue.Full:
            with self._lock:
                self._overflow[served.slice, "queue_full"] += 1

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Whether everything offered so far was decided within the time."""
        until = time.monotonic() + timeout_s
        while self._queue.unfinished_tasks or self._overflow:
            if time.monotonic() > until:
                return False
            time.sleep(0.002)
        return True

    def _run(self) -> None:
        ended = False
        while not ended:
            group: list[Served | None] = []
            with contextlib.suppress(queue.Empty):
                group.append(self._queue.get(timeout=IDLE_S))
            while group and len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get())
            ended = None in group
            try:
                self._record(served for served in group if served is not None)
            except Exception:  # A fault in one group must not end the accounting of all later ones.
                logging.getLogger("plumbline").exception("the recorder lost a group of records")
                self._shed(Counter((served.slice, "recorder_error") for served in group if served is not None))
            finally:
                with self._lock:
                    self._held -= sum(served.held for served in group if served is not None)
                for _ in group:
                    self._queue.task_done()

    def _record(self, group: Iterable[Served]) -> None:
        with self._lock:
            overflow, self._overflow = self._overflow, Counter()
        self._shed(overflow)
        shed: Counter[tuple[str, str]] = Counter()
        records: list[SpoolRecord] = []
        waiting = list(group)
        consented = entry(self.head) if waiting else None  # before anybody is asked about
        for served in waiting:
            reason = served.reason or refusal(self.consent, served.subject)
            answer = None if reason else read_served(served)
            if reason or answer is None:
                shed[served.slice, reason or no_answer(served.leg)] += 1
                continue
            records.append(
                SpoolRecord(
                    request=served.request,
                    experiment=self.spool.experiment.name,
                    session=served.session,
                    subject=served.subject,
                    slice=served.slice,
                    messages=served.messages,
                    decoder=served.decoder,
                    tools=served.tools,
                    streamed=served.streamed,
                    served=served.leg,
                    answer=answer,
                    consent=True,
                )
            )
        self._shed(shed)
        self.spool.append(records, consented=consented)

    def _shed(self, lost: Counter[tuple[str, str]]) -> None:
        self.spool.shed_at_door(Loss(slice_, reason, n) for (slice_, reason), n in lost.items())


def refusal(consent: Consent, subject: str) -> str | None:
    """Why nothing of what this person says may be kept; None when it may. Fails closed."""
    try:
        return None if subject and consent(subject) is True else "no_consent"
    except Exception:
        return "consent_unavailable"


def entry(head: Head | None) -> int | None:
    """The consent ledger's last entry; None where nobody knows. Who cannot be asked for it agrees to nothing either."""
    try:
        return None if head is None else head()
    except Exception:
        return None


def no_answer(leg: Leg) -> str:
    """Why a request that a user got no whole answer to becomes no pair: what the aligned policy broke (in an A/B
    experiment) counts."""
    return "error" if leg == "aligned" else "reference_error"


def read_served(served: Served) -> Answer | None:
    """The answer in the bytes that the user got; None when they hold none."""
    try:
        if served.streamed:
            completion, whole = read_events(served.body)
        else:
            completion, whole = read_chat(json.loads(served.body)), True
        if not whole and not served.aborted:
            return None
        return Answer(
            text=completion.text,
            finish="client_abort" if served.aborted else completion.finish,
            latency_ms=served.latency_ms,
            first_ms=served.first_ms,
            tokens=completion.tokens,
            policy=served.policy,
        )
    except NO_ANSWER:
        return None
