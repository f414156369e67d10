"""Reading feedback events from outside: bounded, strict, and without ever storing who a person is.

A CloudEvents 1.0 event (spec v1.0.2) comes in as JSON. Its envelope attribute `subject` (or a request header, see
collector.py) may name the person as the source knows them; `bind` turns that into a keyed pseudonym in
`data.subject` and drops the original before anything is stored or logged. `data.subject` itself may only hold a
pseudonym. Envelope attributes that Plumbline does not know are dropped, as the CloudEvents specification allows.

A file or a pipe is read by the same rules, one structured event a line. A line is read up to the size that an event may
have and the rest of it is passed over, so that a line of 100 MB costs no memory. Taking a file twice does no harm: what
is there already is a duplicate.
"""

import base64
import binascii
import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.feedback.collect.logged import chat_data, subjects_in_metadata
from plumbline.feedback.collect.plain import plain, plain_line
from plumbline.feedback.collect.strict_json import Refused, parse_json
from plumbline.feedback.pseudonyms import PSEUDONYM, Pseudonyms
from plumbline.records import APPROVED_TYPE, LOGGED_PREFIX, FeedbackEvent
from plumbline.stores import Ledger
from plumbline.stores.inbox import Landed

MAX_EVENT = 64 * 1024
NAMED = 1000  # refused lines that are named one by one; all are counted
_BATCH = 1000
PAUSE = 0.005  # seconds after a commit: whoever waits to withdraw gets the ledger's lock in between
_PEOPLE = 20_000  # whose pseudonyms are remembered while a file is read, and no longer
_BLOCK = 1 << 16
_KNOWN = frozenset(FeedbackEvent.model_fields)


def bind(raw: Any, source: str, pseudonyms: Pseudonyms, identity: str | None = None) -> FeedbackEvent:
    """A validated event of `source`, with its person as a pseudonym. Raises Refused with the reason."""
    if not isinstance(raw, dict):
        raise Refused(400, "not_an_event", "an event is a JSON object")
    kind = raw.get("type")
    if kind == APPROVED_TYPE:
        raise Refused(403, "internal_type", "an approval comes from reviewers here, not from outside")
    logged = isinstance(kind, str) and kind.startswith(LOGGED_PREFIX)
    if raw.get("source") != source and not logged:
        raise Refused(403, "other_source", "the event's source is not the one that its token belongs to")
    data = _data(raw)
    named = [identity, raw.get("subject")]
    if logged:
        # The logger names its own pod as the source; the token's source stands in its place.
        named += subjects_in_metadata(raw.get("metadata"))
        data = chat_data(str(kind), data)
    event = {name: value for name, value in raw.items() if name in _KNOWN and name != "subject"}
    event |= {
        "source": source,
        "datacontenttype": "application/json",
        "data": {**data, "subject": _subject(named, data.get("subject"), pseudonyms)},
    }
    author = data.get("author")
    if author is not None and not (isinstance(author, str) and PSEUDONYM.match(author)):
        raise Refused(400, "identity_in_data", "data.author is not a pseudonym")
    try:
        return FeedbackEvent.model_validate(event)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["loc"] == ("type",) and isinstance(kind, str):
            raise Refused(400, "unknown_type", "the event's type is none that is taken here") from None
        # A key that was not expected may be a person's word as much as a value.
        known = [str(part) for part in first["loc"] if first["type"] != "extra_forbidden" or part == "data"]
        raise Refused(400, "malformed", f"{'.'.join(known) or 'event'}: {first['msg']}") from None


def take(raw: Any, source: str, pseudonyms: Pseudonyms, identity: str | None = None) -> Landed:
    """The event that `bind` gives, as the inbox stores it; sooner, for most. Raises Refused with the reason."""
    return plain(raw, source, pseudonyms.of, identity) or Landed.of(bind(raw, source, pseudonyms, identity))


def json_type(content_type: str) -> bool:
    """Whether a media type says JSON, whatever its parameters."""
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _data(raw: dict[str, Any]) -> dict[str, Any]:
    """The event's data, which is a JSON object, given as such or in base 64."""
    if not json_type(str(raw.get("datacontenttype") or "application/json")):
        raise Refused(415, "not_json_data", "data is taken as JSON only: put a comment's words into data.text")
    data, encoded = raw.get("data"), raw.get("data_base64")
    if encoded is not None:
        if data is not None or not isinstance(encoded, str):
            raise Refused(400, "bad_base64", "an event has either `data` or `data_base64`, which is a string")
        try:
            data = parse_json(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError):
            raise Refused(400, "bad_base64", "data_base64 is not base 64") from None
    if not isinstance(data, dict):
        raise Refused(400, "no_data", "the event's data is no JSON object")
    return data


