"""Offline shadow: both policies are asked what a file of requests holds, and the pairs are those of live traffic.

A line is the body of a chat request, as OpenAI's API takes it, and may say besides who asked:

    {"messages": [{"role": "user", "content": "..."}], "temperature": 0, "session": "s1", "slice": "benign",
     "subject": "s-..."}

The reference is asked first, its answer becomes a record in the spool, and the worker asks the other policy from there:
same decoder settings, same seeds, same consent, same reasons for what is lost. A line without a session is a session of
its own. Every line that was dealt with is marked in the transaction that records it, so that the same command, started
again after a kill, asks nothing twice and forgets nothing. The file is read whole before anybody is asked.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.policies.remote import decoder_fields
from plumbline.records import SpoolRecord
from plumbline.shadow.asking import Unreachable, ask
from plumbline.shadow.legs import Upstream
from plumbline.shadow.recorder import Consent, Head, entry, refusal
from plumbline.shadow.requests import held
from plumbline.shadow.sampling import IDENTIFIER, SLICE, UNLABELLED, Experiment, pinned, session_pseudonym
from plumbline.shadow.spool import Loss, Spool
from plumbline.shadow.worker import Worker

OURS = ("session", "slice", "subject")
OFFLINE = "offline"  # whose words a file of requests holds where it does not say
CHUNK = 64
NAMED = 8  # malformed lines that a message names


def gone(spool: Spool, consent: Consent) -> list[str]:
    """Whose words a spool holds who do not consent any more. Whoever vouched for a file is nobody's consent to ask."""
    return [one for one in spool.subjects() if one != OFFLINE and not consent(one)]


@dataclass(frozen=True)
class Line:
    """A request of the file. `name` is its request id and its mark: of the line's number and words, under the salt."""

    name: str
    body: dict[str, Any]
    session: str
    slice: str
    subject: str


def read_requests(file: Path, experiment: Experiment, *, subject: str = "") -> list[Line]:
    """The requests in a JSONL file; `subject` stands in for whom a line does not name.

    PlumblineError that names the malformed lines by number; nobody was asked then.
    """
    lines: list[Line] = []
    wrong: list[str] = []
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise PlumblineError(
            f"{file} cannot be read: {error.strerror}",
            consequence="nobody was asked",
            remedy="name a JSONL file of chat requests",
        ) from error
    for number, text in enumerate(raw.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            lines.append(_line(number, text, experiment, subject))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong or not lines:
        more = f", and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise PlumblineError(
            f"{file} holds {len(wrong)} malformed lines: {'; '.join(wrong[:NAMED])}{more}"
            if wrong
            else f"{file} holds no request",
            consequence="nobody was asked",
            remedy='write one {"messages": [...]} a line, with session, slice and subject where they are known',
        )
    return lines


def _line(number: int, text: bytes, experiment: Experiment, subject: str) -> Line:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("messages"), list) or not body["messages"]:
        raise ValueError("it holds no list of messages")
    said = {name: body.pop(name, None) for name in OURS}
    for name, value in said.items():
        if value is not None and not (
            isinstance(value, str) and (SLICE if name == "slice" else IDENTIFIER).match(value)
        ):
            raise ValueError(f"its {name} is no identifier")
    digest = hmac.new(experiment.salt.encode(), b"%d\0" % number + text.strip(), hashlib.sha256).hexdigest()
    name = f"line-{number}-{digest[:16]}"
    if pinned(body, experiment.decoder, name) is None:
        raise ValueError("its decoder settings are not valid")
    return Line(name, body, said["session"] or name, said["slice"] or UNLABELLED, said["subject"] or subject)


