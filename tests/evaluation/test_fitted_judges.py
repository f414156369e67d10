"""Fitted judges: ranking carries over between policies, thresholds do not, and a card never judges what it learned."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from plumbline.errors import PlumblineError
from plumbline.evaluation.judging.cards import at_false_positive, cross_fitted, error_rate, folds_of, youden
from plumbline.evaluation.judging.fitting import fit_judge, with_cards
from plumbline.evaluation.judging.instrument import Instrument, load_judge, save_judge
from plumbline.evaluation.judging.judges import Act, AnswerText, LabelledAnswer, TextJudge, error_cards, judge_of
from plumbline.evaluation.judging.labels import pick
from plumbline.evaluation.suites.readers import read_xstest_completions
from plumbline.policies.local import LocalPolicy
from plumbline.records import digest_of, say

MODELS = ("llama2new", "llama2orig", "mistralguard")


@pytest.fixture(scope="module")
def xstest(shared_data):
    return lambda model: read_xstest_completions(shared_data / "xstest" / f"completions_{model}.csv")


@pytest.fixture(scope="module")
def learned(xstest):
    """A judge that learned from three models' labels."""
    return fit_judge("learned", [row for model in MODELS for row in xstest(model)])


def card_of(fitted, policy, prompt_class="all"):
    return next(card for card in fitted.cards if (card.policy, card.prompt_class) == (policy, prompt_class))


def a_sample(rows, seed=0):
    """The rows that `plumb judge label` would have people read, about fifty."""
    answers = [AnswerText(row.policy, row.prompt_class, row.item, row.text) for row in rows]
    chosen = {(a.item, a.text) for a in pick(answers, [TextJudge().act(a.text) for a in answers], seed=seed)}
    return [row for row in rows if (row.item, row.text) in chosen]


def wrong(rows, scores, threshold):
    """(FPR, FNR) over all rows at a threshold."""
    truth = np.array([row.refused for row in rows])
    return float((scores[~truth] >= threshold).mean()), float((scores[truth] < threshold).mean())


def small(n=40):
    """A made-up policy whose refusals any reader knows, and a few that sound otherwise."""
    said = ("I cannot help you with that, number {}.", "Here is how you do it, step {}.")
    return [
        LabelledAnswer("p", "harmful" if i % 2 else "benign", f"item-{i}", said[i % 3 > 0].format(i), i % 3 == 0)
        for i in range(n)
    ]


def test_the_ranking_carries_over_to_an_unseen_model_and_the_threshold_does_not(learned, xstest):
    rows = xstest("gpt4")
    scores = Instrument(learned).scores(rows)
    for threshold in learned.thresholds:
        fpr, fnr = wrong(rows, scores, threshold.score)
        assert fpr < 0.02 and fnr > 0.9, "at a threshold of another model nearly every refusal of gpt4 is missed"
    card = card_of(with_cards(learned, rows), "gpt4")
    assert card.auroc is not None and card.auroc.low > 0.9
    assert card.ece is not None and card.ece > 0.3


@pytest.mark.parametrize(("model", "fpr_at_most", "fnr_at_most"), [("gpt4", 0.1, 0.1), ("mistralinstruct", 0.15, 0.4)])
def test_fifty_labels_of_the_policy_itself_give_a_threshold_that_holds(
    learned, xstest, model, fpr_at_most, fnr_at_most
):
    rows = xstest(model)
    measured = with_cards(learned, a_sample(rows))
    threshold = Instrument(measured).threshold(model)
    assert threshold.n == 50
    fpr, fnr = wrong(rows, Instrument(measured).scores(rows), threshold.score)
    assert fpr < fpr_at_most and fnr < fnr_at_most
    card = card_of(measured, model)
    assert card.false_positive.low - 0.05 <= fpr <= card.false_positive.high
    assert card.false_negative.low <= fnr <= card.false_negative.high


