"""Failpoints: every step by which a process changes what is on the disk, counted, and a fault at the one that is named.

Counted are the calls beneath the stores: `write`, `pwrite`, `fsync`, `link`, `rename`, `replace`, `unlink` of the
operating system, each statement with which SQLite or PostgreSQL begins, changes or commits a transaction (before a
COMMIT, and once more behind it), and each request by which S3 is changed. Nothing in the product is named or replaced,
so a new write is a new failpoint by itself.

What happens at a failpoint is the caller's `act`: `Death` ends the process as `kill -9` does; for a `write` half of the
bytes are written before (a torn write). A power cut is worse: it first takes back whatever was not yet made durable,
that is, bytes written since a file's last fsync and names made or removed since their folder's. A process that was
only killed leaves such things behind in the page cache, where the next one finds them and may take them for durable;
so a death remembers them for a power cut that comes later.

Not seen: writes through `open(...)` and memory maps. The stores do not use them (and SQLite keeps its own promises).
"""

import contextlib
import json
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

_CHANGES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "CREATE", "COMMIT")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Failpoints:
    """Counts steps and acts before step `at` (the first is 1). `steps` names those seen, in order."""

    def __init__(self, at: int | None = None, act: Callable[[], None] = kill) -> None:
        self.at, self.act = at, act
        self.steps: list[str] = []
        self._lock = threading.Lock()

    def reached(self, name: str, first: Callable[[], Any] = lambda: None) -> None:
        """Count a step, and act if it is the one: after `first`, with which a write tears itself. Other threads wait
        before their next step: nothing is done after the end."""
        with self._lock:
            self.steps.append(name)
            if len(self.steps) == self.at:
                first()
                self.act()


@contextlib.contextmanager
def watching(points: Failpoints, below: Path) -> Iterator[Failpoints]:
    """Count the steps of this process that touch files below `below`, and those of SQLite connections opened now."""
    disk = _Disk(points, below)
    kept = {name: getattr(os, name) for name in _Disk.CALLS}
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *rest: Any) -> Any:
            return _counted(points, sql, lambda: super(Connection, self).execute(sql, *rest))

        def executemany(self, sql: str, *rest: Any) -> Any:
            return _counted(points, sql, lambda: super(Connection, self).executemany(sql, *rest))

    def connected(*place: Any, **options: Any) -> Any:
        return connect(*place, **{"factory": Connection, **options})

    for name in _Disk.CALLS:
        setattr(os, name, getattr(disk, name))
    sqlite3.connect = connected
    try:
        with _servers(points):
            yield points
    finally:
        sqlite3.connect = connect
        for name, call in kept.items():
            setattr(os, name, call)


@contextlib.contextmanager
def _servers(points: Failpoints) -> Iterator[None]:
    """The same for the clients of PostgreSQL and S3, where they are loaded."""
    with contextlib.ExitStack() as stack:
        if psycopg := sys.modules.get("psycopg"):
            for owner, name in ((psycopg.Connection, "execute"), (psycopg.Cursor, "executemany")):
                real = getattr(owner, name)

                def counted(self: Any, sql: Any, *rest: Any, real: Any = real, **options: Any) -> Any:
                    return _counted(points, str(sql), lambda: real(self, sql, *rest, **options))

                stack.enter_context(mock.patch.object(owner, name, counted))
        if botocore := sys.modules.get("botocore.client"):
            call = botocore.BaseClient._make_api_call

            def asked(self: Any, operation: str, parameters: Any) -> Any:
                if not operation.startswith(("Get", "Head", "List")):
                    points.reached(f"before {operation}")
                return call(self, operation, parameters)

            stack.enter_context(mock.patch.object(botocore.BaseClient, "_make_api_call", asked))
        yield


def _counted(points: Failpoints, sql: str, run: Callable[[], Any]) -> Any:
    word = sql.lstrip().split(None, 1)[0].upper()
    if word in _CHANGES:
        points.reached(f"before {word}")
    done = run()
    if word == "COMMIT":
        points.reached("after COMMIT")
    return done


