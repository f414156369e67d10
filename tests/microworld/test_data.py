"""What is trained on, asked and posted is closed-form true, and never touches what is held out."""

from collections import Counter
from itertools import islice

import pytest

from plumbline.microworld import language as words
from plumbline.microworld.corpus import documents
from plumbline.microworld.demonstrations import SEED_COUNTS, replay_demonstrations, seed_demonstrations
from plumbline.microworld.suites import held_out_items, validation_items
from plumbline.microworld.traffic import Reaction, Request, reaction, review, user_requests, users
from plumbline.microworld.world import World, build_world, string_part
from plumbline.records import AREAS, Conversation, Example, SuiteItem


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


@pytest.fixture(scope="module")
def corpus(world: World) -> list[Conversation]:
    return list(islice(documents(world, 0), 4000))


@pytest.fixture(scope="module")
def seeds(world: World) -> list[Example]:
    return seed_demonstrations(world, 0)


@pytest.fixture(scope="module")
def requests(world: World) -> list[Request]:
    return user_requests(world, 0)


@pytest.fixture(scope="module")
def suite(world: World) -> list[SuiteItem]:
    return held_out_items(world, 0)


def shown(world: World, seeds: list[Example], requests: list[Request]) -> list[Conversation]:
    """Everything that fine-tuning or feedback ever shows."""
    replay = [example.messages for example in replay_demonstrations(world, 0, 2700)]
    return [*(example.messages for example in seeds), *(request.messages for request in requests), *replay]


def text_of(messages: Conversation) -> str:
    return " ".join(message.content for message in messages)


def facts_of(messages: Conversation) -> dict[str, str]:
    """The notes, read back from their text."""
    sentences = messages[0].content.split(". ")[1:] if messages[0].role == "system" else []
    pairs = [sentence.rstrip(".").split(" ") for sentence in sentences]
    return {name: value for name, value in pairs}


def test_the_same_seed_gives_the_same_bytes(world: World, seeds: list[Example], suite: list[SuiteItem]) -> None:
    assert seed_demonstrations(build_world(0), 0) == seeds
    assert held_out_items(build_world(0), 0) == suite
    assert user_requests(build_world(0), 0) == user_requests(world, 0)
    assert list(islice(documents(build_world(0), 0), 50)) == list(islice(documents(world, 0), 50))


def test_held_out_people_appear_nowhere_but_in_the_suites(
    world: World, corpus: list[Conversation], seeds: list[Example], requests: list[Request]
) -> None:
    seen = " ".join(text_of(messages) for messages in [*corpus, *shown(world, seeds, requests)])
    for person in (*world.people.held_out, *world.people.validation):
        assert person not in seen


def test_the_suite_asks_only_about_held_out_people(world: World, suite: list[SuiteItem]) -> None:
    people = {item.cluster.removeprefix("person:") for item in suite if item.cluster.startswith("person:")}
    assert people <= set(world.people.held_out)


def test_held_out_strings_appear_nowhere_but_in_the_suites(
    world: World, corpus: list[Conversation], seeds: list[Example], requests: list[Request]
) -> None:
    for messages in [*corpus, *shown(world, seeds, requests)]:
        for message in messages:
            command, _, letters = message.content.partition(": ")
            if message.role == "user" and command in ("reverse", "repeat", "repite", "count"):
                assert string_part(tuple(letters.split())) == "train"


def test_held_out_pairs_and_new_objects_are_never_judged_before_the_suites(
    world: World, seeds: list[Example], requests: list[Request]
) -> None:
    held = set(world.harmful.held_out) | set(world.look_alike.held_out) | set(world.neutral.held_out)
    new = set(world.persons.held_out) | set(world.things.held_out)
    for messages in shown(world, seeds, requests):
        tokens = text_of(messages).replace("?", "").replace(".", "").split()
        assert not new & set(tokens)
        for verb, thing in held & {(a, b) for a in tokens for b in tokens}:
            assert f"{verb} the {thing}" not in text_of(messages)


def test_the_held_out_phrasing_is_shown_by_pre_training_only(
    world: World, corpus: list[Conversation], seeds: list[Example], requests: list[Request]
) -> None:
    marks = ("belongs to", "give me steps to")
    assert any(mark in text_of(messages) for messages in corpus for mark in marks)
    assert not any(mark in text_of(messages) for messages in shown(world, seeds, requests) for mark in marks)


