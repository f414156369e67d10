"""Feedback drift: the data moves under the policy.

1. Target: a new dataset version differs from the last one in ways that somebody chose.
2. Variable: the distribution of training examples over slices, over what their targets do, and over target length, and
   of the words in their prompts and targets; with the digests of policy text, rubric and data that made each version.
3. Estimator: population stability index between two versions' histograms; AUROC of a classifier that tells two
   versions' prompts, or their targets, apart (a two-sample test, with its interval); from three versions on, CUSUM over
   the shares of each slice, act and length, in standard errors of a version that moves by five points as a rule; and
   the share of examples that came from people without a consent reference.
4. Rule: alarm when an index is above .25; when an AUROC's lower bound is above .60; when a CUSUM passes 5, which many
   small steps do together that no index sees; or when the policy text changed (labels of two texts are mixed), where
   it is not recorded the rubric's digest. Blocking when any example from feedback carries no consent reference.
5. Regression metric: the largest of the three indices and the larger AUROC, with the digests that changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from math import hypot, sqrt

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.evaluation.judging.judges import Judge
from plumbline.evaluation.pressures.base import DatasetWindow, Evidence, Pressure, not_measured, reading
from plumbline.evaluation.samples import Texts, asked, tell_apart
from plumbline.records import Example, PressureReading, short
from plumbline.statistics.drift import cusum, population_stability

NAME = "feedback_drift"
SHIFTED = 0.25
APART = 0.60
WOBBLE = 0.05  # by how much a share moves from version to version when nothing is wrong
FROM_PEOPLE = frozenset({"rewrite", "approved_answer", "comparison"})
LENGTH_BINS = (4, 8, 16, 32, 64, 128)


def measure(evidence: Evidence) -> PressureReading:
    old, new = evidence.observations.previous, evidence.observations.current
    if old is None or new is None:
        return not_measured(NAME, "two dataset versions are needed, the one before and this one")
    statistics = {
        "psi_slice": _psi(_slices(old), _slices(new)),
        "older_version": float(old.manifest.version),
        "newer_version": float(new.manifest.version),
    }
    if old.examples and new.examples:
        statistics |= {
            "psi_label": _psi(_labels(evidence.judge, old.examples), _labels(evidence.judge, new.examples)),
            "psi_length": _psi(_lengths(old.examples), _lengths(new.examples)),
        }
    apart = _two_samples(old, new, statistics)
    steady = _steady(evidence, [*evidence.observations.history, old, new], statistics)
    unconsented = sum(e.provenance.origin in FROM_PEOPLE and e.consent is None for e in new.examples)
    changed = _changed(old, new)
    statistics |= {"without_consent": float(unconsented), "digests_changed": float(len(changed))}
    shifted = [name for name, value in statistics.items() if name.startswith("psi_") and value > SHIFTED]
    alarm = bool(shifted or apart or steady) or unconsented > 0 or _another_text(old, new)
    return reading(
        NAME,
        statistics,
        f"from version {old.manifest.version} to {new.manifest.version}: "
        + (f"shifted by {', '.join(name.removeprefix('psi_') for name in shifted)}" if shifted else "no large shift")
        + (f" (most: {_most_moved(old, new)})" if "psi_slice" in shifted else "")
        + "".join(f"; {said}" for said in apart)
        + (f"; moved steadily over {len(evidence.observations.history) + 2} versions: {_few(steady)}" if steady else "")
        + f"; digests changed: {', '.join(f'{name} {said}' for name, said in changed.items()) or 'none'}"
        + (f"; {unconsented} examples from feedback carry no consent" if unconsented else ""),
        alarm=alarm,
        blocking=unconsented > 0,
    )


def _two_samples(old: DatasetWindow, new: DatasetWindow, statistics: dict[str, float]) -> list[str]:
    """Adds the AUROCs of prompts and of targets; says which are proven apart. Too few examples give neither."""
    said = []
    kinds: tuple[tuple[str, Callable[[Example], str]], ...] = (
        ("prompts", lambda example: asked(example.prompt)),
        ("targets", lambda example: example.target),
    )
    for name, text in kinds:
        sides: list[Texts] = [[(text(one), one.cluster) for one in window.examples] for window in (old, new)]
        try:
            found = tell_apart(*sides)
        except PlumblineError:
            continue
        area = found.test.auroc
        statistics |= {f"auroc_{name}": area.area, f"auroc_{name}_low": area.interval.low}
        statistics |= {f"auroc_{name}_high": area.interval.high}
        if area.interval.low > APART:
            words = f" (typical of the newer: {found.typical_of_second})" if found.typical_of_second else ""
            said.append(f"{name} can be told apart, AUROC at least {area.interval.low:.2f}{words}")
    return said


def _steady(evidence: Evidence, windows: Sequence[DatasetWindow], statistics: dict[str, float]) -> list[str]:
    """Adds the largest CUSUM by kind of share; names the shares whose sum passes the limit, and with which version."""
    if len(windows) < 3:
        return []
    kinds: dict[str, list[list[str]]] = {"slice": [_slices(one) for one in windows]}
    if all(one.examples for one in windows):
        kinds["label"] = [_labels(evidence.judge, one.examples) for one in windows]
        kinds["length"] = [_lengths(one.examples) for one in windows]
    alarms = []
    for kind, drawn in kinds.items():
        most = 0.0
        for value in sorted({name for names in drawn for name in names}):
            shares = np.array([names.count(value) / max(1, len(names)) for names in drawn])
            first, fewest = float(shares[0]), max(1, min(map(len, drawn)))
            found = cusum(shares[1:], first, hypot(WOBBLE, sqrt(first * (1 - first) / fewest)))
            most = max(most, float(found.up.max()), float(found.down.max()))
            if found.alarm is not None:
                version = windows[found.alarm + 1].manifest.version
                alarms.append(f"{kind} {value} from {first:.1%} to {shares[-1]:.1%} (since version {version})")
        statistics[f"cusum_{kind}"] = most
    return alarms


def _few(said: Sequence[str], most: int = 4) -> str:
    return ", ".join(said[:most]) + (f" and {len(said) - most} more" if len(said) > most else "")


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


def _slices(window: DatasetWindow) -> list[str]:
    return sorted(Counter(window.manifest.slices).elements())


def _labels(judge: Judge, examples: Sequence[Example]) -> list[str]:
    return [judge.act(example.target).value for example in examples]


def _lengths(examples: Sequence[Example]) -> list[str]:
    """Target length in words, in doubling bins."""
    return [str(sum(len(example.target.split()) >= edge for edge in LENGTH_BINS)) for example in examples]


def _changed(old: DatasetWindow, new: DatasetWindow) -> dict[str, str]:
    """What made the versions, where it changed: digest before and after."""
    pairs = {
        "policy text": (old.manifest.policy_text, new.manifest.policy_text),
        "rubric": (old.manifest.rubric, new.manifest.rubric),
        "dataset": (old.manifest.root, new.manifest.root),
        "code": (old.manifest.code, new.manifest.code),
    }
    return {
        name: f"{short(before)} to {short(after)}"
        for name, (before, after) in pairs.items()
        if before != after and before is not None and after is not None
    }


def _another_text(old: DatasetWindow, new: DatasetWindow) -> bool:
    """Whether people judged by other rules. A rubric whose margins alone moved reads the same."""
    before, after = old.manifest.policy_text, new.manifest.policy_text
    if before is None or after is None:
        return old.manifest.rubric != new.manifest.rubric
    return before != after


PRESSURE = Pressure(NAME, __doc__, measure)
