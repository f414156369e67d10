"""The pages of a judge and of a guardrail in a real browser: they fit, are legible, and ask for nothing."""

from pathlib import Path

import pytest

from browser.chromium import FITS, Chromium, contrast
from browser.test_report_page import colours

pytestmark = pytest.mark.slow
LEGIBLE = contrast("p,dd,dt,h1,h2,h3,span,figcaption,footer p")
LONG = "a-policy-whose-name-is-as-long-as-a-path-and-never-breaks-" * 3
CUT = """[...document.querySelectorAll('.square')].map(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => { const b = t.getBoundingClientRect();
    return b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1 }).length })"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from console.test_judge_page import MADE, guardrail, judge
    from plumbline.console.judge_page import render_guardrail, render_judge

    folder = tmp_path_factory.mktemp("judges")
    texts = {
        "judge": render_judge(judge()),
        "long": render_judge(judge(LONG, LONG)),
        "guardrail": render_guardrail(guardrail(slice_=LONG), MADE),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True), (320, False)])
@pytest.mark.parametrize("name", ["judge", "long", "guardrail"])
def test_the_page_fits_is_legible_and_asks_for_nothing(
    browser: Chromium, made: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    look = browser.visit(made[name], width=width, dark=dark, ask={"over": FITS, "contrast": LEGIBLE, "cut": CUT})
    assert look.complaints == [] and look.requests == [made[name].as_uri()]
    assert look.answers["over"] <= 0, "the page scrolls sideways"
    assert look.answers["contrast"][0] >= 4.5, f"hard to read: {look.answers['contrast']}"
    assert len(look.answers["cut"]) >= 2 and not any(look.answers["cut"]), "a label of a plot is cut off"
    assert len(colours(look.png)) > 40, "the page is blank"
