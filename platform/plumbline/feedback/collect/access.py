"""Who may come in: sources, their tokens, signatures and rates.

A source proves itself by its bearer token (or, for a sender that knows only URLs such as KServe's logger, by HTTP basic
authentication as SOURCE:TOKEN). One that has an `hmac_secret` must also sign, so that a token which leaked is not
enough:

    X-Plumbline-Timestamp: 1767225600.250
    X-Plumbline-Signature: sha256=HEX    HMAC-SHA256(secret, timestamp + "." + body), of a GET: + path and query

The moment may be five minutes off. Who repeats a request within them gains nothing: an event that is there already is
a duplicate, and consent given in a request that was signed before the person's last withdrawal is refused as stale.
What lies outside the body (`ce-*` and identity headers) would lie outside the signature, so signed sources name
everything inside: binary mode is refused to them.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from plumbline.feedback.collect.strict_json import Refused

TOLERANCE_S = 300.0
UNKNOWN = "unknown"  # the label of whoever has no valid token
Permission = Literal["events", "consent"]


@dataclass(frozen=True)
class Source:
    """`may`: what it may send. `consent_for`: whose consent it may manage, once it may at all: "own" is people whom
    it was the first source to speak of; "any" is everybody. Its secrets never show."""

    token: str = field(repr=False)
    hmac_secret: str | None = field(default=None, repr=False)
    may: frozenset[Permission] = frozenset({"events"})
    consent_for: Literal["own", "any"] = "own"


def sources_of(given: Mapping[str, "str | Source"]) -> dict[str, Source]:
    """Sources by name. A plain token may send events and nothing else."""
    return {name: Source(one) if isinstance(one, str) else one for name, one in given.items()}


def identify(header: str, sources: Mapping[str, Source]) -> str | None:
    """The source that an Authorization header proves; every token is compared, in constant time each."""
    scheme, _, given = header.partition(" ")
    name = None
    if scheme.lower() == "basic":
        try:
            name, _, given = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            return None
    elif scheme.lower() != "bearer":
        return None
    secret = given.encode("utf-8", "surrogateescape")
    found = [source for source, one in sources.items() if hmac.compare_digest(secret, one.token.encode())]
    return found[0] if found and name in (None, found[0]) else None


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What `X-Plumbline-Signature` must say."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def check_signature(
    source: Source, headers: Mapping[str, str], body: bytes, *, clock: Callable[[], float] = time.time
) -> datetime | None:
    """The moment of signing; None for a source that need not sign. Raises Refused."""
    if source.hmac_secret is None:
        return None
    given, stamp = headers.get("X-Plumbline-Signature", ""), headers.get("X-Plumbline-Timestamp", "")
    if not given or not stamp or len(stamp) > 32 or not stamp.isascii():
        raise Refused(401, "unsigned", "this source signs: X-Plumbline-Signature and X-Plumbline-Timestamp are missing")
    expected = signature(source.hmac_secret, stamp, body)
    if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode()):
        raise Refused(401, "bad_signature", "the signature is not that of this body")
    try:
        moment = float(stamp)
        signed = datetime.fromtimestamp(moment, UTC)
    except (ValueError, OverflowError, OSError):
        raise Refused(401, "bad_signature", "X-Plumbline-Timestamp is no time in seconds") from None
    if not abs(clock() - moment) <= TOLERANCE_S:
        raise Refused(401, "stale_signature", f"it was signed more than {TOLERANCE_S:.0f} seconds from now")
    return signed


class Buckets:
    """Token buckets by name. Those that nobody took from for as long as a bucket takes to fill are forgotten, all at
    once: no crowd of names makes one `take` slow, and none is kept for ever."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, float(burst), clock
        self._horizon = self._burst / rate
        self._new: dict[str, tuple[float, float]] = {}
        self._old: dict[str, tuple[float, float]] = {}
        self._turned = clock()

    def take(self, name: str) -> bool:
        now = self._clock()
        if now - self._turned > self._horizon:
            self._old = self._new if now - self._turned <= 2 * self._horizon else {}
            self._new, self._turned = {}, now
        left, then = self._new.get(name) or self._old.get(name) or (self._burst, now)
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._new[name] = (left - allowed, now)
        return allowed
