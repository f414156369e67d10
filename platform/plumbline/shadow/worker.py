"""The shadow worker: asks the aligned policy what users asked the reference, and writes the pair.

Same messages, same decoder settings, same seed; nothing of the user's credentials, which the spool never had. Draining
at once is live shadow, draining later is replay: one code. It asks at most `concurrency` at a time and gives each
`deadline_s` seconds. What becomes of a record:

    an answer                        paired
    no answer within the deadline    shed: deadline
    a 4xx, or 5xx `attempts` times   shed: error
    consent gone since it was kept   shed: withdrawn, and the content is erased
    nothing listens                  stays pending; the worker backs off and tries again

Killed anywhere, it starts again where it was: a record is pending until its one row says otherwise.
"""

import asyncio
import contextlib
import json
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.policies.remote import RETRIED, chat_body, read_answer
from plumbline.records import Answer, SpoolRecord
from plumbline.shadow.recorder import Consent, nobody
from plumbline.shadow.spool import Outcome, Spool

Judge = Callable[[str], str]
POLL_S = 0.02
PAGE = 64
MAX_BACKOFF_S = 5.0
MAX_ANSWER = 1 << 20
MAX_SLICES = 100


_Job = tuple[int, SpoolRecord]


class _Unreachable(Exception):
    pass


