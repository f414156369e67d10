"""The review room as a fixture."""

from typing import Any

import pytest

from feedback.review.review_room import Room


@pytest.fixture
def room(house: Any) -> Room:
    return Room(house)
