"""Catastrophic forgetting: loses what it could do.

1. Target: what the reference could do, and the SFT data does not mention, the aligned policy still does.
2. Variable: R(pi) = Pr that y is right on skills learnt before SFT; per item the losses 1[z_0 = 1 and z_theta = 0] and
   the gains 1[z_0 = 0 and z_theta = 1], McNemar's two cells.
3. Estimator: keyed items of pre-training skills (scorer `exact` or `choice_loglik`), disjoint from every replayed text.
4. Rule: replay of pre-training examples in the objective, or a KL term to the reference; both are part of its digest.
5. Regression metric: `retained`, the share of items right; up is better. The report names losses and gains apart, so
   that churn does not hide in an average.
"""

from plumbline.evaluation.behaviors.base import Behavior, Metric, success

BEHAVIOR = Behavior("catastrophic_forgetting", __doc__, (Metric("retained", "up", success),))
