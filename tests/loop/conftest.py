"""One real loop for the whole session: killed once on the way, started again, run to its end."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLUMB = str(Path(sys.executable).with_name("plumb"))
SEED = 3  # a validation seed: the default and the fresh ones are for the recorded table


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


def journal(out: Path) -> list[str]:
    file = out / "journal.jsonl"
    return [json.loads(line)["name"] for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("loop")
    out, cache = root / "out", root / "cache"
    arguments = [PLUMB, "loop", "--seed", str(SEED), "--out", str(out), "--cache", str(cache)]
    first = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    until = time.monotonic() + 600
    progress = out / "jobs" / "aligned-1" / "progress.jsonl"
    while not progress.exists() and time.monotonic() < until and first.poll() is None:
        time.sleep(0.2)
    before = journal(out)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(out, cache, done.stdout, before)
