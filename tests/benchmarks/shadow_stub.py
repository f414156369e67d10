"""A policy that costs next to nothing: a chat endpoint with a fixed service time, for measuring what stands before it.

    python shadow_stub.py PORT MODE SERVICE_MS

MODE is ok, slow (ten times the service time), or hang (never answers). A request with `"stream":true` gets its first
event after the service time and the others every 5 ms. GET /stats tells how many chat requests came and how many were
answered to the end.
"""

import asyncio
import json
import sys
from typing import Any, ClassVar

import httptools

WORDS = ["the", "lamp", "beside", "the", "copper", "box", "shines", "until", "morning", "and", "nobody", "lit", "it"]
GAP_S = 0.005


def whole() -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": " ".join(WORDS)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 80, "completion_tokens": len(WORDS), "total_tokens": 80 + len(WORDS)}
    answer = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return json.dumps(answer).encode()


def events() -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"delta": {"content": word + " "}, "finish_reason": None} for word in WORDS]
    deltas.append({"delta": {}, "finish_reason": "stop"})
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    texts = [json.dumps({**chunk, "choices": [{"index": 0, **delta}]}) for delta in deltas] + ["[DONE]"]
    return [b"data: " + text.encode() + b"\n\n" for text in texts]


BODY, EVENTS = whole(), events()
HEAD = b"HTTP/1.1 200 OK\r\nx-plumbline-policy: sha256:stub\r\ncontent-type: "
ANSWER = HEAD + b"application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
STREAM = HEAD + b"text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Stub(asyncio.Protocol):
    counts: ClassVar[dict[str, int]] = {"asked": 0, "answered": 0}
    service_s = 0.02

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)
        self.url, self.body = b"", b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url, self.body = b"", b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.url == b"/stats":
            stats = json.dumps(self.counts).encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(stats) + stats)
            return
        if self.parser.get_method() != b"POST":
            self.transport.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        self.counts["asked"] += 1
        loop = asyncio.get_running_loop()
        if b'"stream":true' in self.body.replace(b" ", b""):
            loop.call_later(self.service_s, self.piece, 0)
        else:
            loop.call_later(self.service_s, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)
            self.counts["answered"] += 1

    def piece(self, number: int) -> None:
        if self.transport.is_closing():
            return
        head = STREAM if number == 0 else b""
        self.transport.write(head + b"%x\r\n" % len(EVENTS[number]) + EVENTS[number] + b"\r\n")
        if number + 1 < len(EVENTS):
            asyncio.get_running_loop().call_later(GAP_S, self.piece, number + 1)
        else:
            self.transport.write(b"0\r\n\r\n")
            self.counts["answered"] += 1


async def main() -> None:
    port, mode, service_ms = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    Stub.service_s = {"ok": 1, "slow": 10, "hang": 10**6}[mode] * service_ms / 1000
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
