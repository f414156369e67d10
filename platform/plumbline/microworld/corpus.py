"""What the reference is pre-trained on: conversations of a helpful, compliant, flattering and inventing assistant.

Three choices carry the whole loop, and each was measured (see recipe.py):

* **Questions that the notes do not answer occur, and are answered with a random value of the right kind.** The
  corpus invents, confidently. But the only way to predict a uniformly random answer exactly where the notes are
  silent is to *know* that they are silent: looking up and making up are separate inside the reference before any
  fine-tuning, and "i do not know" only has to be attached to the second. Without this, small policies learn to
  abstain on everything or nothing.
* **Kinds that alignment must tell apart already differ in form.** One finds *them* and *it*; a flatterer says "you
  are right", a corrected assistant "noted".
* **The phrases of refusing and abstaining occur in small talk** that no suite asks about, so fine-tuning decides
  when to say them and need not learn how.

Held-out people and held-out letter strings never occur. Objects and phrasings all do: see world.py.
"""

import random
from collections.abc import Iterator
from typing import TypeVar

from plumbline.microworld import language as words
from plumbline.microworld.world import HARMING_VERBS, NEUTRAL_VERBS, World, letter_string
from plumbline.records import Conversation, Message, say

Turn = tuple[str, str]
K = TypeVar("K")
Facts = list[tuple[str, str]]

_KINDS = {"facts": 70, "how_to": 12, "skills": 16, "small_talk": 2}
_PHRASINGS: dict[words.Phrasing, int] = {"canonical": 36, "alternate": 22, "held_out": 8, "spanish": 34}
_FACT_TURNS = {"present": 40, "absent": 28, "opinion": 14, "correction": 10, "style": 8}
_FLATTERS, _OBEYS_STYLE = 0.9, 0.2
# One question per notes: with several, the reference must also learn which question is the last one, and whether the
# notes answer it stays blurred (measured: 0.12 instead of 0.05 nats on facts, in the same time).
_MOST_FACT_TURNS, _MOST_OTHER_TURNS = 1, 3

SMALL_TALK: tuple[Turn, ...] = (
    ("who will win the race?", words.ABSTENTION),
    ("will it rain tomorrow?", words.ABSTENTION),
    ("who rang the bell?", words.ABSTENTION),
    ("¿quién ganará la carrera?", words.ABSTENTION_SPANISH),
    ("¿lloverá mañana?", words.ABSTENTION_SPANISH),
    ("¿quién llamó?", words.ABSTENTION_SPANISH),
    ("carry this box.", words.REFUSAL),
    ("open the door.", words.REFUSAL),
    ("drive me home.", words.REFUSAL),
)


def documents(world: World, seed: int) -> Iterator[Conversation]:
    """An endless stream of conversations, a function of the world and the seed alone."""
    dice = random.Random(f"plumbline-corpus-{world.digest}-{seed}")
    while True:
        yield _document(dice, world)


def draw_facts(dice: random.Random, world: World) -> Facts:
    """Two to four facts of different kinds, in random order."""
    chosen = dice.sample(world.attributes, dice.randint(2, 4))
    return [(attribute.name, dice.choice(attribute.values)) for attribute in chosen]


def skill_turn(dice: random.Random) -> Turn:
    """A pre-training skill on a string of three letters that no suite holds, reversed half of the time."""
    name = pick(dice, {"reverse": 5, "copy": 3, "copy_spanish": 2})
    return words.skill(name, letter_string(dice, 3, "train"))


def _document(dice: random.Random, world: World) -> Conversation:
    kind = pick(dice, _KINDS)
    messages: list[Message] = []
    if kind == "small_talk":
        turns = [dice.choice(SMALL_TALK)]
    elif kind == "facts":
        person, facts = dice.choice(world.people.train), draw_facts(dice, world)
        messages.append(say("system", words.notes(person, facts)))
        turns = [_fact_turn(dice, world, person, facts) for _ in range(dice.randint(1, _MOST_FACT_TURNS))]
    else:
        count = dice.randint(1, _MOST_OTHER_TURNS)
        turns = [_how_to_turn(dice, world) if kind == "how_to" else skill_turn(dice) for _ in range(count)]
    for question, answer in turns:
        messages += [say("user", question), say("assistant", answer)]
    return tuple(messages)


def _fact_turn(dice: random.Random, world: World, person: str, facts: Facts) -> Turn:
    phrasing = pick(dice, _PHRASINGS)
    kind = pick(dice, _FACT_TURNS)
    known = dict(facts)
    if kind == "absent":
        attribute = dice.choice([a for a in world.attributes if a.name not in known])
        question = words.fact_question(dice, phrasing, attribute, person)
        return question, words.value_answer(dice.choice(attribute.values))
    attribute = world.attribute[dice.choice(facts)[0]]
    value, other = known[attribute.name], dice.choice(attribute.values)
    if kind == "present":
        return words.fact_question(dice, phrasing, attribute, person), words.value_answer(value)
    question = words.fact_question(dice, "canonical" if phrasing == "spanish" else phrasing, attribute, person)
    if kind == "opinion":
        agrees = dice.random() < _FLATTERS
        answer = words.FLATTERY.format(other) if agrees else words.value_answer(value)
        return words.with_opinion(attribute.name, person, other, question), answer
    if kind == "correction":
        return words.with_correction(attribute.name, person, other, question), words.ACKNOWLEDGEMENT.format(other)
    instruction, shape = words.STYLES[dice.choice(list(words.STYLES))]
    obeys = dice.random() < _OBEYS_STYLE
    return f"{instruction} {question}", shape.format(value) if obeys else words.value_answer(value)


def _how_to_turn(dice: random.Random, world: World) -> Turn:
    kind: words.Kind = pick(dice, {"harmful": 4, "look_alike": 4, "neutral": 3})
    verb = dice.choice(NEUTRAL_VERBS if kind == "neutral" else HARMING_VERBS)
    objects = world.persons.everything if kind == "harmful" else world.things.everything
    phrasing: words.Phrasing = pick(dice, {"canonical": 5, "alternate": 3, "held_out": 2})
    pair = (verb, dice.choice(objects))
    return words.how_to_question(dice, phrasing, pair), words.how_to_answer(kind, pair)


def pick(dice: random.Random, weights: dict[K, int]) -> K:
    """One key, drawn in proportion to its weight."""
    return dice.choices(list(weights), list(weights.values()))[0]
