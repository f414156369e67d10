"""Feedback as nearly all of it comes, made into what the inbox stores without a record in between.

An event is *plain* when it is one of the five kinds of feedback, its values are strings but for `data`, `messages` and
a `score`, and none of them needs a second look. How such an event is checked, and in which order it is stored, follows
from its kind and from which fields its data has: that is worked out once for each such shape.

What is not plain is no worse for it: the record (records/event.py) decides. So a rule here may be stricter than the
record's and is never laxer, and what is stored is the same to the byte; tests/feedback/collect/test_plain.py holds both
together.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, get_args

import orjson

from plumbline.feedback.collect.strict_json import names_each_key_once
from plumbline.feedback.pseudonyms import PSEUDONYM
from plumbline.records import TYPE_PREFIX, FeedbackData, Role
from plumbline.records.event import LABEL
from plumbline.stores.inbox import Landed

Rule = Callable[[str], object]
_SHAPES = 1024  # that are remembered: a source has a handful

_NEEDS: Final = {
    TYPE_PREFIX + "rating": {"score"},
    TYPE_PREFIX + "rewrite": {"text"},
    TYPE_PREFIX + "comparison": {"preferred", "rejected"},
    TYPE_PREFIX + "report": {"text"},
    TYPE_PREFIX + "comment": {"text"},
}
_ROLES: Final = frozenset(get_args(Role))
_LEGS: Final = frozenset({"reference", "aligned", "tie"})


def _is_name(value: str) -> bool:
    return len(value) <= 200 and value.isprintable()


_RULES: Final[dict[str, Rule | None]] = {
    "subject": None,  # these are looked at in `_landed`, or may be any string
    "messages": None,
    "answer": None,
    "score": None,
    "text": None,
    "rejected": None,
    "author": PSEUDONYM.match,
    "slice": re.compile(LABEL).fullmatch,
    "language": re.compile(LABEL).fullmatch,
    "phrasing": re.compile(LABEL).fullmatch,
    "conversation": _is_name,
    "policy": _is_name,
    "rubric": _is_name,
    "preferred": _LEGS.__contains__,
}


class _Shape(NamedTuple):
    """How data with certain fields is looked at and stored: the fields `stored` after the subject, in the record's
    order; those that are `ruled`, with default and rule; how many of its values are `strings`."""

    stored: tuple[str, ...]
    ruled: tuple[tuple[str, object, Rule], ...]
    strings: int
    scored: bool
    rewritten: bool


@functools.lru_cache(_SHAPES)
def _shape(kind: str, names: tuple[str, ...]) -> _Shape:
    """KeyError when events of that kind with those fields are none, or none that are plain."""
    rules = {name: _RULES[name] for name in names}
    for needed in ("messages", "answer", *_NEEDS[kind]):
        rules[needed]
    fields = FeedbackData.model_fields
    stored = tuple(name for name in fields if name in rules and name != "subject")
    ruled = tuple((name, fields[name].default, rule) for name in stored if (rule := rules[name]) is not None)
    scored = "score" in rules
    rewritten = kind == TYPE_PREFIX + "rewrite"
    return _Shape(stored, ruled, len(names) - 1 - scored, scored, rewritten)


def plain_line(line: bytes, source: str, subject_of: Callable[[str], str]) -> Landed | None:
    """`plain` for an event that is still JSON, and could name a key twice."""
    try:
        raw = orjson.loads(line)
    except ValueError:
        return None
    landed = plain(raw, source, subject_of)
    if landed is None:
        return None
    data = raw["data"]
    keys = len(raw) + len(data) + 2 * len(data["messages"])
    return landed if names_each_key_once(line, keys, strings=keys - 2 - ("score" in data)) else None


def plain(raw: Any, source: str, subject_of: Callable[[str], str], identity: str | None = None) -> Landed | None:
    """An event of `source` as the inbox stores it; None for what is not plain, be it an event or not.

    `raw` comes from JSON, and its keys are known to be named once. `subject_of` gives a person's pseudonym and may
    remember it: it is asked for names of at most 200 characters. `identity` is the person of a whole request.
    """
    try:
        return _landed(raw, source, subject_of, identity)
    except (KeyError, TypeError, AttributeError):  # something is not there, or not what it should be
        return None


def _landed(raw: dict[str, Any], source: str, subject_of: Callable[[str], str], identity: str | None) -> Landed | None:
    id, kind, data = raw["id"], raw["type"], raw["data"]
    shape = _shape(kind, tuple(data))
    messages = data["messages"]
    if (
        [*map(type, raw.values())].count(str) != len(raw) - 1
        or [*map(type, data.values())].count(str) != shape.strings
        or raw["source"] != source
        or not (id and _is_name(id) and source and _is_name(source))
        or raw.get("specversion", "1.0") != "1.0"
        or raw.get("datacontenttype", "application/json") != "application/json"
        or "data_base64" in raw
        or type(messages) is not list
        or not messages
    ):
        return None

    named, inside = raw.get("subject", identity), data.get("subject")
    if named is None:
        named = inside
    if not named.strip() or len(named) > 200 or (identity is not None and identity != named):
        return None
    subject = subject_of(named)
    if inside is not None and inside != subject:
        return None

    stored: dict[str, Any] = {"subject": subject}
    for name in shape.stored:
        stored[name] = data[name]
    for name, default, allows in shape.ruled:
        value = stored[name]
        if value == default:
            del stored[name]
        elif not allows(value):
            return None
    stored["messages"] = turns = []
    for turn in messages:
        role, content = turn["role"], turn["content"]
        if len(turn) != 2 or role not in _ROLES or type(content) is not str:
            return None
        turns.append({"role": role, "content": content})
    if shape.scored:
        score = data["score"]
        if not (type(score) is float and -1 <= score <= 1) and not (type(score) is int and -1 <= score <= 1):
            return None
        stored["score"] = float(score)
    if shape.rewritten and (not data["text"] or data["text"].isspace()):
        return None

    event = {"id": id, "source": source, "type": kind, "data": stored}
    if "time" in raw:
        if len(raw["time"]) > 64:
            return None
        event = {"id": id, "source": source, "type": kind, "time": raw["time"], "data": stored}
    return Landed(source, id, kind, subject, orjson.dumps(event))
