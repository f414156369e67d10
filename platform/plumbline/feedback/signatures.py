"""Nearly equal texts, found among millions without keeping one of them: signatures of whole batches at numpy speed.

Two texts are near-duplicates when their sets of word 3-shingles have a Jaccard similarity of at least a threshold.
MinHash (Broder 1997) makes that findable: per text and hash function the smallest hash of its shingles, and two texts
agree on one with a probability that is their similarity. `ROWS` of them make one *band*, a 64-bit key; texts that
share any of `BANDS` keys are candidates. At similarity s they are with probability 1 - (1 - s^ROWS)^BANDS: 0.9988 at
0.9, 0.999998 at 0.95, 0.05 at 0.5. Every candidate is then compared exactly, so signatures may miss, never invent.

    texts      "How do I fix a lamp"   "why"         joined, folded, split once for many texts
    words      how do i fix a lamp ##  why ## ##     -> 64-bit keyed hashes, each word hashed once
    shingles   [how do i] [do i fix] [i fix a] ...   three multiplications over all texts at once
    minima     one row per hash function: x * odd modulo 2^32, smallest per text (minimum.reduceat)
    bands      ROWS minima and the band's number, mixed to 64 bits; 0 is never a key

All hashes descend from keyed word hashes (BLAKE2b under the store's pepper): a signature is personal data derived from
a text, and without the pepper nobody can test a guess against it. It is erased with its example. The same pepper gives
the same signature in every process and on every platform; changing anything here makes stored signatures useless.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

BANDS: Final = 12
ROWS: Final = 8
SHINGLE: Final = 3
NEIGHBOURS: Final = 8  # how many others in a crowded band a text is compared with

_TABLE: Final = 18  # bits of a place in the table of short words: 6 MB
_SHORT: Final = 15  # bytes of a word that fits into the table
_SLOTS: Final = np.uint64((1 << _TABLE) - 1)
_KEPT: Final = np.array([(1 << 8 * count) - 1 for count in range(9)], np.uint64)
_SPACES: Final = bytes(byte < 128 and chr(byte).isspace() for byte in range(256))
_AT_ONCE: Final = 1024  # texts whose shingles fit a core's cache together
_MOST_WORDS: Final = 1 << 18  # word hashes remembered between batches, about 30 MB
_DRAWN: Final = hashlib.shake_256(b"plumbline signatures 1").digest(8 * (BANDS * ROWS + 6))  # fixed for good
_ODD: Final = np.frombuffer(_DRAWN, "<u8").astype(np.uint64) | np.uint64(1)
_PERMUTE: Final = (_ODD[6:] >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
_FIRST, _SECOND, _THIRD, _PLACE, _FOLD, _BAND = _ODD[:6]


def normalise(text: str) -> str:
    """Compatibility form, case folded, white space collapsed: what a reader would call the same text."""
    return " ".join(_folded(text).split())


def shingles(text: str) -> frozenset[str]:
    """Word 3-grams of the normalised text; a shorter text is one shingle."""
    words = _folded(text).split()
    if len(words) <= SHINGLE:
        return frozenset([" ".join(words)])
    return frozenset(map(" ".join, zip(words, words[1:], words[2:], strict=False)))


@dataclass(frozen=True)
class Signatures:
    """What is known of `n` texts after signing; row numbers are the texts' positions.

    `bands` (n, BANDS): keys to find candidates by, the band's number mixed in, so that all may lie in one index.
    `texts` (n,): equal exactly when the normalised texts are. `shingles` (total,) with `starts` (n + 1,): 64-bit
    shingle hashes of text i at `shingles[starts[i]:starts[i + 1]]`, with repetitions; they are for comparing now and
    are never stored.
    """

    bands: Keys
    texts: Keys
    shingles: Keys
    starts: Places

    def __len__(self) -> int:
        return len(self.texts)

    def set_of(self, number: int) -> frozenset[int]:
        return frozenset(self.shingles[self.starts[number] : self.starts[number + 1]].tolist())


class Signer:
    """Makes signatures under one pepper; equal texts have equal keys within a store and nowhere else.

    It remembers word hashes between batches (up to a bound), so one signer should serve a whole run.
    """

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper[:64]
        self._words = _WordHashes(self._pepper)

    def sign_many(self, texts: Sequence[str]) -> Signatures:
        """Signatures of whole dialogues (prompt and target), in the order of `texts`."""
        parts = [self._sign(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)]
        if not parts:
            empty = np.empty(0, np.uint64)
            return Signatures(np.empty((0, BANDS), np.uint64), empty, empty, np.zeros(1, np.int64))
        bands, whole, found, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Signatures(bands, whole, found, np.concatenate(([0], np.cumsum(counts))))

    def keys(self, kind: str, texts: Sequence[str]) -> Keys:
        """One 64-bit key per normalised text: a keyed hash in which `kind` (at most 16 bytes) sets a domain apart."""
        base = hashlib.blake2b(digest_size=8, key=self._pepper, person=kind.encode())
        found = np.frombuffer(b"".join(map(_digest, repeat(base), map(normalise, texts))), "<u8").astype(np.uint64)
        return np.maximum(found, np.uint64(1))

    def _sign(self, texts: Sequence[str]) -> tuple[Keys, Keys, Keys, Places]:
        if len(self._words) > _MOST_WORDS:
            self._words = _WordHashes(self._pepper)
        hashes, starts, ends = self._words.of_texts([_parted(text) for text in texts])
        whole = _whole(hashes, starts, ends)

        padded = np.where(hashes == 0, _BAND, hashes)  # a gap fills a text of fewer than three words
        found = _mixed(padded[:-2] * _FIRST + padded[1:-1] * _SECOND + padded[2:] * _THIRD)
        counts = np.maximum(ends - starts - (SHINGLE - 1), 1)
        inside = np.zeros(len(found) + 1, np.int8)
        np.add.at(inside, starts, 1)
        np.subtract.at(inside, starts + counts, 1)
        found = found[np.cumsum(inside[:-1], dtype=np.int8).view(bool)]
        return _bands(found, np.cumsum(counts) - counts), whole, found, counts


def similarity(mine: Signatures, i: Places, theirs: Signatures, j: Places) -> npt.NDArray[np.float64]:
    """Jaccard similarity of text `i[k]` of `mine` and text `j[k]` of `theirs`, for every k; both of one pepper.

    Exact on 64-bit shingle hashes: two shingles of a pair are mistaken for each other once in 2^64.
    """
    found = np.ones(len(i))
    unequal = np.flatnonzero(mine.texts[i] != theirs.texts[j])
    ours = {number: mine.set_of(number) for number in np.unique(i[unequal]).tolist()}
    others = {number: theirs.set_of(number) for number in np.unique(j[unequal]).tolist()}
    for place, a, b in zip(unequal.tolist(), i[unequal].tolist(), j[unequal].tolist(), strict=True):
        shared = len(ours[a] & others[b])
        found[place] = shared / (len(ours[a]) + len(others[b]) - shared)
    return found


def near_pairs(bands: Keys) -> tuple[Places, Places]:
    """Candidate pairs (i, j), i < j, inside a batch: rows that share a band key; ordered by j, then i, none twice.

    Linear in a flood. Rows alike in *every* band are chained, each to the one before it, and only the first of them
    meets others. That is enough: all BANDS * ROWS minima agree, which texts at 0.9 do once in 25,000 and equal texts
    always; each link of the chain is still compared, and equal texts have equal neighbours. In a band that many
    different texts share, a row meets the `NEIGHBOURS` rows before it: what tells two texts from a crowd is in the
    minima of other bands, where the two meet with few others.
    """
    order = np.lexsort(bands.T[::-1])
    equal = np.all(bands[order[1:]] == bands[order[:-1]], axis=1)
    pairs = [np.stack((order[:-1][equal], order[1:][equal]))]
    alone = np.sort(order[np.concatenate(([True], ~equal))]) if len(bands) else order
    for band in range(bands.shape[1]):
        keys = bands[alone, band]
        sorting = np.argsort(keys, kind="stable")
        keys = keys[sorting]
        shared = np.zeros(len(keys) + 1, bool)
        shared[1:-1] = keys[1:] == keys[:-1]
        crowd = shared[1:] | shared[:-1]  # most rows share no key with any other
        rows, keys = alone[sorting[crowd]], keys[crowd]
        for back in range(1, NEIGHBOURS + 1):
            same = keys[back:] == keys[:-back]
            if not same.any():
                break
            pairs.append(np.stack((rows[:-back][same], rows[back:][same])))
    both = np.concatenate(pairs, axis=1)
    low, high = both.min(axis=0), both.max(axis=0)
    codes = np.unique(high * max(len(bands), 1) + low)
    return codes % max(len(bands), 1), codes // max(len(bands), 1)


class _WordHashes:
    """Keyed 64-bit hashes of words, each made once.

    Most words are short and were seen before: a thousand texts' words are looked up together, as two machine words
    each (bytes, then length), in a table with two places for each. What is not there goes through a dictionary.
    """

    def __init__(self, pepper: bytes) -> None:
        self._base = hashlib.blake2b(digest_size=8, key=pepper, person=b"word")
        self._made: dict[bytes, int] = {}
        self._low, self._high, self._value = np.zeros((3, 1 << _TABLE), np.uint64)

    def __len__(self) -> int:
        return len(self._made)

    def of_texts(self, texts: Sequence[bytes]) -> tuple[Keys, Places, Places]:
        """Hashes of all words in order, a gap of zeros after each text, and where each text's hashes start and end."""
        data = b"\n".join([b"", *texts, b" " * _SHORT])
        space = np.frombuffer(data.translate(_SPACES), bool)
        edges = np.flatnonzero(space[1:] != space[:-1]) + 1
        starts, ends = edges[0::2], edges[1::2]
        found = self._of_words(data, starts, ends)
        last = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) + 1
        upto = np.searchsorted(starts, last)
        gaps = SHINGLE * np.arange(len(texts))
        hashes = np.zeros(len(starts) + SHINGLE * len(texts), np.uint64)
        hashes[np.arange(len(starts)) + SHINGLE * np.searchsorted(last, starts, side="right")] = found
        return hashes, np.concatenate(([0], upto[:-1])) + gaps, upto + gaps

    def _of_words(self, data: bytes, starts: Places, ends: Places) -> Keys:
        eight = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
        length = ends - starts
        low = eight[starts] & _KEPT[np.minimum(length, 8)]
        high = eight[starts + 8 * (length > 8)] & _KEPT[np.clip(length - 8, 0, 8)]
        high |= np.minimum(length, 255).astype(np.uint64) << np.uint64(56)
        mixed = _mixed(low ^ high * _PLACE)
        slots = (mixed & _SLOTS).view(np.int64), (mixed >> np.uint64(32) & _SLOTS).view(np.int64)
        found = np.zeros(len(starts), np.uint64)
        left = np.flatnonzero(length <= _SHORT)
        for slot in slots:
            here = slot[left]
            hit = (self._low[here] == low[left]) & (self._high[here] == high[left])
            found[left[hit]] = self._value[here[hit]]
            left = left[~hit]
        left = np.flatnonzero(found == 0)
        words = [data[start:end] for start, end in zip(starts[left].tolist(), ends[left].tolist(), strict=True)]
        found[left] = [self._made.get(word) or self._make(word) for word in words]
        left = left[length[left] <= _SHORT]
        for slot in slots:  # of several words for one place the last has it; the others look further
            free = left[self._value[slot[left]] == 0]
            for column, values in ((self._low, low), (self._high, high), (self._value, found)):
                column[slot[free]] = values[free]
            left = left[self._low[slot[left]] != low[left]]
        return found

    def _make(self, word: bytes) -> int:
        made = self._base.copy()
        made.update(word)
        value = self._made[word] = int.from_bytes(made.digest(), "little") or 1
        return value