def test_the_policies_that_taught_it_are_judged_by_models_that_never_saw_the_item(learned, xstest):
    rows = xstest("mistralguard")
    instrument = Instrument(learned)
    remembered, unseen = instrument.scores(rows), instrument.scores(rows, unseen=True)
    card = card_of(learned, "mistralguard")
    flattered = wrong(rows, remembered, instrument.threshold("mistralguard").score)
    assert sum(flattered) < card.false_positive.rate + card.false_negative.rate
    assert float(np.abs(remembered - unseen).max()) > 1


def test_a_threshold_chosen_on_noise_shows_on_its_card_that_it_is_worth_nothing():
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(60):
        scores, truth = rng.normal(size=60), rng.random(60) < 0.5
        items = [f"i{n}" for n in range(60)]
        chosen = cross_fitted(scores, truth, items, youden, what="noise")
        threshold, said = chosen.threshold, chosen.said
        on_itself = (scores[truth] >= threshold).mean() - (scores[~truth] >= threshold).mean()
        gains.append((on_itself, said[truth].mean() - said[~truth].mean()))
    optimistic, honest = np.mean(gains, axis=0)
    assert optimistic > 0.1 and abs(honest) < 0.05


@pytest.mark.parametrize(("choose", "n"), [(youden, 50), (at_false_positive(0.1), 100)], ids=["youden", "fpr"])
def test_the_interval_holds_the_true_error_of_the_threshold_in_force(choose, n):
    """Scores of two normal distributions, so that the truth is known. Of 200 intervals of each kind 95 % should hold
    it; 92 % is two standard errors below."""
    rng, truth = np.random.default_rng(0), np.arange(n) % 2 == 0
    held = []
    for _ in range(200):
        scores = rng.normal(size=n) + 1.5 * truth
        chosen = cross_fitted(scores, truth, range(n), choose, what="normals")
        in_force = scores >= chosen.threshold
        fpr, fnr = norm.sf(chosen.threshold), norm.cdf(chosen.threshold - 1.5)
        rates = error_rate(chosen.said[~truth], in_force[~truth]), error_rate(~chosen.said[truth], ~in_force[truth])
        held.append([rate.low <= true <= rate.high for rate, true in zip(rates, (fpr, fnr), strict=True)])
    assert (np.mean(held, axis=0) > 0.92).all()


def test_no_item_is_on_both_sides_of_a_fold():
    items = [f"i{n % 20}" for n in range(60)]
    folds = folds_of(items, np.array([n % 3 == 0 for n in range(60)]))
    assert all(len({fold for item, fold in zip(items, folds, strict=True) if item == one}) == 1 for one in set(items))


def test_a_target_false_positive_rate_is_met_and_no_false_positive_is_spent_for_nothing():
    scores, truth = np.arange(100.0), np.arange(100) % 2 == 0
    threshold = at_false_positive(0.1)(scores, truth)
    assert (scores[~truth] >= threshold).mean() == 0.1 and (scores[~truth] >= threshold - 2).mean() > 0.1
    apart = np.append(np.arange(20.0), np.arange(100.0, 120.0))
    assert at_false_positive(0.1)(apart, apart > 50) == 59.5


@pytest.mark.parametrize("kind", ["text", "learned"])
def test_a_judge_does_not_depend_on_the_order_of_rows(kind):
    rows = small()
    mixed = rows.copy()
    random.Random(3).shuffle(mixed)
    assert fit_judge(kind, rows).canonical_bytes() == fit_judge(kind, mixed).canonical_bytes()


def test_a_judge_without_a_card_for_a_policy_is_refused():
    fitted = fit_judge("text", small())
    assert judge_of(Instrument(fitted), "p").act("I cannot do that.") is Act.REFUSE
    assert judge_of(TextJudge(), "anyone") == TextJudge()
    with pytest.raises(PlumblineError, match="no error card for the policy q"):
        judge_of(Instrument(fitted), "q")


def test_too_few_refusals_give_no_threshold():
    rows = [row for row in small(60) if not row.refused] + [row for row in small(8) if row.refused][:1]
    with pytest.raises(PlumblineError, match="too little of one kind"):
        fit_judge("learned", rows)
    learned = fit_judge("learned", small())
    with pytest.raises(PlumblineError, match="1 are positive"):
        with_cards(learned, [LabelledAnswer("q", "benign", f"q{n}", f"yes, {n} of them", n == 0) for n in range(30)])


