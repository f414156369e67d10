"""What a policy said, out of the bytes of its answer, whole or in server-sent events; and its name in those bytes.

Calls of tools become text, a JSON array of `{"name", "arguments"}` without the ids that servers draw at random: so two
policies that call the same tool say the same. Nobody executes them.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from plumbline.policies.base import Completion
from plumbline.policies.remote import finish_of

# what bytes that hold none raise here
NO_ANSWER = (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError)


def read_chat(body: Any) -> Completion:
    """The completion in a chat response. Raises one of NO_ANSWER when it holds neither text nor calls."""
    choice = body["choices"][0]
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    text = _said(message["content"] if not calls else message.get("content") or "", calls)
    tokens = int((body.get("usage") or {}).get("completion_tokens") or 0)
    return Completion(text, finish_of(choice.get("finish_reason")), tokens)


def read_events(body: bytes) -> tuple[Completion, bool]:
    """The completion in a stream of server-sent events, and whether the stream came to its `[DONE]`.

    Tokens are the stream's own usage where it says so, else the number of pieces, which is what it told the user.
    Raises one of NO_ANSWER for a stream that ended in an error.
    """
    text: list[str] = []
    calls: dict[int, dict[str, str]] = {}
    reason: object = None
    tokens: int | None = None
    whole = False
    for line in body.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            whole = True
            break
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            break  # cut in the middle of an event
        if "error" in event:
            raise ValueError("the stream ended in an error")
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        for choice in event.get("choices", [])[:1]:
            delta = choice.get("delta") or {}
            text.append(delta.get("content") or "")
            _collect(calls, delta.get("tool_calls") or ())
            reason = choice.get("finish_reason") or reason
    pieces = sum(1 for piece in text if piece)
    said = _said("".join(text), [calls[index] for index in sorted(calls)])
    return Completion(said, finish_of(reason), pieces if tokens is None else tokens), whole


def renamed(body: bytes, model: str) -> bytes:
    """A JSON answer under another model's name; bytes that hold no JSON object are returned as they are."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(answer, dict) or "model" not in answer:
        return body
    return json.dumps({**answer, "model": model}, ensure_ascii=True, separators=(",", ":")).encode("ascii")


class RenamedEvents:
    """Server-sent events under another model's name, as they come: whole lines pass, a torn one waits for its end."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._torn = b""

    def feed(self, part: bytes) -> bytes:
        *lines, self._torn = (self._torn + part).split(b"\n")
        return b"".join(self._line(line) + b"\n" for line in lines)

    def rest(self) -> bytes:
        torn, self._torn = self._torn, b""
        return self._line(torn) if torn else b""

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(b"data:"):
            return line
        data = line[5:].strip()
        found = renamed(data, self.model)
        return line if found == data else b"data: " + found


def _collect(calls: dict[int, dict[str, str]], pieces: Iterable[Mapping[str, Any]]) -> None:
    for piece in pieces:
        call = calls.setdefault(int(piece.get("index", 0)), {"name": "", "arguments": ""})
        for key in call:
            call[key] += (piece.get("function") or {}).get(key) or ""


def _said(text: object, calls: list[Any]) -> str:
    if not isinstance(text, str):
        raise ValueError("the response holds no text")
    parts = [text] if text or not calls else []
    if calls:
        kept = [{"name": str(call["name"]), "arguments": str(call["arguments"])} for call in calls]
        parts.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    said = "\n".join(parts)
    said.encode("utf-8")  # a lone surrogate (a UnicodeEncodeError, so a ValueError) could be neither kept nor digested
    return said
