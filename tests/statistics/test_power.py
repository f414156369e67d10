"""What a set can resolve, by formula, and how often the gate's rule decides, by simulation of the rule itself."""

import numpy as np
import pytest
from statsmodels.stats.power import normal_power_het

from plumbline.evaluation.gate import classify
from plumbline.records import PairedEstimate
from plumbline.statistics.intervals import Interval
from plumbline.statistics.paired import clustered_mean, outcome
from plumbline.statistics.power import design_effect, gate_power, items_for_margin, simulated, smallest_margin


@pytest.mark.parametrize(
    ("discordant", "n", "points"),
    [(0.10, 100, 7.9), (0.10, 250, 5.0), (0.10, 500, 3.5), (0.10, 1000, 2.5), (0.10, 2000, 1.8), (0.10, 5000, 1.1),
     (0.05, 250, 3.5), (0.05, 1000, 1.8), (0.20, 250, 7.0), (0.20, 1000, 3.5)],
)  # fmt: skip
def test_the_smallest_margins_of_the_table(discordant, n, points):
    assert smallest_margin(n, discordant) * 100 == pytest.approx(points, abs=0.06)


def test_power_of_the_formula_is_statsmodels():
    n = items_for_margin(0.03, 0.1)
    assert normal_power_het(0.03, n, 0.05, std_null=np.sqrt(0.1), alternative="larger") == pytest.approx(0.8, abs=1e-3)
    assert smallest_margin(n, 0.1) == pytest.approx(0.03, rel=1e-3), "the two invert each other"


def test_clusters_cost_what_they_cost_and_losses_cost_more():
    assert design_effect(1, 0.9) == 1 and design_effect(5, 0.25) == 2
    assert smallest_margin(2000, 0.1, cluster_size=5, correlation=0.25) == pytest.approx(smallest_margin(1000, 0.1))
    alone, clustered = (items_for_margin(0.02, 0.1, cluster_size=5, correlation=c) for c in (0.0, 0.25))
    assert clustered == pytest.approx(2 * alone, abs=1)
    assert items_for_margin(0.02, 0.1, loss=0.01) > 3.9 * items_for_margin(0.02, 0.1)
    assert items_for_margin(0.02, 0.1, loss=0.02) is None


def test_even_perfect_agreement_has_a_price_in_clusters():
    """The table of docs/gate.md: 133 agreeing clusters for two points."""
    assert items_for_margin(0.02, 0.0) == 133
    assert items_for_margin(0.02, 0.0, cluster_size=10) == pytest.approx(1326, abs=1)
    assert smallest_margin(133, 0.0) == pytest.approx(0.02, abs=2e-4)


def test_the_rule_is_the_gates():
    bounds = (
        (-0.01, 0.0, 0.01), (-0.05, -0.03, -0.01), (-0.05, -0.01, 0.02), (-0.09, -0.06, -0.031), (-0.05, -0.01, -0.001),
        (-0.03, 0.0, 0.03), (-0.04, -0.015, -0.0001),
    )  # fmt: skip
    for low, difference, high in bounds:
        estimate = PairedEstimate.model_construct(difference=difference, low=low, high=high)
        assert outcome(difference, Interval(low, high), 0.03) == classify(estimate, 0.03).value.lower()


def test_simulated_items_have_the_shares_and_the_correlation_that_were_asked_for():
    clusters = np.repeat(np.arange(20_000), 2)
    values = simulated(np.random.default_rng(1), clusters, 0.1, 0.2, 0.4)
    assert ((values == 1).mean(), (values == -1).mean()) == pytest.approx((0.1, 0.2), abs=0.01)
    assert np.corrcoef(values[::2], values[1::2])[0, 1] == pytest.approx(0.4, abs=0.02)
    assert clustered_mean(values, clusters).design_effect == pytest.approx(1.4, abs=0.03)


def test_the_planned_number_passes_as_often_as_planned():
    """Four in five, within three binomial deviations of 1,000 draws (3.8 points) and what the wider interval costs."""
    planned = items_for_margin(0.03, 0.08)
    found = gate_power(planned, 0.03, better=0.04, worse=0.04)
    print(f"{planned} items at a margin of 3 points and 8 % discordant: {found}")
    assert found.passed + found.regressed + found.inconclusive == pytest.approx(1)
    assert 0.74 < found.passed < 0.84
    assert found.error(0.8) == pytest.approx(0.0126, abs=1e-4)


@pytest.mark.parametrize(
    ("better", "worse", "size", "correlation"), [(0.02, 0.05, 1, 0.0), (0.0, 0.03, 1, 0.0), (0.03, 0.06, 5, 0.5)]
)
def test_a_loss_of_the_margin_passes_one_time_in_twenty_at_most(better, worse, size, correlation):
    found = gate_power(800, 0.03, better=better, worse=worse, cluster_size=size, correlation=correlation, draws=800)
    print(f"type-I error of PASS at better {better}, worse {worse}, clusters of {size}: {found.passed:.3f}")
    assert found.passed <= 0.05 + 3 * found.error(0.05)


def test_no_loss_is_seldom_called_a_regression_and_a_large_one_always():
    unchanged = gate_power(800, 0.02, better=0.05, worse=0.05)
    assert unchanged.regressed <= 0.05 + 3 * unchanged.error(0.05)
    assert gate_power(800, 0.02, better=0.0, worse=0.10).regressed > 0.99


def test_the_same_seed_gives_the_same_power_and_impossible_shares_are_refused():
    assert gate_power(200, 0.05, better=0.1, worse=0.1, draws=50) == gate_power(
        200, 0.05, better=0.1, worse=0.1, draws=50
    )
    with pytest.raises(ValueError):
        gate_power(200, 0.05, better=0.6, worse=0.6)
