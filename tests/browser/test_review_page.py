"""The review page in a real browser: by keyboard alone, on a phone, in the dark, with nothing from outside."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from browser.chromium import FITS, Chromium, Tab, contrast
from plumbline.console.review_page import RunningPage, start_review_page
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.microworld import microworld_rubric
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent, Message, say
from plumbline.stores import Ledger

pytestmark = pytest.mark.slow
NAMES = Pseudonyms(b"tenant key of the tests")
RUBRIC = microworld_rubric()
SMALLEST_TARGET = (
    "Math.min(...[...document.querySelectorAll('fieldset label, button, textarea')].filter(e => e.offsetParent)"
    ".map(e => e.getBoundingClientRect().height))"
)
BROKEN = "[...document.querySelectorAll('.verdict span, .severity span')].filter(e => e.offsetHeight > 34).length"
UNNAMED = """[...document.querySelectorAll('input:not([type=hidden]), textarea, button')].filter(e => e.offsetParent &&
  !((e.labels && [...e.labels].some(l => l.textContent.trim())) || e.textContent.trim())).length"""
CONTRAST = contrast("p,li,h1,h2,legend,small,b,span,kbd,label,a,button,summary,.words")
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


async def enter(tab: Tab, page: RunningPage, name: str = "rita", role: Any = "reviewer") -> None:
    await tab.goto(page.link(NAMES.of(name), role))
    await tab.until("document.activeElement.tagName === 'BUTTON'")  # it takes the focus once it is drawn
    await tab.loaded(tab.key("Enter"))


def standing(page: RunningPage) -> dict[int, list[tuple[str, str, tuple[str, ...], str]]]:
    return {
        item: [(one.label.verdict, one.label.severity, one.label.rules, one.label.reason) for one in given]
        for item, given in page.page.desk.reviews.labels().items()
    }


def test_a_reviewer_goes_through_the_queue_with_the_keyboard_alone(browser: Chromium, page: RunningPage) -> None:
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

    tab = browser.drive(steps)
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


def test_words_of_others_stay_words(browser: Chromium, page: RunningPage) -> None:
    """A script in an answer does not run, and an override that reverses text is shown instead of obeyed."""
    seen: list[str] = []

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        for _ in range(3):
            seen.append(await tab.ask("document.title + ' ' + document.querySelector('.judged .words').textContent"))
            await tab.loaded(tab.key("l"))

    tab = browser.drive(steps)
    assert tab.complaints == []
    (hostile,) = [text for text in seen if "drowssap" in text]
    assert hostile.startswith("Review item") and "<script>" in hostile and "⟨U+202E⟩" in hostile
    assert len(set(seen)) == 3, "put off, an item comes back after the others"


@pytest.mark.parametrize(("width", "dark", "touch"), [(1280, False, False), (390, True, True), (320, False, True)])
def test_the_page_can_be_read_and_hit_on_any_screen(
    browser: Chromium, page: RunningPage, width: int, dark: bool, touch: bool
) -> None:
    told: dict[str, Any] = {}
    pictures: list[bytes] = []

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        for number in range(3):
            questions = {"over": FITS, "small": SMALLEST_TARGET, "c": CONTRAST, "unnamed": UNNAMED, "broken": BROKEN}
            for name, question in questions.items():
                told[f"{name} {number}"] = await tab.ask(question)
            pictures.append(await tab.picture())
            await tab.loaded(tab.ask("document.getElementById('later').click()"))
        told["language"] = await tab.ask("document.documentElement.lang")
        told["landmarks"] = await tab.ask("[...document.querySelectorAll('main, h1')].map(e => e.tagName).join()")

    tab = browser.drive(steps, width=width, dark=dark, touch=touch)
    assert tab.complaints == []
    for number in range(3):
        assert told[f"over {number}"] <= 0, "the page scrolls sideways"
        assert told[f"small {number}"] >= 44, "too small for a thumb"
        assert told[f"c {number}"][0] >= 4.5, f"hard to read: {told[f'c {number}']}"
        assert told[f"broken {number}"] == 0, "a choice of one word is broken over two lines"
        assert told[f"unnamed {number}"] == 0, "a control that a screen reader cannot name"
        assert len(pictures[number]) > 10_000, "the page is blank"
    assert told["language"] == "en" and told["landmarks"] == "MAIN,H1"


def test_a_missing_choice_is_said_and_what_was_written_stays(browser: Chromium, page: RunningPage) -> None:
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

    browser.drive(steps)
    assert told["fault"] == "Choose how bad the breach is."
    assert told["reason"] == 'kept & "quoted"' and told["verdict"] == "reject"
    assert standing(page) == {}


def test_a_slip_is_corrected_and_the_history_keeps_it(browser: Chromium, page: RunningPage) -> None:
    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        await tab.key("a")
        await tab.key("1")
        await tab.loaded(tab.key("Enter", control=True))
        await tab.loaded(tab.key("c"))
        assert await tab.ask("document.querySelector('[name=verdict]:checked').value") == "approve"
        await tab.key("u")
        await tab.loaded(tab.key("Enter", control=True))

    browser.drive(steps)
    ((item, (given,)),) = standing(page).items()
    assert given[0] == "unsure"
    assert [one.label.verdict for one in page.page.desk.reviews.history([item])[item]] == ["approve", "unsure"]


def test_it_works_without_its_script(browser: Chromium, page: RunningPage) -> None:
    """Plain form controls: Tab to a choice, Space to take it, Enter to save."""

    async def steps(tab: Tab) -> None:
        await enter(tab, page)
        await tab.key("Tab")
        await tab.key(" ")  # the first verdict: approve
        await tab.key("Tab")
        await tab.key(" ")  # the first rule
        await tab.loaded(tab.key("Enter"))

    browser.drive(steps, script=False)
    assert [given for (given,) in standing(page).values()] == [("approve", "none", (RUBRIC.rules[0].area,), "")]


def test_an_adjudicator_sees_what_reviewers_said_and_a_reviewer_does_not(browser: Chromium, page: RunningPage) -> None:
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

    browser.drive(read)
    browser.drive(decide)
    assert (
        "rita said zanzibar" in told["alma"]
        and "rolf said zanzibar" in told["alma"]
        and told["choices"] == "approve,reject"
    )
    assert "zanzibar" not in told["ruth"]
    assert [one.role for one in desk.reviews.labels([1])[1]] == ["reviewer", "reviewer", "adjudicator"]


def test_who_leaves_is_out_and_is_told_what_to_do_about_a_dead_link(browser: Chromium, page: RunningPage) -> None:
    link = page.link(NAMES.of("rita"))
    told: dict[str, Any] = {}

    async def heading(tab: Tab) -> str:
        return str(await tab.ask("document.querySelector('h1').textContent"))

    async def steps(tab: Tab) -> None:
        await tab.goto(link)
        await tab.until("document.activeElement.tagName === 'BUTTON'")
        await tab.loaded(tab.key("Enter"))
        told["in"] = await heading(tab)
        await tab.loaded(tab.ask("document.querySelector('.leave button').click()"))
        told["left"] = await heading(tab)
        await tab.goto(page.url)
        told["back"] = await heading(tab)
        await tab.goto(link)
        told["again"] = await heading(tab)
        told["why"] = await tab.ask("document.querySelector('main p').textContent")
        told["links"] = await tab.ask("document.links.length")
        told["overflow"], told["contrast"] = await tab.ask(FITS), await tab.ask(CONTRAST)

    tab = browser.drive(steps, width=390)
    assert (told["in"], told["left"]) == ("Does this answer follow the rubric?", "You have left")
    assert (told["back"], told["again"]) == ("You are not signed in", "You cannot enter with this")
    assert "Ask for a new link" in told["why"] and told["links"] == 0
    assert told["overflow"] == 0 and told["contrast"][0] >= 4.5
    assert [one for one in tab.complaints if "401" not in one] == []
