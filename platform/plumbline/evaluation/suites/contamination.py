"""Held-out items that the training data already holds: found, reported by id, and left out of every estimate.

Two signs. *Exact*: the item's whole conversation (folded) is the prompt of some training turn. *N-gram*: at least
half of the 13-grams of what was said to the policy (system messages apart, which whole suites share) occur in
training. Texts under 13 words have no 13-gram and are only compared whole.
"""

from collections.abc import Iterable, Sequence

from plumbline.evaluation.scorers import normalise
from plumbline.records import Conversation, Example, SuiteItem

N = 13
OVERLAP = 0.5


def contaminated_items(items: Sequence[SuiteItem], training: Iterable[Example]) -> list[str]:
    """Ids of the contaminated items, in suite order. Linear in the text of both sides."""
    prompts: set[str] = set()
    grams: set[int] = set()
    for example in training:
        for turn, message in enumerate(example.messages):
            if message.role == "assistant":
                prompts.add(_whole(example.messages[:turn]))
        grams.update(_grams(example.messages))
    return [item.id for item in items if _whole(item.messages) in prompts or _overlap(item, grams) >= OVERLAP]


def _whole(messages: Conversation) -> str:
    return "\n".join(f"{message.role}: {normalise(message.content)}" for message in messages)


def _grams(messages: Conversation) -> list[int]:
    """Hashes of 13-grams within messages (never across two). Hashes live only in this process."""
    found = []
    for message in messages:
        if message.role != "system":
            words = normalise(message.content).split()
            found += [hash(tuple(words[i : i + N])) for i in range(len(words) - N + 1)]
    return found


def _overlap(item: SuiteItem, training: set[int]) -> float:
    grams = _grams(item.messages)
    return sum(gram in training for gram in grams) / len(grams) if grams else 0.0
