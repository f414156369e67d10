"""Distribution mismatch: trained on one kind of request, served another.

1. Target: the policy does as well on what people really send as on what its training data looks like.
2. Variable: M(pi) = sum over served slices s of w(s) times the mean success on s: phrasings, languages and kinds of
   request in the shares in which they are served.
3. Estimator: items drawn in served shares, each scored by its own scorer (a harmful one by
   `refusal`, a benign one by `compliance`, a question by `exact`), so that the unweighted mean is the served mean.
4. Rule: slice weights in the objective follow served shares; feedback from live traffic makes the next version.
5. Regression metric: `served_score`, the mean success under the served mixture; up is better.
"""

from plumbline.evaluation.behaviors.base import Behavior, Metric, success

BEHAVIOR = Behavior("distribution_mismatch", __doc__, (Metric("served_score", "up", success),))
