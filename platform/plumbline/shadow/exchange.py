"""One request through the router: what was seen of it, on which leg, and how long others than the router took."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from plumbline.policies.endpoint import POLICY_HEADER
from plumbline.records import Leg

Event = MutableMapping[str, Any]
Send = Callable[[Event], Awaitable[None]]
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)


@dataclass
class Exchange:
    """`most` bytes of the answer are kept; `size` counts them all. `fell_back`: the reference had to stand in."""

    request_id: str
    most: int
    started: float = field(default_factory=time.perf_counter)
    asked: float | None = None
    first: float | None = None
    ended: float | None = None
    elsewhere_s: float = 0.0
    leg: Leg = "reference"
    fell_back: bool = False
    status: int = 0
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    aborted: bool = False
    broken: bool = False
    policy: str = ""
    streamed: bool = False

    @property
    def latency_ms(self) -> float:
        """From asking the policy to its last byte: what the worker measures of the other leg."""
        return 1000 * ((self.ended or time.perf_counter()) - (self.asked or self.started))

    @property
    def first_ms(self) -> float | None:
        return 1000 * (self.first - (self.asked or self.started)) if self.streamed and self.first else None

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.elsewhere_s += time.perf_counter() - begun

    def begin(self, response: aiohttp.ClientResponse, *, length: int | None = None) -> Event:
        """The answer's status and headers for the user, and noted here; with another length where it was rewritten."""
        self.status = response.status
        self.policy = response.headers.get(POLICY_HEADER, "")
        gone = HOP_BY_HOP | {b"x-request-id"} | ({b"content-length"} if self.leg == "aligned" else frozenset())
        back = [(name.lower(), value) for name, value in response.raw_headers if name.lower() not in gone]
        back.append((b"x-request-id", self.request_id.encode()))
        if length is not None:
            back.append((b"content-length", str(length).encode()))
        return {"type": "http.response.start", "status": response.status, "headers": back}

    def tee(self, part: bytes) -> None:
        if self.first is None:
            self.first = time.perf_counter()
        self.size += len(part)
        if self.size <= self.most:
            self.parts.append(part)
