"""What real answers say about refusal judges: five models, 450 XSTest prompts each, read by two people and adjudicated.

The figures are those on which the design rests; each is reproduced from the published files to three digits. A refusal
is a full one (`2_`) unless a test says that partial ones (`3_`) count too.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from plumbline.evaluation.judging.judges import matches_refusal_list
from plumbline.evaluation.suites.readers import read_xstest_completions
from plumbline.statistics.agreement import cohen_kappa
from plumbline.statistics.intervals import wilson
from plumbline.statistics.paired import Floats, clustered_mean, paired_difference
from plumbline.statistics.prediction_powered import Judged, corrected_difference, corrected_rate
from plumbline.statistics.ranking import auroc, roc_curve

MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")
LABELS, REPLICATIONS = 50, 400


@dataclass(frozen=True)
class Answers:
    """One model's answers: people's verdicts and string match, (n,) in {0, 1}, and each prompt's type."""

    refused: Floats
    refused_any: Floats
    matched: Floats
    types: list[str]
    raw: list[dict[str, str]]

    def of(self, *, harmful: bool) -> "Answers":
        keep = [at for at, name in enumerate(self.types) if name.startswith("contrast_") == harmful]
        return Answers(
            self.refused[keep],
            self.refused_any[keep],
            self.matched[keep],
            [self.types[at] for at in keep],
            [self.raw[at] for at in keep],
        )


@cache
def read(path: Path) -> Answers:
    rows = read_xstest_completions(path)
    with path.open(encoding="utf-8", newline="") as file:
        raw = list(csv.DictReader(file))
    assert [row.item for row in rows] == [row["id"] for row in raw]
    return Answers(
        refused=np.array([row.refused for row in rows], dtype=float),
        refused_any=np.array([row["final_label"][0] in "23" for row in raw], dtype=float),
        matched=np.array([matches_refusal_list(row.text) for row in rows], dtype=float),
        types=[row["type"] for row in raw],
        raw=raw,
    )


@pytest.fixture
def answers(shared_data):
    folder = shared_data / "xstest"
    if not folder.is_dir():
        pytest.skip("XSTest's completions do not lie beside the project")
    return lambda model: read(folder / f"completions_{model}.csv")


def errors(refused: Floats, matched: Floats) -> tuple[float, float]:
    """(FPR, FNR)."""
    return float(matched[refused == 0].mean()), float((1 - matched)[refused == 1].mean())


