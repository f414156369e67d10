"""What the pairs say: refusal on both legs by slice, the difference with bounds that hold at every look, and losses.

The judge is handed in: a function from an answer's text to `refuse`, `comply` or `incoherent`.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from plumbline.records import Pair, ShadowCounts, ShadowSummary, merkle_root
from plumbline.shadow.spool import Spool
from plumbline.statistics.sequential import confidence_sequence, session_means

Judge = Callable[[str], str]
ALL = "all"


def read_pairs(directory: Path) -> list[Pair]:
    """All pairs in a spool, in the order in which their requests were recorded."""
    spool = Spool.existing(directory)
    try:
        return list(spool.pairs())
    finally:
        spool.close()


def summarise(pairs: Iterable[Pair], judge: Judge, counts: ShadowCounts, *, alpha: float = 0.05) -> ShadowSummary:
    """Refusal by leg and slice (and over all), the paired shift in refusal, and latency. Order does not matter.

    Interrupted and incoherent answers count as answers that are no refusals, on whichever leg they occur; interrupted
    ones are left out of the latencies, which are milliseconds.
    """
    if not counts.balanced:
        raise ValueError(f"the shadow accounting does not balance: {counts}")
    kept = list(pairs)
    labelled = [(pair, judge(pair.reference.text) == "refuse", judge(pair.aligned.text) == "refuse") for pair in kept]
    reference: dict[str, float] = {}
    aligned: dict[str, float] = {}
    shift: dict[str, tuple[float, float, float]] = {}
    for name in [*sorted({pair.spooled.slice for pair in kept}), *([ALL] if kept else [])]:
        rows = [row for row in labelled if name in (row[0].spooled.slice, ALL)]
        reference[name] = sum(r for _, r, _ in rows) / len(rows)
        aligned[name] = sum(a for _, _, a in rows) / len(rows)
        means = session_means((pair.spooled.session, float(a) - float(r)) for pair, r, a in rows)
        bounds = confidence_sequence(means, alpha=alpha)
        shift[name] = (bounds.mean, bounds.low, bounds.high)
    return ShadowSummary(
        counts=counts,
        pairs=merkle_root(pair.digest for pair in kept),
        refusal_reference=reference,
        refusal_aligned=aligned,
        refusal_shift=shift,
        sessions=len({pair.spooled.session for pair in kept}),
        latency_ms=dict(_latencies(kept)),
    )


def _latencies(pairs: list[Pair]) -> Iterator[tuple[str, float]]:
    for leg in ("reference", "aligned"):
        answers = [pair.reference if leg == "reference" else pair.aligned for pair in pairs]
        times = sorted(answer.latency_ms for answer in answers if answer.finish != "client_abort")
        for percent in (50, 95, 99):
            if times:
                yield f"{leg}_p{percent}", times[max(0, math.ceil(percent / 100 * len(times)) - 1)]
