"""Back-fill: a large file of events into the inbox, read by many and landed by one.

    spans --> Ray Data: read, check, name by pseudonym (many tasks, in order) --> one writer --> inbox

What the inbox then holds is what `import_file` would have put there: the same events in the same order, whoever read
them. How far it is stands in the ledger (stores/backfills.py), in the transaction that landed it: killed anywhere, the
same call goes on behind what is there, and nothing is counted twice. Words are stored as they came, as the collector
stores them; redaction is a stage of `plumb ingest`, which sees them next.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.events import PAUSE
from plumbline.feedback.collect.spans import SPAN, Part, Span, parts_of, refusals, run_of, spans_of
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.stores import Ledger
from plumbline.stores.backfills import Backfill
from plumbline.stores.inbox import Landed

Reader = Callable[[Sequence[Span], str, Pseudonyms], Iterator[tuple[int, Part | None]]]
"""Reads spans in order: (place of the span, part) for each part, then (place, None) when the span is over."""


def backfill(
    ledger: Ledger,
    pseudonyms: Pseudonyms,
    file: Path,
    source: str,
    *,
    read: Reader | None = None,
    size: int = SPAN,
    on_landed: Callable[[Backfill], None] = lambda _: None,
    on_refused: Callable[[int, str], None] = lambda line, why: None,
) -> Backfill:
    """Land a file of `source`, or go on with it. `read` reads the spans: with Ray Data (`with_ray_data`), or in this
    process. `on_refused` is told (line, why) of what is not taken."""
    read = read or here
    spans = spans_of(file, size=size)
    state = ledger.backfills.begin(run_of(file, source, size=size), source, len(spans))
    first, skip = state.task, state.part
    part = 0
    for place, found in read(spans[first:], source, pseudonyms):
        task = first + place
        if found is None:
            state = ledger.backfills.finish_task(state.run, task, part)
            part = 0
        elif place == 0 and part < skip:
            part += 1
            continue
        else:
            for line, why in refusals([found], state.lines):
                on_refused(line, why)
            reasons = Counter(reason for _, reason, _ in found.refused)
            state = ledger.backfills.land(state.run, task, part, found.lines, found.events, reasons)
            part += 1
            time.sleep(PAUSE)
        on_landed(state)
    return state


def here(spans: Sequence[Span], source: str, pseudonyms: Pseudonyms) -> Iterator[tuple[int, Part | None]]:
    """Read in this process, one span after the other."""
    for place, span in enumerate(spans):
        for part in parts_of(span, source, pseudonyms):
            yield place, part
        yield place, None


def with_ray_data(workers: int | tuple[int, int]) -> Reader:
    """Read with Ray Data: so many tasks at a time, on whichever node has room. The file must lie where all nodes find
    it. Ray must be connected. Bounded memory: tasks wait while the writer is behind."""

    def read(spans: Sequence[Span], source: str, pseudonyms: Pseudonyms) -> Iterator[tuple[int, Part | None]]:
        if not spans:
            return
        import ray
        from ray.data import DataContext, TaskPoolStrategy

        if not ray.is_initialized():
            raise PlumblineError(
                "Ray is not connected",
                consequence="nothing was landed",
                remedy="call ray.init() first, or read in this process",
            )
        context = DataContext.get_current()
        context.execution_options.preserve_order = True  # the inbox is an order
        context.enable_progress_bars = False
        rows = [
            {"place": place, "file": span.file, "format": span.format, "start": span.start, "end": span.end}
            for place, span in enumerate(spans)
        ]
        most = workers if isinstance(workers, int) else workers[1]
        # the pseudonyms go as an object: its key is in no plan, name or log line of Ray's
        told = {"source": source, "pseudonyms": pseudonyms}
        read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _read_span, batch_size=1, fn_kwargs=told, compute=TaskPoolStrategy(size=most), num_cpus=1
        )
        for row in read.iter_rows():
            if fault := row["fault"]:
                fact, consequence, remedy = orjson.loads(fault)
                raise PlumblineError(fact, consequence=consequence, remedy=remedy)
            yield int(row["place"]), _unpacked(row["part"], source) if row["part"] else None

    return read


def _read_span(batch: dict[str, Any], source: str, pseudonyms: Pseudonyms) -> Iterator[dict[str, list[Any]]]:
    """One span on some node: a row for each part, and an empty one behind them."""
    place = int(batch["place"][0])
    span = Span(str(batch["file"][0]), batch["format"][0], int(batch["start"][0]), int(batch["end"][0]))
    try:
        for part in parts_of(span, source, pseudonyms):
            yield {"place": [place], "part": [_packed(part)], "fault": [b""]}
        yield {"place": [place], "part": [b""], "fault": [b""]}
    except PlumblineError as error:
        said = orjson.dumps([error.fact, error.consequence, error.remedy])
        yield {"place": [place], "part": [b""], "fault": [said]}
    except OSError as error:
        said = orjson.dumps(
            [
                f"a node cannot read {span.file}: {error.strerror or error}",
                "the back-fill stops there; what has landed stays, and is not landed again",
                "put the file on storage that all nodes mount at the same path",
            ]
        )
        yield {"place": [place], "part": [b""], "fault": [said]}


def _packed(part: Part) -> bytes:
    events = [(one.id, one.type, one.subject, one.body.decode()) for one in part.events]
    return orjson.dumps([part.lines, events, part.refused])


def _unpacked(packed: bytes, source: str) -> Part:
    lines, events, refused = orjson.loads(packed)
    landed = tuple(Landed(source, id, type, subject, body.encode()) for id, type, subject, body in events)
    return Part(lines, landed, tuple((line, reason, text) for line, reason, text in refused))