@pytest.mark.parametrize(
    ("model", "kappa", "false_positive", "false_negative"),
    [
        ("gpt4", 0.970, 0.092, 0.038),
        ("llama2new", 0.926, 0.182, 0.052),
        ("llama2orig", 0.929, 0.314, 0.088),
        ("mistralguard", 0.892, 0.124, 0.291),
        ("mistralinstruct", 0.920, 0.017, 0.755),
    ],
)
def test_string_match_errs_at_rates_of_its_own_for_every_model_while_people_agree(
    answers, model, kappa, false_positive, false_negative
):
    seen = answers(model)
    assert errors(seen.refused, seen.matched) == pytest.approx((false_positive, false_negative), abs=5e-4)
    people = [[row[f"annotation_{person}"] for row in seen.raw] for person in (1, 2)]
    assert cohen_kappa(*people) == pytest.approx(kappa, abs=5.1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_our_string_match_is_the_published_one_on_every_answer(answers, model):
    seen = answers(model)
    assert [row["strmatch_label"][0] == "2" for row in seen.raw] == [bool(one) for one in seen.matched]
    assert len(seen.raw) == 450


def test_pooled_error_rates_with_their_intervals_and_with_partial_refusals_counted(answers):
    every = [answers(model) for model in MODELS]
    matched = np.concatenate([one.matched for one in every])
    full, any_ = (np.concatenate([getattr(one, name) for one in every]) for name in ("refused", "refused_any"))
    assert errors(full, matched) == pytest.approx((0.118, 0.143), abs=5e-4)
    assert errors(any_, matched) == pytest.approx((0.042, 0.185), abs=5e-4)
    wrong, n = float(matched[full == 0].sum()), int((full == 0).sum())
    assert (wilson(wrong, n).low, wilson(wrong, n).high) == pytest.approx((0.101, 0.137), abs=5e-4)


def test_a_fall_of_ten_points_looks_like_one_of_twenty_nine(answers):
    """gpt4 to mistral-guard on unsafe prompts; two thirds of the difference are the instrument's."""
    old, new = (answers(model).of(harmful=True) for model in ("gpt4", "mistralguard"))
    rates = [one.mean() for one in (old.refused, new.refused, old.matched, new.matched)]
    assert rates == pytest.approx([0.975, 0.875, 0.960, 0.670], abs=5e-4)
    clusters = np.arange(200)
    people = paired_difference(new.refused - old.refused, clusters)
    judge = paired_difference(new.matched - old.matched, clusters)
    assert people.estimate.mean == pytest.approx(-0.10, abs=5e-4) and judge.estimate.mean == pytest.approx(
        -0.29, abs=5e-4
    )
    assert judge.interval.high < people.interval.low, "the two instruments exclude each other's answer"


def test_fifty_labels_of_each_policy_undo_that(answers):
    """The 90 % interval of the corrected difference holds people's -10 points; three deviations are 4.5 points."""
    old, new = (answers(model).of(harmful=True) for model in ("gpt4", "mistralguard"))
    rng, found = np.random.default_rng(1), []
    for _ in range(REPLICATIONS):
        read_by_people = rng.choice(200, LABELS, replace=False)
        parts = [Judged.of(one.matched, read_by_people, one.refused[read_by_people]) for one in (old, new)]
        found.append(corrected_difference(*parts))
    covered = np.mean([one.low <= -0.10 <= one.high for one in found])
    print(f"coverage of the corrected difference: {covered:.3f}, mean {np.mean([one.rate for one in found]):+.4f}")
    assert covered >= 0.855
    assert np.mean([one.rate for one in found]) == pytest.approx(-0.10, abs=0.008)
    assert all(one.naive == pytest.approx(-0.29) for one in found)


@pytest.mark.parametrize("model", MODELS)
def test_fifty_labels_correct_a_rate_and_its_interval_holds(answers, model):
    """Partial refusals counted, 250 safe prompts, truth is people's label of all of them. 95 %, 400 replications."""
    seen = answers(model).of(harmful=False)
    truth, rng, found = seen.refused_any.mean(), np.random.default_rng(2), []
    for _ in range(REPLICATIONS):
        picked = rng.choice(250, LABELS, replace=False)
        found.append(corrected_rate(seen.matched, picked, seen.refused_any[picked], target="answers"))
    covered = np.mean([one.low <= truth <= one.high for one in found])
    width = np.mean([one.high - one.low for one in found]) / 2
    print(f"{model}: truth {truth:.3f}, string match {seen.matched.mean():.3f}, covered {covered:.3f}, +-{width:.3f}")
    assert covered >= 0.93
    if truth > 0.05:  # below, clipping to [0, 1] moves the mean
        error = np.std([one.rate for one in found]) / REPLICATIONS**0.5
        assert abs(np.mean([one.rate for one in found]) - truth) < 4 * error


def test_the_widths_that_correction_buys_and_the_bias_that_it_removes(answers):
    """Half-widths of the plain (t-less) estimators, 50 of 250 labelled: what the judge saves over people alone."""
    widths = {}
    for model in MODELS:
        seen = answers(model).of(harmful=False)
        error = seen.refused_any - seen.matched
        both = 1.96 * np.array([error.std(), seen.refused_any.std()]) * np.sqrt((1 - LABELS / 250) / LABELS)
        widths[model] = tuple(both.round(3))
    assert widths["llama2new"] == pytest.approx((0.078, 0.113), abs=1e-9)
    assert widths["llama2orig"] == pytest.approx((0.100, 0.122), abs=1e-9)
    assert widths["gpt4"][0] == pytest.approx(widths["gpt4"][1], abs=0.002), "no gain"
    orig = answers("llama2orig").of(harmful=False)
    assert (orig.matched.mean(), orig.refused_any.mean()) == pytest.approx((0.484, 0.596), abs=5e-4)


def test_people_alone_with_a_wald_interval_fail_near_zero(answers):
    """mistral-instruct refuses 1.6 % of safe prompts: mean +- 1.96 SE of 50 labels holds that 59 % of the time."""
    seen = answers("mistralinstruct").of(harmful=False)
    rng, held, held_wilson = np.random.default_rng(3), 0, 0
    assert seen.refused_any.mean() == pytest.approx(0.016)
    for _ in range(2000):
        picked = seen.refused_any[rng.choice(250, LABELS, replace=False)]
        held += abs(picked.mean() - 0.016) <= 1.96 * picked.std(ddof=1) / LABELS**0.5
        interval = wilson(picked.sum(), LABELS)
        held_wilson += interval.low <= 0.016 <= interval.high
    print(f"at a rate of .016: Wald {held / 2000:.3f}, Wilson {held_wilson / 2000:.3f}")
    assert held / 2000 == pytest.approx(0.590, abs=0.033) and held_wilson / 2000 >= 0.93


@pytest.mark.parametrize(("model", "iid", "clustered"), [("llama2orig", 0.031, 0.082), ("mistralguard", 0.025, 0.061)])
def test_prompts_of_one_type_stand_or_fall_together(answers, model, iid, clustered):
    """Standard errors of the refusal rate on safe prompts, partial refusals counted: a factor of 2.4 to 2.6."""
    seen = answers(model).of(harmful=False)
    kinds = np.unique(seen.types, return_inverse=True)[1]
    alone, together = (clustered_mean(seen.refused_any, groups) for groups in (np.arange(250), kinds))
    assert (alone.standard_error, together.standard_error) == pytest.approx((iid, clustered), abs=6e-4)
    assert 2.4 <= together.standard_error / alone.standard_error <= 2.7 and together.clusters == 10


def test_pairing_pays_most_where_policies_are_related(answers):
    """Variance of an unpaired over a paired comparison, safe prompts: 1.80 from one llama2 prompt to the other."""
    ratios = {}
    for old, new in (("llama2orig", "llama2new"), ("llama2orig", "mistralinstruct"), ("gpt4", "llama2orig")):
        a, b = (answers(model).of(harmful=False).refused_any for model in (old, new))
        ratios[old, new] = (a.var() + b.var()) / (b - a).var()
    assert ratios["llama2orig", "llama2new"] == pytest.approx(1.80, abs=5e-3)
    assert all(1.0 < ratio <= ratios["llama2orig", "llama2new"] for ratio in ratios.values())


def test_a_ranking_travels_to_another_policy_and_its_threshold_does_not(answers):
    """A judge learnt on four models, on prompts that it did not see: cut at one half it misses few of their refusals
    and nearly all of gpt4's, whom it ranks well enough that some other cut would do."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    half = np.random.default_rng(0).permutation(450) < 225
    words, others = TfidfVectorizer(ngram_range=(1, 3)), [model for model in MODELS if model != "gpt4"]

    def texts(model, keep):
        return [answers(model).raw[at]["completion"][:400] for at in np.flatnonzero(keep)]

    learnt = words.fit_transform([text for model in others for text in texts(model, half)])
    truth = np.concatenate([answers(model).refused[half] for model in others])
    judge = LogisticRegression(max_iter=1000).fit(learnt, truth)

    def scored(model):
        return judge.predict_proba(words.transform(texts(model, ~half)))[:, 1], answers(model).refused[~half] == 1

    missed = {model: float((scores[kind] < 0.5).mean()) for model in MODELS for scores, kind in [scored(model)]}
    scores, kind = scored("gpt4")
    curve = roc_curve(scores, kind)
    best = float((curve.true_positive - curve.false_positive).max())
    print(f"missed at one half: {missed}")
    print(f"gpt4: AUROC {auroc(scores, kind):.3f}; at its best cut sensitivity + specificity - 1 is {best:.3f}")
    assert missed["gpt4"] > 0.9 and max(missed[model] for model in others) < 0.5
    assert auroc(scores, kind) > 0.8 and best > 0.5
