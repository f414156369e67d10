"""Catastrophic forgetting: loses what it could do.

1. Target: what the reference could do, and the SFT data does not mention, the aligned policy still does.
2. Variable: R(pi) = Pr that y is right on skills learnt before SFT; per item the losses 1[z_0 = 1 and z_theta = 0] and
   the gains 1[z_0 = 0 and z_theta = 1], McNemar's two cells.
3. Estimator: keyed items of pre-training skills (scorer `exact` or `choice_loglik`), disjoint from every replayed text.
   Where a policy gives likelihoods, L(pi) = -log pi(y | x) per UTF-8 byte of the true choice, in nats.
4. Rule: replay of pre-training examples in the objective, or a KL term to the reference; both are part of its digest.
5. Regression metric: `retained`, the share of items right; up is better. The report names losses and gains apart, so
   that churn does not hide in an average. Beside it `nats_per_byte_rise`, the paired rise of L on items compared by
   likelihood, with its interval, held against .02: it moves before an answer changes.
"""

import math

import numpy as np

from plumbline.evaluation.answers import ItemAnswer, by_likelihood
from plumbline.evaluation.behaviors.base import Behavior, Metric, Seen, diagnostic, mean_bounds, success, unmeasured
from plumbline.evaluation.table import PairedTable
from plumbline.records import SuiteItem
from plumbline.records.report import Diagnostic

AREA, NAME, UNIT, LIMIT = "catastrophic_forgetting", "nats_per_byte_rise", "nats per byte", 0.02


def diagnose(seen: Seen) -> list[Diagnostic]:
    """Of several true choices the likeliest counts."""
    asked = seen.table.where(by_likelihood)
    paired = [
        (row, old, new)
        for row in asked.rows
        if (old := _nats(row.item, row.reference_answer)) is not None
        and (new := _nats(row.item, row.aligned_answer)) is not None
    ]
    if not paired:
        return [unmeasured(AREA, NAME, UNIT, LIMIT, "no item of the area is compared by likelihood")]
    before, after = (np.array([one[leg] for one in paired], dtype=float) for leg in (1, 2))
    clusters = PairedTable(tuple(row for row, _, _ in paired)).clusters
    found = mean_bounds(after - before, clusters)
    if found is None:
        return [unmeasured(AREA, NAME, UNIT, LIMIT, "the items compared by likelihood are one cluster")]
    details = {"nats_per_byte_reference": float(before.mean()), "nats_per_byte_aligned": float(after.mean())}
    said = f"the truth costs {after.mean():.3f} nats per byte, and cost the reference {before.mean():.3f}"
    groups = int(clusters.max()) + 1
    return [diagnostic(AREA, NAME, UNIT, LIMIT, found, said, n=len(paired), clusters=groups, details=details)]


def _nats(item: SuiteItem, answer: ItemAnswer) -> float | None:
    if len(answer.choices) != len(item.choices):
        return None
    true = [answer.choices[place] for place in item.true_choices]
    found = [-one.total / max(1, one.bytes) for one in true if math.isfinite(one.total)]
    return min(found, default=None)


BEHAVIOR = Behavior(AREA, __doc__, (Metric("retained", "up", success),), diagnose)
