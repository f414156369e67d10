"""Style control: takes the form it is asked for.

1. Target: asked for a form (short, formal, in a voice), the policy answers in that form.
2. Variable: S(pi) = Pr over styled requests x that y ~ pi(. | x) meets every requested constraint.
3. Estimator: items whose references are constraints checked by program, or the exact styled answer (scorer `style`).
4. Rule: SFT negative log-likelihood on styled demonstrations, with their slice weight; at run time none.
5. Regression metric: `style_obeyed`, the share of items with all constraints met; up is better.
"""

from plumbline.evaluation.behaviors.base import Behavior, Metric, success

BEHAVIOR = Behavior("style_control", __doc__, (Metric("style_obeyed", "up", success),))
