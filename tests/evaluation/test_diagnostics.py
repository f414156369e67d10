"""Diagnostics of an area: each finds its own fault, stays quiet without it, and is absent rather than invented."""

from dataclasses import replace

import numpy as np
import pytest

from plumbline.evaluation import answer_suite, compare, decide
from plumbline.evaluation.samples import COMMON, tell_apart
from plumbline.records import AREAS, Example, Provenance, Suite, SuiteItem, say
from plumbline.statistics.calibration import brier_difference


@pytest.fixture
def found(written, suite, rubric, decoder):
    """Diagnostics by name for an aligned policy against a sound reference, with what else the report says."""

    def run(aligned="sound", reference="sound", asked=suite, **more):
        policies = [p if not isinstance(p, str) else written(p) for p in (reference, aligned)]
        report = compare(*[answer_suite(policy, asked, decoder) for policy in policies], asked, rubric=rubric, **more)
        return {one.name: one for one in report.diagnostics}, report

    return run


def trained_on(texts):
    return [
        Example(messages=(say("user", text), say("assistant", "1")), slice="s", provenance=Provenance(
            origin="seed", author="a", source="s"))
        for text in texts
    ]  # fmt: skip


def served(suite):
    return [item.messages[-1].content for item in suite.items if item.area == "distribution_mismatch"]


# --- honesty: the Brier score ----------------------------------------------------------------------------------------


def test_the_brier_rise_of_two_choices_is_that_of_the_statistics_room(found, written, suite):
    """The sound policy gives the truth 1 / (1 + e^-2) = .881; one that likes everything equally gives it .5."""
    one, _ = found("babbles")
    items = [item for item in suite.items if item.area == "honesty"]
    n = len(items)
    estimate, interval = brier_difference(np.full(n, 1 / (1 + np.exp(-2))), np.full(n, 0.5), np.ones(n))
    rise = one["brier_rise"]
    assert rise.value == pytest.approx(-estimate.mean) and rise.high == pytest.approx(-interval.low)
    assert rise.details["brier_aligned"] == pytest.approx(0.25) and rise.state == "beyond" and rise.n == n


def test_a_policy_that_became_surer_than_it_is_right_has_the_same_choices_and_a_worse_brier_score(found, written):
    class Sure(written):
        """Every third answer wrong in both; the aligned policy is ten times as sure of each."""

        scale = 1.0

        def log_likelihood(self, pairs):
            made = []
            for place, (one, _) in enumerate(zip(super().log_likelihood(pairs), pairs, strict=True)):
                wrong = place // 2 % 3 == 0
                made.append(replace(one, total=self.scale * (-one.total if wrong else one.total)))
            return made

    class Surer(Sure):
        scale = 10.0

    diagnostics, report = found(Surer(name="surer"), reference=Sure(name="sure"))
    honest = next(e for e in report.estimates if e.area == "honesty")
    assert honest.difference == 0, "the likeliest choice is the same everywhere"
    rise = diagnostics["brier_rise"]
    assert rise.state == "beyond" and rise.low > 0.01
    assert rise.details["ece_aligned"] > rise.details["ece_reference"]
    assert rise.details["ece_aligned"] > 0.2 > rise.details["ece_aligned_by_chance"]


def test_several_true_choices_are_one_truth_and_a_likelihood_per_byte_is_no_probability(found, suite):
    first = next(item for item in suite.items if item.area == "honesty")
    right, wrong = first.choices

    def among(scorer):
        items = tuple(
            first.model_copy(
                update={"id": f"h{n}", "cluster": f"c{n}", "scorer": scorer, "choices": (right, f"{right} .", wrong),
                        "references": (right, f"{right} .")}
            )
            for n in range(12)
        )  # fmt: skip
        return found(asked=Suite(name="h", version="1", items=items))[0]["brier_rise"]

    chances = np.exp([-1.0, -3.0, -3.0])
    truth = (chances[0] + chances[1]) / chances.sum()
    wanted = ((1 - truth) ** 2 + (1 - truth) ** 2) / 2
    assert among("choice_loglik").details["brier_reference"] == pytest.approx(wanted)
    assert among("choice_loglik").details.keys() == {"brier_reference", "brier_aligned"}, (
        "twelve items calibrate nothing"
    )
    assert among("choice_loglik_per_byte").state == "not measured"


# --- forgetting: nats per byte ---------------------------------------------------------------------------------------


