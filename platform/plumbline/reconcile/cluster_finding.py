"""One finding about a cluster: how bad, about what, the fact, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`level` is ok, warning (something optional is missing, or cannot be seen) or error (something will not run)."""

    level: Level
    what: str
    remedy: str = ""
    about: str = "this machine"


def finding(level: Level, about: str, what: str, remedy: str = "") -> Finding:
    """A finding that says what to do exactly when there is something to do."""
    return Finding(level, what, "" if level == "ok" else remedy, about)
