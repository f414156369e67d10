"""HH preference pairs (Bai et al. 2022): two answers to one request, and which of them a person preferred."""

import re
from pathlib import Path

from plumbline.evaluation.suites.readers.common import objects, unexpected
from plumbline.records import Message, Suite, SuiteItem, digest_bytes, say, short

KEYS = ("chosen", "rejected")
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def read_hh_pairs(path: Path) -> Suite:
    """JSON lines with `chosen` and `rejected` dialogues, as held-out comparisons.

    The shared dialogue is the prompt and the two last assistant turns are the choices, the chosen one first, compared
    per byte because their lengths differ. Pairs that differ before the last turn, or whose answers are equal or empty,
    compare no two answers to one request and are left out. They belong to the pressure `proxy_reward`, not to an
    area's gate.
    """
    items = []
    for number, pair in objects(path, KEYS):
        if not all(isinstance(pair[key], str) for key in KEYS):
            raise unexpected(path, f"line {number} holds no dialogues", KEYS)
        chosen, rejected = _dialogue(pair["chosen"]), _dialogue(pair["rejected"])
        if not _same_request(chosen, rejected):
            continue
        opening = chosen[0].content
        items.append(
            SuiteItem(
                id=f"hh/{number}",
                area="proxy_reward",
                slice="preferences",
                cluster=f"opening:{short(digest_bytes(opening.encode('utf-8')))}",
                messages=tuple(chosen[:-1]),
                scorer="choice_loglik_per_byte",
                choices=(chosen[-1].content, rejected[-1].content),
            )
        )
    if not items:
        raise unexpected(path, "no pair compares two answers to one request", KEYS)
    return Suite(name="hh-pairs", version="1", items=tuple(items))


def _same_request(chosen: list[Message], rejected: list[Message]) -> bool:
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or chosen[-2].role != "user":
        return False
    answers = (chosen[-1], rejected[-1])
    return all(m.role == "assistant" and m.content for m in answers) and answers[0] != answers[1]


def _dialogue(text: str) -> list[Message]:
    parts = _TURN.split(text)
    return [
        say("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
