"""One Chromium for the session, and the pages that it looks at. Without a Chromium the tests are skipped and say so."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser.chromium import Chromium


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    running = Chromium(found, tmp_path_factory.mktemp("browser"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report page of every sample story."""
    from console.sample_story import STORIES
    from plumbline.console import write_report

    folder = tmp_path_factory.mktemp("pages")
    return {name: write_report(make(), folder / name)[0] for name, make in STORIES.items()}
