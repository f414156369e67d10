"""Text as hashed n-grams, and a logistic regression on them: what the learned judge and the guardrail are made of.

    text --plain--> words --n-grams, hashed--> counts in 2^bits buckets --1 + log, idf, unit length--> w . x + b

Hashing keeps no text: a fitted model holds numbers for buckets, nothing that anyone wrote. `plain` comes first, since
whoever wants past a guardrail writes in full-width letters, stacks accents or hides letters that nobody sees. All of
it is linear in the text's length and vectorised: a page of text takes about a millisecond.
"""

import base64
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from plumbline.records.judging import NgramModel
from plumbline.statistics.paired import Floats

START = "\x02"  # stands before the first word, so that how an answer begins is a feature of its own
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_HIDDEN = frozenset({"Cf", "Cc", "Cs", "Co", "Cn", "Mn", "Me"})
_PRIME, _MIX = np.uint64(0x100000001B3), np.uint64(0xFF51AFD7ED558CCD)
# Letters of other scripts that look like Latin ones (Unicode TR39, the lower-case letters that are seen most).
_LOOK_ALIKES = dict(zip(map(ord, "аеорсухіјѕԁһӏαορνικυτ"), "aeopcyxijsdhlaopvikut", strict=True))
_CYRILLIC_OR_GREEK = re.compile(r"[Ͱ-Ͽ\u0400-ӿԀ-ԯ]")
_LATIN = re.compile(r"[a-z]")


