"""The first look: it counts and finds what a look at each text alone would, and never misses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.glance import AT_ONCE, Glance, glances, kind

texts = st.lists(st.text("abAB :-0\n@", max_size=30), min_size=1, max_size=12)


@given(texts)
def test_counts_are_those_of_each_text_and_one_line_break_is_added(drawn: list[str]) -> None:
    digits, both, breaks = Glance(drawn).counts(kind("0"), kind(":-"), kind("\n"))
    assert digits.tolist() == [text.count("0") for text in drawn]
    assert both.tolist() == [text.count(":") + text.count("-") for text in drawn]
    assert breaks.tolist() == [text.count("\n") + 1 for text in drawn]


@given(texts, st.lists(st.text("ab :", min_size=3, max_size=4), min_size=1, max_size=3))
def test_letters_side_by_side_are_found_in_any_case_or_in_theirs(drawn: list[str], wanted: list[str]) -> None:
    seen, given_ = Glance(drawn), [one.encode() for one in wanted]
    assert seen.having(*given_).tolist() == [any(one in text.lower() for one in wanted) for text in drawn]
    assert seen.having_exactly(*given_).tolist() == [any(one in text for one in wanted) for text in drawn]


@given(texts, st.integers(1, 6))
def test_runs_are_as_long_as_asked_for_and_end_with_their_text(drawn: list[str], least: int) -> None:
    found = Glance(drawn).runs(kind("abAB"), least)
    plain = [text.translate(str.maketrans("bAB", "aaa")) for text in drawn]
    assert found.tolist() == ["a" * least in text for text in plain]


@pytest.mark.parametrize("many", [0, 1, AT_ONCE, AT_ONCE + 1])
def test_every_text_of_ascii_is_looked_at_once_and_no_other(many: int) -> None:
    drawn = [f"text {number}" if number % 3 else f"täxt {number}" for number in range(many)]
    places = [place for seen, some in glances(drawn) for place in some if len(seen) == len(some)]
    assert places == [number for number, text in enumerate(drawn) if text.isascii()]
