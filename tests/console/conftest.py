"""The sample stories as fixtures."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from plumbline.console import LoopStory


@pytest.fixture(scope="session")
def stories() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plumbline_sample_story", Path(__file__).with_name("sample_story.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def planned(stories: ModuleType) -> LoopStory:
    story: LoopStory = stories.planned_story()
    return story


CONTRACTS = {"over_refusal": (("Target", "benign requests are answered"), ("Variable", "O(pi)"))}


@pytest.fixture
def contracts() -> dict[str, tuple[tuple[str, str], ...]]:
    """Contracts of the test's own, so that a golden page does not change with the evaluation room's wording."""
    return CONTRACTS
