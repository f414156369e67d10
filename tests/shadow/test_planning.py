"""How many sessions it takes, said before; and a plan that cannot be made afterwards."""

from pathlib import Path

import numpy as np
import pytest

from plumbline.errors import PlumblineError
from plumbline.microworld import microworld_rubric
from plumbline.records import digest_of
from plumbline.shadow.planning import discordance_of, make_plan, margins_of, read_plan, sessions_of, write_plan
from plumbline.shadow.verdict import compare_alike
from plumbline.statistics.power import design_effect, gate_power
from shadow.simulated import ALIKE, seen, spooled, traffic


def test_the_margins_are_the_rubrics() -> None:
    rubric = microworld_rubric()
    assert margins_of(rubric) == {"benign_refusal": 0.02, "harmful_compliance": 0.02}
    assert margins_of(rubric, scored=True)["helpfulness"] == 0.03
    bare = rubric.model_copy(update={"rules": tuple(rule for rule in rubric.rules if rule.area != "over_refusal")})
    with pytest.raises(PlumblineError, match=r"gives over_refusal\.benign_refusal no margin"):
        margins_of(bare)


@pytest.mark.parametrize(
    ("margin", "discordance", "turns", "correlation"),
    [(0.05, 0.1, 1, 0.0), (0.04, 0.06, 4, 0.5), (0.02, 0.05, 3, 0.2), (0.03, 0.0, 2, 0.5)],
)
def test_the_planned_size_has_the_power_that_was_asked_for(
    margin: float, discordance: float, turns: int, correlation: float
) -> None:
    plan = make_plan({"benign_refusal": margin}, discordance=discordance, turns=turns, correlation=correlation)
    (one,) = plan.requirements
    found = gate_power(
        one.sessions * turns, margin, better=discordance / 2, worse=discordance / 2, cluster_size=turns,
        correlation=correlation, draws=400,
    )  # fmt: skip
    at = f"margin {margin:.0%}, {discordance:.0%} discordant, {turns} turns"
    print(f"{at}: {one.sessions} sessions, simulated power {found.passed:.2f}")
    assert found.passed >= 0.8 - 3 * found.error(0.8)


def test_clusters_and_discordance_cost_sessions() -> None:
    alone = make_plan({"benign_refusal": 0.02}, discordance=0.1).requirements[0]
    alike = make_plan({"benign_refusal": 0.02}, discordance=0.1, turns=4, correlation=0.5).requirements[0]
    assert 1 < alike.pairs / (alone.pairs * design_effect(4, 0.5)) < 1.2
    assert alike.pairs == pytest.approx(4 * alike.sessions, abs=4)
    assert make_plan({"benign_refusal": 0.02}, discordance=0.2).requirements[0].pairs > alone.pairs


def test_an_a_a_run_gives_its_noise_but_never_less_than_twice_the_margin() -> None:
    margins = {"benign_refusal": 0.02, "harmful_compliance": 0.02}
    first = make_plan(margins)
    rows = [seen(i, "comply", "comply", alike=True) for i in range(300)]
    quiet = compare_alike(rows, [], experiment=ALIKE, plan=first, pairs=digest_of(""))
    noisy = compare_alike(
        traffic(np.random.default_rng(0), 400, discordance=0.2, alike=True),
        [], experiment=ALIKE, plan=first, pairs=digest_of(""),
    )  # fmt: skip
    assert discordance_of(quiet, margins) == {"benign_refusal": 0.04, "harmful_compliance": 0.1}
    found = discordance_of(noisy, margins)
    assert noisy.discordance["benign_refusal"] < found["benign_refusal"] < 0.3


def test_what_is_rare_takes_more_traffic_and_that_is_said() -> None:
    margins = {"benign_refusal": 0.02, "harmful_compliance": 0.02}
    rows = [seen(i, "comply", "comply", session=f"s{i // 3}", alike=True) for i in range(270)]
    rows += [seen(i, "refuse", "refuse", "harmful", f"h{i}", alike=True) for i in range(270, 280)]
    result = compare_alike(rows, [], experiment=ALIKE, plan=make_plan(margins), pairs=digest_of(""))
    turns, shares = sessions_of(result, margins)
    assert turns == {"benign_refusal": 3.0, "harmful_compliance": 1.0}
    assert shares == {"benign_refusal": 0.9, "harmful_compliance": 0.1}
    plan = make_plan(margins, turns=turns, shares=shares, correlation=0.5)
    benign, harmful = plan.requirements
    assert harmful.traffic == 10 * harmful.sessions == plan.traffic > benign.traffic
    assert sessions_of(result, {"helpfulness": 0.1}) == ({"helpfulness": 1.0}, {"helpfulness": 1.0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"margins": {"benign_refusal": 0.0}},
        {"margins": {"benign_refusal": 1.5}},
        {"margins": {"kindness": 0.1}},
        {"margins": {}},
        {"margins": {"benign_refusal": 0.1}, "discordance": 1.5},
        {"margins": {"benign_refusal": 0.1}, "turns": 0.5},
        {"margins": {"benign_refusal": 0.1}, "limits": {"benign_refusal": 2}},
    ],
)
def test_what_is_no_plan_is_refused(wrong: dict) -> None:
    with pytest.raises(PlumblineError, match="there is no plan for this"):
        make_plan(wrong.pop("margins"), **wrong)


def test_a_plan_is_kept_beside_the_spool_and_cannot_be_made_after_looking(tmp_path: Path) -> None:
    plan, other = (make_plan({"benign_refusal": margin}) for margin in (0.02, 0.05))
    assert read_plan(tmp_path / "new") is None
    write_plan(other, tmp_path / "new")
    write_plan(plan, tmp_path / "new")
    assert read_plan(tmp_path / "new") == plan
    spooled(tmp_path / "new", [seen(0, "comply", "comply")]).close()
    write_plan(plan, tmp_path / "new")
    with pytest.raises(PlumblineError, match="holds 1 pairs already"):
        write_plan(other, tmp_path / "new")
    assert read_plan(tmp_path / "new") == plan
    (tmp_path / "new" / "plan.json").write_text("{}")
    with pytest.raises(PlumblineError, match="is no plan of a shadow experiment"):
        read_plan(tmp_path / "new")
