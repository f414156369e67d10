"""Alpha is the oracle's, also where labels are missing, and the verdict on it errs to the safe side."""

import random

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from plumbline.statistics.agreement import BLOCK, FEWEST, PASS, Agreement, agreement, cohen_kappa

VERDICTS = ("reject", "unsure", "approve")
SEVERITIES = ("none", "minor", "major", "severe")


def oracle(table: list[list[str | None]], order: tuple[str, ...], metric: str) -> float:
    """`krippendorff` 0.9 on reviewers by items; None is a label that was not given."""
    values = [[np.nan if cell is None else order.index(cell) for cell in row] for row in zip(*table, strict=True)]
    return float(
        krippendorff.alpha(
            reliability_data=np.array(values, dtype=float),
            level_of_measurement=metric,
            value_domain=list(range(len(order))),
        )
    )


def units(table: list[list[str | None]]) -> list[list[str]]:
    return [[cell for cell in row if cell is not None] for row in table]


tables = st.integers(2, 5).flatmap(
    lambda reviewers: st.lists(
        st.lists(st.sampled_from([None, *SEVERITIES]), min_size=reviewers, max_size=reviewers), min_size=2, max_size=25
    )
)


@settings(max_examples=300, deadline=None)
@given(tables, st.sampled_from(["nominal", "ordinal"]))
def test_alpha_is_the_oracles_with_labels_missing(table, metric):
    pairable = [row for row in units(table) if len(row) >= 2]
    found = agreement(units(table), SEVERITIES, metric=metric)
    assert (found.units, found.labels) == (len(pairable), sum(map(len, pairable)))
    if len({cell for row in pairable for cell in row}) < 2:
        assert found.alpha is None, "one value only, or none: alpha is undefined"
    else:
        assert found.alpha == pytest.approx(oracle(table, SEVERITIES, metric), abs=1e-9)
        assert found.low is None or found.low <= found.high <= 1


def test_the_worked_example_of_the_book():
    """Krippendorff 2004, table of four observers and twelve units: nominal .743, ordinal .815."""
    observers = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    table = [[None if cell == "." else cell for cell in row] for row in zip(*map(str.split, observers), strict=True)]
    assert agreement(units(table), "12345").alpha == pytest.approx(0.743, abs=5e-4)
    assert agreement(units(table), "12345", metric="ordinal").alpha == pytest.approx(0.815, abs=5e-4)


def noisy(n: int, slips: int) -> list[list[str]]:
    """Two reviewers, half approvals and half rejections, who differ on the first `slips` items."""
    first = ["approve" if number % 2 else "reject" for number in range(n)]
    other = {"approve": "reject", "reject": "approve"}
    return [[word, other[word] if number < slips else word] for number, word in enumerate(first)]


@pytest.mark.parametrize(
    ("n", "slips", "state"),
    [(60, 0, "pass"), (60, 2, "pass"), (60, 8, "second_look"), (60, 20, "blocked"), (9, 0, "too_few"),
     (9, 9, "too_few"), (12, 1, "too_few"), (12, 6, "blocked")],
)  # fmt: skip
def test_the_thresholds(n, slips, state):
    found = agreement(noisy(n, slips), VERDICTS)
    assert found.state == state, found


def test_thresholds_are_where_the_field_puts_them():
    assert (PASS, BLOCK, FEWEST) == (0.80, 0.667, 10)
    for alpha, state in ((0.8, "pass"), (0.7999, "second_look"), (0.667, "second_look"), (0.6669, "blocked")):
        assert Agreement(alpha, 0.7, 0.9, 50, 100).state == state
    assert Agreement(0.9, 0.5, 1.0, 50, 100).state == "too_few", "the interval reaches into blocking"
    assert Agreement(0.5, 0.1, 0.9, 50, 100).state == "blocked", "doubt never lets answers through"


def test_everybody_saying_the_same_tells_nothing():
    """Two people who always approve agree perfectly, and alpha cannot tell that from not reading."""
    assert agreement([["approve", "approve"]] * 50, VERDICTS).state == "too_few"
    assert agreement([], VERDICTS) == Agreement(None, None, None, 0, 0)
    assert agreement([["approve"]] * 50, VERDICTS).units == 0


def test_bounds_are_seeded_and_cover():
    table = noisy(80, 10)
    assert agreement(table, VERDICTS) == agreement(table, VERDICTS)
    assert agreement(table, VERDICTS, seed=1).low != agreement(table, VERDICTS).low
    found = agreement(table, VERDICTS)
    assert found.low < found.alpha < found.high
    assert found.high - found.low > agreement(noisy(800, 100), VERDICTS).high - agreement(noisy(800, 100), VERDICTS).low


def test_the_interval_covers_as_often_as_it_says():
    """Two raters who copy the truth with probability .9: 95 % bounds hold the true alpha in most of 200 draws."""
    dice = random.Random(7)

    def draw(n):
        truth = [dice.choice(("approve", "reject")) for _ in range(n)]
        flip = {"approve": "reject", "reject": "approve"}
        return [[word if dice.random() < 0.9 else flip[word] for _ in range(2)] for word in truth]

    true = 1 - (2 * 0.9 * 0.1) / 0.5  # observed over expected disagreement as n grows
    held = sum(found.low <= true <= found.high for found in (agreement(draw(120), VERDICTS) for _ in range(200)))
    assert held >= 180


def test_an_unknown_value_is_a_fault_and_not_a_category():
    with pytest.raises(KeyError):
        agreement([["approve", "maybe"]], VERDICTS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), min_size=1, max_size=50))
def test_kappa_is_scikit_learns(pairs):
    first, second = zip(*pairs, strict=True)
    if len({*first, *second}) == 1:
        assert cohen_kappa(first, second) is None, "scikit-learn says nan"
    else:
        assert cohen_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


def test_kappa_needs_two_labels_for_every_item():
    for first, second in (([], []), (["approve"], ["approve", "reject"])):
        with pytest.raises(ValueError):
            cohen_kappa(first, second)
