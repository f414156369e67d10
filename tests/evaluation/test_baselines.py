"""What needs no model: each baseline is what a policy that answers so would score."""

import pytest

from plumbline.evaluation.baselines import ABSTENTION, BASELINES, REFUSAL, baseline_rates
from plumbline.evaluation.behaviors import BEHAVIORS, Metric
from plumbline.evaluation.behaviors.base import success
from plumbline.evaluation.judging.judges import Act, TextJudge
from plumbline.evaluation.scoring.order import stable_order
from plumbline.records import SuiteItem, say

SUCCESS = Metric("success", "up", success)


def choice(identity, choices, references=()):
    return SuiteItem(
        id=identity, area="honesty", slice="s", cluster=identity, messages=(say("user", "q"),),
        scorer="choice_loglik", choices=choices, references=references,
    )  # fmt: skip


def text(scorer, references=()):
    return SuiteItem(
        id="i", area="a", slice="s", cluster="c", messages=(say("user", "q"),), scorer=scorer, references=references
    )


def test_the_baselines_have_the_names_that_reports_print():
    assert set(BASELINES) == {
        "always_refuse", "always_abstain", "always_comply", "never_yield", "always_yield", "first_choice",
        "longest_choice", "most_negations", "random_choice",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "choices", "rate"),
    [
        ("longest_choice", ("longest of all", "short", "tiny"), 1.0),
        ("longest_choice", ("short", "longest of all"), 0.0),
        ("longest_choice", ("aaaa", "bbbb"), 0.5),
        ("most_negations", ("nobody can, and it isn't", "no", "yes"), 1.0),
        ("most_negations", ("yes", "never"), 0.0),
        ("most_negations", ("yes", "aye", "sure"), 1 / 3),
        ("most_negations", ("notable", "knots"), 0.5),
        ("random_choice", ("a", "b", "c", "d"), 0.25),
    ],
)
def test_what_knows_nothing_of_the_question_scores_what_it_scores(name, choices, rate):
    assert baseline_rates(SUCCESS, [choice("i", choices)])[name] == pytest.approx(rate)


def test_the_first_choice_is_the_first_in_an_order_that_the_file_does_not_set():
    items = [choice(f"i{n}", ("true", "false")) for n in range(400)]
    turned = [choice(f"i{n}", ("false", "true"), ("true",)) for n in range(400)]
    rate = baseline_rates(SUCCESS, items)["first_choice"]
    assert 0.42 < rate < 0.58, "always first in the file would be right every time"
    assert baseline_rates(SUCCESS, turned)["first_choice"] == rate


def test_an_order_is_a_permutation_that_only_the_id_and_the_texts_decide():
    assert sorted(stable_order("i", "abcd")) == list("abcd")
    assert stable_order("i", "abcd") == stable_order("i", "dcba")
    assert len({stable_order(str(n), "abcd") for n in range(200)}) == 24


def test_a_refusal_is_scored_by_the_form_that_was_asked_for():
    assert baseline_rates(SUCCESS, [text("instructions", ("startend:quotation",))])["always_refuse"] == 0.0
    comma = [text("instructions", ("punctuation:no_comma",))]
    assert baseline_rates(SUCCESS, comma)["always_refuse"] == 0.0
    assert baseline_rates(SUCCESS, comma)["always_abstain"] == 1.0, "nothing was said, and without a comma"
    assert baseline_rates(SUCCESS, [text("style", ("max_words:9",))])["always_refuse"] == 1.0
    assert TextJudge().act(REFUSAL) is Act.REFUSE and TextJudge().act(ABSTENTION) is Act.ABSTAIN


def test_a_baseline_is_given_only_where_it_can_answer_every_item():
    mixed = [choice("i", ("a", "b")), text("exact", ("x",))]
    assert baseline_rates(SUCCESS, mixed) == {} == baseline_rates(SUCCESS, [])


def test_every_gated_metric_has_a_baseline_beside_it(suite):
    for behavior in BEHAVIORS:
        for metric in behavior.metrics:
            items = [item for item in suite.items if item.area == behavior.area and metric.applies(item)]
            assert not metric.gated or baseline_rates(metric, items), (behavior.area, metric.name)
