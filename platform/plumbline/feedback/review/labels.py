"""Labels in files: a blank sheet for one reviewer to fill in elsewhere, and the labels themselves, JSONL or CSV.

A sheet holds what its reviewer would see at the desk, in their own order, and nobody's label. What comes back passes
the same desk: another text, an unknown item or own words are refused, with the line, and then nothing is imported.
A row without a verdict was left blank; a label that is there already is known, not given twice.

CSV meets spreadsheets, and a spreadsheet runs a cell that begins with `=`. Such cells get an apostrophe in front,
which is taken off again on the way in; a text that had apostrophes there keeps them.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from plumbline.errors import PlumblineError, first_fault
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.records import Label, Rubric
from plumbline.stores.reviews import Role

Format = Literal["jsonl", "csv"]
LABEL_COLUMNS = ("item", "text", "reviewer", "role", "verdict", "rules", "severity", "reason")
SHEET_COLUMNS = (*LABEL_COLUMNS, "messages", "answer", "note")
_RUNS = re.compile(r"'*[\s\x00-\x1f]*[=+\-@|%＝＋－＠]|'*[\t\r\n\x00]")
_LONGEST_CELL = 16 * 2**20
_FAULTS_SHOWN = 20
Row = dict[str, Any]


@dataclass(frozen=True)
class Imported:
    """`taken` were recorded, `known` there already, `blank` without a verdict."""

    taken: int
    known: int
    blank: int


def label_rows(desk: ReviewDesk, rubric: Rubric) -> list[Row]:
    """Every label that stands under the rubric's rule texts, in the order in which they were given."""
    standing = desk.reviews.labels(item.item for item in desk.current(rubric))
    given = sorted((one for labels in standing.values() for one in labels), key=lambda one: one.sequence)
    return [
        {
            "item": one.item,
            "text": one.label.text,
            "reviewer": one.reviewer,
            "role": one.role,
            "verdict": one.label.verdict,
            "rules": list(one.label.rules),
            "severity": one.label.severity,
            "reason": one.label.reason,
        }
        for one in given
    ]


def sheet_rows(desk: ReviewDesk, rubric: Rubric, reviewer: str) -> list[Row]:
    """What waits for one reviewer, in their order, to be filled in: no label of anybody, no subject."""
    return [
        {
            "item": task.item.item,
            "text": task.item.text,
            "reviewer": reviewer,
            "role": "reviewer",
            "verdict": "",
            "rules": [],
            "severity": "",
            "reason": "",
            "messages": [{"role": said.role, "content": said.content} for said in task.text.messages],
            "answer": task.text.answer,
            "note": task.text.note,
        }
        for task in desk.queue(reviewer, rubric)
    ]


