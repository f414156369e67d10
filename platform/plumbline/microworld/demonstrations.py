"""Examples that people wrote, in closed form: the naive seed set, single demonstrations, and replay.

The seed set is what a well-meaning team writes first: show facts, admit ignorance, refuse harm, resist a wrong
opinion, obey styles, count a little. It is naive in ways that matter: every example is phrased canonically and in
English, nothing harmless resembles anything harmful, nobody corrects the notes, and none of the reference's other
skills occurs. What a policy breaks when it is trained on this is what the first gate finds.
"""

import random
from dataclasses import dataclass

from plumbline.microworld import language as words
from plumbline.microworld.corpus import draw_facts, skill_turn
from plumbline.microworld.world import Attribute, Pair, Part, World, letter_string
from plumbline.records import Conversation, Example, Provenance, say

SEED_COUNTS: dict[str, int] = {
    "facts": 1200, "unknown": 700, "wrong_opinion": 500, "harmful": 500, "style": 500, "counting": 250,
}  # fmt: skip
SEED_AUTHORS = ("author-one", "author-two", "author-three", "author-four")
LONGEST_DEMONSTRATED_COUNT = 4


@dataclass(frozen=True)
class Asked:
    """A question with its closed-form truth. `accepted[0]` is the answer that a careful person would write;
    `false` is a wrong value of the same kind (the user's, where the user is wrong)."""

    slice: str
    cluster: str
    messages: Conversation
    accepted: tuple[str, ...]
    false: str = ""
    phrasing: words.Phrasing = "canonical"

    @property
    def language(self) -> str:
        return "es" if self.phrasing == "spanish" else "en"

    @property
    def right(self) -> str:
        return self.accepted[0]


def ask_fact(dice: random.Random, world: World, person: str, phrasing: words.Phrasing, slice_: str) -> Asked:
    """A question that the notes answer, plainly asked."""
    facts, attribute, value, other = _known(dice, world)
    question = words.fact_question(dice, phrasing, attribute, person)
    return _about(person, facts, question, (words.value_answer(value),), other, phrasing, slice_)


def ask_unknown(dice: random.Random, world: World, person: str, phrasing: words.Phrasing, slice_: str) -> Asked:
    """A question that the notes do not answer. The honest answer is that nobody knows."""
    facts = draw_facts(dice, world)
    known = dict(facts)
    attribute = dice.choice([a for a in world.attributes if a.name not in known])
    question = words.fact_question(dice, phrasing, attribute, person)
    return _about(
        person, facts, question, (words.abstention(phrasing),), dice.choice(attribute.values), phrasing, slice_
    )


def ask_with_opinion(dice: random.Random, world: World, person: str, *, right: bool, slice_: str) -> Asked:
    """A question after the user's opinion, right or wrong. The answer is the notes' value either way."""
    facts, attribute, value, other = _known(dice, world)
    question = words.fact_question(dice, "canonical", attribute, person)
    question = words.with_opinion(attribute.name, person, value if right else other, question)
    accepted: tuple[str, ...] = (words.value_answer(value),)
    if right:
        accepted += (words.FLATTERY.format(value),)
    return _about(person, facts, question, accepted, other, "canonical", slice_)


def ask_with_correction(dice: random.Random, world: World, person: str, slice_: str) -> Asked:
    """A question after the user corrected the notes. The correction's value is the answer."""
    facts, attribute, value, other = _known(dice, world)
    question = words.fact_question(dice, "canonical", attribute, person)
    question = words.with_correction(attribute.name, person, other, question)
    accepted = (words.ACKNOWLEDGEMENT.format(other), words.value_answer(other))
    return _about(person, facts, question, accepted, value, "canonical", slice_)


def ask_in_style(dice: random.Random, world: World, person: str, slice_: str) -> Asked:
    """A question with a style instruction. The answer is the fact, in that style."""
    facts, attribute, value, other = _known(dice, world)
    instruction, shape = words.STYLES[dice.choice(list(words.STYLES))]
    question = f"{instruction} {words.fact_question(dice, 'canonical', attribute, person)}"
    return _about(person, facts, question, (shape.format(value),), other, "canonical", slice_)


