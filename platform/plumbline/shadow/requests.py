"""What a pair can hold of a chat request: roles and texts, decoder settings, definitions of functions.

Everything else that a request may ask for (images, several choices, formats, penalties, tools that the server itself
would run) changes the answer in ways a record does not carry: such a request is served and counted as `unsupported`.
"""

import json
from typing import Any

from plumbline.policies.remote import chat_body
from plumbline.records import Message, SpoolRecord

TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
KNOWN = frozenset({"model", "messages", "stream", "stream_options", "user", "metadata", "store", *TOOLS})
KNOWN |= {"max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}


def held(body: dict[str, Any]) -> tuple[tuple[Message, ...], str] | None:
    """Messages and tools (as JSON text, empty for none) that a record can hold; None when it cannot."""
    messages, tools = _messages(body), _tools(body)
    return None if not messages or tools is None or not body.keys() <= KNOWN else (messages, tools)


def replayed(record: SpoolRecord, model: str) -> dict[str, Any]:
    """The body that asks another policy what a record holds: same messages, tools, decoder settings and seed."""
    body = chat_body(model, record.messages, record.decoder, stream=record.streamed)
    return body | (json.loads(record.tools) if record.tools else {})


def _messages(body: dict[str, Any]) -> tuple[Message, ...] | None:
    """A role and a text each. None for images, tool calls, names, broken Unicode."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return None
    try:
        kept = tuple(Message.model_validate(message, strict=True) for message in messages)
        for message in kept:
            message.content.encode("utf-8")
        return kept
    except ValueError:
        return None


def _tools(body: dict[str, Any]) -> str | None:
    """The request's functions, for a policy to call and nobody to execute. None for tools of any other type: a server
    may run those by itself, and a shadow must do nothing in the world."""
    given = {name: body[name] for name in TOOLS if body.get(name) is not None}
    tools = given.get("tools", [])
    if not isinstance(tools, list) or any(not isinstance(t, dict) or t.get("type") != "function" for t in tools):
        return None
    return json.dumps(given, ensure_ascii=True, separators=(",", ":")) if given else ""
