"""What a dataset's head is asked: long conversations cost no more than short ones, and stay where they are."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plumbline.feedback.datasets.history import _OLDEST, _smallest

found = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 30)), unique=True, max_size=60)


@given(found, st.integers(1, 10), st.randoms(use_true_random=False))
def test_the_oldest_examples_of_each_conversation_are_the_same_in_whatever_order_they_were_found(
    pairs: list[tuple[int, int]], most: int, random: Any
) -> None:
    random.shuffle(pairs)
    rows, values = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    kept = list(zip(*(part.tolist() for part in _smallest(rows, values, most=most)), strict=True))
    assert kept == [(row, value) for row in range(6) for value in sorted(v for r, v in pairs if r == row)[:most]]


def test_a_conversation_longer_than_what_is_looked_at_stays_on_its_side_and_in_its_cluster(house: Any) -> None:
    things = ["bell", "cart", "door", "fence", "gate", "hinge", "kite", "ladder", "mill", "oar", "pump", "quilt"]
    assert len(things) > _OLDEST
    house.consent("ana", "ben")
    house.post(*(house.rewrite("ana", f"who mends a {one}", f"the {one} maker", conversation="long") for one in things))
    first = house.ingest()
    house.post(house.rewrite("ben", "what turns a lamp off", "its own small wheel", conversation="long"))
    second = house.ingest()
    assert (first.accepted, second.accepted) == (len(things), 1)
    heads = house.ledger.publications.memberships("added_in > ?", (0,))
    assert len({(one.split, one.cluster) for one in heads}) == 1
