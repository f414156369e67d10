"""Imitation ceiling: copying demonstrations lifts form before substance.

1. Target: what the demonstrations teach carries beyond the cases they show; at the least, nothing beyond them is lost.
2. Variable: U_out(pi) = Pr that y is right on tasks of a demonstrated kind outside the demonstrated range (and U_in
   inside it): the recovered gap is (U_out(pi_theta) - U_out(pi_0)) over what a perfect demonstrator would add.
3. Estimator: keyed items outside the support of the SFT data; items with `in_support` in their slice name are the
   companion inside it (scorer `exact`).
4. Rule: none in the loss, which is the point: SFT maximises likelihood of what was shown. The rule is to report both
   sides and to collect demonstrations where the gap is.
5. Regression metric: `out_of_support`, the share right outside the demonstrated range; up is better. `in_support` is
   printed beside it: form that rises while substance does not is the ceiling.
"""

from plumbline.evaluation.behaviors.base import Behavior, Metric, success
from plumbline.records import SuiteItem


def inside(item: SuiteItem) -> bool:
    return "in_support" in item.slice


def outside(item: SuiteItem) -> bool:
    return not inside(item)


BEHAVIOR = Behavior(
    "imitation_ceiling",
    __doc__,
    (
        Metric("out_of_support", "up", success, applies=outside),
        Metric("in_support", "up", success, applies=inside, gated=False),
    ),
)
