"""docs/statistics.md names what there is, and its table of margins is the formula's."""

import importlib
import re
from pathlib import Path

import pytest

from plumbline.statistics.power import smallest_margin

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"


def rows(header: str) -> list[list[str]]:
    body = PAGE.read_text("utf-8").split(header + "\n", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines()[1:]]


def test_every_statistic_of_the_first_table_exists_and_has_a_docstring_or_a_module_that_explains_it():
    named = [name for row in rows("| you have | you ask | use |") for name in re.findall(r"`([\w.]+)`", row[2])]
    assert len(named) > 20
    for name in named:
        module, _, function = name.partition(".")
        found = getattr(importlib.import_module(f"plumbline.statistics.{module}"), function)
        assert callable(found) and found.__doc__, name


@pytest.mark.parametrize("row", range(3))
def test_the_table_of_margins_is_the_formula(row):
    share, *points = rows("| discordant | n 250 | n 500 | n 1000 | n 2000 | n 5000 |")[row]
    expected = [smallest_margin(n, float(share.strip(" %")) / 100) * 100 for n in (250, 500, 1000, 2000, 5000)]
    assert [float(one) for one in points] == pytest.approx(expected, abs=0.051)