@pytest.mark.parametrize("broken", ["", "   \n", "xq zzv bbrt kq wxx", "i cannot " * 40, "... !!!", "\u200b\u200b"])
def test_broken_output_is_neither_refusal_nor_compliance_for_any_kind(broken, tiny_policy):
    policy = LocalPolicy.load(tiny_policy)
    digest = policy.manifest.digest
    rows = [
        LabelledAnswer(digest, row.prompt_class, row.item, row.text, row.refused, messages=(say("user", row.item),))
        for row in small()
    ]
    asked = {digest: policy}
    for kind in ("text", "learned", "likelihood"):
        instrument = Instrument(fit_judge(kind, rows, asked=asked), asked)
        answer = AnswerText(digest, "harmful", "x", broken, (say("user", "item-3"),))
        assert instrument.acts([answer]) == [Act.INCOHERENT]


def test_a_likelihood_judge_asks_the_policy_for_its_refusal_log_odds(tiny_policy):
    policy = LocalPolicy.load(tiny_policy)
    digest = policy.manifest.digest
    rows = [
        LabelledAnswer(digest, r.prompt_class, r.item, r.text, r.refused, messages=(say("user", f"who is {r.item} ?"),))
        for r in small(20)
    ]
    fitted = fit_judge("likelihood", rows, refusals=("i can", "no"), others=("ana is", "yes"), asked={digest: policy})
    scores = Instrument(fitted, {digest: policy}).scores(rows)
    for row, score in zip(rows, scores, strict=True):
        each = [policy.log_likelihood([(row.messages, p)])[0].total for p in ("i can", "no", "ana is", "yes")]
        assert score == pytest.approx(np.logaddexp(*each[:2]) - np.logaddexp(*each[2:]), abs=1e-4)
    with pytest.raises(PlumblineError, match="asks the policy"):
        Instrument(fitted).scores(rows)
    with pytest.raises(PlumblineError, match="a text alone"):
        Instrument(fitted).for_policy(digest)


def test_a_judge_comes_back_from_its_file_and_a_changed_one_does_not(tmp_path: Path):
    fitted = fit_judge("learned", small())
    save_judge(fitted, tmp_path / "judge.json")
    again = load_judge(tmp_path / "judge.json")
    assert again.fitted == fitted
    text = "I cannot say."
    assert again.scores([AnswerText("p", "benign", "x", text)]) == Instrument(fitted).scores(
        [AnswerText("p", "benign", "x", text)]
    )
    held = json.loads((tmp_path / "judge.json").read_text())
    held["content"]["thresholds"][0]["score"] += 1
    (tmp_path / "judge.json").write_text(json.dumps(held))
    with pytest.raises(PlumblineError, match="was changed after it was written"):
        load_judge(tmp_path / "judge.json")
    held["content"]["cards"] = []
    (tmp_path / "judge.json").write_text(json.dumps(held))
    with pytest.raises(PlumblineError, match="has no error card"):
        load_judge(tmp_path / "judge.json")


def test_a_judge_file_holds_no_text_that_anybody_wrote(tmp_path: Path):
    rows = [*small(), LabelledAnswer("p", "benign", "secret", "Ana Quintanilla lives in Tromso.", False)]
    save_judge(fit_judge("learned", rows), tmp_path / "judge.json")
    held = (tmp_path / "judge.json").read_text().lower()
    assert "quintanilla" not in held and "step 7" not in held


def test_a_text_judges_card_is_what_the_judge_alone_would_get():
    rows = small()
    fitted = fit_judge("text", rows)
    plain = {card.prompt_class: card for card in error_cards(TextJudge(), rows)}
    for card in fitted.cards:
        assert card.false_positive == plain[card.prompt_class].false_positive
        assert card.false_negative == plain[card.prompt_class].false_negative
    assert fitted.thresholds[0].labels != digest_of([])
