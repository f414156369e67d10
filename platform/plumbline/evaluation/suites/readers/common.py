"""What readers of published files share: rows, JSON lines, and the fault that says what was expected."""

import csv
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.suites.files import read_text


def rows(path: Path, needed: Collection[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header line, as text; a short row is filled with "". PlumblineError names absent columns."""
    text = io.StringIO(read_text(path), newline="")
    try:
        found = list(csv.DictReader(text, restval=""))
    except csv.Error as error:
        raise unexpected(path, f"it is no CSV ({error})", needed) from error
    absent = sorted(set(needed) - set(found[0] if found else ()))
    if absent:
        raise unexpected(path, f"it lacks the columns {', '.join(absent)}", needed)
    return found


def objects(path: Path, needed: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a file of JSON lines, with their line numbers. PlumblineError names the line at fault."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise unexpected(path, f"line {number} is no JSON", needed) from error
        if not isinstance(found, dict) or not set(needed) <= set(found):
            absent = sorted(set(needed) - set(found)) if isinstance(found, dict) else sorted(needed)
            raise unexpected(path, f"line {number} lacks {', '.join(absent)}", needed)
        yield number, found


def unexpected(path: Path, what: str, needed: Collection[str]) -> PlumblineError:
    return PlumblineError(
        f"{path.name} is not the file that was expected: {what}",
        consequence="nothing was loaded from it",
        remedy=f"give the file as published, with {', '.join(needed)}",
    )
