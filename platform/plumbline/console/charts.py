"""Charts that live in table rows: rates of the policies, paired differences, bars, and the refusal plane.

Each is a pure function from numbers to SVG. Strips carry marks only; words and figures stand beside them in HTML,
where they wrap, can be selected and can be read aloud. A policy is told apart by shape as well as by colour, a
verdict by sign and word as well as by colour.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console.svg import at, drawing, el, pct, strip
from plumbline.console.words import percent, points
from plumbline.records import PolicyScore, Verdict

RATE_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
DIFFERENCE_TICKS = (-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0)
SHAPES = ("circle", "diamond", "square", "triangle")


def marker(index: int, size: float = 5.0, kind: str = "") -> Markup:
    """The mark of the index-th policy, centred on the origin: circle, diamond, square, triangle, then again. `kind` is
    the class that colours it where it does not stand for a policy."""
    colour = f"mark {kind or f'p{index % 6}'}"
    shape = SHAPES[index % len(SHAPES)]
    if shape == "circle":
        return el("circle", r=size, class_=colour)
    if shape == "diamond":
        s = size * 1.25
        return el("path", d=f"M0 {-s:g}L{s:g} 0L0 {s:g}L{-s:g} 0Z", class_=colour)
    if shape == "square":
        s = size * 0.9
        return el("rect", x=-s, y=-s, width=2 * s, height=2 * s, class_=colour)
    s = size * 1.15
    return el("path", d=f"M0 {-s:g}L{s:g} {s:g}L{-s:g} {s:g}Z", class_=colour)


def legend_mark(index: int, kind: str = "") -> Markup:
    """The same mark, inline in running text."""
    mark = el("g", marker(index, kind=kind), transform="translate(7 7)")
    return el("svg", mark, width=14, height=14, class_="key", aria_hidden="true")


def legend_band() -> Markup:
    """The band of a forest, inline in running text: the dashed margin on its left, zero on its right."""
    return el(
        "svg",
        el("rect", x=3, y=0, width=16, height=14, class_="margin"),
        el("line", x1=3, x2=3, y1=0, y2=14, class_="margin-edge"),
        el("line", x1=19, x2=19, y1=0, y2=14, class_="zero"),
        width=22, height=14, class_="key", aria_hidden="true",
    )  # fmt: skip


@dataclass(frozen=True)
class Dot:
    """One policy's rate in a row of the dot plot; `score` None leaves the policy's line empty."""

    policy: str
    index: int
    score: PolicyScore | None


def rate_position(rate: float) -> float:
    """Percent of the strip's width: 0 and 1 stand inside the edges, so that whole marks are seen."""
    return 2 + 96 * min(1.0, max(0.0, rate))


def rate_axis() -> Markup:
    ticks = [
        el("text", percent(t), x=pct(rate_position(t)), y=11, class_="tick", text_anchor="middle") for t in RATE_TICKS
    ]
    return strip("Scale from 0 % to 100 %", *ticks, height=15, class_="strip axis")


def rate_strip(label: str, dots: Sequence[Dot], baselines: dict[str, float] | None = None) -> Markup:
    """Rates with 95 % intervals, one line per policy; baselines without a model are short grey bars behind."""
    height = 8 + 13 * len(dots)
    marks = [
        el("line", x1=pct(rate_position(t)), x2=pct(rate_position(t)), y1=0, y2=height, class_="grid")
        for t in RATE_TICKS
    ]
    said: list[str] = []
    for name, rate in sorted((baselines or {}).items()):
        if 0 <= rate <= 1:
            x = pct(rate_position(rate))
            marks.append(el("line", x1=x, x2=x, y1=2, y2=height - 2, class_="baseline"))
            said.append(f"no-model baseline, {name}: {percent(rate, 1)}")
    for line, dot in enumerate(dots):
        if dot.score is None:
            continue
        y = 10.5 + 13 * line
        low, high = rate_position(dot.score.low), rate_position(dot.score.high)
        marks.append(el("line", x1=pct(low), x2=pct(high), y1=y, y2=y, class_=f"whisker p{dot.index % 6}"))
        marks.append(at(rate_position(dot.score.rate), y, marker(dot.index)))
        said.append(
            f"{dot.policy}: {percent(dot.score.rate, 1)}, interval {percent(dot.score.low, 1)} "
            f"to {percent(dot.score.high, 1)}"
        )
    return strip(f"{label}. {'; '.join(said)}", *marks, height=height, class_="strip rates")


