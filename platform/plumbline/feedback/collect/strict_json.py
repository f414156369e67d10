"""JSON from strangers: less than JSON elsewhere, and each refusal with its reason.

At most 16 levels deep, no NaN, no lone surrogates, and no key twice in one object, which two readers would read as two
different events.
"""

import json
import re
from typing import Any

from pydantic_core import from_json

MAX_DEPTH = 16
_SPACED_KEY = re.compile(rb'"[ \t\r\n]+:')


class Refused(Exception):
    """An event that cannot be taken. `status` is the HTTP status; `reason` a stable word; the text says more and
    never repeats what the person wrote."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status, self.reason, self.text = status, reason, text


def parse_json(data: bytes) -> Any:
    """A JSON value with bounded depth and only what JSON allows: no NaN, no lone surrogates, no repeated keys."""
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise _unreadable(data, str(error)) from None
    if _keys(value) != _most_keys(data) and _repeats_a_key(data):
        raise Refused(400, "duplicate_key", "an object in the JSON names a key twice")
    return value


def names_each_key_once(data: bytes, keys: int, strings: int) -> bool:
    """Whether it is proven that JSON, of which so many keys and other strings came out, names none of them twice.

    Each of them has two quotes, and a key that was swallowed had two more: nothing else has any but an escaped one.
    """
    return data.count(b'"') == 2 * (keys + strings) or _most_keys(data) == keys


def _most_keys(data: bytes) -> int:
    """How many keys JSON has at most: each ends in `":`, and so may a string's content."""
    return data.count(b'":') + sum(1 for _ in _SPACED_KEY.finditer(data))


def _keys(value: Any) -> int:
    """How many keys all objects of a JSON value have. Refused when it is nested too deep."""
    keys, level = 0, [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                keys += len(item)
                inner += item.values()
            elif type(item) is list:
                inner += item
        if not inner:
            return keys
        level = inner
    raise _too_deep()


def _repeats_a_key(data: bytes) -> bool:
    repeated = False

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        found = dict(pairs)
        repeated |= len(found) != len(pairs)
        return found

    json.loads(data, object_pairs_hook=count)
    return repeated


def _unreadable(data: bytes, why: str) -> Refused:
    if "recursion" in why:
        return _too_deep()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return Refused(400, "not_utf8", "the text is not valid UTF-8")
    if "hex escape" in why or "surrogate" in why:
        return Refused(400, "not_utf8", "the text has a lone surrogate or a broken escape")
    return Refused(400, "not_json", "the body is not JSON")


def _too_deep() -> Refused:
    return Refused(400, "too_deep", f"the JSON is nested deeper than {MAX_DEPTH} levels")
