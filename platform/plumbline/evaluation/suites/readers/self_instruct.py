"""Self-instruct (Wang et al. 2022): tasks that people wrote, with inputs and outputs; here to measure, held out.

A task with a label to give (`is_classification`) is scored by exact match. The others have no one right answer, so
that the policy is asked which of two outputs it finds likelier, per byte: the task's own, or one of another task, which
a stable hash draws. That needs no judge; it says that a request is understood, and not that the answer is good.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.evaluation.suites.readers.common import objects, unexpected
from plumbline.records import Suite, SuiteItem, say

KEYS = ("id", "instruction", "instances")


@dataclass(frozen=True)
class _Instance:
    identity: str
    task: str
    slice: str
    cluster: str
    request: str
    output: str
    keyed: bool


def read_self_instruct(path: Path) -> Suite:
    """`seed_tasks.jsonl` or `user_oriented_instructions.jsonl` as published. Instances of one task share a cluster, and
    so do user-oriented tasks of one application; instances without an output are left out."""
    found = [one for _, entry in objects(path, KEYS) for one in _instances(path, entry)]
    if len({one.task for one in found}) < 2:
        raise unexpected(path, "it has fewer than two tasks with outputs", KEYS)
    items = tuple(_item(one, found) for one in found)
    return Suite(
        name=f"self-instruct-{'user' if 'motivation_app' in _first(path) else 'seed'}", version="1", items=items
    )


def _instances(path: Path, entry: dict[str, Any]) -> list[_Instance]:
    instances, keyed = entry["instances"], bool(entry.get("is_classification"))
    if not isinstance(instances, list) or not all(isinstance(one, dict) for one in instances):
        raise unexpected(path, f"the task {entry['id']} has no list of instances", KEYS)
    made = []
    for number, instance in enumerate(instances):
        given, output = str(instance.get("input") or "").strip(), str(instance.get("output") or "").strip()
        app = str(entry.get("motivation_app") or "").strip()
        if output:
            made.append(
                _Instance(
                    identity=f"self-instruct/{entry['id']}/{number}",
                    task=str(entry["id"]),
                    slice="user_oriented" if app else "classification" if keyed else "generation",
                    cluster=f"app:{app.casefold()}" if app else f"task:{entry['id']}",
                    request=f"{str(entry['instruction']).strip()}\n\n{given}".strip(),
                    output=output,
                    keyed=keyed,
                )
            )
    return made


def _item(one: _Instance, everyone: list[_Instance]) -> SuiteItem:
    return SuiteItem(
        id=one.identity,
        area="helpfulness",
        slice=one.slice,
        cluster=one.cluster,
        messages=(say("user", one.request),),
        scorer="exact" if one.keyed else "choice_loglik_per_byte",
        references=(one.output,) if one.keyed else (),
        choices=() if one.keyed else (one.output, _other(one, everyone)),
    )


def _other(one: _Instance, everyone: list[_Instance]) -> str:
    """The output of another task, the same one for ever."""
    start = int.from_bytes(hashlib.sha256(one.identity.encode()).digest()[:8], "big") % len(everyone)
    turned = everyone[start:] + everyone[:start]
    return next(other.output for other in turned if other.task != one.task and other.output != one.output)


def _first(path: Path) -> dict[str, Any]:
    return next(entry for _, entry in objects(path, KEYS))
