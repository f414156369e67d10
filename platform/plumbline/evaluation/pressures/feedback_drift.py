"""Feedback drift: the data moves under the policy.

1. Target: a new dataset version differs from the last one in ways that somebody chose.
2. Variable: the distribution of training examples over slices, over what their targets do, and over target length;
   with the digests of rubric and code that made each version.
3. Estimator: population stability index between two versions' histograms, and the share of examples that came from
   people without a consent reference.
4. Rule: alarm when an index is above .25, or when the rubric's digest changed (labels of two rubrics are mixed);
   blocking when any example from feedback carries no consent reference.
5. Regression metric: the largest of the three indices, with the digests that changed.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from plumbline.evaluation.judging.judges import Judge
from plumbline.evaluation.pressures.base import DatasetWindow, Evidence, Pressure, not_measured, reading
from plumbline.records import Example, PressureReading
from plumbline.statistics.drift import population_stability

NAME = "feedback_drift"
SHIFTED = 0.25
FROM_PEOPLE = frozenset({"rewrite", "approved_answer", "comparison"})
LENGTH_BINS = (4, 8, 16, 32, 64, 128)


def measure(evidence: Evidence) -> PressureReading:
    old, new = evidence.observations.previous, evidence.observations.current
    if old is None or new is None:
        return not_measured(NAME, "two dataset versions are needed, the one before and this one")
    statistics = {
        "psi_slice": _psi(list(Counter(old.manifest.slices).elements()), list(Counter(new.manifest.slices).elements())),
        "older_version": float(old.manifest.version),
        "newer_version": float(new.manifest.version),
    }
    if old.examples and new.examples:
        statistics |= {
            "psi_label": _psi(_labels(evidence.judge, old.examples), _labels(evidence.judge, new.examples)),
            "psi_length": _psi(_lengths(old.examples), _lengths(new.examples)),
        }
    unconsented = sum(e.provenance.origin in FROM_PEOPLE and e.consent is None for e in new.examples)
    changed = _changed(old, new)
    statistics |= {"without_consent": float(unconsented), "digests_changed": float(len(changed))}
    shifted = [name for name, value in statistics.items() if name.startswith("psi_") and value > SHIFTED]
    alarm = bool(shifted) or "rubric" in changed or unconsented > 0
    return reading(
        NAME,
        statistics,
        f"from version {old.manifest.version} to {new.manifest.version}: "
        + (f"shifted by {', '.join(name.removeprefix('psi_') for name in shifted)}" if shifted else "no large shift")
        + (f" (most: {_most_moved(old, new)})" if "psi_slice" in shifted else "")
        + f"; digests changed: {', '.join(changed) or 'none'}"
        + (f"; {unconsented} examples from feedback carry no consent" if unconsented else ""),
        alarm=alarm,
        blocking=unconsented > 0,
    )


def _most_moved(old: DatasetWindow, new: DatasetWindow) -> str:
    """The slice whose share of the version moved most."""
    before, after = (
        {name: count / max(1, sum(one.manifest.slices.values())) for name, count in one.manifest.slices.items()}
        for one in (old, new)
    )
    moved = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in sorted(before.keys() | after.keys())}
    name = max(moved, key=lambda one: abs(moved[one]))
    return f"{name} {moved[name]:+.1%} of the version"


def _psi(old: Iterable[str], new: Iterable[str]) -> float:
    before, after = Counter(old), Counter(new)
    bins = sorted(before.keys() | after.keys())
    return population_stability([before[b] for b in bins], [after[b] for b in bins]) if bins else 0.0


def _labels(judge: Judge, examples: Sequence[Example]) -> list[str]:
    return [judge.act(example.target).value for example in examples]


def _lengths(examples: Sequence[Example]) -> list[str]:
    """Target length in words, in doubling bins."""
    return [str(sum(len(example.target.split()) >= edge for edge in LENGTH_BINS)) for example in examples]


def _changed(old: DatasetWindow, new: DatasetWindow) -> list[str]:
    pairs = {
        "rubric": (old.manifest.rubric, new.manifest.rubric),
        "dataset": (old.manifest.root, new.manifest.root),
        "code": (old.manifest.code, new.manifest.code),
    }
    return [name for name, (before, after) in pairs.items() if before != after]


PRESSURE = Pressure(NAME, __doc__, measure)
