"""Events that nobody means well with, from a seed: every kind of malice that the doors must survive."""

import functools
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from plumbline.records import TYPE_PREFIX

STRUCTURED = "application/cloudevents+json"


@dataclass(frozen=True)
class Attack:
    """One request. `lawful`: it may have stayed a valid event by chance, and then may be taken."""

    kind: str
    body: bytes
    headers: dict[str, bytes] = field(default_factory=lambda: {"Content-Type": STRUCTURED.encode()})
    lawful: bool = False


def good(id: str, **data: Any) -> dict[str, Any]:
    said = {"messages": [{"role": "user", "content": "what is a lamp"}], "answer": "no", "text": "it shines", **data}
    return {
        "specversion": "1.0",
        "id": id,
        "source": "console",
        "type": TYPE_PREFIX + "rewrite",
        "subject": "ana@example.org",
        "data": said,
    }


def attacks(seed: int, count: int) -> Iterator[Attack]:
    rng = random.Random(seed)
    makers = list(MAKERS.items())
    for number in range(count):
        kind, make = makers[number % len(makers)]
        made = make(rng, f"{kind}-{number}")
        yield made if isinstance(made, Attack) else Attack(kind, made, lawful=kind in LAWFUL)


def text(id: str, **data: Any) -> str:
    return json.dumps(good(id, **data))


def deep(rng: random.Random, id: str) -> bytes:
    depth = rng.choice([17, 40, 300, 5000, 25_000])
    opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = opening * depth + "1" + closing * rng.choice([depth, 0])
    return (inner if rng.random() < 0.3 else text(id).replace('"it shines"', inner)).encode()


def not_numbers(rng: random.Random, id: str) -> bytes:
    token = rng.choice(["NaN", "Infinity", "-Infinity", "1e400", "-1e999", "1" * 5000, "0x10", "01", "1.", "+1"])
    return text(id, score="HERE").replace('"HERE"', token).encode()


def surrogates(rng: random.Random, id: str) -> bytes:
    lone = rng.choice(["\\ud800", "\\udfff", "\\ud800\\ud800", "\\ud83d x", "\\u12", "\\x41"])
    place = rng.choice(["it shines", "no", "ana@example.org", id])
    return text(id).replace(f'"{place}"', f'"a{lone}"', 1).encode()


def twice(rng: random.Random, id: str) -> bytes:
    name = rng.choice(["id", "subject", "type", "source", "data", "specversion"])
    gap = rng.choice(["", " ", "\t\n "])
    extra = f'"{name}"{gap}:{json.dumps(rng.choice(["x", 1, None, {}]))},'
    if rng.random() < 0.5:
        return text(id).replace('"answer"', '"text": "first", "answer"').encode()
    return ("{" + extra + text(id)[1:]).encode()


def wrong_types(rng: random.Random, id: str) -> bytes:
    event = good(id)
    odd = rng.choice([None, 7, 1.5, [], {}, ["x"], {"a": 1}, "", " " * 300, "x" * 400, "a\x00b", "a\r\nb", True])
    where = rng.choice(["specversion", "id", "type", "source", "messages", "answer", "text", "slice", "extra", "root"])
    if where == "root":
        return json.dumps(odd).encode()
    (event["data"] if where in ("messages", "answer", "text", "slice", "extra") else event)[where] = odd
    return json.dumps(event).encode()


def roles(rng: random.Random, id: str) -> bytes:
    message = rng.choice([{"role": "root", "content": "x"}, {"role": "user"}, {"content": "x"}, "x", 1, None, []])
    return text(id, messages=[message] * rng.choice([1, 3])).encode()


def truncated(rng: random.Random, id: str) -> bytes:
    whole = text(id).encode()
    return whole[: rng.randrange(len(whole))]


def noise(rng: random.Random, id: str) -> bytes:
    return rng.randbytes(rng.randrange(1, 400))


def flipped(rng: random.Random, id: str) -> bytes:
    whole = bytearray(text(id).encode())
    for _ in range(rng.randrange(1, 4)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole)


def huge(rng: random.Random, id: str) -> bytes:
    return text(id, text="x" * rng.choice([70_000, 200_000])).encode()


def claims(rng: random.Random, id: str) -> bytes:
    event = good(id)
    lie = rng.choice(["approved", "author", "subject", "original", "approved_by", "consent"])
    if lie == "approved":
        event["type"] = "dev.plumbline.review.approved"
    event["data"] |= {"author": "ana"} if lie == "author" else {}
    event["data"] |= {"subject": "ana"} if lie == "subject" else {}
    event["data"] |= {"original": 1} if lie in ("original", "approved") else {}
    event["data"] |= {"approved_by": ["s-" + "0" * 32]} if lie in ("approved_by", "approved") else {}
    event["data"] |= {"consented": True} if lie == "consent" else {}
    return json.dumps(event).encode()


def base64(rng: random.Random, id: str) -> bytes:
    event = good(id)
    event.pop("data")
    event["data_base64"] = rng.choice(["", "====", "AA==", "é", 7, [], "e30", "W10=", "IA==" * 9])
    return json.dumps(event).encode()


def logged(rng: random.Random, id: str) -> bytes:
    bodies: list[Any] = [
        {"instances": [[1]]}, {"inputs": []}, {"predictions": [1]}, {"messages": []}, {"messages": "x"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"choices": []}, {"choices": [{"message": None}]}, {"choices": [{"text": "x"}]}, {"choices": {"a": 1}},
    ]  # fmt: skip
    kind = rng.choice(["request", "response", "other"])
    event = good(id) | {"type": f"org.kubeflow.serving.inference.{kind}", "data": rng.choice(bodies)}
    event |= {"metadata": rng.choice(["{", "[]", '{"X-Plumbline-Subject": "x"}', '{"X-Plumbline-Subject": [7]}', 7])}
    return json.dumps(event).encode()


@functools.cache
def _bomb(size: int) -> bytes:
    return gzip.compress(b" " * size + text("bomb").encode())


def encoded(rng: random.Random, id: str) -> Attack:
    bomb = _bomb(rng.choice([10_000, 3_000_000]))
    name = rng.choice([b"gzip", b"deflate", b"br", b"GZIP", b"gzip, gzip"])
    return Attack("encoded", bomb, {"Content-Type": STRUCTURED.encode(), "Content-Encoding": name})


def headers(rng: random.Random, id: str) -> Attack:
    values = [b"\xff\xfe", b"%ff", b"%ED%A0%80", "é".encode(), b"x" * 5000, b"%00", b"a%0d%0aX-Evil: 1", b""]
    attributes = {"ce-specversion": b"1.0", "ce-id": id.encode(), "ce-source": b"console", "ce-subject": b"ana"}
    attributes |= {"ce-type": (TYPE_PREFIX + "rewrite").encode(), "Content-Type": b"application/json"}
    attributes |= {rng.choice(["ce-id", "ce-type", "ce-source", "ce-specversion"]): rng.choice(values)}
    return Attack("headers", json.dumps(good(id)["data"]).encode(), attributes)


MAKERS: dict[str, Callable[[random.Random, str], bytes | Attack]] = {
    made.__name__: made
    for made in (
        deep,
        not_numbers,
        surrogates,
        twice,
        wrong_types,
        roles,
        truncated,
        noise,
        flipped,
        huge,
        claims,
        base64,
        logged,
        encoded,
        headers,
    )
}
LAWFUL = {"flipped", "wrong_types", "headers", "surrogates"}
