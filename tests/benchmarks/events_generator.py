"""Synthetic feedback for benchmarks: CloudEvents with what real traffic has and a benchmark likes to leave out.

A *stream* is a population and a mix of kinds; a *batch* is one file of its events, one structured CloudEvent a line.
The same stream, number and size give the same bytes, so a batch is written once and found again.

    people        power law: the k-th most active of them sends in proportion to 1 / (k + 20) ** 1.1
    redelivery    5 % of lines are an earlier line of the batch again, byte for byte
    malformed     1 %: cut off in the middle, without a person, of no known type, a rewrite without its text
    withdrawn     2 % of the people have withdrawn by the time of ingestion
    near-copies   3 % of rewrites are an earlier rewrite of the same person with one word changed
    personal data 6 % of rewrites and comments carry one find of one class, so that finds can be counted

Texts: prompts of about 20 words, answers and rewrites of about 60 (lognormal), comments of about 15, drawn by Zipf's
law from an invented vocabulary with punctuation, capitals and numerals: redaction must look at digits in most texts,
as it must in real ones.

What must come out is known (`Truth`): which events may be kept, which of them are near-copies of one another (one of
them is kept, which one is the ingester's choice), and what there is to redact.
"""

import functools
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plumbline.records import TYPE_PREFIX

SOURCE = "benchmark"
REDELIVERED, MALFORMED, WITHDRAWN, NEAR, PERSONAL = 0.05, 0.01, 0.02, 0.03, 0.06
MIXES = {
    "feedback": {"rating": 0.45, "rewrite": 0.30, "comparison": 0.10, "comment": 0.10, "report": 0.05},
    "rewrites": {"rewrite": 1.0},
}
_CHUNK = 10_000  # lines whose words are drawn together
_FUNCTION_WORDS = ("the", "of", "and", "to", "a", "in", "is", "it", "you", "that", "for", "was", "on", "are", "with",
                   "as", "i", "be", "at", "this", "have", "from", "or", "not", "but")  # fmt: skip
_NUMERALS = ["1", "2", "3", "4", "5", "7", "10", "12", "15", "20", "24", "30", "50", "90", "2019", "2024", "3.5", "80%"]


@dataclass(frozen=True)
class Stream:
    """A population and its habits. `people` may be many: each is a name and a place in the power law."""

    mix: str = "feedback"
    people: int = 5_000
    seed: int = 11

    def name(self, person: int) -> str:
        return f"person-{person}@{self.seed}"

    @functools.cached_property
    def withdrawn(self) -> frozenset[int]:
        draw = np.random.default_rng([self.seed, 1])
        return frozenset(draw.choice(self.people, int(self.people * WITHDRAWN), replace=False).tolist())

    @functools.cached_property
    def activity(self) -> npt.NDArray[np.float64]:
        """Cumulative share of events by person."""
        weights = 1.0 / (np.arange(self.people) + 20.0) ** 1.1
        return np.cumsum(weights / weights.sum())


@dataclass(frozen=True)
class Truth:
    """What a batch holds. `kept`: event id of every rewrite that may become an example, and the id that it is a
    near-copy of (its own when of none). `personal`: finds by class. `planted`: by event id, a text that redaction
    must not leave."""

    lines: int
    malformed: int
    redelivered: int
    kept: dict[str, str]
    personal: dict[str, int]
    planted: dict[str, str]

    @property
    def originals(self) -> frozenset[str]:
        return frozenset(self.kept.values())


@dataclass(frozen=True)
class Batch:
    path: Path
    truth: Truth


def batch(stream: Stream, number: int, lines: int, folder: Path | None = None) -> Batch:
    """The `number`-th batch of a stream, written on first use."""
    folder = folder or Path(tempfile.gettempdir()) / "plumbline-benchmark-events"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stream.mix}-{stream.people}-{stream.seed}-{number}-{lines}.jsonl"
    known = path.with_suffix(".truth.json")
    if not (path.exists() and known.exists()):
        truth = _write(stream, number, lines, path)
        known.write_text(json.dumps(asdict(truth)))
    return Batch(path, Truth(**json.loads(known.read_text())))


def _write(stream: Stream, number: int, lines: int, path: Path) -> Truth:
    writer = _Writer(stream, number)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        for start in range(0, lines, _CHUNK):
            for line in writer.chunk(start, min(_CHUNK, lines - start)):
                file.write(line)
                file.write("\n")
    part.replace(path)
    return Truth(lines, writer.malformed, writer.redelivered, writer.kept, writer.personal, writer.planted)


