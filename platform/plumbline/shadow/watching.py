"""A look at a running experiment, as often as anyone likes: bounds that hold at every look, losses, and the alarm.

`Watch` follows a spool: each look reads only what was settled or erased since the last one (`Spool.changes`), and
judges no text twice. `status` is a pure function of what was seen; the order of arrival does not matter to it.

Three questions, three rules, all of which may be asked at every step:

    is it proven worse at all?      `alarm`: the planned sequence up to the plan's size, wrong with alpha at most
    is it proven beyond a limit?    `harm`, the kill switch: the one-sided confidence sequence; alpha is shared out over
                                    the requirements
    is it proven within its margin  `state`, from one-sided sequences each way, the worst case of lost pairs included
    (or beyond it)?

The decision to promote is none of these: verdict.py.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.policies.files import write_durably
from plumbline.records import Pair, ShadowCounts, Verdict
from plumbline.records.shadow import RequirementStatus, ShadowEstimate, ShadowPlan, ShadowStatus, SliceLoss
from plumbline.shadow.observed import (
    ALL,
    LEGS,
    Columns,
    Labels,
    Measured,
    Scorer,
    Seen,
    Table,
    at_any_look,
    in_order,
    lost_for,
    measured,
    percentiles,
    see,
    slice_losses,
)
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Loss, Spool
from plumbline.shadow.spool_state import USERS
from plumbline.shadow.sweeping import swept_at
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import outcome
from plumbline.statistics.sequential import alarm, confidence_sequence

SEVERITY = (Verdict.ERROR, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.PASS)
METRICS = ("benign_refusal", "harmful_compliance", "helpfulness")
PAGE = 512
RESET = "reset.json"
MAX_SLICES = 100  # of a status; labels of gauges come from requests


class Watch:
    """Follows one spool. Not for several threads at once."""

    def __init__(self, spool: Spool, labels: Labels, plan: ShadowPlan, scorer: Scorer | None = None) -> None:
        self.spool = spool
        self.labels = labels
        self.plan = plan
        self.scorer = scorer
        self.pairs_read = 0
        self._columns = Columns()
        self._places: dict[int, int] = {}  # by place in the spool
        self._read_to = 0
        self._last: tuple[object, ShadowStatus] | None = None

    def refresh(self) -> bool:
        """Read what changed since the last time; whether anything did. An erased pair is dropped here too."""
        changed = False
        while page := self.spool.changes(self._read_to, PAGE):
            changed = True
            read = [(one, see(one.pair, self.labels, self.scorer) if one.pair else None) for one in page]
            for change, what in read:  # nothing of a page that could not be judged is taken for read
                if (place := self._places.pop(change.seq, None)) is not None:
                    self._columns.drop(place)
                if what is not None:
                    self.pairs_read += 1
                    self._places[change.seq] = self._columns.add(what, change.number)
            self._read_to = page[-1].number
        return changed

    def __len__(self) -> int:
        """Pairs that are there."""
        return len(self._places)

    def status(self) -> ShadowStatus:
        """The look of now; where nothing has happened since, the one of then."""
        self.refresh()
        counts, losses, tripped = self.spool.counts(), self.spool.losses(), self.spool.tripped()
        state = (self._read_to, counts, losses, tripped, self.plan)
        if self._last is None or self._last[0] != state:
            found = status(
                self._columns.table(), counts, losses, experiment=self.spool.experiment, plan=self.plan, tripped=tripped
            )
            self._last = (state, found)
        now = {"users": self.spool.told(USERS), "swept": swept_at(self.spool)}
        return self._last[1].model_copy(update=now)

    def harm(self) -> str | None:
        """Why the kill switch should trip now; None when nothing is proven by what came after its last reset."""
        self.refresh()
        return harm(self._columns.table(after=_reset_at(self.spool.directory)), self.plan)

    def reset(self, reason: str) -> None:
        """Take the switch back. What was seen until now is explained, and trips it no more; what comes may."""
        self.refresh()
        write_durably(self.spool.directory / RESET, json.dumps({"after": self._read_to}).encode() + b"\n")
        self.spool.reset_trip(reason)


def status(
    seen: Table | Iterable[Seen],
    counts: ShadowCounts,
    losses: Iterable[Loss],
    *,
    experiment: Experiment,
    plan: ShadowPlan,
    tripped: str | None = None,
) -> ShadowStatus:
    """All that a dashboard shows. Pure."""
    table = seen if isinstance(seen, Table) else Table.of(seen)
    lost = slice_losses(losses, table, experiment.mode)
    requirements: dict[str, RequirementStatus] = {}
    slices: dict[str, dict[str, ShadowEstimate]] = {}
    names = table.named("slice")[:MAX_SLICES]
    for metric in METRICS:
        found = measured(table, metric, plan)
        planned = plan.requirement(metric)
        if planned is not None:
            requirements[metric] = _requirement(found, lost_for(metric, lost, plan), plan)
        tuned_for = planned.sessions if planned else 500
        for name in names:
            here = found.on(name)
            if len(here.sessions):
                gone = sum(loss.n for loss in lost if loss.counted and loss.slice == name)
                estimate = at_any_look(here, name, gone, alpha=plan.alpha, tuned_for=tuned_for)
                slices.setdefault(name, {})[metric] = estimate
    states = {one.state for one in requirements.values()} | ({Verdict.REGRESSED} if tripped else set())
    return ShadowStatus(
        experiment=experiment.name,
        experiment_digest=experiment.digest,
        mode=experiment.mode,
        plan=plan.digest,
        counts=counts,
        sessions=len(np.unique(table["session"])),
        requirements=requirements,
        slices=slices,
        refusals=_refusals(table, names),
        losses=lost,
        lost_share=_lost_share(table, lost),
        latency_ms=percentiles({leg: table[f"latency_{i}"][table[f"aborted_{i}"] == 0] for i, leg in enumerate(LEGS)}),
        first_ms=percentiles({leg: _known(table[f"first_{i}"]) for i, leg in enumerate(LEGS)}),
        tokens={leg: int(table[f"tokens_{i}"].sum()) / len(table) for i, leg in enumerate(LEGS) if len(table)},
        same_text=int(table["same"].sum()) / max(1, len(table)),
        digests={leg: tuple(table.named(f"policy_{i}")) for i, leg in enumerate(LEGS)},
        tripped=tripped,
        stopped=tripped is not None,
        verdict=next((verdict for verdict in SEVERITY if verdict in states), Verdict.INCONCLUSIVE),
    )


def harm(seen: Table | Iterable[Seen], plan: ShadowPlan) -> str | None:
    """A sentence when a requirement is proven worse than its limit, by a rule that holds at every look."""
    table = seen if isinstance(seen, Table) else Table.of(seen)
    alpha = plan.alpha / len(plan.requirements)
    for one in plan.requirements:
        means = measured(table, one.metric, plan).session_means()
        bounds = confidence_sequence(means, alpha=alpha, tuned_for=one.sessions, side="high")
        if bounds.high < -one.limit:
            return (
                f"{one.metric} is worse by {-100 * bounds.mean:.1f} points over {bounds.sessions} sessions, and by at"
                f" least {-100 * bounds.high:.1f} whenever one looks (limit {100 * one.limit:.1f})"
            )
    return None


def read(pairs: Iterable[Pair], labels: Labels, scorer: Scorer | None = None) -> list[Seen]:
    return in_order(see(pair, labels, scorer) for pair in pairs)


def _reset_at(directory: Path) -> int:
    """The number of the last change before the last reset. A file that cannot be read excuses nothing."""
    try:
        return int(json.loads((directory / RESET).read_bytes())["after"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _requirement(found: Measured, lost: int, plan: ShadowPlan) -> RequirementStatus:
    planned = plan.requirement(found.metric)
    assert planned is not None
    estimate = at_any_look(found, ALL, lost, alpha=plan.alpha, tuned_for=planned.sessions)
    said = Verdict(outcome(estimate.difference, Interval(estimate.low, estimate.high), planned.margin).upper())
    if said is Verdict.PASS and estimate.worst_low <= -planned.margin:
        said = Verdict.INCONCLUSIVE
    return RequirementStatus(
        estimate=estimate,
        margin=planned.margin,
        limit=planned.limit,
        planned=planned.sessions,
        state=said,
        alarm=alarm(found.session_means(), planned.sessions, alpha=plan.alpha),
    )


def _refusals(table: Table, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of refusals by slice and leg; words that nobody can use are none."""
    refused = [table.acted(leg, frozenset({"refuse"})) for leg in (0, 1)]
    found: dict[str, dict[str, float]] = {}
    for name in [*names, *([ALL] if len(table) else [])]:
        here = table.where(name)
        found[name] = {leg: int(refused[i][here].sum()) / int(here.sum()) for i, leg in enumerate(LEGS)}
    return found


def _lost_share(table: Table, losses: Sequence[SliceLoss]) -> dict[str, float]:
    """Lost pairs over all that could have become one, by slice and over all."""
    counted = np.bincount(table["slice"][table["unread"] == 0], minlength=len(table.names["slice"]))
    kept = dict(zip(table.names["slice"], counted.tolist(), strict=True))
    gone: dict[str, int] = {}
    for loss in losses:
        gone[loss.slice] = gone.get(loss.slice, 0) + loss.n * loss.counted
    shares = {
        name: gone.get(name, 0) / total
        for name in sorted({*kept, *gone})[:MAX_SLICES]
        if (total := kept.get(name, 0) + gone.get(name, 0))
    }
    total = sum(kept.values()) + sum(gone.values())
    return shares | {ALL: sum(gone.values()) / total if total else 0.0}


def _known(values: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = values[~np.isnan(values)]
    return found
