"""The shadow worker: asks the other policy what users asked the one that served them, and writes the pair.

Same messages, same tools, same decoder settings, same seed, streamed where the user's was; nothing of the user's
credentials, which the spool never had. Draining at once is live shadow, draining later is replay: one code. It asks at
most `concurrency` at a time and gives each `deadline_s` seconds. What becomes of a record:

    an answer                        paired
    no answer within the deadline    shed: deadline
    a 4xx, or 5xx `attempts` times   shed: error
    an answer beyond the limits      shed: oversize
    consent gone since it was kept   shed: withdrawn, and the content is erased
    nothing listens                  stays pending; the worker backs off and tries again
    the kill switch is thrown        stays pending until it is reset; nobody is asked

With a sweeper (sweeping.py) it also erases what people said who withdrew, pairs included: before it asks anybody, and
again and again, whether or not there is anybody to ask.

Which policy is the other one: the aligned policy; in an A/A experiment the reference, again; in an A/B experiment the
reference, for a user who got the aligned policy.

Killed anywhere, it starts again where it was: a record is pending until its one row says otherwise.
"""

import asyncio
import contextlib
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.records import Answer, Leg, SpoolRecord
from plumbline.shadow.asking import Unreachable, ask
from plumbline.shadow.legs import Token, Upstream, require_comparable, upstream
from plumbline.shadow.recorder import Consent, nobody
from plumbline.shadow.requests import replayed
from plumbline.shadow.spool import Outcome, Spool
from plumbline.shadow.sweeping import Sweeper
from plumbline.shadow.switch import Switch

Judge = Callable[[str], str]
POLL_S = 0.02
PAGE = 64
MAX_BACKOFF_S = 5.0
MAX_SLICES = 100


_Job = tuple[int, SpoolRecord]


