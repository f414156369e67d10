"""Asking a policy on nobody's behalf: the worker's half of a pair, both halves offline; tagged as shadow traffic."""

import asyncio
import json
import time
from typing import Any

import aiohttp

from plumbline.policies.base import Completion
from plumbline.policies.endpoint import POLICY_HEADER
from plumbline.policies.remote import RETRIED
from plumbline.records import Answer
from plumbline.shadow.answers import NO_ANSWER, read_chat, read_events
from plumbline.shadow.legs import Upstream


class Unreachable(Exception):
    """Nothing listens there."""


async def ask(
    session: aiohttp.ClientSession, leg: Upstream, body: dict[str, Any], request: str, *, most: int, attempts: int = 2
) -> Answer | str:
    """A leg's answer to a chat request, or why there is none: `error`, or `oversize` for a text over `most` bytes.

    Server errors are tried `attempts` times. Raises TimeoutError by the session's deadline, and Unreachable.
    """
    headers = {"x-plumbline-leg": f"{leg.leg}-shadow", "x-request-id": request, "ce-id": request, **leg.key}
    streamed = body.get("stream") is True
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(0.1)
        try:
            asked = time.perf_counter()
            url = f"{leg.url}/chat/completions"  # and nowhere else: whose words these are agreed to no other address
            async with session.post(url, json=body, headers=headers, allow_redirects=False) as response:
                if response.status == 200:
                    return await _read(response, streamed, asked, most)
                if response.status not in RETRIED:
                    return "error"
        except aiohttp.ClientConnectorError as error:
            raise Unreachable from error
        except TimeoutError:
            raise
        except (aiohttp.ClientError, *NO_ANSWER):
            continue
    return "error"


async def _read(response: aiohttp.ClientResponse, streamed: bool, asked: float, most: int) -> Answer | str:
    parts: list[bytes] = []
    size = 0
    first: float | None = None
    async for part in response.content.iter_any():
        first = first or time.perf_counter()
        size += len(part)
        if size > 4 * most:  # framing of streamed events is larger than their text
            return "oversize"
        parts.append(part)
    ended = time.perf_counter()
    said = _completion(b"".join(parts), streamed)
    if len(said.text.encode()) > most:
        return "oversize"
    return Answer(
        text=said.text,
        finish=said.finish,
        latency_ms=1000 * (ended - asked),
        first_ms=1000 * (first - asked) if streamed and first else None,
        tokens=said.tokens,
        policy=response.headers.get(POLICY_HEADER, ""),
    )


def _completion(body: bytes, streamed: bool) -> Completion:
    if not streamed:
        return read_chat(json.loads(body))
    said, whole = read_events(body)
    if not whole:
        raise ValueError("the stream broke off")
    return said
