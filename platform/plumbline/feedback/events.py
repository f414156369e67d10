"""Reading feedback events from outside: bounded, strict, and without ever storing who a person is.

A CloudEvents 1.0 event (spec v1.0.2) comes in as JSON. Its envelope attribute `subject` (or a request header, see
collector.py) may name the person as the source knows them; `bind` turns that into a keyed pseudonym in
`data.subject` and drops the original before anything is stored or logged. `data.subject` itself may only hold a
pseudonym. Envelope attributes that Plumbline does not know are dropped, as the CloudEvents specification allows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.feedback.pseudonyms import PSEUDONYM, Pseudonyms
from plumbline.records import FeedbackEvent
from plumbline.stores import Ledger

MAX_DEPTH = 16
_KNOWN = frozenset(FeedbackEvent.model_fields)


class Refused(Exception):
    """An event that cannot be taken. `status` is the HTTP status; `reason` a stable word; the text says more and
    never repeats what the person wrote."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason, self.text = status, reason, text


def parse_json(data: bytes) -> Any:
    """A JSON value with bounded depth and only what JSON allows: no NaN, no lone surrogates."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_not_json)
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise Refused(400, "too_deep", f"the JSON is nested deeper than {MAX_DEPTH} levels") from None
    except UnicodeError:
        raise Refused(400, "not_utf8", "the text is not valid UTF-8, or has a lone surrogate") from None
    except ValueError:
        raise Refused(400, "not_json", "the body is not JSON") from None
    if _depth(value) > MAX_DEPTH:
        raise Refused(400, "too_deep", f"the JSON is nested deeper than {MAX_DEPTH} levels")
    return value


def bind(raw: Any, source: str, pseudonyms: Pseudonyms, identity: str | None = None) -> FeedbackEvent:
    """A validated event of `source`, with its person as a pseudonym. Raises Refused with the reason."""
    if not isinstance(raw, dict):
        raise Refused(400, "not_an_event", "an event is a JSON object")
    if raw.get("source") != source:
        raise Refused(403, "other_source", "the event's source is not the one that its token belongs to")
    event = {name: value for name, value in raw.items() if name in _KNOWN and name != "subject"}
    if not isinstance(event.get("data"), dict):
        raise Refused(400, "no_data", "the event has no `data` object (`data_base64` is not taken)")
    content_type = str(event.get("datacontenttype", "application/json")).split(";")[0].strip().lower()
    event["datacontenttype"] = content_type
    event["data"] = {**event["data"], "subject": _subject(raw, identity, pseudonyms)}
    author = event["data"].get("author")
    if author is not None and not (isinstance(author, str) and PSEUDONYM.match(author)):
        raise Refused(400, "identity_in_data", "data.author is not a pseudonym")
    try:
        return FeedbackEvent.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "event"
        raise Refused(400, "malformed", f"{where}: {first['msg']}") from None


@dataclass(frozen=True)
class ImportCounts:
    """What became of a file's events; `refused` names line and reason of those that were not taken."""

    accepted: int
    duplicate: int
    conflict: int
    refused: tuple[tuple[int, str], ...]


def import_file(ledger: Ledger, pseudonyms: Pseudonyms, path: Path, source: str) -> ImportCounts:
    """Take events from a file of one structured CloudEvent per line, by the same rules as over HTTP."""
    counts = {"accepted": 0, "duplicate": 0, "conflict": 0}
    refused: list[tuple[int, str]] = []
    pending: list[FeedbackEvent] = []

    def flush() -> None:
        for receipt in ledger.inbox.append(pending):
            counts[receipt.outcome] += 1
        pending.clear()

    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    pending.append(bind(parse_json(line), source, pseudonyms))
                except Refused as error:
                    refused.append((number, f"{error.reason}: {error.text}"))
                if len(pending) >= 1000:
                    flush()
    except OSError as error:
        raise PlumblineError(
            f"{path} cannot be read: {error.strerror or error}",
            consequence=f"{counts['accepted']} events before it were taken; taking the file again does no harm to them",
            remedy="check the path and its permissions",
        ) from error
    flush()
    return ImportCounts(**counts, refused=tuple(refused))


def _subject(raw: dict[str, Any], identity: str | None, pseudonyms: Pseudonyms) -> str:
    """The one person that header, envelope and data agree on."""
    named = {pseudonyms.of(value) for value in (identity, raw.get("subject")) if isinstance(value, str) and value}
    inside = raw["data"].get("subject")
    if inside is not None:
        if not isinstance(inside, str) or not PSEUDONYM.match(inside):
            raise Refused(
                400, "identity_in_data", "data.subject is not a pseudonym: name the person in the envelope's subject"
            )
        named.add(inside)
    if not named:
        raise Refused(400, "no_subject", "the event does not say whose feedback it is")
    if len(named) > 1:
        raise Refused(400, "two_subjects", "header, envelope and data name different people")
    return named.pop()


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        if deepest > MAX_DEPTH:
            break
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = inner
    return deepest


def _not_json(name: str) -> NoReturn:
    raise ValueError(name)
