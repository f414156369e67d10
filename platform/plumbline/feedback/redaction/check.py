"""How much redaction finds: a labelled set made from published formats, and recall and precision per class on it.

The set is drawn anew from seeds; no line of it is about a person. Formats come from their publishers, not from the
rules under test: addresses from RFC 5321, 5322 and 6531, IP from RFC 4291 and 5952, phones from E.164 and the
national plans' written forms, IBAN structures from the registry of ISO 13616, card ranges from ISO 7812, tokens from
their vendors' pages. Each value stands in a carrier sentence, in one of fourteen languages, some in disguise.

Formats, carriers and negatives are dealt to two halves by turns. The rules were written against `tuned`; `held_out`
holds other countries, other vendors and other sentences, and was looked at once. Its figures go into a card.

What the figures do not say: the same hands wrote rules and set, real people write in more ways, and the share of
hard negatives (precision depends on it) is ours. Names, postal addresses and dates of birth are not looked for.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import sqrt
from pathlib import Path
from typing import Literal

from plumbline.feedback.redaction import carriers as speech
from plumbline.feedback.redaction import samples
from plumbline.feedback.redaction.redact import CLASSES, find

Half = Literal["tuned", "held_out"]
PER_CLASS = 400
NEGATIVES = 1200


@dataclass(frozen=True)
class Labelled:
    """One text; `planted` is (start, end, class) of the value in it, None in a negative."""

    text: str
    planted: tuple[int, int, str] | None
    format: str


@dataclass(frozen=True)
class Measured:
    """One class: `found` of `planted` values covered whole by a find of the class, `right` of `flagged` finds right."""

    planted: int
    found: int
    flagged: int
    right: int

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def precision(self) -> float:
        return self.right / self.flagged if self.flagged else 1.0

    @property
    def recall_interval(self) -> tuple[float, float]:
        return wilson(self.found, self.planted)

    @property
    def precision_interval(self) -> tuple[float, float]:
        return wilson(self.right, self.flagged)

    def figures(self) -> dict[str, float | list[float]]:
        """Everything as JSON, rounded to four digits."""
        return {
            "planted": self.planted, "found": self.found, "recall": round(self.recall, 4),
            "recall_interval": [round(bound, 4) for bound in self.recall_interval],
            "flagged": self.flagged, "right": self.right, "precision": round(self.precision, 4),
            "precision_interval": [round(bound, 4) for bound in self.precision_interval],
        }  # fmt: skip


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson 95 % score interval of a rate. (The one in `evaluation` lies on the same floor, out of reach.)"""
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054
    rate = successes / n
    centre, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if successes == 0 else low, 1.0 if successes == n else high)


def labelled(
    half: Half, *, per_class: int = PER_CLASS, negatives: int = NEGATIVES, seed: int = 1
) -> Iterator[Labelled]:
    """The labelled set of one half: `per_class` planted values of each class, then hard negatives."""
    turn = 0 if half == "tuned" else 1
    for name in CLASSES:
        dice = random.Random(f"plumbline-redaction-{half}-{name}-{seed}")
        formats = samples.FORMATS[name][turn::2]
        for number in range(per_class):
            kind, make = formats[number % len(formats)]
            value = make(dice)
            carriers = (speech.SAID[name] if "said" in kind else speech.CARRIERS[name])[turn::2]
            before, _, after = dice.choice(carriers).partition("{}")
            if dice.random() < speech.DISGUISED and name in speech.DISGUISES:
                disguise, change = dice.choice(speech.DISGUISES[name])
                kind, value = f"{kind}, {disguise}", change(dice, value)
            yield Labelled(f"{before}{value}{after}", (len(before), len(before) + len(value), name), kind)
    dice = random.Random(f"plumbline-redaction-{half}-negatives-{seed}")
    plain = speech.NEGATIVES[turn::2]
    for number in range(negatives):
        kind, make = plain[number % len(plain)]
        yield Labelled(make(dice), None, kind)


def measure(half: Half, **sizes: int) -> dict[str, Measured]:
    """Recall and precision per class. A value counts as found only when nothing of it is left."""
    counts = {name: [0, 0, 0, 0] for name in CLASSES}
    for item in labelled(half, **sizes):
        finds = find(item.text)
        start, end, planted = item.planted or (0, 0, "")
        if planted:
            counts[planted][0] += 1
            counts[planted][1] += any(name == planted and low <= start and end <= high for low, high, name in finds)
        for low, high, name in finds:
            counts[name][2] += 1
            counts[name][3] += name == planted and low < end and start < high
    return {name: Measured(*found) for name, found in counts.items()}


def missed(half: Half, **sizes: int) -> list[tuple[Labelled, list[tuple[int, int, str]]]]:
    """What went wrong in a half, with the finds: for whoever works on the rules. Read `tuned` only."""
    wrong = []
    for item in labelled(half, **sizes):
        finds = find(item.text)
        start, end, planted = item.planted or (0, 0, "")
        good = [name == planted and low <= start and end <= high for low, high, name in finds]
        if not all(good) or bool(good) != bool(planted):
            wrong.append((item, finds))
    return wrong


def rules_digest() -> str:
    """SHA-256 over the sources of the rules and of the labelled set: what a figure belongs to."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return "sha256:" + digest.hexdigest()


def recall_summary() -> dict[str, dict[str, float]]:
    """Per class {recall, low, high, n} on the held-out half, for a dataset version's card."""
    return {name: dict(figures) for name, figures in _summary(rules_digest()).items()}


@cache
def _summary(digest: str) -> dict[str, dict[str, float]]:
    summary = {}
    for name, found in measure("held_out").items():
        low, high = found.recall_interval
        summary[name] = {
            "recall": round(found.recall, 4), "low": round(low, 4), "high": round(high, 4), "n": found.planted,
        }  # fmt: skip
    return summary
