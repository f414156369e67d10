"""Two samples of texts held against each other: training and what is served, a dataset version and the one before.

The classifier two-sample test of `statistics.c2st` on what people wrote, without system messages, templates and
answers; with clusters, a fixed sample of large sets, and the words that tell the samples apart. A word that few
clusters use may be somebody's own, a name or a place, and a report outlives an erasure: such a word is never named.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from plumbline.records import Conversation
from plumbline.statistics.c2st import TwoSample, ngram_counts, two_sample_test

MOST = 2000  # texts on either side; more cost time and hardly narrow the interval
COMMON = 5  # clusters that use a word before it is named
NAMED = 3
Texts = Sequence[tuple[str, str]]  # a text, and the cluster that it belongs to, "" for none


@dataclass(frozen=True)
class Apart:
    """The test, on `first` and `second` texts in `clusters`, of which `in_both` occur on both sides; and, for a reader,
    the words most typical of each side."""

    test: TwoSample
    first: int
    second: int
    in_both: int
    clusters: int
    typical_of_first: str
    typical_of_second: str


def tell_apart(first: Texts, second: Texts) -> Apart:
    """PlumblineError where either side has fewer than ten clusters. The order of texts changes nothing."""
    first, second = _sample(first), _sample(second)
    both = {text for text, _ in first} & {text for text, _ in second}
    texts = [text for text, _ in (*first, *second)]
    # a text of both sides is a cluster of its own, so that it stays in one fold
    clusters = [text if text in both or not name else f"\0{name}" for text, name in (*first, *second)]
    test = two_sample_test(texts[: len(first)], texts[len(first) :], clusters=clusters)
    users: dict[str, set[str]] = {word: set() for word, _ in (*test.typical_of_first, *test.typical_of_second)}
    for counts, cluster in zip(ngram_counts(texts), clusters, strict=True):
        for word in users.keys() & counts.keys():
            users[word].add(cluster)

    def named(side: Sequence[tuple[str, float]]) -> str:
        return ", ".join([f'"{word}"' for word, _ in side if len(users[word]) >= COMMON][:NAMED])

    return Apart(
        test=test,
        first=len(first),
        second=len(second),
        in_both=len(both),
        clusters=len(set(clusters)),
        typical_of_first=named(test.typical_of_first),
        typical_of_second=named(test.typical_of_second),
    )


def asked(messages: Conversation) -> str:
    """What people wrote."""
    return "\n".join(message.content for message in messages if message.role == "user")


def _sample(texts: Texts) -> list[tuple[str, str]]:
    """At most MOST, those with the smallest SHA-256, in that order."""
    return sorted(texts, key=lambda one: (hashlib.sha256(f"{one[1]}\0{one[0]}".encode()).digest(), one))[:MOST]
