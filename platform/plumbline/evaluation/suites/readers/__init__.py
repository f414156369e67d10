"""Readers of public held-out sets, as they are published; each is known by its columns or keys, not by its name."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.suites.readers import harmbench, hh_pairs, ifeval, self_instruct, truthfulqa, xstest
from plumbline.evaluation.suites.readers.harmbench import read_harmbench
from plumbline.evaluation.suites.readers.hh_pairs import read_hh_pairs
from plumbline.evaluation.suites.readers.ifeval import read_ifeval
from plumbline.evaluation.suites.readers.self_instruct import read_self_instruct
from plumbline.evaluation.suites.readers.truthfulqa import read_truthfulqa
from plumbline.evaluation.suites.readers.xstest import read_xstest, read_xstest_completions
from plumbline.records import Suite

__all__ = [
    "FORMATS",
    "read_harmbench",
    "read_hh_pairs",
    "read_ifeval",
    "read_public",
    "read_self_instruct",
    "read_truthfulqa",
    "read_xstest",
    "read_xstest_completions",
]

FORMATS: dict[str, tuple[str, tuple[str, ...], Callable[[Path], Suite]]] = {
    "XSTest prompts": ("CSV", xstest.COLUMNS, read_xstest),
    "TruthfulQA": ("CSV", truthfulqa.COLUMNS, read_truthfulqa),
    "HarmBench behaviours": ("CSV", harmbench.COLUMNS, read_harmbench),
    "IFEval prompts": ("JSON lines", ifeval.KEYS, read_ifeval),
    "HH preference pairs": ("JSON lines", hh_pairs.KEYS, read_hh_pairs),
    "self-instruct tasks": ("JSON lines", self_instruct.KEYS, read_self_instruct),
}


def read_public(path: Path, text: str) -> Suite:
    """The suite in a public file with this text. PlumblineError says what the file has and what is known."""
    kind, names = _names(text)
    for form, needed, read in FORMATS.values():
        if form == kind and set(needed) <= set(names):
            return read(path)
    seen = f"{kind} with {', '.join(names[:12])}" if names else "neither JSON lines nor a CSV with a header line"
    raise PlumblineError(
        f"{path.name} is no suite that is known: it is {seen[:300]}",
        consequence="nothing was loaded from it",
        remedy='give our JSON lines (line 1: the first line must be {"suite": NAME, "version": VERSION}), or one of '
        + "; ".join(f"{name} ({form}: {', '.join(needed)})" for name, (form, needed, _) in FORMATS.items()),
    )


def _names(text: str) -> tuple[str, list[str]]:
    """What the first line says: the keys of a JSON object, or the columns of a CSV."""
    first = text.lstrip().split("\n", 1)[0]
    if first.startswith(("{", "[")):
        try:
            found = json.loads(first)
        except (ValueError, RecursionError):
            found = None
        return "JSON lines", [str(key) for key in found] if isinstance(found, dict) else []
    try:
        columns = next(csv.reader(io.StringIO(first)), [])
    except csv.Error:
        columns = []
    return "CSV", [column.strip() for column in columns] if len(columns) > 1 else []
