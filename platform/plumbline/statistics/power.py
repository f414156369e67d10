"""Power: which margin can these items resolve, how many items would a margin take, and how often will the gate decide?

With n items of which a share `discordant` differs between the policies, and a true difference of zero, a one-sided test
at alpha that passes with probability `power` resolves

    margin = (z_alpha + z_power) * sqrt(discordant * effect / n)          2.486 at .05 and .80

where effect = 1 + (cluster size - 1) * correlation is what clusters cost. Better to hear that a
set cannot resolve its margin before the run than after. The formula knows nothing of small samples; `gate_power`
simulates the rule itself.
"""

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from plumbline.statistics.intervals import normal_quantile
from plumbline.statistics.paired import ALPHA, POWER, Floats, outcome, paired_difference


@dataclass(frozen=True)
class GatePower:
    """Shares of simulated runs by what the gate's rule said; they add up to 1."""

    passed: float
    regressed: float
    inconclusive: float
    draws: int

    def error(self, share: float) -> float:
        """The binomial standard error of one of the shares."""
        return sqrt(share * (1 - share) / self.draws)


def design_effect(cluster_size: float, correlation: float) -> float:
    """What clusters of one size cost: the variance of a mean over that of independent items (Kish 1965)."""
    return 1 + (cluster_size - 1) * correlation


def smallest_margin(
    n: float,
    discordant: float,
    *,
    cluster_size: float = 1,
    correlation: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """The least margin that n items can be expected to resolve if nothing changed, as a share.

    Never less than what Tango's interval leaves when all pairs of all n / cluster_size clusters agree.
    """
    z_alpha, z_power = normal_quantile(1 - alpha), normal_quantile(power)
    worth = n / design_effect(cluster_size, correlation)
    agreed = z_alpha**2 / (n / cluster_size + z_alpha**2)
    return max(agreed, (z_alpha + z_power) * sqrt(discordant / worth))


def items_for_margin(
    margin: float,
    discordant: float,
    *,
    loss: float = 0.0,
    cluster_size: float = 1,
    correlation: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    """Items that pass with probability `power` when the true loss is `loss`; None where the loss reaches the margin."""
    gap = margin - loss
    if gap <= 0:
        return None
    z_alpha, z_power = normal_quantile(1 - alpha), normal_quantile(power)
    variance = max(0.0, discordant - loss**2) * design_effect(cluster_size, correlation)
    agreed = z_alpha**2 * (1 - margin) / margin * cluster_size
    return ceil(max(agreed, (z_alpha + z_power) ** 2 * variance / gap**2) - 1e-9)


def gate_power(
    n: int,
    margin: float,
    *,
    better: float,
    worse: float,
    cluster_size: int = 1,
    correlation: float = 0.0,
    alpha: float = ALPHA,
    draws: int = 1000,
    seed: int = 0,
) -> GatePower:
    """How often the gate's rule passes, regresses or cannot tell, over simulated sets of n items.

    `better` and `worse` are the true shares of items that the aligned policy wins and loses. A worse - better of
    `margin` makes `passed` the gate's type-I error. ValueError where the shares do not fit in 1.
    """
    if min(better, worse) < 0 or better + worse > 1 or not 0 <= correlation <= 1:
        raise ValueError("better and worse are shares that fit in 1, and correlation lies in [0, 1]")
    rng = np.random.default_rng(seed)
    clusters = (np.arange(n) // cluster_size).astype(np.intp)
    seen = {"pass": 0, "regressed": 0, "inconclusive": 0}
    for _ in range(draws):
        found = paired_difference(simulated(rng, clusters, better, worse, correlation), clusters, alpha=alpha)
        seen[outcome(found.estimate.mean, found.interval, margin)] += 1
    return GatePower(seen["pass"] / draws, seen["regressed"] / draws, seen["inconclusive"] / draws, draws)


def simulated(
    rng: np.random.Generator, clusters: NDArray[np.intp], better: float, worse: float, correlation: float
) -> Floats:
    """Differences in {-1, 0, 1}, (n,): an item shares its cluster's fate with probability sqrt(correlation), which
    makes `correlation` that of two items of a cluster."""
    fate = rng.random(int(clusters.max()) + 1)[clusters]
    drawn = np.where(rng.random(len(clusters)) < sqrt(correlation), fate, rng.random(len(clusters)))
    return np.select([drawn < worse, drawn < worse + better], [-1.0, 1.0], 0.0)
