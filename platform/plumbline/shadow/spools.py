"""Several spools of one experiment, read as one: each router keeps its own.

Records are taken in the order of their numbers, the first of every spool before the second of any. No clock is asked,
and no outcome: so a verdict's horizon, the number with which the plan is reached, is as blind as that of one spool.
"""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence

from plumbline.errors import PlumblineError
from plumbline.records import Pair, ShadowCounts
from plumbline.records.shadow import ShadowPlan
from plumbline.shadow.planning import read_plan
from plumbline.shadow.spool import Loss, Spool


class Spools:
    """At least one spool. PlumblineError for spools of different experiments or plans, or one named twice."""

    def __init__(self, spools: Sequence[Spool]) -> None:
        self.all = tuple(spools)
        self.experiment = self.all[0].experiment
        for other in self.all[1:]:
            if other.experiment != self.experiment:
                raise _no_pool(
                    f"{other.directory} belongs to experiment {other.experiment.name} ({other.experiment.digest[:19]}),"
                    f" {self.all[0].directory} to {self.experiment.name} ({self.experiment.digest[:19]})"
                )
        if len({spool.directory.resolve() for spool in self.all}) < len(self.all):
            raise _no_pool("a spool is named twice")

    def plan(self) -> ShadowPlan | None:
        """The plan beside each of the spools; None when none has one. PlumblineError when only some have it: what began
        without a plan did not begin under this one."""
        plans = [read_plan(spool.directory) for spool in self.all]
        if len({plan.digest if plan else "" for plan in plans}) > 1:
            raise _no_pool("the spools do not all have the same plan beside them")
        return plans[0]

    def numbered_pairs(self) -> Iterator[tuple[int, Pair]]:
        """All pairs with their numbers, in that order. PlumblineError for a pair that two spools hold: a copy."""
        known: set[str] = set()
        for number, pair in heapq.merge(*(spool.numbered_pairs() for spool in self.all), key=lambda one: one[0]):
            if len(self.all) > 1:
                if (digest := pair.digest) in known:
                    raise _no_pool(f"the pair of request {pair.spooled.request} is in two of the spools")
                known.add(digest)
            yield number, pair

    def pairs(self) -> Iterator[Pair]:
        return (pair for _, pair in self.numbered_pairs())

    def losses(self, until: int | None = None) -> list[Loss]:
        """What became no pair, by slice and reason; of records those numbered up to `until`."""
        lost = Counter[tuple[str, str]]()
        for spool in self.all:
            for loss in spool.losses(until):
                lost[loss.slice, loss.reason] += loss.n
        return sorted(Loss(name, reason, n) for (name, reason), n in lost.items())

    def waiting(self, until: int | None = None) -> list[Loss]:
        """What still waits, by slice, as losses."""
        lost = Counter[str]()
        for spool in self.all:
            after = 0
            while page := spool.pending(256, after):
                after = page[-1][0]
                lost.update(record.slice for number, record in page if until is None or number <= until)
        return [Loss(name, "pending", n) for name, n in sorted(lost.items())]

    def counts(self) -> ShadowCounts:
        each = [spool.counts() for spool in self.all]
        shed = Counter[str]()
        for counts in each:
            shed.update(counts.shed)
        return ShadowCounts(
            experiment=self.experiment.name,
            spooled=sum(counts.spooled for counts in each),
            paired=sum(counts.paired for counts in each),
            pending=sum(counts.pending for counts in each),
            shed=dict(shed),
        )

    def tripped(self) -> str | None:
        """Why a kill switch is thrown, of the first spool whose is."""
        return next((why for spool in self.all if (why := spool.tripped()) is not None), None)


def _no_pool(fact: str) -> PlumblineError:
    return PlumblineError(
        f"{fact}, so these are not the spools of one experiment",
        consequence="nothing was decided",
        remedy="name each router's spool once, all of one experiment with the settings it began with",
    )
