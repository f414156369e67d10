"""The aligned policy in users' way: how an A/B experiment answers the sessions that were assigned to it.

Users see one model name: the request goes out under the aligned policy's, the answer comes back under the reference's,
in server-sent events too. Nothing of the user's headers goes along, so neither do their credentials; the leg has a key
of its own. As long as the user has seen no byte, any failure hands the request back, and the reference answers: nothing
listening, no answer in time, any status but 200, bytes that hold no answer, another policy than the one that passed the
shadow. That last one also throws the kill switch. Waiting for one that hangs is a harm too: after some failures in a
row nobody is sent there for a while. Nor is anybody while it has not passed, or may not any more (grounds.py), or while
nobody watches (switch.py).
"""

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from typing import Any

import aiohttp

from plumbline.policies.endpoint import POLICY_HEADER
from plumbline.shadow.answers import NO_ANSWER, RenamedEvents, read_chat, renamed
from plumbline.shadow.exchange import Exchange, Send
from plumbline.shadow.grounds import Grounds
from plumbline.shadow.spool import Spool
from plumbline.shadow.spool_state import USERS
from plumbline.shadow.switch import Switch

MAX_ANSWER = 16 << 20
FAILURES = 5  # in a row, after which users are spared for REST_S
REST_S = 10.0
TELL_S = 1.0
SHARED = "a share of the sessions gets the aligned policy"
ABOUT_USERS = ("user", "metadata", "store")  # fields of a request that say who asks, and change no answer


class AlignedLeg:
    """`grounds` know which policy passed the shadow, and where it is asked; `name` is the model's name to users;
    answers that have not begun within `patience_s` seconds are given up."""

    def __init__(self, name: str, grounds: Grounds, switch: Switch, spool: Spool, *, patience_s: float = 30.0) -> None:
        self.leg = grounds.aligned
        self.name = name
        self.grounds = grounds
        self.switch = switch
        self.spool = spool
        self.patience_s = patience_s
        self._failures = 0
        self._rests_until = 0.0

    @property
    def lets(self) -> bool:
        """Whether users may be sent there now."""
        return self.switch.lets and self.grounds.lets and time.monotonic() >= self._rests_until

    @property
    def withheld(self) -> str:
        """Why nobody is sent there, for people to read; empty where it only rests, or nothing is wrong."""
        return self.switch.why_not or self.grounds.why_not

    async def follow(self) -> None:
        """Look after the switch and the grounds, and leave word of what users get, until it is cancelled."""
        await asyncio.gather(self.switch.follow(), self.grounds.follow(), self._tell())

    async def _tell(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(TELL_S)
            why = self.withheld
            if (said := f"all get the reference: {why}" if why else SHARED) != told:
                with contextlib.suppress(sqlite3.Error, RuntimeError):  # told at the next look
                    await asyncio.to_thread(self.spool.tell, USERS, said)
                    logging.getLogger("plumbline").warning("experiment %s: %s", self.spool.experiment.name, said)
                    told = said

    async def answer(
        self, session: aiohttp.ClientSession, body: dict[str, Any], exchange: Exchange, send: Send
    ) -> bool:
        """Answer the user; False when the user has seen nothing and the reference must."""
        try:
            answered = await self._answer(session, body, exchange, send)
        except Exception:  # and not CancelledError: a user who leaves says nothing of the policy
            self._count(False)
            raise
        self._count(answered)
        return answered

    def _count(self, answered: bool) -> None:
        self._failures = 0 if answered else self._failures + 1
        if self._failures >= FAILURES:
            self._rests_until = time.monotonic() + REST_S

    async def _answer(
        self, session: aiohttp.ClientSession, body: dict[str, Any], exchange: Exchange, send: Send
    ) -> bool:
        asked = {name: value for name, value in body.items() if name not in ABOUT_USERS} | {"model": self.leg.model}
        data = json.dumps(asked, ensure_ascii=True, separators=(",", ":")).encode("ascii")
        ids = {"x-request-id": exchange.request_id, "ce-id": exchange.request_id, "x-plumbline-leg": "aligned"}
        headers = {"content-type": "application/json", "accept-encoding": "identity", **ids, **self.leg.key}
        opened: list[aiohttp.ClientResponse] = []
        try:
            with exchange.elsewhere():
                async with asyncio.timeout(self.patience_s):
                    url = f"{self.leg.url}/chat/completions"
                    opened.append(await session.post(url, data=data, headers=headers, allow_redirects=False))
                    events = opened[0].content_type == "text/event-stream"
                    if not self._usable(opened[0]):
                        return False
                    told = await (opened[0].content.readany() if events else _whole(opened[0]))
                    if events and not told:
                        return False
                    if not events:
                        read_chat(json.loads(told))  # what holds no answer must not become one
            if events:
                await self._stream(opened[0], told, exchange, send)
            else:
                await self._send(opened[0], renamed(told, self.name), exchange, send)
            return True
        except (TimeoutError, aiohttp.ClientError, *NO_ANSWER):
            if exchange.status:  # the answer has begun: as on the reference, a broken one is seen as broken
                exchange.broken = True
                raise
            return False
        finally:
            for response in opened:
                response.close() if exchange.ended is None else response.release()

    def _usable(self, response: aiohttp.ClientResponse) -> bool:
        """Whether this is an answer, of the policy that passed, in bytes that can be read."""
        served = response.headers.get(POLICY_HEADER, "")
        if served != self.grounds.policy and response.status == 200:
            self.switch.trip(f"{self.leg.url} serves policy {served[:19] or 'unknown'}, which passed no shadow")
            return False
        return response.status == 200 and response.headers.get("content-encoding", "identity") == "identity"

    async def _send(self, response: aiohttp.ClientResponse, answer: bytes, exchange: Exchange, send: Send) -> None:
        await send(exchange.begin(response, length=len(answer)))
        exchange.tee(answer)
        exchange.ended = time.perf_counter()
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def _stream(self, response: aiohttp.ClientResponse, part: bytes, exchange: Exchange, send: Send) -> None:
        """`part` has come already: a stream that says nothing has not begun."""
        await send(exchange.begin(response))
        named = RenamedEvents(self.name)
        while True:
            if passed := named.feed(part) if part else named.rest():
                exchange.tee(passed)
                await send({"type": "http.response.body", "body": passed, "more_body": True})
            if not part:
                break
            with exchange.elsewhere():
                part = await response.content.readany()
        exchange.ended = time.perf_counter()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > MAX_ANSWER:
            raise aiohttp.ClientPayloadError("the answer is too long")
        parts.append(part)
    return b"".join(parts)
