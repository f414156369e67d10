"""A headless Chromium over its DevTools protocol: load a page, look at it, type into it, ask what it complained of.

No browser driver is installed for this: aiohttp, which the platform needs anyway, speaks the protocol. One Chromium
serves a session of tests; every visit has a browser context of its own, which is an empty profile and ends with it.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
FITS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def contrast(selector: str) -> str:
    """A question: WCAG 2 contrast of the running text in these elements against what lies behind it, the worst one."""
    return (
        """(() => {
  const lum = c => { const v = c.map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 });
                     return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const rgb = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                        if (c.length === 3 || c[3] > 0) return c.slice(0, 3) } return [255, 255, 255] };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('SELECTOR')) {
    if (!e.offsetParent || !e.textContent.trim()) continue;
    const [a, b] = [lum(rgb(getComputedStyle(e).color).slice(0, 3)), lum(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40)];
  }
  return worst })()"""
    ).replace("SELECTOR", selector)


class Tab:
    """One tab that is navigated, typed into and asked; keeps what the browser complained of and asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._last = 0
        self._seen: list[str] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        while True:
            message = await self._receive()
            if message.get("id") == self._last:
                assert "error" not in message, message
                return dict(message["result"])

    async def loaded(self, act: Awaitable[Any]) -> None:
        """Do something that leads to another page, and wait for it."""
        self._seen.clear()
        await act
        while "Page.loadEventFired" not in self._seen:
            await self._receive()

    async def goto(self, url: str) -> None:
        await self.loaded(self.call("Page.navigate", url=url))

    async def ask(self, question: str) -> Any:
        answer = await self.call("Runtime.evaluate", expression=question, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, question: str) -> None:
        for _ in range(200):
            if await self.ask(question):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {question}")

    async def key(self, name: str, *, control: bool = False) -> None:
        codes = {"Enter": 13, "Tab": 9, " ": 32, "ArrowRight": 39, "ArrowDown": 40}
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        common = {
            "key": name, "modifiers": 2 if control else 0,
            "windowsVirtualKeyCode": codes.get(name, ord(name.upper()[0])),
        }  # fmt: skip
        await self.call("Input.dispatchKeyEvent", type="keyDown", text="" if control else text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def picture(self) -> bytes:
        """The whole page as a PNG."""
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=30)
        method, params = message.get("method", ""), message.get("params", {})
        self._seen.append(method)
        if method == "Log.entryAdded":
            self.complaints.append(params["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(params))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message


Steps = Callable[[Tab], Awaitable[None]]


@dataclass
class Look:
    """What one visit saw: the screenshot, answers to JavaScript questions, and every complaint of the browser."""

    png: bytes = b""
    answers: dict[str, Any] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Chromium:
    """A running browser; `close` ends it."""

    def __init__(self, executable: str, profile: Path) -> None:
        self._process = subprocess.Popen(
            [executable, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            port, self._path = self._address(profile / "DevToolsActivePort")
        except TimeoutError:
            self.close()
            raise
        self._url = f"ws://127.0.0.1:{port}"

    def _address(self, file: Path) -> tuple[int, str]:
        for _ in range(600):
            with contextlib.suppress(OSError, ValueError):
                port, path = file.read_text().splitlines()
                return int(port), path
            time.sleep(0.05)
        raise TimeoutError("Chromium did not open its debugging port within 30 seconds")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)

    def drive(
        self, steps: Steps, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False,
        script: bool = True,
    ) -> Tab:  # fmt: skip
        """Run steps in a tab with an empty profile; a `touch` screen is a telephone's."""

        async def run() -> Tab:
            async with self._tab() as tab:
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Emulation.setScriptExecutionDisabled", value=not script)
                scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
                await tab.call("Emulation.setEmulatedMedia", media="screen", features=scheme)
                await tab.call("Emulation.setTouchEmulationEnabled", enabled=touch)
                await tab.call(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
                )
                await steps(tab)
                return tab

        return asyncio.run(run())

    def visit(self, page: Path, *, ask: Mapping[str, str], width: int, dark: bool = False) -> Look:
        """Load a file at a viewport, answer the questions (JavaScript expressions), and take the whole page."""
        look = Look()

        async def steps(tab: Tab) -> None:
            await tab.goto(page.as_uri())
            for name, question in ask.items():
                look.answers[name] = await tab.ask(question)
            look.png = await tab.picture()

        tab = self.drive(steps, width=width, dark=dark, touch=width < 600)
        look.complaints, look.requests = tab.complaints, tab.requests
        return look

    @contextlib.asynccontextmanager
    async def _tab(self) -> AsyncIterator[Tab]:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url + self._path) as socket:
            browser = Tab(socket)
            context = (await browser.call("Target.createBrowserContext", disposeOnDetach=True))["browserContextId"]
            target = await browser.call("Target.createTarget", url="about:blank", browserContextId=context)
            page = f"{self._url}/devtools/page/{target['targetId']}"
            async with session.ws_connect(page, max_msg_size=0) as socket:
                yield Tab(socket)