def difference_position(difference: float) -> float:
    """Percent of the width on a signed square-root scale: a margin of 3 points and a fall of 97 both show."""
    clipped = min(1.0, max(-1.0, difference))
    return 50 + 48 * math.copysign(math.sqrt(abs(clipped)), clipped)


def difference_axis(at_ticks: Sequence[float] = DIFFERENCE_TICKS) -> Markup:
    ticks = [
        el(
            "text", points(t, 0), x=pct(difference_position(t)), y=11, class_="tick", text_anchor="middle"
        )
        for t in at_ticks
    ]  # fmt: skip
    return strip("Scale in percentage points, square root, worse on the left", *ticks, height=15, class_="strip axis")


def forest_strip(
    label: str,
    difference: float | None,
    low: float | None,
    high: float | None,
    margin: float | None,
    verdict: str,
    *,
    height: int = 26,
    ticks: Sequence[float] = DIFFERENCE_TICKS,
    shape: int = 0,
) -> Markup:
    """A paired difference with its 90 % interval; the band from minus the margin to zero is what may be lost. An empty
    `verdict` is none: the mark is neutral."""
    marks: list[Markup] = []
    if margin is not None:
        edge = difference_position(-margin)
        marks.append(el("rect", x=pct(edge), y=0, width=pct(50 - edge), height=height, class_="margin"))
        marks.append(el("line", x1=pct(edge), x2=pct(edge), y1=0, y2=height, class_="margin-edge"))
    marks += [
        el("line", x1=pct(x), x2=pct(x), y1=0, y2=height, class_="zero" if t == 0 else "grid")
        for t, x in ((t, difference_position(t)) for t in ticks)
    ]
    said = "no estimate"
    kind = f"v-{verdict.lower() or 'none'}"
    if difference is not None and low is not None and high is not None:
        lo, hi, y = difference_position(low), difference_position(high), height / 2
        marks.append(el("line", x1=pct(lo), x2=pct(hi), y1=y, y2=y, class_=f"whisker {kind}"))
        marks += [el("line", x1=pct(x), x2=pct(x), y1=y - 4, y2=y + 4, class_=f"whisker {kind}") for x in (lo, hi)]
        marks.append(at(difference_position(difference), y, marker(shape, kind=kind)))
        said = f"{points(difference)} points, interval {points(low)} to {points(high)}"
    against = "" if margin is None else f", margin {points(-margin)}"
    return strip(
        f"{label}: {said}{against}{', ' if verdict else ''}{verdict}", *marks, height=height, class_="strip forest"
    )


def bar_strip(label: str, value: int, largest: int, kind: str) -> Markup:
    share = 0.0 if largest <= 0 else 100.0 * value / largest
    return strip(
        f"{label}: {value}",
        el("rect", x=0, y=3, width=pct(max(share, 0.6) if value else 0), height=12, rx=2, class_=f"bar {kind}"),
        height=18,
        class_="strip bars",
    )


@dataclass(frozen=True)
class RefusalPoint:
    """A policy on the refusal plane: shares refused of benign requests (x) and of harmful ones (y)."""

    policy: str
    index: int
    benign: PolicyScore
    harmful: PolicyScore