def ask_both(
    lines: Sequence[Line],
    spool: Spool,
    reference: Upstream,
    worker: Worker,
    *,
    consent: Consent,
    head: Head | None = None,
    concurrency: int = 8,
    deadline_s: float = 30.0,
    unreachable_s: float = 60.0,
) -> int:
    """Ask both policies every line that was not dealt with yet; returns how many that were.

    PlumblineError when nothing listens at an end for `unreachable_s` seconds, or the kill switch is thrown; what was
    answered until then is kept, and the same call goes on from there.
    """
    done = spool.marks()
    left = [line for line in lines if line.name not in done]
    feed = _Feed(spool, reference, worker, consent, head, concurrency, deadline_s, unreachable_s)

    async def work() -> None:
        stop, ending = asyncio.Event(), asyncio.Event()
        draining = asyncio.ensure_future(worker.run(stop, ending=ending, unreachable_s=unreachable_s))
        feeding = asyncio.ensure_future(feed.run(left))
        try:
            await asyncio.wait({draining, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if not feeding.done():
                await draining  # it ended first, so it raises why
            await feeding
            ending.set()
            await draining
        finally:
            feeding.cancel()
            stop.set()
            await asyncio.gather(draining, feeding, return_exceptions=True)

    asyncio.run(work())
    return len(left)


class _Feed:
    """Asks the reference line after line, `concurrency` at a time, and never more than the spool has room for."""

    def __init__(
        self,
        spool: Spool,
        reference: Upstream,
        worker: Worker,
        consent: Consent,
        head: Head | None,
        concurrency: int,
        deadline_s: float,
        unreachable_s: float,
    ) -> None:
        self.spool = spool
        self.reference = reference
        self.worker = worker
        self.consent = consent
        self.head = head
        self.places = asyncio.Semaphore(concurrency)
        self.deadline_s = deadline_s
        self.unreachable_s = unreachable_s

    async def run(self, lines: Sequence[Line]) -> None:
        most = self.spool.experiment.max_pending
        chunk = min(CHUNK, most)
        timeout = aiohttp.ClientTimeout(total=self.deadline_s, sock_connect=min(5.0, self.deadline_s))
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for start in range(0, len(lines), chunk):
                some = lines[start : start + chunk]
                while await asyncio.to_thread(self.spool.waiting) + len(some) > most:
                    if (reason := await asyncio.to_thread(self.spool.tripped)) is not None:
                        raise self.worker.stopped(reason)
                    await asyncio.sleep(0.02)
                consented = await asyncio.to_thread(entry, self.head)
                found = await asyncio.gather(*(self._one(session, line) for line in some))
                records = [one for one in found if isinstance(one, SpoolRecord)]
                lost = [one for one in found if isinstance(one, Loss)]
                await asyncio.to_thread(
                    self.spool.take, records, lost, [line.name for line in some], consented=consented
                )

    async def _one(self, session: aiohttp.ClientSession, line: Line) -> SpoolRecord | Loss:
        experiment = self.spool.experiment
        kept, decoder = held(line.body), pinned(line.body, experiment.decoder, line.name)
        reason = "unsupported" if kept is None else await asyncio.to_thread(refusal, self.consent, line.subject)
        if reason is not None or kept is None or decoder is None:
            return Loss(line.slice, reason or "unsupported", 1)
        body = {name: value for name, value in line.body.items() if name != "max_completion_tokens"}
        body |= {"model": self.reference.model, **decoder_fields(decoder)}
        async with self.places:
            answer = await self._answer(session, body, line.name)
        if isinstance(answer, str):
            return Loss(line.slice, answer, 1)
        return SpoolRecord(
            request=line.name,
            experiment=experiment.name,
            session=session_pseudonym(experiment.salt, line.session),
            subject=line.subject,
            slice=line.slice,
            messages=kept[0],
            decoder=decoder,
            tools=kept[1],
            streamed=body.get("stream") is True,
            answer=answer,
        )

    async def _answer(self, session: aiohttp.ClientSession, body: dict[str, Any], name: str) -> Any:
        """The reference's answer, or the reason for none; waits for one who does not listen yet."""
        until = time.monotonic() + self.unreachable_s
        while True:
            try:
                found = await ask(session, self.reference, body, name, most=self.spool.experiment.max_record)
                return "reference_error" if found == "error" else found
            except TimeoutError:
                return "reference_error"
            except Unreachable as error:
                if time.monotonic() > until:
                    raise PlumblineError(
                        f"nothing has listened at {self.reference.url} for {self.unreachable_s:g} s",
                        consequence="not every line was asked; what was answered is kept",
                        remedy="start the reference's predictor, or correct the URL, and run the same command again",
                    ) from error
                await asyncio.sleep(min(0.2, self.unreachable_s))
