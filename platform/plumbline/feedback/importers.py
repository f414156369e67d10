"""Readers of public dataset formats: a file becomes examples, or says in which line it does not.

    messages        one JSON object per line with `messages` (OpenAI chat fine-tuning)
    alpaca          a JSON array (or lines) of {instruction, input, output}
    self-instruct   one object per line with `instruction` and `instances`: [{input, output}, ...]
    hh              (gz) lines of {chosen, rejected}, both "\\n\\nHuman: ...\\n\\nAssistant: ..." dialogues

HH pairs are preferences: they are returned as comparisons and kept for checking judges, never as targets.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.seed import publish_seed_version
from plumbline.feedback.ingestion.candidate import Preference
from plumbline.records import ConsentReference, Example, Message, Provenance, say
from plumbline.stores import BlobStore, Ledger, Published

Format = Literal["messages", "alpaca", "self-instruct"]
Turns = tuple[tuple[Message, ...], str]  # (messages that end with the assistant's, slice)


def read_examples(
    path: Path, format: Format, *, licence: str, slice: str = "", consent: ConsentReference | None = None
) -> list[Example]:
    """Examples of a file, in its order. Errors: PlumblineError that names file and line."""
    readers: dict[str, Callable[[Any], list[Turns]]] = {
        "messages": _messages,
        "alpaca": _alpaca,
        "self-instruct": _self_instruct,
    }
    if format not in readers:
        raise PlumblineError(
            f"{format!r} is not a dataset format",
            consequence="the file was not read",
            remedy=f"use one of {', '.join(readers)}; comparisons (hh) are read with read_preferences",
        )
    examples = []
    for number, raw in _items(path):
        try:
            for messages, found in readers[format](raw):
                examples.append(
                    Example(
                        messages=messages,
                        slice=slice or found,
                        provenance=Provenance(
                            origin="import", author="import", source=path.name, filtered_by=(format,), licence=licence
                        ),
                        consent=consent,
                    )
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _bad_line(path, number, format, _why(error)) from error
    return examples


def read_preferences(path: Path) -> tuple[list[Preference], list[int]]:
    """HH pairs: the dialogue up to the last answer, and the two answers; and the lines that hold no such pair
    because their dialogues differ before the last answer, or end with two answers in a row (a few public ones do).
    """
    found: list[Preference] = []
    skipped: list[int] = []
    for number, raw in _items(path):
        try:
            chosen, rejected = _dialogue(raw["chosen"]), _dialogue(raw["rejected"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _bad_line(path, number, "hh", _why(error)) from error
        if chosen[:-1] != rejected[:-1] or chosen[-2].role != "user":
            skipped.append(number)
            continue
        answers = chosen[-1].content, rejected[-1].content
        found.append(Preference(chosen[:-1], *answers, source=path.name, tie=answers[0] == answers[1]))
    return found, skipped


def import_dataset(
    ledger: Ledger,
    blobs: BlobStore,
    path: Path,
    format: Format,
    dataset: str,
    *,
    licence: str,
    rubric: str,
    slice: str = "",
    consent: ConsentReference | None = None,
    held_out_share: float = 0.1,
) -> Published:
    """Publish a file as the dataset's next version. The basis is a named licence, or consent that the ledger knows.

    Importing the same file again returns the version it made.
    """
    if consent is None and licence in ("", "unspecified"):
        raise PlumblineError(
            f"{path.name} has neither a licence nor a consent reference",
            consequence="nothing is imported: nothing is trained on without a basis",
            remedy="name the licence under which the data may be used (--licence)",
        )
    examples = read_examples(path, format, licence=licence, slice=slice, consent=consent)
    return publish_seed_version(
        ledger,
        blobs,
        dataset,
        examples,
        rubric=rubric,
        held_out_share=held_out_share,
        licence=licence,
        reason="import",
    )


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of a JSON-lines file, or (place, value) of a file that is one JSON array; gzip by content."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise PlumblineError(
            f"{path} cannot be read: {error}",
            consequence="nothing is imported",
            remedy="give a readable UTF-8 file, plain or gzipped",
        ) from error
    if text.lstrip().startswith("["):
        try:
            values = json.loads(text)
        except ValueError as error:
            line = getattr(error, "lineno", 1)
            raise _bad_line(path, line, "JSON", str(error)) from error
        yield from enumerate(values, start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise _bad_line(path, number, "JSON", str(error)) from error


def _messages(raw: Any) -> list[Turns]:
    messages = tuple(say(_role(message["role"]), _text(message["content"])) for message in raw["messages"])
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise ValueError("the last message must be the assistant's: it is the target")
    return [(messages, "imported")]


def _alpaca(raw: Any) -> list[Turns]:
    return [_instruction(_text(raw["instruction"]), raw.get("input") or "", _text(raw["output"]), "imported")]


def _self_instruct(raw: Any) -> list[Turns]:
    slice = "classification" if raw.get("is_classification") else "instruction"
    instances = raw["instances"]
    if not instances:
        raise ValueError("`instances` is empty")
    return [_instruction(_text(raw["instruction"]), one.get("input") or "", _text(one["output"]), slice)
            for one in instances]  # fmt: skip


def _instruction(instruction: str, given: str, output: str, slice: str) -> Turns:
    asked = f"{instruction}\n\n{given}" if given.strip() else instruction
    return (say("user", asked), say("assistant", output)), slice


def _dialogue(text: str) -> tuple[Message, ...]:
    """Turns of an HH transcript; the last one is the assistant's (which may be empty)."""
    parts = text.split("\n\nHuman: ")
    messages: list[Message] = []
    for part in parts[1:]:
        asked, *answers = part.split("\n\nAssistant:")
        messages.append(say("user", asked.strip()))
        messages += [say("assistant", answer.strip()) for answer in answers]
    if parts[0].strip() or not messages or messages[-1].role != "assistant":
        raise ValueError("not a Human/Assistant dialogue that ends with the assistant")
    return tuple(messages)


def _role(value: Any) -> Any:
    return "system" if value == "developer" else value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text is missing or empty")
    value.encode("utf-8")
    return value


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_input=False, include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _bad_line(path: Path, number: int, format: str, why: str) -> PlumblineError:
    return PlumblineError(
        f"{path}:{number}: not {format}: {why}",
        consequence="nothing is imported: half a file is not a dataset version",
        remedy="correct the line, or choose the format that the file has",
    )
