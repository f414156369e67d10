"""Other harnesses' results, paired: two runs of one task become a report that the gate takes.

Both harnesses print a mean per run, and people look at whether two intervals overlap (inspect_ai #2176, lm-eval #3831).
What they logged allows more: the same samples under the same settings, so differences, clusters and margins.

An area of such a report is the task, a metric the scorer. They are not among Plumbline's ten areas, so the gate takes
margins for them from a file or one option (`plumb gate --margins`, `--margin`). Scores stay what the harness made of
them; only [0, 1] is taken. A sample that one run lacks, or that ended in an error, is a missing pair: an ERROR.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.evaluation.estimates import ALL, named_losses, paired_estimate, rounded
from plumbline.evaluation.table import cluster_codes
from plumbline.records import (
    ComparedPolicy,
    EvaluationReport,
    FailureCase,
    Message,
    PairedEstimate,
    Rubric,
    digest_of,
)
from plumbline.records.report import Direction
from plumbline.statistics.paired import Difference

CASES = 12  # kept in each direction, per metric


@dataclass(frozen=True)
class ForeignSample:
    """One sample of a run. `scores` by metric, in [0, 1]; None where it ended in an error. `asked` is the digest of
    input and target: equal ids with another text are no pair."""

    id: str
    asked: str
    messages: tuple[Message, ...]
    target: tuple[str, ...]
    answer: str
    scores: dict[str, float] | None
    slice: str
    cluster: str


@dataclass(frozen=True)
class ForeignRun:
    """One task of one run: what was asked of whom, under which settings. `settings` must agree between two runs."""

    harness: str
    task: str
    model: str
    identity: dict[str, Any]
    settings: dict[str, Any]
    samples: tuple[ForeignSample, ...]
    directions: dict[str, Direction] = field(default_factory=dict)


def paired_report(reference: Sequence[ForeignRun], aligned: Sequence[ForeignRun], rubric: Rubric) -> EvaluationReport:
    """One report over all tasks that both sides ran.

    Raises PlumblineError when a side lacks a task, when settings differ (a difference could come from them), or when a
    score is not a share.
    """
    before, after = _by_task(reference), _by_task(aligned)
    if before.keys() != after.keys():
        alone = sorted(before.keys() ^ after.keys())
        raise _unpaired(f"only one side ran {', '.join(alone)}", "give logs of the same tasks for both")
    estimates: list[PairedEstimate] = []
    slices: list[PairedEstimate] = []
    failures: list[FailureCase] = []
    missing = 0
    for task in sorted(before):
        one, other = before[task], after[task]
        _same_settings(task, one, other)
        pairs, lost = _pairs(one, other)
        missing += lost
        for metric in sorted({name for pair in pairs for name in pair[0].scores or {}}):
            direction = one.directions.get(metric, "up")
            scored = [pair for pair in pairs if metric in (pair[0].scores or {}) and metric in (pair[1].scores or {})]
            missing += len(pairs) - len(scored)
            if not scored:
                continue
            estimates.append(_estimate(task, metric, direction, scored, ALL)[0])
            groups = sorted({pair[0].slice for pair in scored})
            if len(groups) > 1:
                slices += named_losses(
                    [
                        _estimate(task, metric, direction, [p for p in scored if p[0].slice == name], name)
                        for name in groups
                    ]
                )
            failures += _cases(task, metric, direction, scored)
    first, second = before[min(before)], after[min(after)]
    return EvaluationReport(
        reference=digest_of(first.identity),
        aligned=digest_of(second.identity),
        suite=digest_of(sorted([task, s.id, s.asked] for task, run in before.items() for s in run.samples)),
        rubric=rubric.digest,
        dataset=None,
        decoder=digest_of({task: run.settings for task, run in sorted(before.items())}),
        policies=(_compared("reference", first), _compared("aligned", second)),
        estimates=tuple(estimates),
        slices=tuple(slices),
        failures=tuple(failures),
        missing=missing,
    )


Pair = tuple[ForeignSample, ForeignSample]


def _by_task(runs: Sequence[ForeignRun]) -> dict[str, ForeignRun]:
    found: dict[str, ForeignRun] = {}
    for run in runs:
        if run.task in found:
            raise _unpaired(f"{run.task} was given twice for one side", "give one log of each task a side")
        found[run.task] = run
    if not found:
        raise _unpaired("the logs hold no task", "give logs of finished runs with their samples")
    if len({digest_of(run.identity) for run in found.values()}) > 1:
        names = ", ".join(sorted({run.model for run in found.values()}))
        raise _unpaired(f"one side's logs are of several models ({names})", "compare one model with one model")
    return found


def _same_settings(task: str, one: ForeignRun, other: ForeignRun) -> None:
    names = sorted(one.settings.keys() | other.settings.keys())
    apart = [name for name in names if one.settings.get(name) != other.settings.get(name)]
    if apart:
        said = "; ".join(f"{name}: {one.settings.get(name)!r} and {other.settings.get(name)!r}" for name in apart)
        raise _unpaired(
            f"the runs of {task} differ in {said}",
            "run both under the same settings",
        )


def _pairs(one: ForeignRun, other: ForeignRun) -> tuple[list[Pair], int]:
    """Pairs in order of id, and how many samples form none."""
    before, after = {s.id: s for s in one.samples}, {s.id: s for s in other.samples}
    changed = sorted(id for id in before.keys() & after.keys() if before[id].asked != after[id].asked)
    if changed:
        raise _unpaired(
            f"sample {changed[0]} of {one.task} (and {len(changed) - 1} more) is not the same text in both logs",
            "run both on the same version of the task",
        )
    pairs = [
        (before[id], after[id])
        for id in sorted(before.keys() & after.keys())
        if before[id].scores is not None and after[id].scores is not None
    ]
    return pairs, len(before.keys() | after.keys()) - len(pairs)


def _estimate(
    task: str, metric: str, direction: Direction, pairs: Sequence[Pair], slice_: str
) -> tuple[PairedEstimate, Difference]:
    scores = np.array([[(side.scores or {})[metric] for side in pair] for pair in pairs], dtype=float)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise _unpaired(
            f"{task} scores {metric} outside 0 to 1",
            "choose another metric: intervals here are for shares",
        )
    clusters = cluster_codes([pair[0].cluster for pair in pairs])
    return paired_estimate(
        scores[:, 0], scores[:, 1], clusters, area=task, metric=metric, direction=direction, slice_=slice_
    )


def _cases(task: str, metric: str, direction: Direction, pairs: Sequence[Pair]) -> list[FailureCase]:
    """Samples that changed, the worst losses first, then the gains; a stable hash of the id decides among equals."""
    sign = 1 if direction == "up" else -1
    changed = []
    for one, other in pairs:
        before, after = (one.scores or {})[metric], (other.scores or {})[metric]
        if before != after:
            order = hashlib.sha256(one.id.encode()).hexdigest()
            changed.append((sign * (after - before), order, one, other, before, after))
    changed.sort(key=lambda entry: entry[:2])
    worse = [entry for entry in changed if entry[0] < 0][:CASES]
    better = [entry for entry in reversed(changed) if entry[0] > 0][:CASES]
    return [
        FailureCase(
            item=one.id,
            area=task,
            metric=metric,
            slice=one.slice,
            messages=one.messages,
            references=one.target,
            reference_answer=one.answer,
            aligned_answer=other.answer,
            reference_score=rounded(before),
            aligned_score=rounded(after),
        )
        for _, _, one, other, before, after in worse + better
    ]


def _compared(role: Any, run: ForeignRun) -> ComparedPolicy:
    return ComparedPolicy(
        role=role,
        name=run.model,
        policy=digest_of(run.identity),
        template=digest_of({"harness": run.harness, "template": run.settings.get("chat template")}),
        verified=False,
    )


def _unpaired(fact: str, remedy: str) -> PlumblineError:
    return PlumblineError(fact, consequence="there is no report: unlike runs cannot be paired", remedy=remedy)