class _Plain(dict[int, str | None]):
    """A translation table that fills itself: hidden characters go, white space becomes a space."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        if character.isspace():
            kept: str | None = " "
        else:
            hidden = unicodedata.category(character) in _HIDDEN or unicodedata.combining(character)
            kept = None if hidden else character
        if len(self) < 65536:
            self[code] = kept
        return kept


_PLAIN = _Plain()


def plain(text: str) -> str:
    """What a reader would see: compatibility forms folded, case folded, accents and invisible characters gone, single
    spaces, and look-alikes of Latin letters read as Latin in words that mix scripts. Any str is safe, also one with
    lone surrogates; linear in its length (marks go before normalising, whose ordering of marks is not linear)."""
    if not text.isascii():
        bare = text.translate(_PLAIN)
        text = unicodedata.normalize("NFKD", bare)
    folded = " ".join(text.casefold().translate(_PLAIN).split())
    if _CYRILLIC_OR_GREEK.search(folded):
        folded = " ".join(_latin(word) for word in folded.split(" "))
    return folded


def _latin(word: str) -> str:
    return word.translate(_LOOK_ALIKES) if _LATIN.search(word) and _CYRILLIC_OR_GREEK.search(word) else word


def ngram_codes(text: str, *, words: tuple[int, int], characters: tuple[int, int], bits: int) -> NDArray[np.intp]:
    """The bucket of every n-gram of a plain text, repeats included. Sizes are (from, to); (0, 0) is none."""
    found: list[NDArray[np.uint64]] = []
    if words[1]:
        each = [START, *_WORD.findall(text)]
        codes = np.array([crc32(word.encode("utf-8")) for word in each], dtype=np.uint64)
        found += _grams(codes, words, salt=1)
    if characters[1] and text:
        points = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        found += _grams(points, characters, salt=2)
    if not found:
        return np.zeros(0, dtype=np.intp)
    mixed = np.concatenate(found)
    mixed ^= mixed >> np.uint64(33)
    mixed *= _MIX
    return (mixed >> np.uint64(64 - bits)).astype(np.intp)


def _grams(codes: NDArray[np.uint64], sizes: tuple[int, int], *, salt: int) -> list[NDArray[np.uint64]]:
    """Polynomial hashes (64 bits, wrapping) of all runs of each size."""
    found = []
    for size in range(max(1, sizes[0]), sizes[1] + 1):
        many = len(codes) - size + 1
        if many < 1:
            break
        rolled = np.full(many, salt * 64 + size, dtype=np.uint64)
        for offset in range(size):
            rolled = (rolled ^ codes[offset : offset + many]) * _PRIME
        found.append(rolled)
    return found


@dataclass(frozen=True)
class Ngrams:
    """A fitted model at work. `log_odds` is a pure function of the text."""

    model: NgramModel

    @cached_property
    def _weights(self) -> Floats:
        return unpacked(self.model.weights, 1 << self.model.bits)

    @cached_property
    def _rarity(self) -> Floats:
        return unpacked(self.model.rarity, 1 << self.model.bits)

    def ready(self) -> "Ngrams":
        """Unpack the numbers now. Raises ValueError where they are not what the model says."""
        _ = self._weights, self._rarity
        return self

    def log_odds(self, text: str) -> float:
        """log p/(1 - p) that the text is of the positive kind. With a `window`, the largest over the text's windows
        (each half a window on): what stands at the end of a long text counts as much as what opens it."""
        return max(self._one(piece) for piece in pieces(plain(text), self.model))

    def _one(self, text: str) -> float:
        buckets, values = features(text, self.model, self._rarity)
        return float(self.model.bias + values @ self._weights[buckets])


def pieces(text: str, model: NgramModel) -> list[str]:
    """The parts of a plain text that are scored: its beginning (`first` characters), or overlapping windows."""
    if model.first:
        return [text[: model.first]]
    if not model.window or len(text) <= model.window:
        return [text]
    step = model.window // 2
    return [text[start : start + model.window] for start in range(0, len(text) - step, step)]


def features(text: str, model: NgramModel, rarity: Floats) -> tuple[NDArray[np.intp], Floats]:
    """(buckets, values) of one piece: 1 + log count, times rarity, scaled to unit length."""
    codes = ngram_codes(text, words=model.words, characters=model.characters, bits=model.bits)
    buckets, counts = np.unique(codes, return_counts=True)
    values = (1 + np.log(counts)) * rarity[buckets]
    length = float(np.sqrt(values @ values))
    return buckets, values / length if length else values


def fit_ngrams(texts: Sequence[str], positive: Sequence[bool], shape: NgramModel, strength: float = 10.0) -> NgramModel:
    """L2-regularised logistic regression: minimise |w|^2 / 2 + `strength` * sum of log losses, each class weighted to
    half of all. `shape` says which n-grams are read; its numbers are not used. Text longer than a window is learnt from
    its first one. The same rows in the same order give the same model.

    Raises ValueError unless both kinds occur.
    """
    from scipy import sparse
    from scipy.optimize import minimize

    truth = np.asarray(positive, dtype=float)
    if len(truth) != len(texts) or not 0 < truth.sum() < len(truth):
        raise ValueError("a model needs texts of both kinds")
    read = [pieces(plain(text), shape)[0] for text in texts]
    coded = [ngram_codes(t, words=shape.words, characters=shape.characters, bits=shape.bits) for t in read]
    seen = np.zeros(1 << shape.bits)
    for codes in coded:
        seen[np.unique(codes)] += 1
    rarity = np.where(seen > 0, np.log((1 + len(texts)) / (1 + seen)) + 1, 0.0).astype(np.float32).astype(float)
    rows = [features(text, shape, rarity) for text in read]
    lengths = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
    used, columns = np.unique(np.concatenate([buckets for buckets, _ in rows]), return_inverse=True)
    values = np.concatenate([values for _, values in rows])
    matrix: Any = sparse.csr_matrix((values, columns, lengths), shape=(len(texts), len(used)))
    balance = np.where(truth > 0, len(truth) / (2 * truth.sum()), len(truth) / (2 * (1 - truth).sum()))
    signs = 2 * truth - 1

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (matrix @ weights + bias)
        slope = -strength * balance * signs / (1 + np.exp(np.minimum(margins, 500.0)))
        value = weights @ weights / 2 + strength * float(balance @ np.logaddexp(0, -margins))
        return float(value), np.append(weights + matrix.T @ slope, slope.sum())

    found = minimize(loss, np.zeros(len(used) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights = np.zeros(1 << shape.bits)
    weights[used] = found.x[:-1]
    return shape.model_copy(
        update={"weights": packed(weights), "rarity": packed(rarity), "bias": round(float(found.x[-1]), 6)}
    )


def packed(values: Floats) -> str:
    """float32, little-endian, base64: exact, and no pickle."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def unpacked(text: str, size: int) -> Floats:
    """The inverse of `packed`. Raises ValueError unless it holds `size` finite numbers."""
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(float)
    if len(values) != size or not np.isfinite(values).all():
        raise ValueError(f"a model's numbers are not {size} finite ones")
    return values
