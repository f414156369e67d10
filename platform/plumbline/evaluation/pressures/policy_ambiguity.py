"""Policy ambiguity: reviewers cannot agree on what a rule asks.

1. Target: two reviewers who apply one rule to one answer reach the same label.
2. Variable: alpha_r = 1 - observed over expected disagreement under rule r (Krippendorff, nominal labels).
3. Estimator: label rows (rule, item, reviewer, label); an item with two or more labels under a rule is a unit; the
   interval is a percentile bootstrap over units with a fixed seed.
4. Rule: alarm when alpha's upper bound is under .67 for some rule: its labels may not gate until the rule is revised
   and the rubric's version raised.
5. Regression metric: the lowest alpha by rule, with its interval and the number of units.
"""

from collections import defaultdict

from plumbline.evaluation.pressures.base import Evidence, Pressure, not_measured, reading
from plumbline.records import PressureReading
from plumbline.statistics.agreement import agreement

NAME = "policy_ambiguity"
AGREEMENT = 0.67


def measure(evidence: Evidence) -> PressureReading:
    units: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(evidence.observations.reviews, key=lambda r: (r.rule, r.item, r.reviewer)):
        units[row.rule][row.item].append(row.label)
    statistics: dict[str, float] = {}
    frozen: list[str] = []
    for rule, items in sorted(units.items()):
        labels = list(items.values())
        found = agreement(labels, sorted({label for unit in labels for label in unit}))
        if found.alpha is None or found.low is None or found.high is None:
            continue
        statistics |= {
            f"alpha_{rule}": found.alpha,
            f"alpha_{rule}_low": found.low,
            f"alpha_{rule}_high": found.high,
            f"units_{rule}": float(found.units),
        }
        if found.high < AGREEMENT:
            frozen.append(f"{rule} (alpha {found.alpha:.2f}, at most {found.high:.2f})")
    if not statistics:
        return not_measured(NAME, "no rule has two items that two reviewers labelled")
    return reading(
        NAME,
        statistics,
        f"reviewers disagree on: {', '.join(frozen)}; revise the rule before its labels gate"
        if frozen
        else "no rule is proven ambiguous",
        alarm=bool(frozen),
    )


PRESSURE = Pressure(NAME, __doc__, measure)
