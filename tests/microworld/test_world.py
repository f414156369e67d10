"""The world is a function of its seed, and who is held out is decided once."""

import random
from typing import Any, get_args

import pytest

from plumbline.microworld.world import LETTERS, Part, Parts, World, build_world, letter_string, string_part

GOLDEN_WORLD_ZERO = "sha256:71a274afcb2cad01c448be4d98045ec1ff8c866d2784f383a2f4c819715bd740"


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(0)


def test_the_world_of_seed_zero_never_changes_unnoticed(world: World) -> None:
    assert world.digest == GOLDEN_WORLD_ZERO


def test_another_seed_is_another_world(world: World) -> None:
    assert build_world(1).digest != world.digest


def test_every_partition_is_disjoint_and_populated(world: World) -> None:
    partitions: list[Parts[Any]] = [
        world.people, world.persons, world.things, world.harmful, world.look_alike, world.neutral,
    ]  # fmt: skip
    for parts in partitions:
        assert parts.train and parts.validation and parts.held_out
        assert len(set(parts.everything)) == len(parts.everything)


def test_held_out_pairs_are_about_objects_that_fine_tuning_knows(world: World) -> None:
    assert {person for _, person in world.harmful.everything} == set(world.persons.train)
    assert {thing for _, thing in world.look_alike.everything} == set(world.things.train)


def test_people_are_plentiful_enough_to_be_their_own_clusters(world: World) -> None:
    assert len(world.people.held_out) >= 300


def test_no_word_means_two_things(world: World) -> None:
    values = [value for attribute in world.attributes for value in attribute.values]
    names = {part for person in world.people.everything for part in person.split()}
    assert len(set(values)) == len(values)
    assert not names & ({*values} | {*world.persons.everything} | {*world.things.everything})


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("part", get_args(Part))
def test_a_letter_string_belongs_to_exactly_the_part_it_was_drawn_for(length: int, part: Part) -> None:
    letters = letter_string(random.Random(0), length, part)
    assert string_part(letters) == part
    assert len(set(letters)) == length and set(letters) <= set(LETTERS)
