"""What the chart renders is what was reviewed."""

import difflib
from collections.abc import Callable

from chart_tools import SETUPS, Doc
from golden import FOLDER, files

HOW = "if this is what you meant: make golden, and read the diff"


def test_the_rendered_objects_are_those_that_were_reviewed(render: Callable[..., list[Doc]]) -> None:
    now = files({setup: render(setup) for setup in SETUPS})
    kept = {path.stem: path.read_text() for path in FOLDER.glob("*.yaml")}
    changed = [
        line
        for setup in sorted(now.keys() | kept.keys())
        for line in difflib.unified_diff(
            kept.get(setup, "").splitlines(), now.get(setup, "").splitlines(), f"reviewed/{setup}", f"now/{setup}", n=2
        )
    ]
    assert not changed, "\n".join([*changed[:60], HOW])