class Worker:
    """Drain `spool` against `aligned_url` (the base that ends in /v1). `judge` only feeds the live refusal counters."""

    def __init__(
        self,
        spool: Spool,
        aligned_url: str,
        *,
        consent: Consent = nobody,
        metrics: Metrics | None = None,
        judge: Judge | None = None,
        concurrency: int = 8,
        deadline_s: float = 30.0,
        attempts: int = 2,
    ) -> None:
        self.spool = spool
        self.aligned_url = aligned_url.rstrip("/")
        self.consent = consent
        self.metrics = metrics or Metrics()
        self.judge = judge
        self.concurrency = concurrency
        self.deadline_s = deadline_s
        self.attempts = attempts
        self._slices: set[str] = set()

    async def run(self, stop: asyncio.Event, *, until_empty: bool = False, unreachable_s: float = math.inf) -> None:
        """Drain until `stop` is set, or, with `until_empty`, until nothing is pending.

        Raises PlumblineError when nothing has listened at `aligned_url` for `unreachable_s` seconds.
        """
        waiting: deque[_Job] = deque()
        busy: dict[asyncio.Task[None], _Job] = {}
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        read_to = 0
        backoff = 0.0
        reached = time.monotonic()
        stopped = asyncio.ensure_future(stop.wait())
        timeout = aiohttp.ClientTimeout(total=self.deadline_s, sock_connect=min(5.0, self.deadline_s))
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                while not stop.is_set():
                    if len(waiting) < self.concurrency:
                        page = await asyncio.to_thread(self.spool.pending, PAGE, read_to)
                        read_to = page[-1][0] if page else read_to
                        waiting.extend(page)
                    if backoff:
                        await _sleep(stop, backoff)
                    while waiting and len(busy) < (1 if backoff else self.concurrency):
                        job = waiting.popleft()
                        busy[asyncio.create_task(self._pair(session, *job, outcomes))] = job
                    if busy:  # While a place is free, look for new records too: one slow answer must not hold them up.
                        free = len(busy) < self.concurrency
                        await asyncio.wait(
                            {*busy, stopped}, timeout=POLL_S if free else None, return_when=asyncio.FIRST_COMPLETED
                        )
                    elif until_empty and outcomes.empty():
                        return
                    else:
                        await _sleep(stop, POLL_S)
                    for task in [task for task in busy if task.done()]:
                        job = busy.pop(task)
                        if isinstance(error := task.exception(), _Unreachable):
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
                for task in busy:
                    task.cancel()
                await asyncio.gather(*busy, return_exceptions=True)
                await self._settle(outcomes)

    def _nobody_there(self, seconds: float) -> PlumblineError:
        return PlumblineError(
            f"nothing has listened at {self.aligned_url} for {seconds:g} s",
            consequence=f"{self.spool.waiting()} records still wait in {self.spool.directory}; none was lost",
            remedy="start the aligned policy's predictor, or correct the URL, and drain again",
        )

    async def _pair(
        self, session: aiohttp.ClientSession, seq: int, record: SpoolRecord, outcomes: "asyncio.Queue[Outcome]"
    ) -> None:
        try:
            consents = await asyncio.to_thread(self.consent, record.subject)
        except Exception:
            consents = None  # Fail closed, but keep the record's reason apart from a real withdrawal.
        if consents is not True:
            outcomes.put_nowait(Outcome(seq, reason="withdrawn" if consents is False else "consent_unavailable"))
            return
        try:
            aligned = await self._ask(session, record)
        except TimeoutError:
            outcomes.put_nowait(Outcome(seq, reason="deadline"))
            return
        if isinstance(aligned, str):
            outcomes.put_nowait(Outcome(seq, reason=aligned))
            return
        self._observe(record, aligned)
        outcomes.put_nowait(Outcome(seq, aligned=aligned))

    async def _ask(self, session: aiohttp.ClientSession, record: SpoolRecord) -> Answer | str:
        """The aligned policy's answer, or the reason why there is none. Raises TimeoutError and _Unreachable."""
        body = chat_body(self.spool.experiment.aligned_model, record.messages, record.decoder)
        headers = {"x-plumbline-leg": "aligned-shadow", "x-request-id": record.request, "ce-id": record.request}
        for attempt in range(self.attempts):
            if attempt:
                await asyncio.sleep(0.1)
            begun = time.perf_counter()
            try:
                async with session.post(f"{self.aligned_url}/chat/completions", json=body, headers=headers) as response:
                    raw = await _read(response, MAX_ANSWER)
                    if raw is None:
                        return "oversize"
                    if response.status == 200:
                        answer = read_answer(json.loads(raw))
                        return Answer(
                            text=answer.text,
                            finish=answer.finish,
                            latency_ms=1000 * (time.perf_counter() - begun),
                            tokens=answer.tokens,
                            policy=response.headers.get("x-plumbline-policy", ""),
                        )
                    if response.status not in RETRIED:
                        return "error"
            except aiohttp.ClientConnectorError as error:
                raise _Unreachable from error
            except TimeoutError:
                raise
            except (aiohttp.ClientError, ValueError):
                continue
        return "error"

    async def _settle(self, outcomes: "asyncio.Queue[Outcome]") -> None:
        """Everything that was decided since the last time, in one transaction."""
        decided: list[Outcome] = []
        while not outcomes.empty():
            decided.append(outcomes.get_nowait())
        if not decided:
            return
        try:
            await asyncio.to_thread(self.spool.settle, decided)
        except sqlite3.Error:  # The disk is full: what was decided waits here, and in the spool as pending.
            for outcome in decided:
                outcomes.put_nowait(outcome)
            await asyncio.sleep(0.2)

    def _observe(self, record: SpoolRecord, aligned: Answer) -> None:
        if self.judge is None:
            return
        if len(self._slices) < MAX_SLICES:
            self._slices.add(record.slice)
        slice_ = record.slice if record.slice in self._slices else "other"  # labels come from requests: bound them
        for leg, answer in (("reference", record.reference), ("aligned", aligned)):
            labels = (self.spool.experiment.name, leg, slice_)
            self.metrics.counter("plumbline_shadow_answers").labels(*labels).inc()
            refused = self.metrics.counter("plumbline_shadow_refusals").labels(*labels)
            if self.judge(answer.text) == "refuse":
                refused.inc()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """The body; None when it is over the limit."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            return None
        parts.append(part)
    return b"".join(parts)


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
