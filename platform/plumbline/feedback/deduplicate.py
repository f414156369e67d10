"""Equal and nearly equal texts, found again without keeping the text.

Exact: a keyed hash of the normalised text. Near: word 3-shingles whose Jaccard similarity is at least a threshold;
candidates come from MinHash bands (Broder 1997), and every candidate is checked exactly on its shingles, so the
index may miss but never invents. 16 bands of 8 rows find a pair at 0.9 with probability above 0.999.

All hashes are keyed with the store's pepper: signatures are personal data derived from a text, and without the key
they cannot be tested against a guess. They are erased with the example.
"""

import hashlib
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from plumbline.records import Message
from plumbline.stores import Signature

BANDS, ROWS, SHINGLE = 16, 8, 3
_KEY_BYTES = 8
Key = TypeVar("Key", bound=Hashable)


def normalise(text: str) -> str:
    """Compatibility form, case folded, white space collapsed: what a reader would call the same text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> frozenset[str]:
    """Word 3-grams of the normalised text; a shorter text is one shingle."""
    words = normalise(text).split()
    if len(words) <= SHINGLE:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def prompt_text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


@dataclass(frozen=True)
class Signed:
    """A text's signature and the shingles it was made of (which are never stored)."""

    signature: Signature
    shingles: frozenset[str]


class Signer:
    """Makes signatures under one pepper; equal texts have equal keys within a store and nowhere else."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper[:64]

    def sign(self, messages: Sequence[Message], target: str, conversation: str = "") -> Signed:
        """`conversation` names a conversation within its source; empty means that nothing ties it to others."""
        prompt = prompt_text(messages)
        text = f"{prompt}\nassistant: {target}"
        found = shingles(text)
        return Signed(
            Signature(
                text_key=self.key("text", normalise(text)),
                prompt_key=self.key("prompt", normalise(prompt)),
                conversation_key=self.key("conversation", conversation) if conversation else "",
                bands=self._bands(found),
            ),
            found,
        )

    def key(self, kind: str, text: str) -> str:
        return hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=16, key=self._pepper).hexdigest()

    def _bands(self, found: frozenset[str]) -> bytes:
        hashed = b"".join(
            hashlib.blake2b(shingle.encode(), digest_size=8, key=self._pepper).digest() for shingle in found
        )
        values = np.frombuffer(hashed, dtype="<u8")
        multiply, add = _permutations()
        smallest = ((multiply[:, None] * values + add[:, None]) >> np.uint64(32)).min(axis=1).astype("<u4")
        rows = smallest.reshape(BANDS, ROWS)
        return b"".join(
            hashlib.blake2b(row.tobytes(), digest_size=_KEY_BYTES, salt=bytes([band])).digest()
            for band, row in enumerate(rows)
        )


@cache
def _permutations() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Fixed multiply-shift hash functions (Dietzfelbinger et al. 1997); fixed, so that signatures stay comparable."""
    generator = np.random.Generator(np.random.PCG64(20240501))
    multiply = generator.integers(0, 2**63, size=BANDS * ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    add = generator.integers(0, 2**63, size=BANDS * ROWS, dtype=np.uint64)
    return multiply, add


class BandIndex(Generic[Key]):
    """Which keys share at least one MinHash band with a signature."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, list[Key]] = defaultdict(list)

    def add(self, key: Key, bands: bytes) -> None:
        for bucket in _split(bands):
            self._buckets[bucket].append(key)

    def candidates(self, bands: bytes) -> set[Key]:
        return {key for bucket in _split(bands) for key in self._buckets.get(bucket, ())}


def _split(bands: bytes) -> Iterable[bytes]:
    for start in range(0, len(bands), _KEY_BYTES):
        yield bytes([start // _KEY_BYTES]) + bands[start : start + _KEY_BYTES]
