"""The page in a real browser: it asks for nothing, complains of nothing, fits its window, and is not blank."""

import struct
import zlib
from pathlib import Path

import pytest

from browser.chromium import FITS, Chromium, contrast

pytestmark = pytest.mark.slow
SMALLEST = (
    "Math.min(...[...document.querySelectorAll('p,td,th,li,dd,b,small')]"
    ".filter(e => e.offsetParent && e.textContent.trim()).map(e => parseFloat(getComputedStyle(e).fontSize)))"
)
SHOWN = "[...document.querySelectorAll('.case')].filter(e => e.offsetParent).length"
CHOOSE = "document.getElementById('f-over_refusal').click()"
CONTRAST = contrast("p,td,th,li,dd,dt,h1,h2,h3,h4,small,b,summary,code,label,a,.pill,.tag")


def colours(png: bytes, every: int = 7) -> set[bytes]:
    """The distinct colours on every n-th row of an 8-bit RGB or RGBA PNG, decoded by hand (RFC 2083)."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert depth == 8 and kind in (2, 6)
    step, data, at = (3 if kind == 2 else 4), b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += length + 12
    raw, stride = zlib.decompress(data), width * step
    found: set[bytes] = set()
    above = bytearray(stride)
    for row in range(min(height, 1400)):
        method, line = raw[row * (stride + 1)], bytearray(raw[row * (stride + 1) + 1 : (row + 1) * (stride + 1)])
        for i in range(stride if method else 0):
            a, b, c = (line[i - step] if i >= step else 0), above[i], (above[i - step] if i >= step else 0)
            nearest = min((a, b, c), key=lambda x, p=a + b - c: abs(p - x))  # type: ignore[misc]
            line[i] = (line[i] + (0, a, b, (a + b) // 2, nearest)[method]) & 255
        above = line
        if row % every == 0:
            found |= {bytes(line[i : i + 3]) for i in range(0, stride, step)}
    return found


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_is_drawn_without_a_complaint_or_a_request(
    browser: Chromium, pages: dict[str, Path], width: int, dark: bool
) -> None:
    look = browser.visit(pages["planned"], width=width, dark=dark, ask={"over": FITS, "small": SMALLEST, "c": CONTRAST})
    assert look.complaints == []
    assert look.requests == [pages["planned"].as_uri()]
    assert look.answers["over"] <= 0, "the page scrolls sideways"
    assert look.answers["small"] >= 11
    assert look.answers["c"][0] >= 4.5, f"hard to read: {look.answers['c']}"
    seen = colours(look.png)
    assert len(seen) > 40, "the page is blank"
    paper = bytes((0x15, 0x17, 0x1A)) if dark else bytes((0xFB, 0xFA, 0xF7))
    assert paper in seen


@pytest.mark.parametrize("name", ["stopped", "undecided"])
def test_other_stories_fit_a_tablet(browser: Chromium, pages: dict[str, Path], name: str) -> None:
    look = browser.visit(pages[name], width=820, ask={"over": FITS})
    assert look.complaints == [] and look.answers["over"] <= 0


def test_failure_cases_are_filtered_without_a_script(browser: Chromium, pages: dict[str, Path]) -> None:
    """One visit: count the cases, click on an area, count again."""
    ask = {"before": SHOWN, "click": CHOOSE, "after": SHOWN}
    look = browser.visit(pages["planned"], width=1280, ask=ask)
    assert look.answers["before"] > look.answers["after"] > 0