def _digest(base: "hashlib.blake2b", text: str) -> bytes:
    made = base.copy()
    made.update(text.encode("utf-8", "surrogatepass"))
    return made.digest()


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def _parted(text: str) -> bytes:
    """The folded text, its words parted by white space of ASCII."""
    if text.isascii():
        return text.lower().encode("ascii")
    return " ".join(_folded(text).split()).encode("utf-8", "surrogatepass")


def _mixed(values: Keys) -> Keys:
    """Every bit of the result depends on every bit of the value (a bijection: multiply and shift, twice; in place)."""
    for shift in (32, 29):
        values ^= values >> np.uint64(shift)
        values *= _FOLD
    values ^= values >> np.uint64(32)
    return values


def _whole(hashes: Keys, starts: Places, ends: Places) -> Keys:
    """A key per text: its word hashes, each mixed with its place, summed."""
    places = np.arange(len(hashes), dtype=np.uint64) - np.repeat(starts, ends - starts + SHINGLE).astype(np.uint64)
    mixed = _mixed(hashes + (places + np.uint64(1)) * _PLACE)
    mixed[hashes == 0] = 0
    return np.maximum(_mixed(np.add.reduceat(mixed, starts)), np.uint64(1))


def _bands(found: Keys, starts: Places) -> Keys:
    """Band keys of the texts whose shingles begin at `starts`."""
    values = (found >> np.uint64(32)).astype(np.uint32)
    permuted = np.empty_like(values)
    smallest = np.empty((BANDS, ROWS, len(starts)), np.uint32)
    for multiplier, least in zip(_PERMUTE, smallest.reshape(BANDS * ROWS, -1), strict=True):
        np.multiply(values, multiplier, out=permuted)
        np.minimum.reduceat(permuted, starts, out=least)
    keys = np.broadcast_to((np.arange(1, BANDS + 1, dtype=np.uint64) * _BAND)[:, None], (BANDS, len(starts))).copy()
    for row in range(ROWS):
        keys ^= smallest[:, row].astype(np.uint64)
        keys = _mixed(keys)
    return np.ascontiguousarray(np.maximum(keys, np.uint64(1)).T)
