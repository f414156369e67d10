"""A headless Chromium over its DevTools protocol: enough to load a page, look at it and ask what it complained of.

No browser driver is installed for this: aiohttp, which the platform needs anyway, speaks the protocol. Every run
has a fresh profile and no network of its own. Without a Chromium the tests are skipped and say so.
"""

import asyncio
import base64
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip


@dataclass
class Look:
    """What one visit saw: the screenshot, answers to JavaScript questions, and every complaint of the browser."""

    png: bytes = b""
    answers: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@dataclass
class Browser:
    executable: str
    home: Path

    def visit(
        self, page: Path, *, width: int, height: int = 900, dark: bool = False, ask: dict[str, str] | None = None,
        media: str = "screen",
    ) -> Look:  # fmt: skip
        """Load a file at a viewport, answer the questions (JavaScript expressions), and take the whole page."""
        profile = self.home / f"profile-{time.monotonic_ns()}"
        process = subprocess.Popen(
            [self.executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            return asyncio.run(self._look(profile, page, width, height, dark, media, ask or {}))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)
            shutil.rmtree(profile, ignore_errors=True)

    async def _look(
        self, profile: Path, page: Path, width: int, height: int, dark: bool, media: str, ask: dict[str, str]
    ) -> Look:
        port = await _port(profile / "DevToolsActivePort")
        look = Look()
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                target = next(t for t in await response.json() if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = _Tab(socket, look)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.call(f"{domain}.enable")
                scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
                await tab.call("Emulation.setEmulatedMedia", media=media, features=scheme)
                await tab.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                    mobile=width < 600,
                )  # fmt: skip
                await tab.call("Page.navigate", url=page.as_uri())
                await tab.until("Page.loadEventFired")
                for name, question in ask.items():
                    answer = await tab.call("Runtime.evaluate", expression=question, returnByValue=True)
                    look.answers[name] = answer["result"].get("value")
                shot = await tab.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
                look.png = base64.b64decode(shot["data"])
        return look


@dataclass
class _Tab:
    socket: aiohttp.ClientWebSocketResponse
    look: Look
    last: int = 0
    seen: list[str] = field(default_factory=list)

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.last += 1
        await self.socket.send_json({"id": self.last, "method": method, "params": params})
        while True:
            message = await self._next()
            if message.get("id") == self.last:
                assert "error" not in message, message
                return dict(message["result"])

    async def until(self, event: str) -> None:
        while event not in self.seen:
            await self._next()

    async def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_json(timeout=30)
        method, params = message.get("method", ""), message.get("params", {})
        self.seen.append(method)
        if method == "Log.entryAdded":
            self.look.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" or method == "Runtime.exceptionThrown":
            self.look.complaints.append(str(params))
        elif method == "Network.requestWillBeSent":
            self.look.requests.append(params["request"]["url"])
        return message


async def _port(file: Path) -> int:
    for _ in range(300):
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not open its debugging port within 30 seconds")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return Browser(found, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="session")
def stories() -> ModuleType:
    """The sample stories of the console's tests."""
    path = Path(__file__).resolve().parents[1] / "console" / "sample_story.py"
    spec = importlib.util.spec_from_file_location("plumbline_sample_story", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pages(tmp_path: Path, stories: ModuleType) -> Iterator[dict[str, Path]]:
    from plumbline.console import write_report

    yield {name: write_report(make(), tmp_path / name)[0] for name, make in stories.STORIES.items()}