def _subject(named: list[Any], inside: Any, pseudonyms: Pseudonyms) -> str:
    """The one person that header, envelope and data agree on."""
    found = {pseudonyms.of(value) for value in named if isinstance(value, str) and value.strip()}
    if inside is not None:
        if not isinstance(inside, str) or not PSEUDONYM.match(inside):
            raise Refused(
                400, "identity_in_data", "data.subject is not a pseudonym: name the person in the envelope's subject"
            )
        found.add(inside)
    if not found:
        raise Refused(400, "no_subject", "the event does not say whose feedback it is")
    if len(found) > 1:
        raise Refused(400, "two_subjects", "header, envelope and data name different people")
    return found.pop()


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass
class ImportCounts:
    """What became of a file's events. `refused` names line and reason of the first that were not taken, `reasons`
    counts all of them."""

    accepted: int = 0
    duplicate: int = 0
    conflict: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def taken(self) -> int:
        return self.accepted + self.duplicate + self.conflict


def import_file(
    ledger: Ledger,
    pseudonyms: Pseudonyms,
    file: Path | BinaryIO,
    source: str,
    *,
    progress: Callable[[int], None] = lambda _: None,
) -> ImportCounts:
    """Take events of `source` from a file, or from a stream such as standard input. `progress` is told bytes read."""
    counts = ImportCounts()
    try:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                _take(ledger, pseudonyms, stream, source, counts, progress)
        else:
            _take(ledger, pseudonyms, file, source, counts, progress)
    except OSError as error:
        raise PlumblineError(
            f"{file if isinstance(file, Path) else 'the input'} cannot be read: {error.strerror or error}",
            consequence=f"{counts.accepted} events before it were taken; taking the file again does no harm to them",
            remedy="check the path and its permissions",
        ) from error
    return counts


def _take(
    ledger: Ledger,
    pseudonyms: Pseudonyms,
    stream: BinaryIO,
    source: str,
    counts: ImportCounts,
    progress: Callable[[int], None],
) -> None:
    pending: list[Landed] = []
    uncounted: Counter[tuple[str, str]] = Counter()

    def flush() -> None:
        outcomes = Counter(receipt.outcome for receipt in ledger.inbox.append(pending))
        counts.accepted += outcomes["accepted"]
        counts.duplicate += outcomes["duplicate"]
        counts.conflict += outcomes["conflict"]
        ledger.inbox.count_refused(uncounted)
        pending.clear()
        uncounted.clear()

    for number, found, size in read_events(stream, source, pseudonyms):
        progress(size)
        if isinstance(found, Refused):
            counts.reasons[found.reason] += 1
            uncounted[source, found.reason] += 1
            if len(counts.refused) < NAMED:
                counts.refused.append((number, f"{found.reason}: {found.text}"))
        elif found is not None:
            pending.append(found)
        if len(pending) >= _BATCH:
            flush()
            time.sleep(PAUSE)
    flush()


def read_events(
    stream: BinaryIO, source: str, pseudonyms: Pseudonyms, *, begins: bool = True
) -> Iterator[tuple[int, Landed | Refused | None, int]]:
    """Every line of a stream with its number from 1 and its size in bytes: the event as the inbox stores it, why it is
    not taken, or None for an empty line. `begins` is False for a stream that stands somewhere inside a file."""
    subject_of = functools.lru_cache(_PEOPLE)(pseudonyms.of)
    for number, line, size in _lines(stream, begins):
        try:
            if line is None:
                raise Refused(413, "too_large", f"an event has at most {MAX_EVENT} bytes")
            if not line or line.isspace():
                yield number, None, size
                continue
            landed = plain_line(line, source, subject_of) or Landed.of(bind(parse_json(line), source, pseudonyms))
        except Refused as error:
            yield number, error, size
        else:
            yield number, landed, size


def _lines(stream: BinaryIO, begins: bool) -> Iterator[tuple[int, bytes | None, int]]:
    """Numbered lines with their size; None for a line that is longer than an event may be."""
    number = 0
    while line := stream.readline(MAX_EVENT + 2):
        number += 1
        size = len(line)
        if size <= MAX_EVENT and number > 1:
            yield number, line, size
            continue
        whole = line.endswith(b"\n") or size <= MAX_EVENT
        while not whole:
            rest = stream.readline(_BLOCK)
            size += len(rest)
            whole = not rest or rest.endswith(b"\n")
        if number == 1 and begins:
            line = line.removeprefix(b"\xef\xbb\xbf")
        yield number, line if len(line.rstrip(b"\r\n")) <= MAX_EVENT else None, size
