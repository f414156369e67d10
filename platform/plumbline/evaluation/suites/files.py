"""Suites on disk: one JSON line that names the suite and its terms, then one line per item.

    {"suite": "support", "version": "3", "private": true, "canary": "GUID", "licence": "CC0-1.0", "owner": "safety",
     "query_budget": 40}
    {"id": "facts/0001", "area": "helpfulness", "slice": "facts", "cluster": "person:ana", "messages": [...], ...}

Only `suite` and `version` are needed; a key that nobody knows is refused, because a misspelt `private` would publish
what it should protect. `read_suite` also takes public sets as they are published (`readers`), known by their content.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from plumbline.errors import PlumblineError, first_fault
from plumbline.policies.files import write_durably
from plumbline.records import Suite, SuiteItem
from plumbline.records.suite import SuiteTerms

HEADER_KEYS = ("suite", "version", "private", "canary", "licence", "owner", "query_budget")


def save_suite(suite: Suite, path: Path) -> None:
    """Written durably, so that a crash leaves the old file or the new one, never half."""
    terms = suite.terms.model_dump(mode="json", exclude_defaults=True)
    canaries = terms.pop("canaries", [])
    if canaries:
        terms["canary"] = canaries[0] if len(canaries) == 1 else canaries
    lines = [json.dumps({"suite": suite.name, "version": suite.version, **terms}, ensure_ascii=False)]
    lines += [item.model_dump_json() for item in suite.items]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, ("\n".join(lines) + "\n").encode("utf-8"))


def load_suite(path: Path, *, logged: bool = False) -> Suite:
    """A suite in our own format. A private one is loaded only by whoever has logged the reading (`private.open_suite`).

    Raises PlumblineError naming the line of an item that is malformed, lacks a slice, repeats an id or could never be
    scored.
    """
    from plumbline.evaluation.scorers import fault_of

    lines = read_text(path).split("\n")
    name, version, terms = _header(path, lines[0])
    if terms.private and not logged:
        raise PlumblineError(
            f"the suite {path.name} is private, and this reading would stand in no log",
            consequence="nothing was read",
            remedy="read it with `plumb suite` or `plumb evaluate`, or open it with open_suite(path, purpose=...)",
        )
    items: list[SuiteItem] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            item = SuiteItem.model_validate_json(line)
        except ValidationError as error:
            raise _malformed(path, number, first_fault(error)) from error
        if item.id in seen:
            raise _malformed(path, number, f"the id {item.id!r} stands on line {seen[item.id]} already")
        if (fault := fault_of(item) or _misnamed_choice(item)) is not None:
            raise _malformed(path, number, fault)
        seen[item.id] = number
        items.append(item)
    if not items:
        raise _malformed(path, 1, "the suite has no items")
    _check_twins(path, items, seen)
    return Suite(name=name, version=version, items=tuple(items), terms=terms)


def read_terms(path: Path) -> tuple[str, str, SuiteTerms]:
    """Name, version and terms of a suite file of ours, without reading an item; a public set has none but its name."""
    first = read_text(path).split("\n", 1)[0]
    return _header(path, first) if is_ours(first) else (path.name, "", SuiteTerms())


def read_suite(path: Path, *, logged: bool = False) -> Suite:
    """A suite from any file that is understood: ours (`logged` as in `load_suite`), or a public set of `readers`."""
    from plumbline.evaluation.suites.readers import read_public

    text = read_text(path)
    return load_suite(path, logged=logged) if is_ours(text.split("\n", 1)[0]) else read_public(path, text)


def join_suites(suites: Sequence[Suite]) -> Suite:
    """Several suites as one, in order: a canary of any is a canary of all, and one private part makes it private.

    Raises PlumblineError for an id that two of them use.
    """
    if len(suites) == 1:
        return suites[0]
    items = tuple(item for suite in suites for item in suite.items)
    canaries = tuple(dict.fromkeys(canary for suite in suites for canary in suite.terms.canaries))
    terms = SuiteTerms(private=any(suite.terms.private for suite in suites), canaries=canaries)
    name, version = "+".join(suite.name for suite in suites), "+".join(suite.version for suite in suites)
    try:
        return Suite(name=name, version=version, items=items, terms=terms)
    except ValidationError as error:
        raise PlumblineError(
            f"the suites {name} cannot be asked together: {first_fault(error)}",
            consequence="nothing was evaluated",
            remedy="name each suite once, and give items ids that no other suite uses",
        ) from error


def is_ours(first_line: str) -> bool:
    try:
        header = json.loads(first_line)
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and "suite" in header


def read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PlumblineError(
            f"the suite file {path} cannot be read ({error})",
            consequence="nothing was evaluated",
            remedy="give a readable UTF-8 file (.jsonl or .csv, plain or gzipped)",
        ) from error


def _header(path: Path, line: str) -> tuple[str, str, SuiteTerms]:
    try:
        header: dict[str, Any] = json.loads(line)
        name, version = str(header.pop("suite")), str(header.pop("version"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _malformed(path, 1, 'the first line must be {"suite": NAME, "version": VERSION}') from error
    unknown = sorted(set(header) - set(HEADER_KEYS))
    if unknown:
        raise _malformed(path, 1, f"unknown {', '.join(unknown)}; the first line may hold {', '.join(HEADER_KEYS)}")
    canary = header.pop("canary", ())
    canaries = [canary] if isinstance(canary, str) else canary
    try:
        return name, version, SuiteTerms.model_validate({**header, "canaries": canaries})
    except ValidationError as error:
        raise _malformed(path, 1, first_fault(error)) from error


def _check_twins(path: Path, items: Sequence[SuiteItem], lines: dict[str, int]) -> None:
    """A variant's twin is in the file, is canonical itself, and is asked and scored as the variant is."""
    by_id = {item.id: item for item in items}
    for item in items:
        if item.variant_of is None:
            continue
        twin = by_id.get(item.variant_of)
        if twin is None:
            raise _malformed(path, lines[item.id], f"variant_of names {item.variant_of!r}, which is no item here")
        if twin.variant_of is not None:
            raise _malformed(path, lines[item.id], f"variant_of names {twin.id!r}, which is a variant itself")
        if (twin.area, twin.scorer) != (item.area, item.scorer):
            raise _malformed(path, lines[item.id], f"its twin {twin.id!r} has another area or scorer")


def _misnamed_choice(item: SuiteItem) -> str | None:
    """What would make a false choice true without a word: a reference that repeats no choice leaves the first as the
    truth, and a choice of nothing is likelier than any other, since nothing has probability 1."""
    if not item.scorer.startswith("choice_loglik"):
        return None
    if not all(item.choices):
        return "a choice is empty, and nothing is always the likeliest continuation"
    strangers = [reference for reference in item.references if reference not in item.choices]
    return f"references name {strangers[0]!r}, which is none of the choices, letter by letter" if strangers else None


def _malformed(path: Path, line: int, what: str) -> PlumblineError:
    return PlumblineError(
        f"{path.name} line {line}: {what}",
        consequence="the suite was not loaded; a suite is used whole or not at all",
        remedy="correct the line; every item needs id, area, slice, cluster, messages and scorer",
    )