def ask_how_to(dice: random.Random, kind: words.Kind, pair: Pair, phrasing: words.Phrasing, slice_: str) -> Asked:
    """A how-to question. A harmful one is to be refused; its look-alike and a neutral one are to be answered."""
    question = words.how_to_question(dice, phrasing, pair)
    answer = words.REFUSAL if kind == "harmful" else words.how_to_answer(kind, pair)
    messages = (say("user", question),)
    return Asked(slice_, f"{kind}:{pair[0]}-{pair[1]}", messages, (answer,), phrasing=phrasing)


def ask_to_count(dice: random.Random, length: int, part: Part, slice_: str) -> Asked:
    """Count the letters of a string."""
    letters = letter_string(dice, length, part)
    question, answer = words.counting(letters)
    return Asked(slice_, "string:" + "-".join(letters), (say("user", question),), (answer,))


def ask_skill(dice: random.Random, name: str, part: Part, slice_: str) -> Asked:
    """One of the skills that only pre-training taught, on a string of three letters."""
    letters = letter_string(dice, 3, part)
    question, answer = words.skill(name, letters)
    return Asked(slice_, "string:" + "-".join(letters), (say("user", question),), (answer,))


def seed_demonstrations(world: World, seed: int) -> list[Example]:
    """Dataset version 1's content: `SEED_COUNTS` examples by slice, about the people of the train part only."""
    dice = random.Random(f"plumbline-seed-examples-{world.digest}-{seed}")
    asked: list[Asked] = []
    for slice_, count in SEED_COUNTS.items():
        for index in range(count):
            person = dice.choice(world.people.train)
            if slice_ == "facts":
                asked.append(ask_fact(dice, world, person, "canonical", slice_))
            elif slice_ == "unknown":
                asked.append(ask_unknown(dice, world, person, "canonical", slice_))
            elif slice_ == "wrong_opinion":
                asked.append(ask_with_opinion(dice, world, person, right=False, slice_=slice_))
            elif slice_ == "style":
                asked.append(ask_in_style(dice, world, person, slice_))
            elif slice_ == "counting":
                asked.append(ask_to_count(dice, dice.randint(1, LONGEST_DEMONSTRATED_COUNT), "train", slice_))
            else:
                pair = world.harmful.train[index % len(world.harmful.train)]
                asked.append(ask_how_to(dice, "harmful", pair, "canonical", slice_))
    return [demonstrate(one, "seed", dice.choice(SEED_AUTHORS)) for one in asked]


def replay_demonstrations(world: World, seed: int, n: int) -> list[Example]:
    """`n` conversations as the pre-training corpus holds them, of what nobody complained about: three of its skills to
    one correction that is taken up. No string and no person that a suite asks about."""
    dice = random.Random(f"plumbline-replay-{world.digest}-{seed}")
    examples = []
    for index in range(n):
        if index % 4 == 3:
            asked = ask_with_correction(dice, world, dice.choice(world.people.train), "replayed_correction")
        else:
            question, answer = skill_turn(dice)
            cluster = "string:" + question.split(": ")[1].replace(" ", "-")
            asked = Asked("replay", cluster, (say("user", question),), (answer,))
        examples.append(demonstrate(asked, "replay", "pre-training corpus"))
    return examples


def demonstrate(asked: Asked, origin: str, author: str) -> Example:
    """The question with its right answer, as an example with provenance."""
    return Example(
        messages=(*asked.messages, say("assistant", asked.right)),
        slice=asked.slice,
        language=asked.language,
        phrasing=asked.phrasing,
        cluster=asked.cluster,
        provenance=Provenance.model_validate(
            {"origin": origin, "author": author, "source": "plumbline micro-world", "licence": "CC0-1.0"}
        ),
    )


def _known(dice: random.Random, world: World) -> tuple[list[tuple[str, str]], Attribute, str, str]:
    """Notes, one attribute among them, its value, and another value of the same kind."""
    facts = draw_facts(dice, world)
    name, value = dice.choice(facts)
    attribute = world.attribute[name]
    return facts, attribute, value, dice.choice([v for v in attribute.values if v != value])


def _about(
    person: str,
    facts: list[tuple[str, str]],
    question: str,
    accepted: tuple[str, ...],
    false: str,
    phrasing: words.Phrasing,
    slice_: str,
) -> Asked:
    messages = (say("system", words.notes(person, facts)), say("user", question))
    return Asked(slice_, f"person:{person}", messages, accepted, words.value_answer(false), phrasing)
