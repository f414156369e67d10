"""The sample stories as fixtures."""

from types import ModuleType

import pytest

from console import sample_story
from plumbline.console import LoopStory


@pytest.fixture(scope="session")
def stories() -> ModuleType:
    return sample_story


@pytest.fixture
def planned() -> LoopStory:
    return sample_story.planned_story()


CONTRACTS = {"over_refusal": (("Target", "benign requests are answered"), ("Variable", "O(pi)"))}


@pytest.fixture
def contracts() -> dict[str, tuple[tuple[str, str], ...]]:
    """Contracts of the test's own, so that a golden page does not change with the evaluation room's wording."""
    return CONTRACTS
