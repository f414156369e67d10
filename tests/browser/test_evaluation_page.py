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
    (place,) = [key for key, name in seen["areas"] if name.startswith("over-refusal (")]
    ask = {"1": click(place), "area": SHOWN, "2": click("t-better"), "both": SHOWN, "nothing": NOTHING}
    seen = browser.visit(page, width=1280, ask=ask).answers
    assert seen["area"] > 0 and seen["both"] == 0 and seen["nothing"], (
        "look-alikes were only lost, and the page says so"
    )


def test_the_filters_are_reached_and_turned_by_the_keyboard_alone_and_without_a_script(
    browser: Chromium, page: Path
) -> None:
    """Tab from the heading to the first filter, arrows within it, Tab to the second. The page may run no script."""
    found: dict[str, int] = {}
    focus = "document.activeElement.id"

    async def steps(tab: Tab) -> None:
        await tab.goto(page.as_uri() + "#cases")
        found["before"] = await tab.ask(SHOWN)
        for _ in range(3):
            await tab.key("Tab")
            if await tab.ask(focus) == "t-both":
                break
        assert await tab.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid", "focus is not seen"
        await tab.key("ArrowRight")
        assert await tab.ask(focus) == "t-worse"
        found["worse"] = await tab.ask(SHOWN)
        await tab.key("ArrowRight")
        found["better"] = await tab.ask(SHOWN)
        await tab.key("Tab")
        assert await tab.ask(focus) == "f-all"
        await tab.key("ArrowDown")
        found["of one area"] = await tab.ask(SHOWN)

    browser.drive(steps, script=False)
    assert found["before"] == found["worse"] + found["better"]
    assert found["worse"] > 0 and found["better"] > found["of one area"]


def test_paper_shows_everything_whatever_was_filtered_or_folded(browser: Chromium, page: Path) -> None:
    found: dict[str, object] = {}
    open_ = (
        "[...document.querySelectorAll('details > :not(summary)')].filter(e => e.getBoundingClientRect().height > 0)"
    )

    async def steps(tab: Tab) -> None:
        await tab.goto(page.as_uri())
        found["all"] = await tab.ask("document.querySelectorAll('.case').length")
        await tab.ask("document.getElementById('t-better').click()")
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        await tab.call("Emulation.setEmulatedMedia", media="print", features=dark)
        found["printed"] = await tab.ask(SHOWN)
        found["folded"] = await tab.ask("document.querySelectorAll('details > :not(summary)').length")
        found["unfolded"] = await tab.ask(f"{open_}.length")
        found["contrast"] = await tab.ask(LEGIBLE)
        found["over"] = await tab.ask(FITS)

    browser.drive(steps, width=718, dark=True)
    assert found["printed"] == found["all"] and found["folded"] == found["unfolded"] != 0
    assert found["contrast"][0] >= 4.5 and found["over"] <= 0  # type: ignore[index, operator]


def test_numbers_of_the_forest_stand_under_one_another(browser: Chromium, page: Path) -> None:
    """The decimal points of a column are on one line: same digits after the point, same right edge."""
    edges = "[...document.querySelectorAll('#gate .forest-row .diff %s')].map(e => e.getBoundingClientRect().right)"
    ask = {"differences": edges % "b", "intervals": edges % "small"}
    seen = browser.visit(page, width=1280, ask=ask).answers
    for column in seen.values():
        assert len(column) == 12 and max(column) - min(column) < 1


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_another_harness_s_tasks_fit_however_they_are_named(browser: Chromium, tmp_path: Path, width: int) -> None:
    from console.test_evaluation_page import foreign
    from plumbline.console.evaluation_page import render_evaluation, write_evaluation

    report = foreign("leaderboard_mmlu_pro_abstract_algebra_with_a_name_that_never_ends", of=3, verdict="worse")
    file = tmp_path / "import.html"
    write_evaluation(render_evaluation(report, None), file)
    drawn = "[...document.querySelectorAll('#gate .whisker')].filter(e => getComputedStyle(e).stroke !== 'none').length"
    look = browser.visit(file, width=width, ask={"open": OPEN, "over": FITS, "drawn": drawn})
    assert look.complaints == [] and look.requests == [file.as_uri()]
    assert look.answers["over"] <= 0 and look.answers["drawn"] == 9, "an interval and its two ends for each task"


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
