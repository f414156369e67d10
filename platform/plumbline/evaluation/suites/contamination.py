"""Held-out items that the training data already holds: found, reported by id, and left out of every estimate.

Four signs, the gravest first; an item is reported once.

    canary   a canary of the suite stands in some training text: training has swallowed the file, so every item counts
    exact    the item's whole conversation (folded) is the prompt of some training turn
    near     what was asked is nearly what a training prompt asks: their sets of word 3-grams, with the text's two ends
             marked, have a Jaccard similarity of NEAR or more
    ngram    at least OVERLAP of the item's 13-grams occur somewhere in training; a text under 13 words has none

Compared is what was said to the policy, system messages apart: whole suites share those. One that no other item of the
suite has holds the item's own matter (its notes, its document), and must be near as well: the same question about
other notes is another question. In the same spirit a gram that items of more than COMMON clusters share is the suite's
template and nobody's own; it is left out on both sides. With ends marked, one word that differs makes two short prompts
different ("capital of France", "of Spain") and leaves two long ones near, as people would say.

Near prompts are found without comparing all with all: if J(A, B) >= t then B holds at least t of A's grams, so any
(1 - t)|A| + 1 of them contain one that B holds too. Of each item the rarest that many are indexed, every gram of
training is looked up once, and candidates are compared exactly. Linear in the text of both sides.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from plumbline.evaluation.scorers import normalise
from plumbline.evaluation.scoring.texts import words
from plumbline.records import Conversation, Example, SuiteItem
from plumbline.records.suite import Overlap, Sign

N = 13
OVERLAP = 0.5
SHINGLE = 3
NEAR = 0.7
COMMON = 10
_EDGE = "\0"
Grams = frozenset[int]


def contaminated_items(
    items: Sequence[SuiteItem], training: Iterable[Example], canaries: Sequence[str] = ()
) -> list[str]:
    """Ids of the contaminated items, in suite order."""
    return [overlap.item for overlap in overlaps(items, training, canaries=canaries)]


def overlaps(
    items: Sequence[SuiteItem],
    training: Iterable[Example],
    *,
    addresses: Sequence[str] = (),
    canaries: Sequence[str] = (),
) -> list[Overlap]:
    """The contaminated items in suite order, each with its gravest sign, its share, and an example that shows it.

    `addresses[i]` is the address of training example i, if known; `canaries` are those of the suite's terms.
    """
    index = _Index(items, [canary.casefold() for canary in canaries])
    for place, example in enumerate(training):
        index.see(place, example)
    return list(index.found(addresses))


@dataclass
class _Asked:
    """An item as it is looked for. `notes` are the grams of its own system message, None where that is no matter of
    its own. `exact` and `near` remember the best sight of it."""

    item: SuiteItem
    shingles: Grams
    grams: Grams
    notes: Grams | None
    exact: int | None = None
    near: tuple[float, int] | None = None


class _Index:
    """All items, and what training looked up in them."""

    def __init__(self, items: Sequence[SuiteItem], canaries: Sequence[str]) -> None:
        self.canaries, self.swallowed = canaries, -1  # the first example that holds a canary
        systems = Counter(_system(item.messages) for item in items)
        said = [frozenset(_shingles(_said(item.messages))) for item in items]
        long = [frozenset(_long(item.messages)) for item in items]
        self.template = _shared(items, said)
        self.first: dict[int, int] = dict.fromkeys(frozenset().union(*long) - _shared(items, long), -1)
        self.asked = [
            _Asked(
                item,
                shingles - self.template,
                frozenset(gram for gram in grams if gram in self.first),
                frozenset(_shingles(system.split())) if system and systems[system] == 1 else None,
            )
            for item, shingles, grams, system in zip(
                items, said, long, (_system(item.messages) for item in items), strict=True
            )
        ]
        often = Counter(gram for one in self.asked for gram in one.shingles)
        self.exact: dict[int, list[_Asked]] = defaultdict(list)
        self.near: dict[int, list[_Asked]] = defaultdict(list)
        for one in self.asked:
            self.exact[_whole(one.item.messages)].append(one)
            rarest = sorted(one.shingles, key=lambda gram: (often[gram], gram))
            for gram in rarest[: int((1 - NEAR) * len(rarest)) + 1]:
                self.near[gram].append(one)
        self.seen: set[int] = set()

    def see(self, place: int, example: Example) -> None:
        """One training example: each turn that is trained on has a prompt, and all of it has n-grams."""
        if self.swallowed < 0 and self.canaries:
            text = "\n".join(message.content for message in example.messages).casefold()
            if any(canary in text for canary in self.canaries):
                self.swallowed = place
        for turn, message in enumerate(example.messages):
            if message.role == "assistant":
                self._see_prompt(place, example.messages[:turn])
        for gram in _long(example.messages):
            if self.first.get(gram) == -1:
                self.first[gram] = place

    def _see_prompt(self, place: int, prompt: Conversation) -> None:
        whole = _whole(prompt)
        if whole in self.seen:
            return  # a prompt that was seen finds nothing new, however often it was said
        self.seen.add(whole)
        for one in self.exact.get(whole, ()):
            one.exact = place
        grams = frozenset(_shingles(_said(prompt))) - self.template
        found = {id(one): one for gram in grams if gram in self.near for one in self.near[gram]}
        notes = frozenset(_shingles(_system(prompt).split())) if found else frozenset()
        for one in found.values():
            share = _jaccard(one.shingles, grams)
            if one.notes is not None:
                share = min(share, _jaccard(one.notes, notes))
            if share >= NEAR and (one.near is None or share > one.near[0]):
                one.near = (share, place)

    def found(self, addresses: Sequence[str]) -> Iterator[Overlap]:
        for one in self.asked:
            held = Counter(place for gram in one.grams if (place := self.first[gram]) >= 0)
            share = held.total() / len(one.grams) if one.grams else 0.0
            sign: Sign
            if self.swallowed >= 0:
                sign, share, place = "canary", 1.0, self.swallowed
            elif one.exact is not None:
                sign, share, place = "exact", 1.0, one.exact
            elif one.near is not None:
                sign, (share, place) = "near", one.near
            elif share >= OVERLAP:
                sign, place = "ngram", min(held, key=lambda place: (-held[place], place))
            else:
                continue
            known = addresses[place] if place < len(addresses) else None
            yield Overlap(item=one.item.id, sign=sign, share=round(share, 10), example=known)


def _shared(items: Sequence[SuiteItem], grams: Sequence[Grams]) -> Grams:
    """Grams that items of more than COMMON clusters hold."""
    clusters: dict[int, set[str]] = defaultdict(set)
    for item, held in zip(items, grams, strict=True):
        for gram in held:
            if len(clusters[gram]) <= COMMON:
                clusters[gram].add(item.cluster)
    return frozenset(gram for gram, found in clusters.items() if len(found) > COMMON)


def _whole(messages: Conversation) -> int:
    return hash(tuple((message.role, normalise(message.content)) for message in messages))


def _system(messages: Conversation) -> str:
    return "\n".join(normalise(message.content) for message in messages if message.role == "system")


def _said(messages: Conversation) -> list[str]:
    """The words of all but system messages."""
    return [word for message in messages if message.role != "system" for word in words(normalise(message.content))]


def _long(messages: Conversation) -> Iterator[int]:
    """13-grams within messages, never across two."""
    for message in messages:
        if message.role != "system":
            yield from _grams(normalise(message.content).split(), N)


def _shingles(text: list[str]) -> Iterator[int]:
    """Word 3-grams of a text whose ends are marked; none of an empty text."""
    return _grams([_EDGE, _EDGE, *text, _EDGE, _EDGE], SHINGLE) if text else iter(())


def _grams(text: list[str], n: int) -> Iterator[int]:
    """Hashes of the n-grams in order. They mean something in this process only, and are never stored."""
    return map(hash, zip(*(text[start:] for start in range(n)), strict=False))


def _jaccard(one: Grams, other: Grams) -> float:
    smaller, larger = sorted((len(one), len(other)))
    if smaller == 0 or smaller < NEAR * larger:
        return 0.0
    shared = len(one & other)
    return shared / (smaller + larger - shared)
