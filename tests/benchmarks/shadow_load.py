"""Open-loop load: requests leave at their scheduled times whether or not earlier ones were answered.

    python shadow_load.py '{"port": 8080, "rate": 200, "seconds": 10, "stream": false, "subjects": ["s-.."]}'

Latency counts from the *scheduled* time, so that waiting behind a stalled server is part of it (no coordinated
omission). Prints one JSON object: milliseconds of each request and of its first body byte, statuses, digests of the
bodies, and how late the generator itself was, which says whether its figures can be believed.
"""

import asyncio
import gc
import hashlib
import json
import sys
import time
from collections import Counter, deque
from typing import Any

import httptools

GRACE_S = 10.0  # for answers after the last request has left
PROMPT = "In the copper box there are nine buttons and a key. Who put them there, and what does the key open? " * 4


class Load:
    def __init__(self, port: int, rate: float, seconds: float, stream: bool, subjects: list[str]) -> None:
        self.port, self.rate, self.total = port, rate, round(rate * seconds)
        self.stream, self.subjects = stream, subjects
        self.idle: deque[Client] = deque()
        self.connecting: list[asyncio.Future[None]] = []
        self.latency: list[float] = []
        self.first: list[float] = []
        self.late: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.bodies: Counter[str] = Counter()
        self.done = 0
        self.ended = asyncio.Event()

    def request(self, number: int) -> bytes:
        body = {"model": "reference", "messages": [{"role": "user", "content": f"{number}: {PROMPT}"}]}
        data = json.dumps(
            {**body, "max_tokens": 32, "temperature": 0, "stream": self.stream}, separators=(",", ":")
        ).encode()
        subject = self.subjects[number % len(self.subjects)]
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer a-users-own-key\r\nx-plumbline-slice: benign\r\n"
            b"x-plumbline-subject: %s\r\nx-plumbline-session: c-%d\r\ncontent-length: %d\r\n\r\n"
            % (subject.encode(), number % 500, len(data))
        ) + data

    async def run(self) -> dict[str, Any]:
        requests = [self.request(number) for number in range(self.total)]
        gc.collect()
        gc.disable()
        started = time.perf_counter() + 0.1
        for number, request in enumerate(requests):
            due = started + number / self.rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            self.late.append(1000 * (time.perf_counter() - due))
            if self.idle:
                self.idle.pop().ask(request, due)
            else:
                self.connecting.append(asyncio.ensure_future(self.connect(request, due)))
        try:
            await asyncio.wait_for(self.ended.wait(), GRACE_S)
        except TimeoutError:
            self.statuses["unanswered"] = self.total - self.done
        return {
            "sent": self.total,
            "seconds": self.total / self.rate,
            "latency": [round(one, 3) for one in self.latency],
            "first": [round(one, 3) for one in self.first],
            "late": [round(one, 3) for one in self.late],
            "statuses": self.statuses,
            "bodies": self.bodies,
        }

    async def connect(self, request: bytes, due: float) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.port)
        except OSError:
            self.finished("refused")
            return
        client.ask(request, due)

    def finished(self, status: str) -> None:
        self.statuses[status] += 1
        self.done += 1
        if self.done == self.total:
            self.ended.set()


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        self.due, self.first, self.body = due, 0.0, hashlib.sha256()
        self.parser = httptools.HttpResponseParser(self)
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.first = self.first or time.perf_counter()
        self.body.update(body)

    def on_message_complete(self) -> None:
        if self.due is None:
            return
        self.load.latency.append(1000 * (time.perf_counter() - self.due))
        self.load.first.append(1000 * (self.first - self.due))
        self.load.bodies[self.body.hexdigest()[:16]] += 1
        self.due = None
        keep = self.parser.should_keep_alive()
        if keep:
            self.load.idle.append(self)
        else:
            self.transport.close()
        self.load.finished(str(self.parser.get_status_code()))

    def connection_lost(self, error: Exception | None) -> None:
        if self in self.load.idle:
            self.load.idle.remove(self)
        if self.due is not None:
            self.due = None
            self.load.finished("broken")


async def main() -> None:
    print(json.dumps(await Load(**json.loads(sys.argv[1])).run()))


if __name__ == "__main__":
    asyncio.run(main())
