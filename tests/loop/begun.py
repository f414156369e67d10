"""The one real loop of a session, in processes of its own: killed once on the way, started again, run to its end.

    python tests/loop/begun.py FOLDER

It takes minutes, so whoever runs the tests begins it first of all (`begin`, from tests/conftest.py), asks everything
else meanwhile, and waits for it only where it is needed (`wait`). With several workers it is one loop for all.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from plumbline.processes import end, leave_with_parent

PLUMB = str(Path(sys.executable).with_name("plumb"))
SEED = 3  # a validation seed: the default and the fresh ones are for the recorded table
LONGEST_S = 3400  # the tests that wait for it have 3600


def begin(folder: Path, tests: Iterable[str]) -> "subprocess.Popen[bytes] | None":
    """Begin the loop in `folder`, if one of the `tests` (their ids) is about it. It ends with this process."""
    if not any(test.startswith("tests/loop/") for test in tests):
        return None
    folder.mkdir(parents=True)
    command = [sys.executable, __file__, str(folder)]
    with (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
    (folder / "process").write_text(str(process.pid))
    return process


def finish(process: "subprocess.Popen[bytes] | None") -> None:
    """Whoever began it is done: a loop that nobody waits for any more ends."""
    if process is not None:
        end(process, grace_s=15)


def wait(folder: Path) -> dict[str, Any]:
    """What `main` wrote when the loop had come to its end; an AssertionError with what it said, if it did not."""
    until = time.monotonic() + LONGEST_S
    ran, said = folder / "ran.json", folder / "said.txt"
    while not ran.exists():
        assert (folder / "process").exists(), "the loop was not begun: its tests are asked for by their folder or file"
        assert alive(int((folder / "process").read_text())) or ran.exists(), said.read_text()
        assert time.monotonic() < until, "the loop does not end"
        time.sleep(0.2)
    found: dict[str, Any] = json.loads(ran.read_text())
    assert found["returncode"] == 0, found["output"]
    return found


def alive(process: int) -> bool:
    """Whether a process runs; one that ended and that its parent has not asked about does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def journal(out: Path) -> list[str]:
    file = out / "journal.jsonl"
    return [json.loads(line)["name"] for line in file.read_text().splitlines()] if file.exists() else []


def main(folder: Path) -> None:
    """The loop until its first aligned policy trains, SIGKILL, and the loop to its end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    leave_with_parent()
    out = folder / "out"
    command = [PLUMB, "loop", "--seed", str(SEED), "--out", str(out), "--cache", str(folder / "cache")]
    pipes: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    living: subprocess.Popen[str] | None = None
    try:
        living = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
        until = time.monotonic() + LONGEST_S / 2
        progress = out / "jobs" / "aligned-1" / "progress.jsonl"
        while not progress.exists() and time.monotonic() < until and living.poll() is None:
            time.sleep(0.2)
        before = journal(out)
        os.killpg(living.pid, signal.SIGKILL)
        living.wait()
        living = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
        output, _ = living.communicate()
        told = {"returncode": living.returncode, "output": output, "stages_before_kill": before}
        (folder / "ran.json.new").write_text(json.dumps(told))
        (folder / "ran.json.new").rename(folder / "ran.json")
    finally:
        if living is not None:
            with suppress(ProcessLookupError):
                os.killpg(living.pid, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