def test_what_became_less_likely_is_forgotten_before_an_answer_changes(found, written):
    items = tuple(
        SuiteItem(
            id=f"k{n}", area="catastrophic_forgetting", slice="skill", cluster=f"c{n}", scorer="choice_loglik",
            messages=(say("user", f"so {n} + 1 is"),), choices=(str(n + 1), "a poet"),
        )
        for n in range(40)
    )  # fmt: skip

    class Fading(written):
        def log_likelihood(self, pairs):
            return [replace(one, total=one.total - 0.1 * one.bytes) for one in super().log_likelihood(pairs)]

    diagnostics, report = found(Fading(), asked=Suite(name="k", version="1", items=items))
    assert report.estimates[0].difference == 0 and diagnostics["nats_per_byte_rise"].value == pytest.approx(0.1)
    assert diagnostics["nats_per_byte_rise"].state == "beyond"
    assert found(asked=Suite(name="k", version="1", items=items))[0]["nats_per_byte_rise"].state == "within"


def test_without_likelihoods_nothing_is_said_about_nats(found):
    one = found()[0]["nats_per_byte_rise"]
    assert one.state == "not measured" and one.value is None and "compared by likelihood" in one.explanation


# --- style ----------------------------------------------------------------------------------------------------------


def test_unrequested_style_that_moved_is_found_and_style_that_was_asked_for_is_not(found, written):
    class Windy(written):
        def _say(self, question):
            said = super()._say(question)
            return f"**{said}**\n- perhaps {said}" if not question.startswith("like a pirate") else said

    class Pirate(written):
        def _say(self, question):
            said = super()._say(question)
            return f"{said} maybe, maybe, maybe" if question.startswith("like a pirate") else said

    moved, _ = found(Windy())
    assert moved["drift_words"].state == "beyond" and moved["drift_words"].details["p_value"] < 0.01
    assert moved["drift_lists"].state == "not measured", "the reference has none, so there is no unit"
    assert "went from 0.00 to 1.00" in moved["drift_lists"].explanation
    kept, _ = found(Pirate())
    assert {kept[name].state for name in kept if name.startswith("drift_")} == {"within"}


def test_a_suite_that_asks_for_style_alone_cannot_show_drift(found, suite):
    asked = Suite(name="s", version="1", items=tuple(i for i in suite.items if i.area == "style_control"))
    diagnostics, _ = found(asked=asked)
    assert {one.state for one in diagnostics.values()} == {"not measured"}


# --- distribution mismatch ------------------------------------------------------------------------------------------


def test_training_that_looks_like_what_is_served_is_within_and_other_training_is_told_by_its_words(found, suite):
    alike = trained_on(text.replace("?", "") for text in served(suite))
    within = found(training_examples=alike)[0]["two_sample_auroc"]
    assert within.state == "within" and within.high < 0.60
    other = trained_on(f"kindly compute {n} for me" for n in range(200))
    apart = found(training_examples=other)[0]["two_sample_auroc"]
    assert apart.state == "beyond" and apart.low > 0.9
    training, serving = apart.explanation.split("; of what is served: ")
    assert "kindly" in training or "compute" in training or "for me" in training
    assert "cuánto" in serving or "es" in serving


def test_without_training_data_nothing_is_said_about_it(found):
    one = found()[0]["two_sample_auroc"]
    assert one.state == "not measured" and "was not given" in one.explanation
    few = found(training_examples=trained_on(["what is 1 + 1?"]))[0]["two_sample_auroc"]
    assert few.state == "not measured" and "1 distinct texts or clusters" in few.explanation


def test_a_word_that_one_person_uses_is_never_named():
    """A report outlives an erasure."""
    mine = [(f"my friend wilhelmina says {n} and {n * 7}", "me") for n in range(60)]
    others = [(f"what is {n} and {n * 5}", f"c{n}") for n in range(60)]
    plain = [(f"tell me of {n} or {n * 3}", f"d{n}") for n in range(60)]
    found = tell_apart([*mine, *others], plain)
    typical = {word for word, _ in found.test.typical_of_first}
    assert typical & {"wilhelmina", "friend", "my", "says", "friend wilhelmina", "wilhelmina says"}
    assert "wilhelmina" not in found.typical_of_first and "friend" not in found.typical_of_first
    shared = [(text, f"m{n % (COMMON + 1)}") for n, (text, _) in enumerate(mine)]
    assert '"' in tell_apart([*shared, *others], plain).typical_of_first, "what several people say is named"


def test_the_order_of_examples_changes_nothing(found, suite):
    training = trained_on(f"kindly compute {n} for me" for n in range(30))
    there, back = (found(training_examples=one)[1] for one in (training, training[::-1]))
    assert there == back


# --- all of them -----------------------------------------------------------------------------------------------------


def test_a_diagnostic_decides_nothing(found, rubric):
    _, report = found("babbles")
    bare = report.model_copy(update={"diagnostics": ()})
    assert decide(report, rubric).areas == decide(bare, rubric).areas
    assert {one.area for one in report.diagnostics} <= set(AREAS)


def test_areas_that_the_suite_does_not_ask_have_no_diagnostics(found, suite):
    asked = Suite(name="h", version="1", items=tuple(i for i in suite.items if i.area == "harmlessness"))
    assert found(asked=asked)[1].diagnostics == ()
