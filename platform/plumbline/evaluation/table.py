"""The paired table: every item with both policies' answers and scores, in the suite's order. Pure data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from plumbline.evaluation.answers import ItemAnswer
from plumbline.evaluation.scorers import Scored
from plumbline.records import SuiteItem
from plumbline.statistics.paired import Floats


@dataclass(frozen=True)
class PairedItem:
    item: SuiteItem
    reference_answer: ItemAnswer
    aligned_answer: ItemAnswer
    reference: Scored
    aligned: Scored


@dataclass(frozen=True)
class PairedTable:
    """Rows are paired by item id; an item that either policy has no answer to is not here but in `missing`."""

    rows: tuple[PairedItem, ...]

    def where(self, keep: Callable[[SuiteItem], bool]) -> "PairedTable":
        return PairedTable(tuple(row for row in self.rows if keep(row.item)))

    @cached_property
    def clusters(self) -> NDArray[np.intp]:
        """Clusters as integers 0..G-1 in order of first appearance. Shape (n,)."""
        return cluster_codes([row.item.cluster for row in self.rows])

    def values(self, score: Callable[[Scored], float]) -> tuple[Floats, Floats]:
        """(reference, aligned) scores, each of shape (n,)."""
        reference = np.array([score(row.reference) for row in self.rows], dtype=float)
        aligned = np.array([score(row.aligned) for row in self.rows], dtype=float)
        return reference, aligned


def cluster_codes(names: Sequence[str]) -> NDArray[np.intp]:
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(name, len(codes)) for name in names], dtype=np.intp)
