"""Reading what KServe's payload logger wrote down: files of CloudEvents, and the collector's inbox.

An InferenceService with `spec.predictor.logger` reports each request and each answer (with status 200) as a CloudEvent
of type `org.kubeflow.serving.inference.request` or `.response`, whose `ce-id` the gateway in front has set. A file may
hold them in any of these forms, one after the other or mixed:

    a line per event, structured   {"specversion": "1.0", "id": .., "type": .., "data": .. or "data_base64": ..}
    a line per event, binary       {"headers": {"ce-id": ..}, "body": ".." or "body_base64": ".."}
    as the logger's `storage`      {"Id": .., "ReqType": .., "Bytes": base64, "Metadata": {..}} or an array of them
    as it came over the wire       POST .. HTTP/1.1, headers, Content-Length bytes; again and again

What the logger says about content types is not believed: it labels an answer with the type of its *request*, so that
server-sent events come as application/json. Nothing here says what a body means; joining.py does.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from plumbline.errors import PlumblineError
from plumbline.records import LOGGED_PREFIX, FeedbackEvent

MAX_EVENT = 8 << 20  # bytes of one event in a file; a longer one is passed over and counted
POLICY = "plumbline.dev/policy"  # the annotation of an InferenceService that holds its policy's digest


@dataclass(frozen=True)
class Captured:
    """One event. `kind` is request or response; `service` the InferenceService (or the inbox's source); `headers` what
    the logger forwarded of the user's request headers, names in lower case; `time` RFC 3339, empty where unknown.

    `landed` is set for an event of the inbox, which keeps what was said but not the body: no decoder settings.
    """

    id: str
    kind: str
    service: str
    body: bytes
    component: str = ""
    time: str = ""
    policy: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    landed: FeedbackEvent | None = None


def read_captured(paths: Iterable[Path]) -> Iterator[Captured | str]:
    """Every event in files and folders, in order of their paths; in the place of what is none, the reason.

    PlumblineError for a path that cannot be read.
    """
    for path in paths:
        try:
            for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
                with file.open("rb") as stream:
                    yield from _events(stream)
        except OSError as error:
            raise PlumblineError(
                f"{path} cannot be read: {error.strerror or error}",
                consequence="no pairs were joined",
                remedy="name files that hold the payload logger's events, or a folder of them",
            ) from error


def from_inbox(events: Iterable[FeedbackEvent]) -> Iterator[Captured]:
    """The logged traffic among events that the collector took. Its source tells which service it came from, since an
    event keeps no more of the logger's own words: every InferenceService needs a source of its own there."""
    for event in events:
        if not event.type.startswith(LOGGED_PREFIX):
            continue
        headers = (("x-plumbline-subject", event.data.subject), ("x-plumbline-slice", event.data.slice))
        time = event.time or ""
        yield Captured(event.id, event.kind, event.source, b"", time=time, headers=headers, landed=event)


def _events(stream: BinaryIO) -> Iterator[Captured | str]:
    while line := stream.readline(MAX_EVENT):
        if not line.endswith(b"\n") and len(line) == MAX_EVENT:
            while (line := stream.readline(MAX_EVENT)) and not line.endswith(b"\n"):
                pass
            yield "too_large"
        elif line.startswith(b"POST "):
            yield _from_the_wire(stream)
        elif line.strip():
            yield from _from_json(line)


def _from_the_wire(stream: BinaryIO) -> Captured | str:
    """The rest of an HTTP request whose first line was read."""
    headers: dict[str, str] = {}
    while line := stream.readline(MAX_EVENT).rstrip(b"\r\n"):
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    length = headers.get("content-length", "")
    if not length.isascii() or not length.isdigit() or int(length) > MAX_EVENT:
        return "not_an_event"
    body = stream.read(int(length))
    return _captured(_attributes(headers), body) if len(body) == int(length) else "cut_off"


def _from_json(line: bytes) -> Iterator[Captured | str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        yield "not_an_event"
        return
    for one in found if isinstance(found, list) else [found]:
        try:
            yield _from_object(one)
        except (KeyError, TypeError, ValueError, AttributeError):
            yield "not_an_event"


def _from_object(one: dict[str, Any]) -> Captured | str:
    if "headers" in one:
        headers = {name.lower(): str(value) for name, value in one["headers"].items()}
        return _captured(_attributes(headers), _bytes(one.get("body"), one.get("body_base64")))
    given = {name.lower(): value for name, value in one.items()}
    if "reqtype" in given:  # as the logger's own storage writes it
        attributes = {
            "id": given["id"],
            "type": given["reqtype"],
            "inferenceservicename": given.get("inferenceservice"),
            "component": given.get("component"),
            "metadata": given.get("metadata"),
            "annotations": given.get("annotations"),
        }
        return _captured(attributes, _bytes(None, given.get("bytes")))
    return _captured(given, _bytes(given.get("data"), given.get("data_base64")))


def _attributes(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name[3:]: value for name, value in headers.items() if name.startswith("ce-")}


def _bytes(plain: Any, encoded: Any) -> bytes:
    if encoded is not None:
        try:
            return base64.b64decode(encoded, validate=True)
        except binascii.Error as error:
            raise ValueError("not base 64") from error
    return plain.encode() if isinstance(plain, str) else json.dumps(plain).encode()


def _captured(attributes: Mapping[str, Any], body: bytes) -> Captured | str:
    kind = str(attributes.get("type", ""))
    if kind not in (f"{LOGGED_PREFIX}request", f"{LOGGED_PREFIX}response"):
        return "other_type"
    id = attributes.get("id")
    if not isinstance(id, str) or not id or len(id) > 200:
        return "no_id"
    headers = _object(attributes.get("metadata"))
    policy = _object(attributes.get("annotations")).get(POLICY, "")
    return Captured(
        id=id,
        kind=kind.removeprefix(LOGGED_PREFIX),
        service=str(attributes.get("inferenceservicename") or ""),
        body=body,
        component=str(attributes.get("component") or ""),
        time=str(attributes.get("time") or ""),
        policy=policy if isinstance(policy, str) else "",
        headers=tuple(sorted((name.lower(), text) for name, values in headers.items() if (text := _single(values)))),
    )


def _single(values: Any) -> str:
    """The header's one value. Two are none: whoever adds a second header must not choose whose conversation it is."""
    if isinstance(values, list):
        values = values[0] if len(values) == 1 else ""
    return values if isinstance(values, str) else ""


def _object(value: Any) -> dict[str, Any]:
    """An attribute that holds JSON in a string, or the object itself; empty for anything else."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