class Worker:
    """Drain `spool`. URLs are bases that end in /v1; in an A/A experiment `aligned_url` is the reference's, which is
    asked again. An A/B experiment needs both. Tokens are the worker's own. `judge` only feeds the live refusal
    counters."""

    def __init__(
        self,
        spool: Spool,
        aligned_url: str,
        *,
        reference_url: str | None = None,
        aligned_token: Token | None = None,
        reference_token: Token | None = None,
        consent: Consent = nobody,
        sweeper: Sweeper | None = None,
        metrics: Metrics | None = None,
        judge: Judge | None = None,
        concurrency: int = 8,
        deadline_s: float = 30.0,
        attempts: int = 2,
    ) -> None:
        self.spool = spool
        experiment = spool.experiment
        again = experiment.reference_model if experiment.mode == "aa" else None
        self.legs: dict[Leg, Upstream] = {
            "aligned": upstream(experiment, "aligned", aligned_url, aligned_token, model=again)
        }
        if reference_url is not None:
            self.legs["reference"] = upstream(experiment, "reference", reference_url, reference_token)
        self.switch = Switch(spool)
        self.consent = consent
        self.sweeper = sweeper
        self.metrics = metrics or Metrics()
        self.judge = judge
        self.concurrency = concurrency
        self.deadline_s = deadline_s
        self.attempts = attempts
        self.compared = "reference" not in self.legs
        self._comparing = asyncio.Lock()
        self._slices: set[str] = set()
        self._complained = False

    async def run(
        self, stop: asyncio.Event, *, ending: asyncio.Event | None = None, unreachable_s: float = math.inf
    ) -> None:
        """Drain until `stop` is set, or, once `ending` is, until nothing is pending.

        Raises PlumblineError when nothing has listened for `unreachable_s` seconds, and, once `ending` is set, while
        the kill switch is thrown.
        """
        waiting: deque[_Job] = deque()
        busy: dict[asyncio.Task[None], _Job] = {}
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        read_to = 0
        backoff = 0.0
        reached = time.monotonic()
        stopped = asyncio.ensure_future(stop.wait())
        following = [asyncio.ensure_future(self.switch.follow())]
        await asyncio.to_thread(self.switch.look)
        if self.sweeper is not None:
            await asyncio.to_thread(self.sweeper.look)
            following.append(asyncio.ensure_future(self.sweeper.follow()))
        timeout = aiohttp.ClientTimeout(total=self.deadline_s, sock_connect=min(5.0, self.deadline_s))
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                while not stop.is_set():
                    last = ending is not None and ending.is_set()
                    if self.switch.tripped is not None and not busy:
                        if last:
                            raise self.stopped(self.switch.tripped)
                        waiting.clear()
                        read_to = 0
                        await _sleep(stop, POLL_S)
                        await self._settle(outcomes)
                        continue
                    if len(waiting) < self.concurrency:
                        page = await self._more(read_to)
                        read_to = page[-1][0] if page else read_to
                        waiting.extend(page)
                    if backoff:
                        await _sleep(stop, backoff)
                    while waiting and len(busy) < (1 if backoff else self.concurrency) and self.switch.tripped is None:
                        job = waiting.popleft()
                        busy[asyncio.create_task(self._pair(session, *job, outcomes))] = job
                    if busy:  # While a place is free, look for new records too: one slow answer must not hold them up.
                        free = len(busy) < self.concurrency
                        await asyncio.wait(
                            {*busy, stopped}, timeout=POLL_S if free else None, return_when=asyncio.FIRST_COMPLETED
                        )
                    elif last and outcomes.empty():
                        return
                    else:
                        await _sleep(stop, POLL_S)
                    for task in [task for task in busy if task.done()]:
                        job = busy.pop(task)
                        if isinstance(error := task.exception(), Unreachable):
                            waiting.appendleft(job)
                            if time.monotonic() - reached > unreachable_s:
                                raise self._nobody_there(unreachable_s) from error
                            backoff = min(MAX_BACKOFF_S, max(0.1, 2 * backoff))
                        elif error is not None:
                            outcomes.put_nowait(Outcome(job[0], reason="error"))
                        else:
                            backoff, reached = 0.0, time.monotonic()
                    await self._settle(outcomes)
            finally:
                stopped.cancel()
                for task in [*following, *busy]:
                    task.cancel()
                await asyncio.gather(*following, *busy, return_exceptions=True)
                await self._settle(outcomes)

    async def _more(self, after: int) -> list[_Job]:
        """The next records that wait. None while the spool cannot be read: they wait there, and it is asked again."""
        try:
            return await asyncio.to_thread(self.spool.pending, PAGE, after)
        except sqlite3.OperationalError as error:
            self._complain(error)
            await asyncio.sleep(0.2)
            return []

    def _complain(self, error: sqlite3.Error) -> None:
        """To the log, once for as long as it lasts."""
        if not self._complained:
            logging.getLogger("plumbline").warning("the worker waits for its spool: %s", error)
        self._complained = True

    def _nobody_there(self, seconds: float) -> PlumblineError:
        return PlumblineError(
            f"nothing has listened at {' or '.join(leg.url for leg in self.legs.values())} for {seconds:g} s",
            consequence=f"{self.spool.waiting()} records still wait in {self.spool.directory}; none was lost",
            remedy="start the policy's predictor, or correct the URL, and drain again",
        )

    def stopped(self, reason: str) -> PlumblineError:
        return PlumblineError(
            f"the kill switch of {self.spool.directory} is thrown: {reason}",
            consequence=f"{self.spool.waiting()} records still wait; nobody was asked any more, and none was lost",
            remedy="look at the pairs; to go on all the same, `plumb shadow reset` with a reason",
        )

    def other(self, record: SpoolRecord) -> Upstream:
        """The leg to ask: the one that the user did not get."""
        return self.legs["reference" if record.served == "aligned" else "aligned"]

    async def _pair(
        self, session: aiohttp.ClientSession, seq: int, record: SpoolRecord, outcomes: "asyncio.Queue[Outcome]"
    ) -> None:
        if not await asyncio.to_thread(self._waits, seq):
            return  # a sweep has erased it since it was read, whatever its person has agreed to again
        try:
            consents = await asyncio.to_thread(self.consent, record.subject)
        except Exception:
            consents = None  # Fail closed, but keep the record's reason apart from a real withdrawal.
        if consents is not True:
            outcomes.put_nowait(Outcome(seq, reason="withdrawn" if consents is False else "consent_unavailable"))
            return
        if not await self._comparable():
            return
        try:
            answer = await self._ask(session, record)
        except TimeoutError:
            outcomes.put_nowait(Outcome(seq, reason="deadline"))
            return
        if isinstance(answer, str):
            outcomes.put_nowait(Outcome(seq, reason=answer))
            return
        self._observe(record, answer)
        outcomes.put_nowait(Outcome(seq, replayed=answer))

    def _waits(self, seq: int) -> bool:
        try:
            return self.spool.waits(seq)
        except sqlite3.Error:  # as it did when it was read
            return True

    async def _comparable(self) -> bool:
        """Compare both ends once both answer: what was not up when the experiment began may be another thing.

        Throws the kill switch where they differ; False then, and the record stays pending.
        """
        async with self._comparing:
            if not self.compared:
                try:
                    both = await asyncio.to_thread(require_comparable, self.legs["reference"], self.legs["aligned"])
                    self.compared = both[0].reached and both[1].reached
                except PlumblineError as error:
                    self.switch.trip(error.fact)
                    return False
        return True

    async def _ask(self, session: aiohttp.ClientSession, record: SpoolRecord) -> Answer | str:
        """The other policy's answer, or the reason why there is none. Raises TimeoutError and Unreachable."""
        leg, most = self.other(record), self.spool.experiment.max_record
        body = replayed(record, leg.model)
        return await ask(session, leg, body, record.request, most=most, attempts=self.attempts)

    async def _settle(self, outcomes: "asyncio.Queue[Outcome]") -> None:
        """Everything that was decided since the last time, in one transaction."""
        decided: list[Outcome] = []
        while not outcomes.empty():
            decided.append(outcomes.get_nowait())
        if not decided:
            return
        try:
            await asyncio.to_thread(self.spool.settle, decided)
            self._complained = False
        except sqlite3.OperationalError as error:  # The disk is full: what was decided waits here, and as pending.
            self._complain(error)
            for outcome in decided:
                outcomes.put_nowait(outcome)
            await asyncio.sleep(0.2)

    def _observe(self, record: SpoolRecord, other: Answer) -> None:
        if self.judge is None:
            return
        if len(self._slices) < MAX_SLICES:
            self._slices.add(record.slice)
        slice_ = record.slice if record.slice in self._slices else "other"  # labels come from requests: bound them
        asked = "reference" if record.served == "aligned" else "aligned"
        for leg, answer in ((record.served, record.answer), (asked, other)):
            labels = (self.spool.experiment.name, leg, slice_)
            self.metrics.counter("plumbline_shadow_answers").labels(*labels).inc()
            refused = self.metrics.counter("plumbline_shadow_refusals").labels(*labels)
            if self.judge(answer.text) == "refuse":
                refused.inc()


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