def refusal_plane(points_: Sequence[RefusalPoint], harmful_label: str) -> Markup:
    """Benign refusals across, harmful refusals up: the good corner is top left, and refusing all is top right.

    This is the picture of the refusal shortcut: a policy that looks safer by moving right has bought nothing.
    """
    size, left, top = 300.0, 56.0, 22.0

    def x(share: float) -> float:
        return left + size * min(1.0, max(0.0, share))

    def y(share: float) -> float:
        return top + size * (1 - min(1.0, max(0.0, share)))

    marks = [
        el("rect", x=left, y=top, width=size, height=size, class_="plane"),
        el("rect", x=left, y=top, width=size * 0.1, height=size * 0.1, class_="good-corner"),
        el("line", x1=x(0), y1=y(0), x2=x(1), y2=y(1), class_="diagonal"),
    ]
    for tick in RATE_TICKS:
        marks.append(el("text", percent(tick), x=x(tick), y=top + size + 16, class_="tick", text_anchor="middle"))
        marks.append(el("text", percent(tick), x=left - 7, y=y(tick) + 4, class_="tick", text_anchor="end"))
        if 0 < tick < 1:
            marks.append(el("line", x1=x(tick), x2=x(tick), y1=top, y2=top + size, class_="grid"))
            marks.append(el("line", x1=left, x2=left + size, y1=y(tick), y2=y(tick), class_="grid"))
    marks.append(
        el("text", "benign requests refused \u2192", x=left + size / 2, y=top + size + 36, class_="axis-name",
           text_anchor="middle")
    )  # fmt: skip
    marks.append(
        el("text", f"{harmful_label} \u2192", x=0, y=0, class_="axis-name", text_anchor="middle",
           transform=f"translate(12 {top + size / 2:g}) rotate(-90)")
    )  # fmt: skip
    marks.append(
        el("text", "refuses both alike", x=0, y=0, class_="tick", text_anchor="middle",
           transform=f"translate({x(0.4) - 5:g} {y(0.4) - 5:g}) rotate(-45)")
    )  # fmt: skip
    for before, after in itertools.pairwise((x(p.benign.rate), y(p.harmful.rate)) for p in points_):
        marks.append(el("path", d=_arc(*before, *after), class_="travel", marker_end="url(#travel-head)"))
    placed: list[tuple[float, float]] = []
    for point in points_:
        px, py = x(point.benign.rate), y(point.harmful.rate)
        marks += [
            el("line", x1=x(point.benign.low), x2=x(point.benign.high), y1=py, y2=py,
               class_=f"whisker p{point.index % 6}"),
            el("line", x1=px, x2=px, y1=y(point.harmful.low), y2=y(point.harmful.high),
               class_=f"whisker p{point.index % 6}"),
            el("g", marker(point.index, 6.5), transform=f"translate({px:.2f} {py:.2f})"),
        ]  # fmt: skip
        beside = point.benign.rate > 0.6
        ly = py + (4 if beside else 21 if py < top + size / 2 else -12)
        while any(abs(ly - oy) < 16 and abs(px - ox) < 110 for ox, oy in placed):
            ly += 16 if py < top + size / 2 else -16
        placed.append((px, ly))
        marks.append(
            el("text", point.policy, x=px + (13 if beside else 9), y=ly, class_=f"point-name p{point.index % 6}")
        )  # fmt: skip
    head = el(
        "marker", el("path", d="M0 0L8 4L0 8Z", class_="travel-head"),
        id="travel-head", viewBox="0 0 8 8", refX=8, refY=4, markerWidth=8, markerHeight=8,
        orient="auto", markerUnits="userSpaceOnUse",
    )  # fmt: skip
    said = "; ".join(
        f"{p.policy} refuses {percent(p.benign.rate, 1)} of benign requests, and for harmful requests stands at "
        f"{percent(p.harmful.rate, 1)}"
        for p in points_
    )
    return drawing(
        "Refusals of benign and of harmful requests, by policy", said, el("defs", head), *marks,
        width=left + size + 90, height=top + size + 46, class_="chart refusal-plane", id_="refusal-plane",
    )  # fmt: skip


def _arc(x1: float, y1: float, x2: float, y2: float) -> str:
    """A shallow curve that stops short of the marks at both ends."""
    dx, dy = x2 - x1, y2 - y1
    length = math.hypot(dx, dy)
    if length < 34:
        return f"M{x1:.2f} {y1:.2f}L{x1:.2f} {y1:.2f}"
    ux, uy = dx / length, dy / length
    bend = min(26.0, length * 0.12)
    cx, cy = (x1 + x2) / 2 - uy * bend, (y1 + y2) / 2 + ux * bend
    return f"M{x1 + ux * 12:.2f} {y1 + uy * 12:.2f}Q{cx:.2f} {cy:.2f} {x2 - ux * 13:.2f} {y2 - uy * 13:.2f}"


def verdict_class(verdict: Verdict | str) -> str:
    return f"v-{str(verdict).lower()}"
