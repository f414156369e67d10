"""A conversation: what was said, by whom. The unit that examples, requests and suite items are made of."""

from typing import Literal

from plumbline.records.base import Record

Role = Literal["system", "user", "assistant", "tool"]


class Message(Record):
    schema_id = "plumbline.dev/message/v1"

    role: Role
    content: str


Conversation = tuple[Message, ...]


def say(role: Role, content: str) -> Message:
    """Shorthand that keeps hand-written conversations readable."""
    return Message(role=role, content=content)


def last_user_text(messages: Conversation) -> str:
    """The text of the last user message; empty when there is none."""
    return next((m.content for m in reversed(messages) if m.role == "user"), "")


def as_dicts(messages: Conversation) -> list[dict[str, str]]:
    """The `messages` list that chat templates and OpenAI-compatible endpoints take."""
    return [{"role": m.role, "content": m.content} for m in messages]
