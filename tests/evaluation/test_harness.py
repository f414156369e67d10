"""Log-likelihoods and greedy answers are lm-evaluation-harness's, on the same checkpoint and the same items."""

import pytest

from benchmarks.evaluation_peers import (
    answer_items,
    choice_suite,
    harness,
    largest_difference,
    make_policy,
    ours,
)
from plumbline.policies.local import LocalPolicy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra bench)")
    return LocalPolicy.load(make_policy(tmp_path_factory.mktemp("p") / "p", hidden=64, layers=2, ending=1.6))


@pytest.mark.slow
@pytest.mark.parametrize("longest_choice", [6, 0])
def test_log_likelihoods_equal_the_harnesss(policy, tmp_path, monkeypatch, longest_choice):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    suite = choice_suite(12, longest_choice=longest_choice)
    mine, theirs = ours(policy, suite, 8)(), harness(policy, suite, 8, 5, tmp_path)()
    assert len(mine.likelihoods) == 12 and mine.rate == pytest.approx(theirs.rate)
    assert largest_difference(mine.likelihoods, theirs.likelihoods) <= 1e-4


@pytest.mark.slow
def test_greedy_answers_equal_the_harnesss(policy, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    suite = answer_items(12)
    assert ours(policy, suite, 24)().texts == harness(policy, suite, 24, 5, tmp_path)().texts
