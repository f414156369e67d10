"""One real loop for the whole session: killed once on the way, started again, run to its end. Several workers share
it, so its tests only read it."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loop.begun import PLUMB, wait


@dataclass(frozen=True)
class Ran:
    out: Path
    cache: Path
    output: str
    stages_before_kill: list[str]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return found


def plumb(*arguments: str, cwd: Path | None = None, timeout: float = 3600) -> "subprocess.CompletedProcess[str]":
    """Run the installed command and return what it printed, with its exit code."""
    return subprocess.run([PLUMB, *arguments], capture_output=True, text=True, cwd=cwd, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "loop"
    told = wait(folder)
    return Ran(folder / "out", folder / "cache", told["output"], told["stages_before_kill"])
