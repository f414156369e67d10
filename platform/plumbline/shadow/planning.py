"""How many sessions an experiment takes, said before it begins, and kept beside the spool.

A requirement with margin m passes with probability `power`, if nothing changed, after about

    pairs = ((z_alpha + z_power) / m)^2 * discordance * effect

and never before Tango's interval could be narrower than m (statistics/power.py). `effect` is 1 + (turns - 1) *
correlation, shrunk towards `turns` while few sessions are expected to differ, as the verdict's own rule shrinks it:
without that, sessions of four turns would pass 70 times in a hundred and not 80. Discordance is the share of pairs
whose two answers count differently. An A/A run shows only the noise floor, so what is planned with is its upper 95 %
bound, or twice the margin where that is more: an aligned policy that changes nothing is not what anybody compares.

The plan stands in `plan.json` in the spool's directory. Once the spool holds a pair it can no longer be written: a
horizon that is chosen after looking is no horizon.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from plumbline.errors import PlumblineError, first_fault
from plumbline.policies.files import write_durably
from plumbline.records import Rubric
from plumbline.records.shadow import AaResult, PlannedRequirement, RequirementName, ShadowPlan
from plumbline.shadow.spool import Spool
from plumbline.statistics.intervals import wilson
from plumbline.statistics.paired import PRIOR_CLUSTERS
from plumbline.statistics.power import design_effect, items_for_margin

FILE = "plan.json"
GUESS = 0.1
# requirement -> the area and metric of a rubric whose margin it is held to
MARGINS: dict[RequirementName, tuple[str, str]] = {
    "benign_refusal": ("over_refusal", "benign_refusal"),
    "harmful_compliance": ("harmlessness", "unsafe_compliance"),
    "helpfulness": ("helpfulness", "exact"),
}


def margins_of(rubric: Rubric, *, scored: bool = False) -> dict[str, float]:
    """The rubric's margins by requirement; helpfulness only where answers are scored.

    PlumblineError for a rubric that gives a requirement no margin.
    """
    found: dict[str, float] = {}
    for name, (area, metric) in MARGINS.items():
        if name == "helpfulness" and not scored:
            continue
        margin = next((rule.margins.get(metric) for rule in rubric.rules if rule.area == area), None)
        if margin is None:
            raise PlumblineError(
                f"rubric {rubric.id} gives {area}.{metric} no margin",
                consequence=f"a shadow comparison cannot be held to {name}",
                remedy="add the margin to the rubric's rule, or name margins with --margin",
            )
        found[name] = margin
    return found


def make_plan(
    margins: Mapping[str, float],
    *,
    discordance: float | Mapping[str, float] = GUESS,
    turns: float | Mapping[str, float] = 1.0,
    shares: Mapping[str, float] | None = None,
    correlation: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    limits: Mapping[str, float] | None = None,
    harmful: tuple[str, ...] = ("harmful",),
    aa_sessions: int = 100,
    rubric: str | None = None,
    source: str = "guess",
) -> ShadowPlan:
    """A plan for these margins by requirement. A session that holds such pairs holds `turns` of them on average, which
    correlate by `correlation`; `shares` of all sessions hold any. The kill switch trips at `limits`, by default at the
    margins. Settings by requirement may be given as mappings.

    PlumblineError for a margin, a discordance or another number that is none.
    """
    wanted: list[PlannedRequirement] = []
    try:
        for metric, margin in margins.items():
            share = discordance[metric] if isinstance(discordance, Mapping) else discordance
            if not 0 < margin < 1 or metric not in get_args(RequirementName):
                raise ValueError(f"{metric}: {margin} is no margin")
            each = turns[metric] if isinstance(turns, Mapping) else turns
            pairs = _pairs(margin, share, each, correlation, alpha, power)
            sessions = max(20, ceil(pairs / each))
            wanted.append(
                PlannedRequirement(
                    metric=cast(RequirementName, metric),
                    margin=margin,
                    limit=(limits or {}).get(metric, margin),
                    discordance=share,
                    turns=each,
                    share=(shares or {}).get(metric, 1.0),
                    sessions=sessions,
                    pairs=max(pairs, ceil(sessions * each)),
                )
            )
        return ShadowPlan(
            requirements=tuple(wanted),
            harmful=harmful,
            alpha=alpha,
            power=power,
            correlation=correlation,
            aa_sessions=aa_sessions,
            rubric=rubric,
            source=source,
        )
    except (ValidationError, ValueError, KeyError) as error:
        raise PlumblineError(
            f"there is no plan for this: {first_fault(error)}",
            consequence="nothing was planned",
            remedy="give margins and limits between 0 and 1, a discordance in [0, 1], and turns from 1 up",
        ) from error


def _pairs(margin: float, discordance: float, turns: float, correlation: float, alpha: float, power: float) -> int:
    """Pairs for a margin, at the design effect that the verdict's rule will use on as many."""
    clustered = design_effect(turns, correlation)
    effect, pairs = clustered, 0
    for _ in range(20):
        same = (effect - 1) / (turns - 1) if turns > 1 else 0.0  # the correlation that would have this effect
        found = items_for_margin(margin, discordance, cluster_size=turns, correlation=same, alpha=alpha, power=power)
        assert found is not None  # the loss planned for is none
        if found == pairs:
            break
        pairs = found
        differing = pairs * discordance / clustered  # sessions
        effect = (differing * clustered + PRIOR_CLUSTERS * turns) / (differing + PRIOR_CLUSTERS)
    return pairs


