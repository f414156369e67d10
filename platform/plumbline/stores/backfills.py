"""Back-fills: one writer lands a large file in the inbox, part by part, and may be killed anywhere.

    task      0        1        2           a span of the file; its parts are a thousand lines each
    part    0 1 2    0 1 2    0 1 2
                  ^ landed up to here: the events of a part, its refusals and this mark are one transaction

A part that is not the next one is refused, so two writers of one file cannot both land it, nor leave a gap.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from plumbline.errors import PlumblineError
from plumbline.stores.database import Database
from plumbline.stores.inbox import Inbox, Landed


@dataclass(frozen=True)
class Backfill:
    """How far a back-fill is: the next part is `part` of `task`, and `lines` were read before it. `counts` holds what
    became of the events: accepted, duplicate, conflict; `reasons` why others were refused."""

    run: str
    source: str
    tasks: int
    task: int = 0
    part: int = 0
    lines: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.task == self.tasks


class Backfills:
    def __init__(self, database: Database, inbox: Inbox) -> None:
        self._database, self._inbox = database, inbox

    def begin(self, run: str, source: str, tasks: int) -> Backfill:
        """The state of a run, which is begun when it is not known yet."""
        now = self._database.now()
        self._database.execute(
            "INSERT INTO backfill VALUES (?, ?, ?, 0, 0, 0, '{}', ?, ?) ON CONFLICT DO NOTHING",
            (run, source, tasks, now, now),
        )
        found = self.read(run)
        if found is None or (found.source, found.tasks) != (source, tasks):
            raise PlumblineError(
                f"the back-fill {run[:19]} was begun for {found.source if found else 'another source'}",
                consequence="nothing was landed",
                remedy="give the same --source and file as before",
            )
        return found

    def read(self, run: str) -> Backfill | None:
        row = self._database.row("SELECT source, tasks, task, part, lines, counts FROM backfill WHERE run = ?", (run,))
        if row is None:
            return None
        counted = json.loads(row[5])
        source, tasks, task, part, lines = list(row)[:5]
        return Backfill(run, source, tasks, task, part, lines, counted.get("events", {}), counted.get("reasons", {}))

    def land(
        self, run: str, task: int, part: int, lines: int, events: Sequence[Landed], reasons: Mapping[str, int]
    ) -> Backfill:
        """Store one part and move the mark behind it, in one transaction. Returns the new state.

        Raises PlumblineError, and lands nothing, when this is not the next part.
        """
        with self._database.transaction():
            before = self._next(run, task, part)
            outcomes = Counter[str](receipt.outcome for receipt in self._inbox.append(events))
            if reasons:
                self._inbox.count_refused({(before.source, reason): count for reason, count in reasons.items()})
            return self._move(
                replace(
                    before,
                    part=part + 1,
                    lines=before.lines + lines,
                    counts=dict(Counter(before.counts) + outcomes),
                    reasons=dict(Counter(before.reasons) + Counter(reasons)),
                )
            )

    def finish_task(self, run: str, task: int, parts: int) -> Backfill:
        """All parts of a task have landed: the next part is the first of the next task."""
        with self._database.transaction():
            return self._move(replace(self._next(run, task, parts), task=task + 1, part=0))

    def _next(self, run: str, task: int, part: int) -> Backfill:
        found = self.read(run)
        if found is None or (found.task, found.part) != (task, part):
            raise PlumblineError(
                f"part {part} of task {task} is not what the back-fill {run[:19]} lands next",
                consequence="nothing of it was landed: another writer is at work, or has done it",
                remedy="run the same command again when the other one has ended; it goes on behind what is there",
            )
        return found

    def _move(self, to: Backfill) -> Backfill:
        counts = json.dumps({"events": dict(to.counts), "reasons": dict(to.reasons)})
        self._database.execute(
            "UPDATE backfill SET task = ?, part = ?, lines = ?, counts = ?, updated_at = ? WHERE run = ?",
            (to.task, to.part, to.lines, counts, self._database.now(), to.run),
        )
        return to