class _Disk:
    """The operating system's calls, counted, and what each of them left not yet durable."""

    CALLS = ("open", "write", "pwrite", "fsync", "link", "rename", "replace", "unlink")

    def __init__(self, points: Failpoints, below: Path) -> None:
        self.points, self.below = points, str(below)
        self.real = {name: getattr(os, name) for name in self.CALLS}
        self.lock = threading.Lock()
        self.paths: dict[int, str] = {}
        self.volatile: dict[str, bytes] = {}  # path: content at the last fsync
        self.made: dict[str, str] = {}  # new name: its folder
        self.gone: dict[str, bytes] = {}  # removed name: what it named
        if isinstance(points.act, Death):
            points.act.disk = self
            if points.act.notes.exists():
                self.made |= json.loads(points.act.notes.read_text())

    def ours(self, path: Any) -> bool:
        return str(path).startswith(self.below)

    def open(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        handle: int = self.real["open"](path, flags, *rest, **options)
        if self.ours(path):
            self.paths[handle] = str(path)
            if flags & os.O_CREAT and str(path) not in self.made:
                self.made[str(path)] = str(Path(path).parent)
        else:
            self.paths.pop(handle, None)
        return handle

    def write(self, handle: int, data: Any) -> int:
        self._written(handle, lambda: self.real["write"](handle, bytes(data)[: len(data) // 2]))
        return int(self.real["write"](handle, data))

    def pwrite(self, handle: int, data: Any, offset: int) -> int:
        self._written(handle, lambda: self.real["pwrite"](handle, bytes(data)[: len(data) // 2], offset))
        return int(self.real["pwrite"](handle, data, offset))

    def _written(self, handle: int, half: Callable[[], Any]) -> None:
        path = self.paths.get(handle)
        if path is not None:
            if path not in self.volatile:
                self.volatile[path] = Path(path).read_bytes()
            self.points.reached("write", half)

    def fsync(self, handle: int) -> None:
        path = self.paths.get(handle)
        if path is not None:
            self.points.reached("fsync")
        self.real["fsync"](handle)
        if path is not None:
            whose = os.fstat(handle).st_ino
            with self.lock:  # files are synced from several threads
                self.volatile = {name: data for name, data in self.volatile.items() if os.stat(name).st_ino != whose}
                self.made = {name: folder for name, folder in self.made.items() if folder != path}
                self.gone = {name: data for name, data in self.gone.items() if str(Path(name).parent) != path}

    def link(self, source: Any, target: Any, **options: Any) -> None:
        if self.ours(target):
            self.points.reached("link")
        self.real["link"](source, target, **options)
        if self.ours(target):
            if str(source) in self.volatile:  # two names, one content
                self.volatile[str(target)] = self.volatile[str(source)]
            self.made[str(target)] = str(Path(target).parent)

    def rename(self, source: Any, target: Any, **options: Any) -> None:
        if self.ours(target):
            self.points.reached("rename")
        self.real["rename"](source, target, **options)

    def replace(self, source: Any, target: Any, **options: Any) -> None:
        if self.ours(target):
            self.points.reached("replace")
        self.real["replace"](source, target, **options)

    def unlink(self, path: Any, **options: Any) -> None:
        if self.ours(path) and os.path.exists(path):
            self.points.reached("unlink")
            if str(path) not in self.made:  # a name that was never durable does not come back
                self.gone[str(path)] = Path(path).read_bytes()
        self.real["unlink"](path, **options)
        self.made.pop(str(path), None)
        self.volatile.pop(str(path), None)

    def lose(self) -> None:
        """Leave on the disk only what was durable."""
        for path, before in list(self.volatile.items()):
            with contextlib.suppress(FileNotFoundError):
                Path(path).write_bytes(before)
        for path in list(self.made):
            with contextlib.suppress(FileNotFoundError):
                self.real["unlink"](path)
        for path, data in list(self.gone.items()):
            if not os.path.exists(path):
                Path(path).write_bytes(data)


class Death:
    """Ends the process. With `power` as a machine does that goes out: what was not made durable is not there
    afterwards. Without, it is there for now: `notes` remembers the names that a later power cut would still take."""

    disk: _Disk | None = None

    def __init__(self, notes: Path, *, power: bool) -> None:
        self.notes, self.power = notes, power

    def __call__(self) -> None:
        assert self.disk is not None
        if self.power:
            self.disk.lose()
        else:
            self.notes.write_text(json.dumps(self.disk.made))
        kill()
