"""Scales keep order and stay inside; layouts point right; nothing written into a drawing can leave it."""

from hypothesis import given
from hypothesis import strategies as st

from plumbline.console import LineageEdge
from plumbline.console.charts import difference_position, forest_strip, marker, rate_position
from plumbline.console.lineage import layers_of
from plumbline.console.svg import el

finite = st.floats(min_value=-3, max_value=3, allow_nan=False)


@given(finite, finite)
def test_the_difference_scale_keeps_order_and_stays_on_the_strip(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= difference_position(low) <= difference_position(high) <= 100
    assert abs(difference_position(a) + difference_position(-a) - 100) < 1e-9


@given(finite)
def test_the_rate_scale_stays_on_the_strip(rate: float) -> None:
    assert 2 <= rate_position(rate) <= 98


def test_a_margin_of_three_points_is_seen_beside_a_fall_of_ninety_seven() -> None:
    assert 50 - difference_position(-0.03) > 8
    assert difference_position(-0.97) > 2


def test_a_strip_says_in_words_what_it_shows() -> None:
    drawn = forest_strip("Over-refusal", -0.972, -0.992, -0.952, 0.02, "REGRESSED")
    assert "\u221297.2 points, interval \u221299.2 to \u221295.2, margin \u22122.0, REGRESSED" in drawn
    assert "no estimate" in forest_strip("Honesty", None, None, None, 0.03, "ERROR")


def test_policies_are_told_apart_by_shape_as_well_as_by_colour() -> None:
    shapes = [str(marker(index)).split(" class=")[0] for index in range(3)]
    assert len(set(shapes)) == 3


@given(st.text(max_size=60))
def test_no_text_leaves_its_element(text: str) -> None:
    drawn = str(el("text", text, x=1.0, data_note=text))
    assert drawn.count("<") == 2 and drawn.count(">") == 2
    assert drawn.count('"') == 4


names = st.sampled_from("abcdef")


@given(st.lists(st.tuples(names, names), max_size=14))
def test_layers_point_right_unless_the_edges_run_in_a_circle(pairs: list[tuple[str, str]]) -> None:
    forward = [(a, b) for a, b in pairs if a < b]
    edges = [LineageEdge(from_kind="k", from_id=a, relation="made", to_kind="k", to_id=b) for a, b in forward]
    layer = layers_of(edges)
    assert all(layer["k", a] < layer["k", b] for a, b in forward)
    circle = [LineageEdge(from_kind="k", from_id=a, relation="made", to_kind="k", to_id=b) for a, b in pairs]
    assert min(layers_of(circle).values(), default=0) >= 0
