"""Where an example goes: who is held out stays held out, and nothing equal is on both sides."""

from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.datasets.split import Components, Unit, drawn_split, place

units = st.lists(
    st.builds(
        lambda user, conversation, text, published: (user, conversation, text, published),
        st.integers(0, 4),
        st.integers(0, 6),
        st.integers(0, 8),
        st.sampled_from([None, None, None, "train", "held_out"]),
    ),
    max_size=25,
)


@given(units, st.floats(0, 1))
def test_no_user_conversation_or_text_is_ever_on_both_sides(
    drawn: list[tuple[int, int, int, str | None]], share: float
) -> None:
    made = [
        Unit(
            sequence=number,
            rank=f"{number:03}",
            ties=frozenset({f"user:{user}", f"conversation:{conversation}"}),
            texts=frozenset({f"text:{text}"}),
            published=frozenset() if published is None else frozenset({published}),  # type: ignore[arg-type]
        )
        for number, (user, conversation, text, published) in enumerate(drawn)
    ]
    placed = place(made, share)
    assert placed.splits.keys() | placed.dropped.keys() == set(range(len(made)))
    assert not placed.splits.keys() & placed.dropped.keys()
    sides: dict[str, set[str]] = {}
    for unit in made:
        if unit.sequence in placed.splits:
            for key in unit.ties | unit.texts:
                sides.setdefault(key, set()).add(placed.splits[unit.sequence])
            assert unit.published <= {placed.splits[unit.sequence]}
    assert all(len(found) == 1 for found in sides.values())


def test_held_out_wins_and_the_trained_side_of_a_joined_conversation_is_dropped() -> None:
    made = [
        Unit(1, "1", frozenset({"user:a", "conversation:x"}), anchors=frozenset({("train", "c-1")})),
        Unit(2, "2", frozenset({"user:b", "conversation:x"}), anchors=frozenset({("held_out", "c-2")})),
        Unit(3, "3", frozenset({"user:b"})),
    ]
    placed = place(made, 0.0)
    assert placed.splits == {2: "held_out", 3: "held_out"}
    assert placed.clusters == {2: "c-2", 3: "c-2"}
    assert placed.dropped == {1: "joins_both_splits"}


def test_the_drawn_share_is_about_the_wanted_share() -> None:
    held_out = sum(drawn_split(f"key {number}", 0.2) == "held_out" for number in range(5000))
    assert 0.17 < held_out / 5000 < 0.23


def test_components_join_transitively() -> None:
    components: Components[int] = Components()
    for a, b in [(1, 2), (3, 4), (2, 3), (5, 6)]:
        components.join(a, b)
    assert sorted(map(sorted, components.groups(range(1, 7)))) == [[1, 2, 3, 4], [5, 6]]
