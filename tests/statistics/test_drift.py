"""Drift between histograms."""

from plumbline.statistics.drift import population_stability


def test_equal_histograms_are_stable_and_swapped_ones_are_not():
    assert population_stability([50, 50], [50, 50]) == 0
    assert population_stability([90, 10], [10, 90]) > 1