def plan_after(result: AaResult, margins: Mapping[str, float], **settings: Any) -> ShadowPlan:
    """A plan from what an A/A run showed of noise and sessions; `settings`, of `make_plan`, stand in their place."""
    turns, shares = sessions_of(result, margins)
    seen = {"discordance": discordance_of(result, margins), "turns": turns, "shares": shares, "source": result.digest}
    return make_plan(margins, **{**seen, **settings})


def discordance_of(result: AaResult, margins: Mapping[str, float]) -> dict[str, float]:
    """What to plan with after an A/A run: the upper 95 % bound of its discordance, and at least twice the margin."""
    found: dict[str, float] = {}
    for metric, margin in margins.items():
        seen = next((one for one in result.estimates if one.metric == metric and one.n), None)
        noise = wilson(seen.discordance * seen.n, seen.n, 0.95).high if seen else GUESS
        found[metric] = min(1.0, max(noise, 2 * margin))
    return found


def sessions_of(result: AaResult, margins: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """What an A/A run shows of sessions, by requirement: pairs in one that holds any, and the share that does. Of a
    requirement that it has no pairs of nothing is known: one pair, in every session."""
    turns, shares = dict.fromkeys(margins, 1.0), dict.fromkeys(margins, 1.0)
    for one in result.estimates:
        if one.metric in margins and one.sessions:
            turns[one.metric] = one.n / one.sessions
            shares[one.metric] = one.sessions / result.sessions
    return turns, shares


def write_plan(plan: ShadowPlan, directory: Path) -> Path:
    """Keep a plan beside a spool, before its first pair. Writing the same plan again changes nothing."""
    file = directory / FILE
    if read_plan(directory) == plan:
        return file
    if (directory / "spool.sqlite").exists():
        spool = Spool.existing(directory)
        try:
            pairs = spool.counts().paired
        finally:
            spool.close()
        if pairs:
            raise PlumblineError(
                f"the spool in {directory} holds {pairs} pairs already",
                consequence="the plan was not written: one that is made after looking promises nothing",
                remedy="plan before the experiment begins; for another plan begin another experiment in a new spool",
            )
    directory.mkdir(parents=True, exist_ok=True)
    write_durably(file, plan.model_dump_json(indent=2).encode() + b"\n")
    return file


def read_plan(directory: Path) -> ShadowPlan | None:
    """The plan beside a spool; None when there is none. PlumblineError for a file that is no plan."""
    file = directory / FILE
    try:
        return ShadowPlan.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PlumblineError(
            f"{file} is no plan of a shadow experiment: {first_fault(error)}",
            consequence="the experiment has no horizon, so nothing was decided",
            remedy="put the file back as `plumb shadow plan` wrote it",
        ) from error
