"""Suites on disk: one JSON line that names the suite, then one line per item.

`read_suite` also takes two public formats as they are (`readers`): the XSTest prompts and HH preference pairs.
"""

import gzip
import json
from pathlib import Path

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.records import Suite, SuiteItem


def save_suite(suite: Suite, path: Path) -> None:
    """Written durably, so that a crash leaves the old file or the new one, never half."""
    lines = [json.dumps({"suite": suite.name, "version": suite.version}, ensure_ascii=False)]
    lines += [item.model_dump_json() for item in suite.items]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, ("\n".join(lines) + "\n").encode("utf-8"))


def load_suite(path: Path) -> Suite:
    """Raises PlumblineError naming the line of an item that is malformed, lacks a slice or repeats an id."""
    lines = read_text(path).split("\n")
    try:
        header = json.loads(lines[0])
        name, version = str(header["suite"]), str(header["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise _malformed(path, 1, 'the first line must be {"suite": NAME, "version": VERSION}') from error
    items: list[SuiteItem] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            item = SuiteItem.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise _malformed(path, number, f"{where}: {first['msg']}") from error
        if item.id in seen:
            raise _malformed(path, number, f"the id {item.id!r} stands on line {seen[item.id]} already")
        seen[item.id] = number
        items.append(item)
    if not items:
        raise _malformed(path, 1, "the suite has no items")
    return Suite(name=name, version=version, items=tuple(items))


def read_suite(path: Path) -> Suite:
    """A suite from any file that is understood: ours (.jsonl), XSTest (.csv) or HH pairs (.jsonl, .jsonl.gz)."""
    from plumbline.evaluation.suites.readers import read_hh_pairs, read_xstest

    if path.suffix == ".csv":
        return read_xstest(path)
    first = read_text(path).split("\n", 1)[0]
    return read_hh_pairs(path) if '"chosen"' in first and '"rejected"' in first else load_suite(path)


def read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlumblineError(
            f"the suite file {path} cannot be read ({error})",
            consequence="nothing was evaluated",
            remedy="give a readable UTF-8 file (.jsonl, .jsonl.gz or .csv)",
        ) from error


def _malformed(path: Path, line: int, what: str) -> PlumblineError:
    return PlumblineError(
        f"{path.name} line {line}: {what}",
        consequence="the suite was not loaded; a suite is used whole or not at all",
        remedy="correct the line; every item needs id, area, slice, cluster, messages and scorer",
    )
