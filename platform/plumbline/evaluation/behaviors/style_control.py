"""Style control: takes the form it is asked for.

1. Target: asked for a form (short, formal, in a voice), the policy answers in that form.
2. Variable: S(pi) = Pr over styled requests x that y ~ pi(. | x) meets every requested constraint.
3. Estimator: items whose references are constraints checked by program, or the exact styled answer (scorer `style`).
   Its usual form it keeps where no form is asked: D_f(pi_theta, pi_0) is the Wasserstein distance of feature f of both
   policies' answers to the suite's other items, in standard deviations of the reference; f is length in words,
   Markdown marks, list lines or hedges.
4. Rule: SFT negative log-likelihood on styled demonstrations, with their slice weight; at run time none.
5. Regression metric: `style_obeyed`, the share of items with all constraints met; up is better. Beside it the
   drifts D_f `drift_words`, `drift_markdown`, `drift_lists` and `drift_hedges`, each with its interval, against .1.
"""

import re
from collections.abc import Callable

import numpy as np

from plumbline.evaluation.answers import by_likelihood
from plumbline.evaluation.behaviors.base import Behavior, Metric, Seen, diagnostic, success, unmeasured
from plumbline.evaluation.scorers import CONTENT_BLIND
from plumbline.evaluation.table import PairedTable
from plumbline.records import SuiteItem
from plumbline.records.report import Diagnostic
from plumbline.statistics.drift import style_drift

AREA, UNIT, LIMIT = "style_control", "standard deviations", 0.1
FEWEST = 30
_MARKS = re.compile(r"\*\*|__|`|^#{1,6} |\[[^\]]*\]\(", re.MULTILINE)
_LIST = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+\S", re.MULTILINE)
_HEDGES = re.compile(
    r"\b(?:perhaps|maybe|possibly|probably|likely|might|may|could|seems?|appears?|i (?:think|believe|guess)|as an ai"
    r"|it depends|generally|typically|it is important to note|it's important to note)\b",
    re.IGNORECASE,
)
FEATURES: dict[str, Callable[[str], float]] = {
    "drift_words": lambda text: float(len(text.split())),
    "drift_markdown": lambda text: float(len(_MARKS.findall(text))),
    "drift_lists": lambda text: float(len(_LIST.findall(text))),
    "drift_hedges": lambda text: float(len(_HEDGES.findall(text))),
}


def diagnose(seen: Seen) -> list[Diagnostic]:
    """Items that ask for no form: of other areas, answered in words, and checked by no rule of form."""
    free = seen.everything.where(_free)
    free = PairedTable(tuple(row for row in free.rows if row.reference_answer.text and row.aligned_answer.text))
    if len(free.rows) < FEWEST:
        why = f"{len(free.rows)} items that ask for no form were answered by both policies; {FEWEST} are needed"
        return [unmeasured(AREA, name, UNIT, LIMIT, why) for name in FEATURES]
    return [_drift(free, name, feature) for name, feature in FEATURES.items()]


def _free(item: SuiteItem) -> bool:
    return item.area != AREA and item.scorer not in CONTENT_BLIND and not by_likelihood(item)


def _drift(free: PairedTable, name: str, feature: Callable[[str], float]) -> Diagnostic:
    old = np.array([feature(row.reference_answer.text or "") for row in free.rows])
    new = np.array([feature(row.aligned_answer.text or "") for row in free.rows])
    if old.std() == 0 and (old != new).any():
        why = "the reference never varies in it, so that there is no standard deviation to measure in"
        return unmeasured(AREA, name, UNIT, LIMIT, f"{why}; the mean went from {old.mean():.2f} to {new.mean():.2f}")
    found = style_drift(old, new, clusters=free.clusters)
    what = name.removeprefix("drift_")
    return diagnostic(
        AREA,
        name,
        UNIT,
        LIMIT,
        (found.distance, found.interval.low, found.interval.high),
        f"{what} in an answer went from {old.mean():.2f} to {new.mean():.2f} where no form was asked for",
        n=len(old),
        clusters=int(free.clusters.max()) + 1,
        details={
            "mean_reference": float(old.mean()),
            "mean_aligned": float(new.mean()),
            "by_chance": found.by_chance,
            "p_value": found.p_value,
            "ks": found.ks,
        },
    )


BEHAVIOR = Behavior(AREA, __doc__, (Metric("style_obeyed", "up", success),), diagnose)
