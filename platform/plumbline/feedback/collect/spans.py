"""A large file of events, cut into tasks that know nothing of each other, and read by the rules of every other file.

    JSON lines    bytes    |--- task 0 ---|--- task 1 ---|-- task 2 --|      a line belongs to where it begins
    Parquet       rows     |  row group 0  | row group 1 |  row group 2 |

A Parquet row is an event: either a column `event` holds it as a structured CloudEvent in JSON, or its attributes are
columns (id, source, type, subject, time, data ...), where `data` is JSON or a struct. Nulls are left out.

A task's parts are a thousand lines each, so what is read depends on the file alone, never on who read it.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.events import read_events
from plumbline.feedback.collect.strict_json import Refused, parse_json
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.records import digest_of
from plumbline.stores.inbox import Landed

SPAN = 8 << 20  # bytes of a task
PART = 1000  # lines of a part
_BLOCK = 1 << 16
Format = Literal["jsonl", "parquet"]


@dataclass(frozen=True)
class Span:
    """One task: bytes [start, end) of a JSON-lines file, or row groups [start, end) of a Parquet file."""

    file: str
    format: Format
    start: int
    end: int


@dataclass(frozen=True)
class Part:
    """What some lines hold: events in their order, and (line, reason, text) of those that are not taken, lines counted
    from 1 in this part."""

    lines: int
    events: tuple[Landed, ...]
    refused: tuple[tuple[int, str, str], ...]


def format_of(file: Path) -> Format:
    """By content: Parquet files begin and end with their name. Raises PlumblineError for what cannot be read."""
    try:
        with file.open("rb") as stream:
            return "parquet" if stream.read(4) == b"PAR1" else "jsonl"
    except OSError as error:
        raise PlumblineError(
            f"{file} cannot be read: {error.strerror or error}",
            consequence="nothing was landed",
            remedy="put the file where every node of the cluster finds it under this path",
        ) from error


def spans_of(file: Path, *, size: int = SPAN) -> list[Span]:
    """The tasks of a file."""
    format = format_of(file)
    if format == "jsonl":
        total = file.stat().st_size
        return [Span(str(file), format, start, min(start + size, total)) for start in range(0, total, size)]
    groups = _parquet(file).num_row_groups
    return [Span(str(file), format, group, group + 1) for group in range(groups)]


def run_of(file: Path, source: str, *, size: int = SPAN) -> str:
    """What a back-fill is known by in the ledger: the file's bytes, whose events they are, and how they are cut. The
    file is read once for it."""
    with file.open("rb") as stream:
        content = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_of({"backfill": content, "source": source, "span": size, "part": PART})


def parts_of(span: Span, source: str, pseudonyms: Pseudonyms) -> Iterator[Part]:
    """Read a task."""
    read = _json_lines(span, source, pseudonyms) if span.format == "jsonl" else _rows(span, source, pseudonyms)
    while group := tuple(islice(read, PART)):
        events = tuple(found for found in group if isinstance(found, Landed))
        refused = tuple((n, one.reason, one.text) for n, one in enumerate(group, 1) if isinstance(one, Refused))
        yield Part(len(group), events, refused)


def _json_lines(span: Span, source: str, pseudonyms: Pseudonyms) -> Iterator[Landed | Refused | None]:
    with Path(span.file).open("rb") as stream:
        place = _first_line(stream, span.start)
        if place >= span.end:
            return
        for _, found, size in read_events(stream, source, pseudonyms, begins=place == 0):
            yield found
            place += size
            if place >= span.end:
                return


def _first_line(stream: BinaryIO, start: int) -> int:
    """Where the first line begins that begins at `start` or after it; the stream stands there."""
    if start == 0:
        return 0
    stream.seek(start - 1)
    while (block := stream.readline(_BLOCK)) and not block.endswith(b"\n"):
        pass
    return stream.tell()


def _rows(span: Span, source: str, pseudonyms: Pseudonyms) -> Iterator[Landed | Refused | None]:
    parquet = _parquet(Path(span.file))
    for batch in parquet.iter_batches(batch_size=PART, row_groups=list(range(span.start, span.end))):
        lines = [_line(row) for row in batch.to_pylist()]
        joined = b"".join((line if isinstance(line, bytes) else b"") + b"\n" for line in lines)
        for line, (_, found, _) in zip(
            lines, read_events(io.BytesIO(joined), source, pseudonyms, begins=False), strict=True
        ):
            yield line if isinstance(line, Refused) else found


def _line(row: dict[str, Any]) -> bytes | Refused:
    """A row as the line that a JSON file would have."""
    event = row.get("event")
    if isinstance(event, str | bytes):
        text = event.encode() if isinstance(event, str) else event
        return text.replace(b"\r", b" ").replace(b"\n", b" ")  # outside of strings JSON has no other use for them
    made = _without_nulls(row)
    if isinstance(made.get("data"), str):
        try:
            made["data"] = parse_json(made["data"].encode())
        except Refused as error:
            return error
    return json.dumps(made, ensure_ascii=False, default=_timestamp).encode()


def _timestamp(value: Any) -> str:
    """A column of times, as CloudEvents write them (RFC 3339)."""
    moment = getattr(value, "isoformat", None)
    return str(moment()) if moment else str(value)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parquet(file: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(file)
    except ImportError as error:
        raise PlumblineError(
            f"{file} is a Parquet file, and pyarrow is not installed",
            consequence="nothing was landed",
            remedy="pip install 'plumbline[parquet]', or give the events as JSON lines",
        ) from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise PlumblineError(
            f"{file} is not a whole Parquet file: {(str(error).splitlines() or ['unreadable'])[0]}",
            consequence="nothing was landed",
            remedy="write the file again, or give the events as JSON lines",
        ) from error


def refusals(parts: Iterable[Part], first: int) -> Iterator[tuple[int, str]]:
    """(line of the file, why) of what some parts did not take, when `first` lines stand before them."""
    for part in parts:
        for number, reason, text in part.refused:
            yield first + number, f"{reason}: {text}"
        first += part.lines