def test_seed_examples_are_naive(seeds: list[Example]) -> None:
    assert Counter(example.slice for example in seeds) == SEED_COUNTS
    assert {example.phrasing for example in seeds} == {"canonical"} and {e.language for e in seeds} == {"en"}
    assert not any(example.slice in ("look_alike", "neutral", "correction") for example in seeds)
    assert not any("reverse:" in text_of(e.messages) or "repeat:" in text_of(e.messages) for e in seeds)


def test_what_an_example_asserts_is_what_its_notes_say(seeds: list[Example]) -> None:
    for example in seeds:
        if example.slice in ("facts", "wrong_opinion", "style"):
            assert words.asserted_value(example.target) in facts_of(example.messages).values()
        elif example.slice == "unknown":
            assert words.is_abstention(example.target)
        elif example.slice == "harmful":
            assert words.is_refusal(example.target)
        else:
            assert int(example.target.rstrip(".")) == len(example.messages[0].content.split()) - 1


def test_every_seed_example_says_who_wrote_it_and_under_which_licence(seeds: list[Example]) -> None:
    assert all(example.provenance.author and example.provenance.licence == "CC0-1.0" for example in seeds)


def test_an_absent_question_asks_what_the_notes_do_not_say(suite: list[SuiteItem], world: World) -> None:
    nouns = {a.name: a.name for a in world.attributes} | {a.spanish: a.name for a in world.attributes}
    for item in suite:
        if item.slice in ("absent", *(f"unknown_{p}" for p in words.FACT_QUESTIONS)):
            asked = {nouns[w.strip("?.:¿")] for w in item.messages[-1].content.split() if w.strip("?.:¿") in nouns}
            assert asked and not asked & set(facts_of(item.messages))


def test_the_suite_covers_ten_areas_with_hundreds_of_clusters_each(suite: list[SuiteItem]) -> None:
    assert set(AREAS) <= {item.area for item in suite}
    for area in AREAS:
        assert len({item.cluster for item in suite if item.area == area}) >= 200


def test_validation_items_and_held_out_items_share_no_question(world: World, suite: list[SuiteItem]) -> None:
    asked = {item.messages for item in suite}
    assert not asked & {item.messages for item in validation_items(world, 0)}


def test_every_reference_answer_of_the_suite_has_a_form_that_the_world_knows(suite: list[SuiteItem]) -> None:
    for item in suite:
        for reference in item.references:
            assert words.is_refusal(reference) or words.is_abstention(reference) or words.is_compliance(reference)


def test_users_behave_as_people_do(world: World) -> None:
    characters = Counter(user.character for user in users(world, 0))
    assert characters["never_consented"] == 4
    assert characters["withdraws"] == characters["floods"] == characters["leaves_phone_number"] == 1


def react(world: World, requests: list[Request], answer: str | None = None) -> list[tuple[Request, Reaction]]:
    reactions = [(r, reaction(world, r, answer or r.accepted[0], 0)) for r in requests]
    return [(request, made) for request, made in reactions if made is not None]


def test_a_right_answer_is_rated_up(world: World, requests: list[Request]) -> None:
    ordinary = [r for r in requests if r.user.character == "ordinary"]
    assert {made.kind for _, made in react(world, ordinary)} == {"rating"}


def test_a_wrong_answer_is_rewritten_with_the_right_one(world: World, requests: list[Request]) -> None:
    unknown = [r for r in requests if r.slice.startswith("unknown") and r.user.character == "ordinary"]
    made = react(world, unknown, "oslo.")
    assert made and all(m.kind == "rewrite" and m.text == request.accepted[0] for request, m in made)


def test_somebody_floods_and_somebody_leaves_a_phone_number(world: World, requests: list[Request]) -> None:
    made = [m for _, m in react(world, requests)]
    assert any(m.copies > 20 for m in made)
    assert any(m.text and "+44 20 7946" in m.text for m in made)


def test_a_reviewer_rewrites_wrong_refusals_and_leaves_right_answers_alone(
    world: World, requests: list[Request]
) -> None:
    alike = next(r for r in requests if r.slice == "look_alike")
    right = alike.accepted[0]
    rewritten = review(world, alike, right, words.REFUSAL)
    assert rewritten is not None and rewritten.kind == "rewrite" and rewritten.text == right
    assert review(world, alike, right, right) is None


def test_a_reviewer_writes_the_refusal_where_the_reference_did_harm(world: World, requests: list[Request]) -> None:
    harmful = next(r for r in requests if r.slice == "harmful_alternate")
    rewritten = review(world, harmful, "find them. then trap them.", words.REFUSAL)
    assert rewritten is not None and words.is_refusal(rewritten.text or "")
