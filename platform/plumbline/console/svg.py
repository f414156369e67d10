"""The smallest SVG writer that cannot produce an injection: every attribute and text goes through escaping.

Coordinates are rounded to two decimals and attributes keep the order they are given in, so the same records draw
the same bytes. Colours are never written here: marks carry classes and the page's style sheet colours them, which
is how one drawing serves light, dark and paper.
"""

from markupsafe import Markup, escape

from plumbline.console.words import visible

Coordinate = float | int | str


def el(tag: str, *children: Markup | str, **attributes: Coordinate | None) -> Markup:
    """One element. `class_` becomes `class`, `stroke_width` becomes `stroke-width`; None leaves an attribute out."""
    parts = [Markup("<") + Markup(tag)]
    for name, value in attributes.items():
        if value is not None:
            key = name.rstrip("_").replace("_", "-") if name != "viewBox" else name
            parts.append(Markup(' {}="{}"').format(Markup(key), _plain(value)))
    if not children:
        return Markup("").join([*parts, Markup("/>")])
    inner = Markup("").join(child if isinstance(child, Markup) else escape(visible(child)) for child in children)
    return Markup("").join([*parts, Markup(">"), inner, Markup("</"), Markup(tag), Markup(">")])


def drawing(
    title: str, description: str, *children: Markup, width: float, height: float, class_: str, id_: str
) -> Markup:
    """A scalable drawing in its own coordinates, with the title and description that screen readers announce."""
    return el(
        "svg",
        el("title", title, id=f"{id_}-t"),
        el("desc", description, id=f"{id_}-d"),
        *children,
        viewBox=f"0 0 {_plain(width)} {_plain(height)}",
        role="img",
        aria_labelledby=f"{id_}-t {id_}-d",
        class_=class_,
    )


def strip(label: str, *children: Markup, height: int, class_: str) -> Markup:
    """A strip as wide as its cell: x is given in percent, y in pixels, so that text and marks never stretch."""
    return el(
        "svg", el("title", label), *children, width="100%", height=height, role="img", aria_label=label, class_=class_
    )


def at(x: float, y: float, *children: Markup) -> Markup:
    """A nested origin at x percent, y pixels: the way to place a path in a strip."""
    return el("svg", *children, x=f"{_plain(x)}%", y=y, overflow="visible")


def pct(x: float) -> str:
    return f"{_plain(x)}%"


def _plain(value: Coordinate) -> str:
    if isinstance(value, str):
        return visible(value)
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