class _Writer:
    """Writes one batch and keeps the account of it."""

    def __init__(self, stream: Stream, number: int) -> None:
        self.stream, self.number = stream, number
        self.draw = np.random.default_rng([stream.seed, 2, number])
        self.chance = random.Random(f"{stream.seed}/{number}")
        self.kinds = list(MIXES[stream.mix])
        self.shares = list(MIXES[stream.mix].values())
        self.malformed = self.redelivered = 0
        self.kept: dict[str, str] = {}
        self.personal: dict[str, int] = {}
        self.planted: dict[str, str] = {}

    def chunk(self, start: int, count: int) -> Iterator[str]:
        draw, chance = self.draw, self.chance
        kinds = draw.choice(len(self.kinds), count, p=self.shares)
        people = np.searchsorted(self.stream.activity, draw.random(count)).tolist()
        fates = draw.random(count).tolist()
        extras = np.array([{"rating": 0, "comment": 15, "report": 15}.get(kind, 60) for kind in self.kinds])[kinds]
        texts = _Texts(draw, extras)
        sent: list[str] = []
        rewrites: list[tuple[str, int, str, str]] = []
        for place in range(count):
            fate, person, kind = fates[place], people[place], self.kinds[kinds[place]]
            if fate < REDELIVERED and sent:
                self.redelivered += 1
                yield chance.choice(sent)
                continue
            id = f"{self.number}-{start + place}"
            prompt, answer, extra = texts.prompt(place), texts.answer(place), texts.extra(place)
            if kind == "rewrite" and rewrites and chance.random() < NEAR:
                original, person, prompt, text = chance.choice(rewrites)
                line = self.event(id, person, kind, prompt, answer, _one_word_changed(text, chance))
                self.keep(id, original, person)
            elif REDELIVERED <= fate < REDELIVERED + MALFORMED:
                self.malformed += 1
                yield _malformed(self.event(id, person, "rewrite", prompt, answer, extra), chance)
                continue
            else:
                if kind in ("rewrite", "comment") and chance.random() < PERSONAL:
                    extra = self.plant(id, person, extra)
                line = self.event(id, person, kind, prompt, answer, extra)
                if kind == "rewrite":
                    self.keep(id, id, person)
                    if prompt.count(" ") + extra.count(" ") > 40:
                        rewrites.append((id, person, prompt, extra))
            sent.append(line)
            yield line

    def event(self, id: str, person: int, kind: str, prompt: str, answer: str, text: str) -> str:
        """One line. Nothing that goes in needs escaping but what `plant` escaped."""
        more = {
            "rating": f'"score":{1.0 if len(prompt) % 3 else -1.0}',
            "rewrite": f'"text":"{text}"',
            "comparison": f'"text":"{text}","rejected":"{answer}","preferred":"aligned"',
            "report": f'"text":"{text}"',
            "comment": f'"text":"{text}"',
        }[kind]
        return (
            f'{{"specversion":"1.0","id":"{id}","source":"{SOURCE}","type":"{TYPE_PREFIX}{kind}",'
            f'"subject":"{self.stream.name(person)}","time":"2026-01-01T00:00:00Z","datacontenttype":"application/json",'
            f'"data":{{"messages":[{{"role":"user","content":"{prompt}"}}],"answer":"{answer}","slice":"benign",'
            f'"conversation":"{person}-{len(prompt) % 50}","policy":"reference-1",{more}}}}}'
        )

    def keep(self, id: str, original: str, person: int) -> None:
        if person not in self.stream.withdrawn:
            self.kept[id] = original

    def plant(self, id: str, person: int, text: str) -> str:
        name = self.chance.choice(list(PERSONAL_DATA))
        find = PERSONAL_DATA[name](self.chance)
        if person not in self.stream.withdrawn:
            self.personal[name] = self.personal.get(name, 0) + 1
            self.planted[id] = find.split("\\n")[1 if "\\n" in find else 0]
        cut = text.find(" ", len(text) // 2)
        return f"{text[:cut]} use {find} please{text[cut:]}"


class _Texts:
    """Words of a chunk, drawn together: a prompt, an answer and a third text of `extras` words (mean) a place."""

    def __init__(self, draw: np.random.Generator, extras: npt.NDArray[np.int64]) -> None:
        lengths = np.stack([_lengths(draw, np.full(len(extras), 20)), _lengths(draw, np.full(len(extras), 60)),
                            _lengths(draw, extras)], axis=1)  # fmt: skip
        self._ends = np.cumsum(lengths.ravel()).tolist()
        words, shares = _vocabulary()
        drawn = np.searchsorted(shares, draw.random(self._ends[-1]))
        drawn += len(shares) * draw.choice(4, len(drawn), p=(0.85, 0.08, 0.05, 0.02))
        self._words = list(map(words.__getitem__, np.minimum(drawn, len(words) - 1).tolist()))

    def prompt(self, place: int) -> str:
        return self._text(3 * place)

    def answer(self, place: int) -> str:
        return self._text(3 * place + 1)

    def extra(self, place: int) -> str:
        return self._text(3 * place + 2)

    def _text(self, number: int) -> str:
        return " ".join(self._words[self._ends[number - 1] if number else 0 : self._ends[number]])


def _lengths(draw: np.random.Generator, means: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Lognormal lengths of the given means, 8 to 600 words; none where the mean is 0."""
    spread = 0.6
    lengths = np.clip(means * draw.lognormal(-(spread**2) / 2, spread, len(means)), 8, 600)
    return np.where(means > 0, lengths, 0).astype(np.int64)


@functools.cache
def _vocabulary(size: int = 20_000) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Words in four forms (plain, with comma, ending a sentence, capital) and the cumulative shares of the plain.
    Short words are the frequent ones, as in any language."""
    chance = random.Random("vocabulary")
    syllables = [a + b + c for a in "bcdfglmnprstvw" for b in "aeiou" for c in ("", "n", "r", "s", "l", "t")]
    words = dict.fromkeys(_FUNCTION_WORDS)
    while len(words) < size - len(_NUMERALS):
        words["".join(chance.choices(syllables, k=chance.choice((1, 2, 2, 2, 3, 3, 4))))] = None
    plain = [*_FUNCTION_WORDS, *sorted(list(words)[len(_FUNCTION_WORDS) :], key=len)]
    for number, numeral in enumerate(_NUMERALS):  # together about 1.5 % of all words
        plain.insert(60 + 12 * number, numeral)
    plain = ["dart" if word == "dot" else word for word in plain]  # "bil at wor dot nan" would read as an address
    weights = 1.0 / (np.arange(size) + 2.7)
    forms = [*plain, *(w + "," for w in plain), *(w + "." for w in plain), *(w.capitalize() for w in plain)]
    return forms, np.cumsum(weights / weights.sum())


def _one_word_changed(text: str, chance: random.Random) -> str:
    """The last word is another: what a person changes who sends an answer a second time. One shingle
    goes and one comes: of the 40 words that an original has at least, that leaves a similarity of 0.95."""
    return text[: text.rfind(" ")] + " " + chance.choice(("indeed", "anyway", "perhaps", "thanks"))


def _malformed(line: str, chance: random.Random) -> str:
    return chance.choice(
        (
            line[: len(line) // 2],
            line.replace('"subject":', '"nobody":', 1),
            line.replace(TYPE_PREFIX, "com.example.", 1),
            line[: line.rfind(',"text":')] + "}}",
        )
    )


# --- personal data, one maker a class ---------------------------------------------------------------------------------


def _digits(chance: random.Random, count: int) -> str:
    return "".join(chance.choices("0123456789", k=count))


def _card(chance: random.Random) -> str:
    body = "4" + _digits(chance, 14)
    doubled = [int(d) * 2 - 9 * (int(d) > 4) if place % 2 == 0 else int(d) for place, d in enumerate(body)]
    number = body + str(-sum(doubled) % 10)
    return " ".join(number[place : place + 4] for place in range(0, 16, 4))


def _iban(chance: random.Random) -> str:
    account = _digits(chance, 18)
    check = 98 - int(account + "131400") % 97  # DE00
    return f"DE{check:02d}{account}"


def _token(chance: random.Random, count: int) -> str:
    return "".join(chance.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=count))


PERSONAL_DATA: dict[str, Callable[[random.Random], Any]] = {
    "email": lambda chance: f"{chance.choice(('ana', 'b.okoro', 'li_wei'))}{_digits(chance, 4)}@mail.example.org",
    "phone": lambda chance: f"+44 20 7{_digits(chance, 3)} {_digits(chance, 4)}",
    "card": _card,
    "iban": _iban,
    "ip": lambda chance: f"10.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}.{chance.randrange(1, 255)}",
    "secret": lambda chance: "AKIA" + _token(chance, 16),
    "private_key": lambda chance: f"-----BEGIN PRIVATE KEY-----\\n{_token(chance, 64)}\\n-----END PRIVATE KEY-----",
}
