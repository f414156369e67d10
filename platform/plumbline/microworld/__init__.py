"""The embedded default: a small invented world with closed-form truth, and a tiny reference policy.

The names below are the room's face; each is imported on first use, so that importing the room costs nothing and
torch is loaded only by `cached_reference` and `pretrain_reference`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plumbline.microworld.demonstrations import replay_demonstrations, seed_demonstrations
    from plumbline.microworld.recipe import DEFAULT_SEED, FIRST, SECOND, SftRecipe, microworld_rubric
    from plumbline.microworld.reference import Progress, ReferenceRecipe, cached_reference, pretrain_reference
    from plumbline.microworld.suites import held_out_items, validation_items
    from plumbline.microworld.traffic import Reaction, Request, User, reaction, review, user_requests, users
    from plumbline.microworld.world import World, build_world

_HOME = {
    "replay_demonstrations": "demonstrations",
    "seed_demonstrations": "demonstrations",
    "DEFAULT_SEED": "recipe",
    "FIRST": "recipe",
    "SECOND": "recipe",
    "SftRecipe": "recipe",
    "microworld_rubric": "recipe",
    "Progress": "reference",
    "ReferenceRecipe": "reference",
    "cached_reference": "reference",
    "pretrain_reference": "reference",
    "held_out_items": "suites",
    "validation_items": "suites",
    "Reaction": "traffic",
    "Request": "traffic",
    "User": "traffic",
    "reaction": "traffic",
    "review": "traffic",
    "user_requests": "traffic",
    "users": "traffic",
    "World": "world",
    "build_world": "world",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = [
    "DEFAULT_SEED",
    "FIRST",
    "SECOND",
    "Progress",
    "Reaction",
    "ReferenceRecipe",
    "Request",
    "SftRecipe",
    "User",
    "World",
    "build_world",
    "cached_reference",
    "held_out_items",
    "microworld_rubric",
    "pretrain_reference",
    "reaction",
    "replay_demonstrations",
    "review",
    "seed_demonstrations",
    "user_requests",
    "users",
    "validation_items",
]
