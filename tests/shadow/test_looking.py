"""Who looks again and again, beside an event loop: the sweeper, the switch, and what an A/B rests on."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plumbline.shadow import Spool, grounds, switch
from plumbline.shadow.legs import Upstream
from plumbline.shadow.sweeping import Sweeper
from shadow.leavers import EXPERIMENT, Away


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(tmp_path / "spool", EXPERIMENT)) as opened:
        yield opened


@pytest.mark.parametrize("what", ["sweeper", "switch", "grounds"])
def test_whoever_looks_again_and_again_does_so_after_no_thread_could_be_started(
    what: str, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may have no room for another one at that moment."""
    monkeypatch.setattr(switch, "POLL_S", 0.001)
    monkeypatch.setattr(grounds, "LOOK_S", 0.001)
    end = Upstream("reference", "http://127.0.0.1:9/v1", "reference")
    followers = {
        "sweeper": Sweeper(spool, Away(), every_s=0.001),
        "switch": switch.Switch(spool),
        "grounds": grounds.Grounds(end, end, None),
    }
    looked = threading.Event()
    monkeypatch.setattr(followers[what], "look", looked.set)
    start, refused = threading.Thread.start, threading.Event()

    def scarce(thread: threading.Thread) -> None:
        if not refused.is_set():
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    async def work() -> None:
        monkeypatch.setattr(threading.Thread, "start", scarce)
        following = asyncio.ensure_future(followers[what].follow())
        while not looked.is_set() and not following.done():
            await asyncio.sleep(0.001)
        monkeypatch.undo()
        following.cancel()
        await asyncio.wait([following])
        assert following.cancelled() and refused.is_set()

    asyncio.run(work())
