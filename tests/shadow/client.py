"""One who asks over HTTP, and one who waits.

from shadow.client import ask, chat, until
"""

import http.client
import json
import time
from collections.abc import Callable
from typing import Any

Reply = tuple[int, dict[str, str], bytes]


def ask(url: str, body: dict[str, Any] | bytes, path: str = "/chat/completions", **headers: str) -> Reply:
    """One request; header names with `_` for `-`. Status, headers in lower case, body."""
    host = url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=20)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/" + url.split("/", 3)[3] + path, data, {"content-type": "application/json"} | named)
    response = connection.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return answer


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "reference", "messages": [{"role": "user", "content": text}], **more}


def until(true: Callable[[], object], seconds: float = 60.0) -> float:
    """Wait until it is true; the seconds that took."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() < begun + seconds, "it did not come true"
        time.sleep(0.01)
    return time.monotonic() - begun
