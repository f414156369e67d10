"""Variants: the same request in another phrasing or language, beside its canonical twin.

Two ways to say so. `phrasing` and `language` name the variant of an item, which makes rates by variant comparable.
`variant_of` names the canonical item that it puts in other words, which makes the two a pair: the difference between
them is the phrasing's alone. Without it, items of one cluster, scorer and expectation are taken for a family.
"""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from plumbline.evaluation.scorers import expects_abstention
from plumbline.records import SuiteItem

CANONICAL = "canonical"


def variant_of(item: SuiteItem) -> str:
    """`canonical`, the phrasing's name, or `language-xx` for the canonical one in another language than English."""
    if item.phrasing != CANONICAL:
        return item.phrasing
    return CANONICAL if item.language == "en" else f"language-{item.language}"


def family_of(item: SuiteItem, tied: frozenset[str] = frozenset()) -> Hashable:
    """What an item shares with its variants. `tied` are the ids that some item names as its twin (`tied_items`): a tie
    is a family of its own, and closer than a cluster."""
    if item.variant_of is not None:
        return ("twin", item.variant_of)
    if item.id in tied:
        return ("twin", item.id)
    return ("cluster", item.scorer, item.cluster, expects_abstention(item))


def tied_items(items: Sequence[SuiteItem]) -> frozenset[str]:
    return frozenset(item.variant_of for item in items if item.variant_of is not None)


@dataclass(frozen=True)
class SliceVariants:
    """One slice of an area: how many items by variant, and its holes. `holes[v]` are ids of canonical items that are
    tied to twins elsewhere in the suite's variants but have none in variant v; where nothing is tied there are none."""

    area: str
    slice: str
    counts: dict[str, int]
    tied: int
    holes: dict[str, tuple[str, ...]]


def variants_by_slice(items: Sequence[SuiteItem]) -> list[SliceVariants]:
    """By area and slice of the canonical item (a variant counts where its twin stands), sorted.

    A hole is a canonical item without a twin in a variant that its slice otherwise has through `variant_of`.
    """
    by_id = {item.id: item for item in items}
    groups: dict[tuple[str, str], list[SuiteItem]] = defaultdict(list)
    for item in items:
        home = by_id.get(item.variant_of or "", item)
        groups[home.area, home.slice].append(item)
    return [_slice(area, name, group) for (area, name), group in sorted(groups.items())]


def _slice(area: str, name: str, group: Sequence[SuiteItem]) -> SliceVariants:
    counts: dict[str, int] = defaultdict(int)
    twins: dict[str, set[str]] = defaultdict(set)
    for item in group:
        counts[variant_of(item)] += 1
        if item.variant_of is not None:
            twins[variant_of(item)].add(item.variant_of)
    canonical = [item.id for item in group if item.variant_of is None]
    return SliceVariants(
        area=area,
        slice=name,
        counts=dict(sorted(counts.items(), key=lambda pair: (pair[0] != CANONICAL, pair[0]))),
        tied=sum(item.variant_of is not None for item in group),
        holes={
            variant: tuple(one for one in canonical if one not in have)
            for variant, have in sorted(twins.items())
            if not set(canonical) <= have
        },
    )
