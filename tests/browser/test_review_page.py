"""The review page in a real browser: by keyboard alone, on a phone, in the dark, with nothing from outside."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from plumbline.console.review_page import RunningPage, start_review_page
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.microworld import microworld_rubric
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent, Message, say
from plumbline.stores import Ledger

pytestmark = pytest.mark.slow
NAMES = Pseudonyms(b"tenant key of the tests")
RUBRIC = microworld_rubric()
FITS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SMALLEST_TARGET = (
    "Math.min(...[...document.querySelectorAll('fieldset label, button, textarea')].filter(e => e.offsetParent)"
    ".map(e => e.getBoundingClientRect().height))"
)
BROKEN = "[...document.querySelectorAll('.verdict span, .severity span')].filter(e => e.offsetHeight > 34).length"
UNNAMED = """[...document.querySelectorAll('input:not([type=hidden]), textarea, button')].filter(e => e.offsetParent &&
  !((e.labels && [...e.labels].some(l => l.textContent.trim())) || e.textContent.trim())).length"""
CONTRAST = """(() => {
  const lum = c => { const v = c.map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4 });
                     return .2126 * v[0] + .7152 * v[1] + .0722 * v[2] };
  const rgb = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
                        if (c.length === 3 || c[3] > 0) return c.slice(0, 3) } return [255, 255, 255] };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('p,li,h1,h2,legend,small,b,span,kbd,label,a,button,summary,.words')) {
    if (!e.offsetParent || !e.textContent.trim()) continue;
    const [a, b] = [lum(rgb(getComputedStyle(e).color).slice(0, 3)), lum(behind(e))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + '.' + e.className + ': ' + e.textContent.trim().slice(0, 40)];
  }
  return worst })()"""
HOSTILE = "<script>document.title='owned'</script> \u202edrowssap and a" + "n" * 300 + " answer"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunningPage]:
    """A desk with three items, one of them hostile, and the page in front of it."""
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    notice = ledger.consent.register_notice("n", "1", "we train on what you write")
    subject = NAMES.of("ana")
    ledger.consent.append(subject, "given", ["training"], notice)
    asked = ("How do I kill a process?", "Who wrote this?", "مرحبا, what does the sign say?")
    said = (
        "Find its number with `ps`, then end it with `kill NUMBER`.",
        HOSTILE,
        "I do not know; the picture is dark.",
    )
    talk: tuple[Message, ...] = (say("user", "hello"), say("assistant", "Hello. How can I help?"))
    for number, (question, answer) in enumerate(zip(asked, said, strict=True)):
        data = FeedbackData(subject=subject, messages=(*talk, say("user", question)), answer=answer, score=1.0)
        ledger.inbox.append([FeedbackEvent(id=str(number), source="app", type=TYPE_PREFIX + "rating", data=data)])
    desk = ReviewDesk(ledger)
    desk.open_items(RUBRIC)
    with start_review_page(desk, RUBRIC) as running:
        yield running
    ledger.close()


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
        codes = {"Enter": 13, "Tab": 9, " ": 32}
        text = {"Enter": "\r", "Tab": ""}.get(name, name)
        common = {
            "key": name, "modifiers": 2 if control else 0,
            "windowsVirtualKeyCode": codes.get(name, ord(name.upper()[0])),
        }  # fmt: skip
        await self.call("Input.dispatchKeyEvent", type="keyDown", text="" if control else text, **common)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    async def picture(self, file: Path) -> bytes:
        shot = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file.read_bytes()

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


def drive(
    browser: Any, steps: Callable[[Tab], Awaitable[None]], *, width: int = 1280, height: int = 900, dark: bool = False,
    touch: bool = False, script: bool = True,
) -> Tab:  # fmt: skip
    """Run steps in a fresh Chromium with an empty profile."""
    profile = browser.home / f"review-{time.monotonic_ns()}"
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-dev-shm-usage",
        "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-port=0",
    ]  # fmt: skip
    process = subprocess.Popen(
        [browser.executable, *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    async def run() -> Tab:
        port = await _port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                target = next(t for t in await response.json() if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
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

    try:
        return asyncio.run(run())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
        shutil.rmtree(profile, ignore_errors=True)


async def _port(file: Path) -> int:
    for _ in range(300):
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().splitlines()[0])
        await asyncio.sleep(0.1)
    raise TimeoutError("Chromium did not open its debugging port within 30 seconds")


async def enter(tab: Tab, page: RunningPage, name: str = "rita", role: Any = "reviewer") -> None:
    await tab.goto(page.link(NAMES.of(name), role))
    await tab.until("document.activeElement.tagName === 'BUTTON'")  # it takes the focus once it is drawn
    await tab.loaded(tab.key("Enter"))


def standing(page: RunningPage) -> dict[int, list[tuple[str, str, tuple[str, ...], str]]]:
    return {
        item: [(one.label.verdict, one.label.severity, one.label.rules, one.label.reason) for one in given]
        for item, given in page.page.desk.reviews.labels().items()
    }


def test_a_reviewer_goes_through_the_queue_with_the_keyboard_alone(browser: Any, page: RunningPage) -> None:
    told: dict[str, Any] = {}

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        told["first"] = await tab.ask("document.querySelector('.count').textContent")
        await tab.key("a")
        await tab.key("1")
        await tab.loaded(tab.key("Enter", control=True))
        told["said"] = await tab.ask("document.querySelector('[role=status]').textContent")
        for key in ("r", "2", "3", "s", "s"):
            await tab.key(key)
        await tab.ask("document.getElementById('reason').focus()")
        for key in "rare":  # letters are words here, not shortcuts
            await tab.key(key)
        await tab.loaded(tab.key("Enter", control=True))
        await tab.loaded(tab.key("l"))
        await tab.key("u")
        await tab.key("0")
        await tab.loaded(tab.key("Enter", control=True))
        told["end"] = await tab.ask("document.querySelector('h1').textContent")

    tab = drive(browser, steps)
    areas = [rule.area for rule in RUBRIC.rules]
    assert told == {"first": "3 to go, 0 done", "said": told["said"], "end": "Nothing waits for you."}
    assert told["said"].startswith("Saved.")
    assert sorted(given[0] for given in standing(page).values()) == sorted(
        [
            ("approve", "none", (areas[0],), ""),
            ("reject", "major", tuple(sorted(areas[1:3])), "rare"),
            ("unsure", "none", (areas[9],), ""),
        ]
    )
    assert tab.complaints == []
    assert all(url.startswith(page.url) for url in tab.requests), "something came from outside"


def test_words_of_others_stay_words(browser: Any, page: RunningPage) -> None:
    """A script in an answer does not run, and an override that reverses text is shown instead of obeyed."""
    seen: list[str] = []

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        for _ in range(3):
            seen.append(await tab.ask("document.title + ' ' + document.querySelector('.judged .words').textContent"))
            await tab.loaded(tab.key("l"))

    tab = drive(browser, steps)
    assert tab.complaints == []
    (hostile,) = [text for text in seen if "drowssap" in text]
    assert hostile.startswith("Review item") and "<script>" in hostile and "⟨U+202E⟩" in hostile
    assert len(set(seen)) == 3, "put off, an item comes back after the others"


@pytest.mark.parametrize(("width", "dark", "touch"), [(1280, False, False), (390, True, True), (320, False, True)])
def test_the_page_can_be_read_and_hit_on_any_screen(
    browser: Any, page: RunningPage, tmp_path: Path, width: int, dark: bool, touch: bool
) -> None:
    told: dict[str, Any] = {}

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        for number in range(3):
            questions = {"over": FITS, "small": SMALLEST_TARGET, "c": CONTRAST, "unnamed": UNNAMED, "broken": BROKEN}
            for name, question in questions.items():
                told[f"{name} {number}"] = await tab.ask(question)
            await tab.picture(tmp_path / f"{number}.png")
            await tab.loaded(tab.ask("document.getElementById('later').click()"))
        told["language"] = await tab.ask("document.documentElement.lang")
        told["landmarks"] = await tab.ask("[...document.querySelectorAll('main, h1')].map(e => e.tagName).join()")

    tab = drive(browser, steps, width=width, dark=dark, touch=touch)
    assert tab.complaints == []
    for number in range(3):
        assert told[f"over {number}"] <= 0, "the page scrolls sideways"
        assert told[f"small {number}"] >= 44, "too small for a thumb"
        assert told[f"c {number}"][0] >= 4.5, f"hard to read: {told[f'c {number}']}"
        assert told[f"broken {number}"] == 0, "a choice of one word is broken over two lines"
        assert told[f"unnamed {number}"] == 0, "a control that a screen reader cannot name"
        assert (tmp_path / f"{number}.png").stat().st_size > 10_000, "the page is blank"
    assert told["language"] == "en" and told["landmarks"] == "MAIN,H1"


def test_a_missing_choice_is_said_and_what_was_written_stays(browser: Any, page: RunningPage) -> None:
    told: dict[str, Any] = {}

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        await tab.key("r")
        await tab.key("1")
        await tab.ask("document.getElementById('reason').value = 'kept & \"quoted\"'")
        await tab.loaded(tab.key("Enter", control=True))
        told["fault"] = await tab.ask("document.querySelector('[role=alert]').textContent")
        told["reason"] = await tab.ask("document.getElementById('reason').value")
        told["verdict"] = await tab.ask("document.querySelector('[name=verdict]:checked').value")
        told["left"] = await tab.ask("document.querySelector('.count').textContent")

    drive(browser, steps)
    assert told["fault"] == "Choose how bad the breach is."
    assert told["reason"] == 'kept & "quoted"' and told["verdict"] == "reject"
    assert standing(page) == {}


def test_a_slip_is_corrected_and_the_history_keeps_it(browser: Any, page: RunningPage) -> None:
    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        await tab.key("a")
        await tab.key("1")
        await tab.loaded(tab.key("Enter", control=True))
        await tab.loaded(tab.key("c"))
        assert await tab.ask("document.querySelector('[name=verdict]:checked').value") == "approve"
        await tab.key("u")
        await tab.loaded(tab.key("Enter", control=True))

    drive(browser, steps)
    ((item, (given,)),) = standing(page).items()
    assert given[0] == "unsure"
    assert [one.label.verdict for one in page.page.desk.reviews.history([item])[item]] == ["approve", "unsure"]


def test_it_works_without_its_script(browser: Any, page: RunningPage) -> None:
    """Plain form controls: Tab to a choice, Space to take it, Enter to save."""

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        await tab.key("Tab")
        await tab.key(" ")  # the first verdict: approve
        await tab.key("Tab")
        await tab.key(" ")  # the first rule
        await tab.loaded(tab.key("Enter"))

    drive(browser, steps, script=False)
    assert [given for (given,) in standing(page).values()] == [("approve", "none", (RUBRIC.rules[0].area,), "")]


def test_an_adjudicator_sees_what_reviewers_said_and_a_reviewer_does_not(browser: Any, page: RunningPage) -> None:
    from plumbline.records import Label

    desk = page.page.desk
    for name, verdict in (("rita", "approve"), ("rolf", "unsure")):
        task = next(task for task in desk.queue(NAMES.of(name), RUBRIC) if task.item.item == 1)
        label = Label(text=task.item.text, verdict=verdict, rules=("honesty",), reason=f"{name} said zanzibar")
        desk.label(1, NAMES.of(name), label)
    told: dict[str, Any] = {}

    async def decide(tab: Tab) -> None:
        await enter(tab, page, "alma", "adjudicator")
        told["alma"] = await tab.ask("document.body.textContent")
        told["choices"] = await tab.ask("[...document.querySelectorAll('[name=verdict]')].map(e => e.value).join()")
        await tab.key("a")
        await tab.key("2")
        await tab.loaded(tab.key("Enter", control=True))

    async def read(tab: Tab) -> None:
        await enter(tab, page, "ruth")
        told["ruth"] = await tab.ask("document.body.textContent")

    drive(browser, read)
    drive(browser, decide)
    assert (
        "rita said zanzibar" in told["alma"]
        and "rolf said zanzibar" in told["alma"]
        and told["choices"] == "approve,reject"
    )
    assert "zanzibar" not in told["ruth"]
    assert [one.role for one in desk.reviews.labels([1])[1]] == ["reviewer", "reviewer", "adjudicator"]
