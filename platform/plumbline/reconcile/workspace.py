"""Where a loop keeps what it made, so that a killed one goes on and a different one is kept out.

    out/
      loop.json        what this loop is: seed, recipe, reference, code; refused if it is another's
      journal.jsonl    one line per finished stage: its inputs' digest, its result, its seconds
      ledger.sqlite    consent, inbox, versions, decisions, releases      blobs/  their payloads
      policies/  jobs/  answers/  shadow/  logs/              tenant.key  what pseudonyms are made with

A stage is done when its line is in the journal, which is fsynced after the stage's artifacts are. Each stage can be
run again from its beginning; what inside it is resumable (training, ingestion) resumes.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.records import digest_of

JSON = Any


@dataclass(frozen=True)
class StageLine:
    """A finished stage. `resumed` when it was found in the journal rather than run now."""

    name: str
    key: str
    result: JSON
    seconds: float
    resumed: bool = False


class Workspace:
    """The directory of one loop, held by one process at a time."""

    def __init__(self, out: Path, identity: dict[str, JSON]) -> None:
        self.out = out
        self.identity = identity
        self.lines: dict[str, StageLine] = {}

    @classmethod
    @contextmanager
    def open(cls, out: Path, identity: dict[str, JSON]) -> Iterator["Workspace"]:
        """Begin or resume the loop `identity` at `out`.

        Raises PlumblineError when `out` belongs to another loop or to something else, is in use, or is not writable.
        """
        workspace = cls(out, identity)
        try:
            out.mkdir(parents=True, exist_ok=True)
            lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise PlumblineError(
                f"{out} cannot be written to: {error.strerror}",
                consequence="the loop did not start",
                remedy="choose another --out, or free space there",
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise PlumblineError(
                    f"another loop is running in {out}",
                    consequence="this one did not start: they would write over each other",
                    remedy="wait for it, or choose another --out",
                ) from error
            workspace._claim()
            yield workspace
        finally:
            os.close(lock)

    def _claim(self) -> None:
        record = self.out / "loop.json"
        if record.is_file():
            found = json.loads(record.read_text("utf-8"))
            changed = [
                f"{key}: {found.get(key)!r} there, {self.identity.get(key)!r} here"
                for key in sorted({*found, *self.identity})
                if found.get(key) != self.identity.get(key)
            ]
            if changed:
                raise PlumblineError(
                    f"{self.out} holds another run; it differs in " + "; ".join(changed),
                    consequence="nothing was run, what is there is unchanged",
                    remedy="choose another --out (make loop OUT=DIR), or remove that directory to begin anew",
                )
            self.lines = {line.name: line for line in self._read_journal()}
            return
        if any(path.name != ".lock" for path in self.out.iterdir()):
            raise PlumblineError(
                f"{self.out} is not empty and holds no loop",
                consequence="nothing was run, what is there is unchanged",
                remedy="choose an --out that does not exist yet",
            )
        write_durably(record, json.dumps(self.identity, indent=2, sort_keys=True).encode() + b"\n")

    def stage(self, name: str, inputs: JSON, work: Callable[[], JSON]) -> StageLine:
        """The result of a stage: from the journal when it was finished with these inputs, else by doing the work."""
        key = digest_of(inputs)
        known = self.lines.get(name)
        if known is not None and known.key == key:
            return known
        started = time.monotonic()
        result = work()
        line = StageLine(name, key, result, round(time.monotonic() - started, 3))
        entry = json.dumps({"name": name, "key": key, "result": result, "seconds": line.seconds}) + "\n"
        with (self.out / "journal.jsonl").open("ab") as stream:
            stream.write(entry.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.lines[name] = line
        return line

    def _read_journal(self) -> Iterator[StageLine]:
        """Finished stages; a torn last line (a kill while it was written) is a stage that was not finished."""
        file = self.out / "journal.jsonl"
        if not file.is_file():
            return
        whole = file.read_bytes()
        kept = whole[: whole.rfind(b"\n") + 1]
        if kept != whole:
            write_durably(file, kept)
        for text in kept.splitlines():
            raw = json.loads(text)
            yield StageLine(raw["name"], raw["key"], raw["result"], raw["seconds"], resumed=True)