def write_rows(rows: Sequence[Row], kind: Format, columns: Sequence[str] = LABEL_COLUMNS) -> str:
    """The text of a file. CSV has a header line even when there is no row."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([escape(_cell(name, row[name])) for name in columns])
    return out.getvalue()


def read_rows(text: str, kind: Format) -> list[tuple[int, Row]]:
    """Rows with the line that each begins on. PlumblineError for a file that is not of this format."""
    text = text.removeprefix("\ufeff")
    return list(_read_jsonl(text) if kind == "jsonl" else _read_csv(text))


def import_labels(
    desk: ReviewDesk, rows: Sequence[tuple[int, Row]], name: Callable[[str], str], *, reviewer: str | None = None
) -> Imported:
    """Take labels through the desk, all or none. `name` makes pseudonyms; with `reviewer` every row must be theirs.

    PlumblineError lists the faults by line.
    """
    faults: list[str] = []
    counts = {"taken": 0, "known": 0, "blank": 0}
    with desk.ledger.database.transaction():
        # adjudicators decide on reviewers' labels, so theirs come after them, wherever they stand in the file
        for line, row in sorted(rows, key=lambda pair: (pair[1].get("role") == "adjudicator", pair[0])):
            try:
                counts[_take(desk, row, name, reviewer)] += 1
            except PlumblineError as error:
                faults.append(f"line {line}: {error.fact}")
            except (ValidationError, ValueError) as error:
                faults.append(f"line {line}: {first_fault(error)}")
        if faults:
            faults.sort(key=lambda fault: int(fault[5:].partition(":")[0]))
            rest = f"\n  ... and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
            raise PlumblineError(
                f"{len(faults)} of {len(rows)} rows cannot be taken\n  " + "\n  ".join(faults[:_FAULTS_SHOWN]) + rest,
                consequence="no label of the file was recorded",
                remedy="correct these lines (or blank their verdicts) and import the file again",
            )
    return Imported(**counts)


def escape(cell: str) -> str:
    """A cell that no spreadsheet runs."""
    return "'" + cell if _RUNS.match(cell) else cell


def unescape(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _RUNS.match(cell) else cell


def _take(desk: ReviewDesk, row: Row, name: Callable[[str], str], reviewer: str | None) -> str:
    if not row.get("verdict"):
        return "blank"
    said = row.get("reviewer") or reviewer
    if not isinstance(said, str) or not said:
        raise ValueError("reviewer: nobody is named")
    person, part = name(said), row.get("role") or "reviewer"
    if reviewer is not None and person != name(reviewer):
        raise ValueError("reviewer: the row is another reviewer's")
    if part not in ("reviewer", "adjudicator"):
        raise ValueError(f"role: {str(part)[:40]!r} is neither reviewer nor adjudicator")
    if not re.fullmatch(r"[0-9]{1,18}", str(row.get("item", ""))):
        raise ValueError(f"item: {str(row.get('item'))[:40]!r} is no number of an item")
    number = int(row["item"])
    label = Label(
        text=row.get("text", ""),
        verdict=row["verdict"],
        rules=tuple(row.get("rules") or ()),
        severity=row.get("severity") or "none",
        reason=row.get("reason") or "",
    )
    return _record(desk, number, person, "adjudicator" if part == "adjudicator" else "reviewer", label)


def _record(desk: ReviewDesk, number: int, person: str, role: Role, label: Label) -> str:
    for given in desk.reviews.labels([number]).get(number, []):
        same = (given.role, given.label.text, given.label.verdict, given.label.severity, set(given.label.rules))
        if given.reviewer == person and same == (role, label.text, label.verdict, label.severity, set(label.rules)):
            return "known"
    (desk.adjudicate if role == "adjudicator" else desk.label)(number, person, label)
    return "taken"


def _cell(name: str, value: Any) -> str:
    if name == "rules":
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_jsonl(text: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise _not_a_file(f"line {number} is no JSON object", "one JSON object a line")
        yield number, row


def _read_csv(text: str) -> Iterator[tuple[int, Row]]:
    before = csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        header = next(reader, [])
        if missing := [name for name in ("item", "text", "verdict", "rules") if name not in header]:
            raise _not_a_file(f"its header lacks {', '.join(missing)}", f"the columns {', '.join(LABEL_COLUMNS)}")
        start = reader.line_num + 1
        for cells in reader:
            if len(cells) not in (0, len(header)):
                raise _not_a_file(f"line {start} has {len(cells)} cells, the header {len(header)}", "one cell a column")
            if cells:
                row: Row = {name: unescape(cell) for name, cell in zip(header, cells, strict=True)}
                yield start, row | {"rules": re.split(r"[\s,;]+", row["rules"].strip()) if row["rules"].strip() else []}
            start = reader.line_num + 1
    except csv.Error as error:
        raise _not_a_file(f"line {start} is no CSV: {error}", "comma-separated cells in double quotes") from error
    finally:
        csv.field_size_limit(before)


def _not_a_file(fact: str, wanted: str) -> PlumblineError:
    return PlumblineError(
        f"this is no file of labels: {fact}",
        consequence="no label was recorded",
        remedy=f"give {wanted}, as `plumb review export` writes them",
    )
