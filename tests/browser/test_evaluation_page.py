"""The evaluation page in a real browser: fits, is legible, asks for nothing, and filters flips without a script."""

from pathlib import Path

import pytest

from browser.chromium import FITS, Chromium, Tab, contrast
from browser.test_report_page import colours
from plumbline.evaluation import decide
from plumbline.microworld import microworld_rubric

pytestmark = pytest.mark.slow
LEGIBLE = contrast("p,td,th,li,dd,dt,h1,h2,h3,h4,small,b,span,summary,code,label,a,.pill,.tag")
SHOWN = "[...document.querySelectorAll('.case')].filter(e => e.offsetParent).length"
WORSE = "[...document.querySelectorAll('.case.worse')].filter(e => e.offsetParent).length"
NOTHING = "document.querySelector('.no-case').offsetParent !== null"
OPEN = "document.querySelectorAll('details').forEach(e => { e.open = true })"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every eighth item of the micro-world's held-out suite."""
    from console import sample_microworld
    from plumbline.console.evaluation_page import render_evaluation, write_evaluation
    from plumbline.records import Suite

    few = Suite(name="microworld", version="1", items=sample_microworld.suite().items[::8])
    report = sample_microworld.report(few)
    file = tmp_path_factory.mktemp("evaluation") / "report.html"
    write_evaluation(render_evaluation(report, decide(report, microworld_rubric())), file)
    return file


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (820, True), (390, True), (320, False)])
def test_the_page_fits_is_legible_and_asks_for_nothing(browser: Chromium, page: Path, width: int, dark: bool) -> None:
    ask = {"closed": FITS, "open": OPEN, "over": FITS, "contrast": LEGIBLE}
    look = browser.visit(page, width=width, dark=dark, ask=ask)
    assert look.complaints == [] and look.requests == [page.as_uri()]
    assert look.answers["closed"] <= 0 and look.answers["over"] <= 0, "the page scrolls sideways"
    assert look.answers["contrast"][0] >= 4.5, f"hard to read: {look.answers['contrast']}"
    assert len(colours(look.png)) > 40, "the page is blank"


def test_flips_are_filtered_by_direction_and_area_together(browser: Chromium, page: Path) -> None:
    def click(name: str) -> str:
        return f"document.getElementById('{name}').click()"

    areas = "[...document.querySelectorAll('input[name=area]')].map(e => [e.id, e.parentElement.textContent.trim()])"
    ask = {
        "all": SHOWN, "areas": areas, "1": click("t-worse"), "worse": SHOWN, "worse too": WORSE, "2": click("t-better"),
        "better": SHOWN, "better too": WORSE, "nothing": NOTHING,
    }  # fmt: skip
    seen = browser.visit(page, width=1280, ask=ask).answers
    assert seen["all"] == seen["worse"] + seen["better"] and 0 < seen["worse"] == seen["worse too"]
    assert seen["better"] > 0 == seen["better too"] and not seen["nothing"]
    (place,) = [key for key, name in seen["areas"] if name == "over-refusal"]
    ask = {"1": click(place), "area": SHOWN, "2": click("t-better"), "both": SHOWN, "nothing": NOTHING}
    seen = browser.visit(page, width=1280, ask=ask).answers
    assert seen["area"] > 0 and seen["both"] == 0 and seen["nothing"], (
        "look-alikes were only lost, and the page says so"
    )


def test_the_filters_answer_to_the_keyboard(browser: Chromium, page: Path) -> None:
    found: dict[str, int] = {}

    async def steps(tab: Tab) -> None:
        await tab.goto(page.as_uri())
        found["before"] = await tab.ask(SHOWN)
        await tab.ask("document.getElementById('t-worse').focus()")
        await tab.key(" ")
        found["after"] = await tab.ask(SHOWN)
        found["worse"] = await tab.ask(WORSE)

    browser.drive(steps, script=True)
    assert found["before"] > found["after"] == found["worse"] > 0
