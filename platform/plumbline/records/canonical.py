"""Canonical bytes and digests: the identity of every immutable thing.

Canonical form is JSON with sorted keys, no insignificant white space, UTF-8, no NaN or infinity (the shape of
RFC 8785, with Python's shortest float repr and keys ordered by code point). A digest is written
`sha256:<64 hex>`. Lone surrogates cannot be encoded as UTF-8 and are refused, not replaced.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

import orjson
from pydantic import StringConstraints

DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]


def canonical_bytes(value: Any) -> bytes:
    """The one byte string that stands for a JSON value. Raises ValueError on NaN, TypeError on a non-JSON type."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def plain_bytes(value: Any) -> bytes:
    """`canonical_bytes` of a value that holds no float and no whole number beyond 64 bits, twenty times faster. (Floats
    are where writers of JSON differ.) Raises orjson.JSONEncodeError, a TypeError, on what is not JSON."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest_bytes(data: bytes) -> str:
    """`sha256:` and the hexadecimal SHA-256 of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Digest of a JSON value's canonical bytes."""
    return digest_bytes(canonical_bytes(value))


def short(digest: str) -> str:
    """The twelve characters that people read: `sha256:0123...` becomes `0123456789ab`."""
    return digest.removeprefix("sha256:")[:12]


def merkle_root(leaves: Iterable[str]) -> str:
    """Root over digests in sorted order (RFC 6962 domain separation: 0x00 before a leaf, 0x01 before a node).

    Sorting makes the root a function of the *set*: the same examples in another order are the same version.
    """
    level = [hashlib.sha256(b"\x00" + leaf.encode("ascii")).digest() for leaf in sorted(leaves)]
    if not level:
        return digest_bytes(b"")
    while len(level) > 1:
        paired = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + ([level[-1]] if len(level) % 2 else [])
    return "sha256:" + level[0].hex()
