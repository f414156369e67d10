"""A child is kept running, whatever goes wrong when it ends, and is gone once it was stopped."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from plumbline import processes
from plumbline.processes import Child

SLEEPS = [sys.executable, "-c", "import time; time.sleep(120)"]
ENDS = [sys.executable, "-c", ""]


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "RESTART_S", (0.01, 0.01))
        yield


class Slow(Child):
    """One that takes its time to begin anew; `begun` holds all that it ever began."""

    def _begin(self) -> "subprocess.Popen[bytes]":
        if not hasattr(self, "begun"):
            self.begun: list[subprocess.Popen[bytes]] = []
            self.again = threading.Event()
        else:
            self.again.set()
            time.sleep(0.5)
            self.command = SLEEPS
        self.begun.append(super()._begin())
        return self.begun[-1]


def test_one_that_begins_anew_while_it_is_being_stopped_is_ended_too() -> None:
    child = Slow(ENDS)
    assert child.again.wait(20)
    stopping = threading.Thread(target=child.stop, daemon=True)
    stopping.start()
    stopping.join(20)
    hangs = stopping.is_alive()
    left = [one for one in child.begun if one.poll() is None]
    for one in left:
        one.kill()
    assert not hangs, "it waited for a process that nobody ended"
    assert len(child.begun) == 2 and not left


def test_a_fault_of_beginning_does_not_end_the_watch() -> None:
    begins = threading.Event()

    class Failing(Child):
        tries = 0

        def _begin(self) -> "subprocess.Popen[bytes]":
            self.tries += 1
            if self.tries == 2:
                raise OSError("cannot allocate memory")
            if self.tries == 3:
                begins.set()
            return super()._begin()

    child = Failing(ENDS)
    try:
        assert begins.wait(20)
    finally:
        child.stop()
    assert child.process.poll() is not None
