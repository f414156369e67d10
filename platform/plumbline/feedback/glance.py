"""A first look at many texts at once: which of them could hold what a slower look is for?

Most texts hold none of it. So a thousand of them are joined and looked through together, in machine words:

    texts     "call me at 5"  "no"  "why?"      ASCII only; any other text gets the slower look
    joined    call me at 5\\nno\\nwhy?           offset % 4 = 0, 1, 2, 3: four views as 32-bit words
    mark      digits of every text, or the texts in which four given letters stand side by side

A mark may be in a text without what it hints at; what it hints at is never in a text without the mark.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

AT_ONCE = 1024  # texts that are looked at together: what they fill stays in a core's cache
_THREE = np.uint32(0xFFFFFF)
Marks = npt.NDArray[np.bool_]


class Glance:
    """`n` texts, all ASCII. A line break is added to each: one is counted in a text that has none."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.data = "\n".join([*texts, ""]).encode("ascii")
        self._ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1)

    def __len__(self) -> int:
        return len(self._ends)

    def counts(self, *kinds: bytes) -> list[npt.NDArray[np.int64]]:
        """How many characters of each kind every text has."""
        table = bytes(sum(1 << bit for bit, of in enumerate(kinds) if of[byte]) for byte in range(256))
        seen = np.frombuffer(self.data.translate(table), np.uint8)
        places = np.flatnonzero(seen != 0)
        texts, seen = self._texts(places), seen[places]
        return [np.bincount(texts[(seen & (1 << bit)) != 0], minlength=len(self)) for bit in range(len(kinds))]

    def having(self, *four: bytes) -> Marks:
        """Texts in which one of these stands (three or four characters each), in whatever case; given in lower case."""
        return self._having(self._low, four)

    def having_exactly(self, *four: bytes) -> Marks:
        """Texts in which one of these stands, in just this case."""
        return self._having(self._words(self.data), four)

    def runs(self, of: bytes, least: int) -> Marks:
        """Texts with at least `least` characters of a kind side by side. A line break must not be of that kind."""
        breaks = np.flatnonzero(~self._kinds(of))
        before = np.concatenate(([-1], breaks))
        return self._marked(before[np.flatnonzero(np.diff(np.append(before, len(self.data))) > least)] + 1)

    @cached_property
    def _low(self) -> list[npt.NDArray[np.uint32]]:
        return self._words(self.data.lower())

    @staticmethod
    def _words(data: bytes) -> list[npt.NDArray[np.uint32]]:
        data += bytes(4)
        return [np.frombuffer(data, "<u4", (len(data) - offset) // 4, offset) for offset in range(4)]

    def _having(self, words: Sequence[npt.NDArray[np.uint32]], four: Sequence[bytes]) -> Marks:
        places = []
        for offset, view in enumerate(words):
            hit = np.zeros(len(view), bool)
            for one in four:
                seen = view if len(one) == 4 else view & _THREE
                hit |= seen == np.uint32(int.from_bytes(one, "little"))
            places.append(np.flatnonzero(hit) * 4 + offset)
        return self._marked(np.concatenate(places))

    def _kinds(self, of: bytes) -> Marks:
        found: Marks = np.frombuffer(self.data.translate(of), np.uint8) != 0
        return found

    def _marked(self, places: npt.NDArray[np.int64]) -> Marks:
        marks = np.zeros(len(self), bool)
        marks[self._texts(places)] = True
        return marks

    def _texts(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.searchsorted(self._ends, places, side="right")


def kind(characters: str) -> bytes:
    """What `counts` and `runs` take: the characters that count."""
    return bytes(chr(byte) in characters for byte in range(256))


def glances(texts: Sequence[str]) -> Iterator[tuple[Glance, list[int]]]:
    """The ASCII texts, some at a time, with their places among all."""
    plain = [place for place, text in enumerate(texts) if text.isascii()]
    for start in range(0, len(plain), AT_ONCE):
        places = plain[start : start + AT_ONCE]
        yield Glance([texts[place] for place in places]), places
