"""Exports in a process of their own, to be killed. A module by itself: a spawned child imports it by name."""

import os
import signal
import time
from pathlib import Path


def export_slowly(root: str, out: str) -> None:
    """In a process of its own: reach the last step, and stay there."""
    from plumbline.feedback.datasets import export as room
    from plumbline.stores import Ledger, LocalBlobs

    def stay(folder: Path, target: Path) -> None:
        (Path(root) / "reached").touch()
        time.sleep(600)

    room._move_into_place = stay
    room.export_version(
        Ledger(Path(root) / "ledger.db"), LocalBlobs(Path(root) / "blobs"), "assistant", 2, "messages", out
    )


def export_and_die(root: str, out: str, renames: int) -> None:
    """In a process of its own: end at once, without clean-up, instead of the rename after `renames` others."""
    from plumbline.feedback.datasets import export as room
    from plumbline.stores import Ledger, LocalBlobs

    real, left = os.rename, [renames]

    def rename(source: Path, to: Path) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        real(source, to)

    room.os.rename = rename  # type: ignore[assignment]
    room.export_version(
        Ledger(Path(root) / "ledger.db"), LocalBlobs(Path(root) / "blobs"), "assistant", 2, "messages", out
    )
