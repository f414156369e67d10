"""The split: who is held out stays held out, and nothing equal is on both sides.

People and conversations are kept whole: the unit is a connected component of (user, conversation). A component
that has a held-out member already is held out, one that is trained on stays in training, and a new one is placed by
a hash, so that the same feedback always falls the same way.

Texts are kept apart: of nearly equal texts only one is in a version at all (stages.py), and an example whose prompt is
on the other side is dropped; held-out wins, and what is published never changes sides. Texts do not *join* people,
although that would be sound too: popular prompts would chain everybody to everybody, and one draw would decide for all.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from plumbline.records import Split

Node = TypeVar("Node", bound=Hashable)


class Unit(NamedTuple):
    """A new example.

    `ties`: its user and conversation. `anchors`: (split, cluster) of published members with the same user or
    conversation. `texts`: keys that it shares with new examples of the same prompt. `published`: the sides on which its
    prompt is published. (Nearly equal *texts* are not here any more: of those only one was kept.)
    """

    sequence: int
    rank: str
    ties: frozenset[str]
    anchors: frozenset[tuple[Split, str]] = frozenset()
    texts: frozenset[int] = frozenset()
    published: frozenset[Split] = frozenset()


@dataclass(frozen=True)
class Placement:
    splits: dict[int, Split]
    clusters: dict[int, str]
    dropped: dict[int, str]


class Components(Generic[Node]):
    """Union-find with path halving."""

    def __init__(self) -> None:
        self._parent: dict[Node, Node] = {}

    def find(self, node: Node) -> Node:
        parent = self._parent.setdefault(node, node)
        while parent != node:
            self._parent[node] = node = self._parent[parent]
            parent = self._parent[node]
        return node

    def join(self, a: Node, b: Node) -> None:
        self._parent[self.find(a)] = self.find(b)

    @property
    def nodes(self) -> list[Node]:
        """Everything that was ever joined or looked for."""
        return list(self._parent)

    def groups(self, nodes: Iterable[Node]) -> list[list[Node]]:
        found: dict[Node, list[Node]] = defaultdict(list)
        for node in nodes:
            found[self.find(node)].append(node)
        return list(found.values())


def drawn_split(key: str, held_out_share: float) -> Split:
    """A fixed draw from a key: held out with probability `held_out_share`."""
    draw = int.from_bytes(hashlib.sha256(b"split:" + key.encode()).digest()[:8], "big") / 2**64
    return "held_out" if draw < held_out_share else "train"


def place(units: Sequence[Unit], held_out_share: float) -> Placement:
    """Assign every unit a split and a cluster, or drop it: `joins_both_splits` when its own person or conversation
    is trained on while its component is held out, `near_other_split` when its text is on the other side."""
    components: Components[str] = Components()
    for unit in units:
        one, *others = unit.ties or (f"unit:{unit.sequence}",)
        for other in others:
            components.join(one, other)
    together: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        together[components.find(next(iter(unit.ties), f"unit:{unit.sequence}"))].append(unit)
    placed = Placement({}, {}, {})
    held_out_texts: set[int] = set()
    for members in together.values():
        members.sort(key=attrgetter("rank"))
        split, cluster = _side(members, held_out_share)
        for unit in members:
            if split == "held_out" and any(side == "train" for side, _ in unit.anchors):
                placed.dropped[unit.sequence] = "joins_both_splits"
            elif unit.published and unit.published - {split}:
                placed.dropped[unit.sequence] = "near_other_split"
            else:
                placed.splits[unit.sequence] = split
                placed.clusters[unit.sequence] = cluster
                if split == "held_out":
                    held_out_texts |= unit.texts
    for unit in units:
        if placed.splits.get(unit.sequence) == "train" and unit.texts & held_out_texts:
            del placed.splits[unit.sequence], placed.clusters[unit.sequence]
            placed.dropped[unit.sequence] = "near_other_split"
    return placed


def _side(members: Sequence[Unit], held_out_share: float) -> tuple[Split, str]:
    """Where a component goes and what it is called: as what it is tied to, held-out first, else by a draw."""
    anchors = {anchor for unit in members for anchor in unit.anchors}
    if anchors:
        return min(anchors)  # "held_out" sorts before "train"
    cluster = "c-" + hashlib.sha256(members[0].rank.encode()).hexdigest()[:16]
    return drawn_split(cluster, held_out_share), cluster
