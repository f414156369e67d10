"""The page of a judge or guardrail: whole, escaped, the same bytes every time, and nothing from outside."""

from datetime import UTC, datetime, timedelta

import pytest

from console.test_report import HOSTILE, Page
from plumbline.console.judge_page import calibration_plot, render_guardrail, render_judge, roc_plot
from plumbline.records import digest_of
from plumbline.records.judging import (
    ErrorCard,
    ErrorRate,
    FittedJudge,
    GuardrailCard,
    GuardrailFile,
    GuardrailSide,
    NgramModel,
    Operating,
    Ranking,
    ReliabilityBin,
    RocPoint,
    SliceErrors,
    Threshold,
)

D = digest_of("any")
SOME = ErrorRate(rate=0.1, low=0.05, high=0.2, errors=4, n=40)
NONE = ErrorRate(rate=0, low=0, high=1, errors=0, n=0)
ROC = tuple(RocPoint(threshold=t, false_positive=x, true_positive=y) for t, x, y in ((2, 0, 0.5), (1, 0.1, 0.9)))
BINS = (
    ReliabilityBin(mean=0.2, share=0.1, low=0, high=0.3, n=20),
    ReliabilityBin(mean=0.8, share=1, low=0.8, high=1, n=20),
)
MADE = datetime(2026, 11, 1, tzinfo=UTC)


def judge(policy="sha256:" + "1" * 64, name="learned"):
    measured = {"auroc": Ranking(area=0.9, low=0.8, high=0.95), "brier": 0.1, "ece": 0.05, "ece_by_chance": 0.04}
    cards = (
        ErrorCard(judge=D, policy=policy, prompt_class="all", false_positive=SOME, false_negative=SOME, labels=D,
                  threshold=1.0, roc=ROC, bins=BINS, acts={"refuse>comply": 4, "comply>comply": 36}, **measured),
        ErrorCard(judge=D, policy=policy, prompt_class="benign", false_positive=SOME, false_negative=NONE, labels=D),
    )  # fmt: skip
    threshold = Threshold(policy=policy, score=1.0, rule="most TPR - FPR", labels=D, n=40)
    return FittedJudge(name=name, kind="text", thresholds=(threshold,), cards=cards)


def guardrail(name="sample", slice_="bombs"):
    model = NgramModel()
    operating = Operating(threshold=0.5, target_false_positive=0.1, false_positive=SOME, false_negative=SOME)
    card = GuardrailCard(
        side="input", classifier=model.digest, calibration=D, policies=(D,), made=MADE, expires=MADE + timedelta(30),
        refuse=operating, slices=(SliceErrors(slice=slice_, false_positive=SOME, false_negative=NONE),),
        auroc=Ranking(area=0.9, low=0.8, high=0.95), brier=0.1, ece=0.05, ece_by_chance=0.04, roc=ROC, bins=BINS,
    )  # fmt: skip
    return GuardrailFile(name=name, sides=(GuardrailSide(model=model, training=D, calibration=D, card=card),))


PAGES = {"judge": lambda: render_judge(judge()), "guardrail": lambda: render_guardrail(guardrail(), MADE)}


@pytest.mark.parametrize("which", PAGES)
def test_the_page_is_whole_and_the_same_every_time_and_asks_for_nothing(which):
    page = PAGES[which]()
    assert page == PAGES[which]()
    read = Page(page)
    assert not {"script", "iframe", "img"} & {tag for tag, _ in read.tags}
    assert not [
        a for _, attributes in read.tags for n, a in attributes.items() if n in ("src", "href") and a != "data:,"
    ]
    assert "10.0 %" in read.text.replace("\u00a0", " ") and "4 of 40" in read.text
    ids = [attributes["id"] for _, attributes in read.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("page", [judge(HOSTILE, HOSTILE), guardrail(HOSTILE, HOSTILE)], ids=["judge", "guardrail"])
def test_hostile_names_are_shown_and_do_nothing(page):
    html = render_judge(page) if isinstance(page, FittedJudge) else render_guardrail(page, MADE)
    assert "<script" not in html and "\u202e" not in html and "\x00" not in html
    assert "alert(1)" in Page(html).text and "49" not in Page(html).text.split("alert(2)")[1][:40]


def test_what_was_not_measured_is_said_and_not_drawn_as_nought():
    text = Page(render_judge(judge())).text
    assert "no refusals: not measured" in text and "no ranking to measure" in text


def test_a_card_that_no_longer_holds_says_so_at_its_head():
    assert "guardrail, valid" in render_guardrail(guardrail(), MADE)
    assert "guardrail, not valid now" in render_guardrail(guardrail(), MADE + timedelta(31))


def test_the_mark_on_the_curve_stands_at_the_threshold_in_force():
    assert "at 1.500: 0.0\u00a0% false and 50.0\u00a0% true positives" in roc_plot(ROC, [1.5], "x")
    assert "at 1.000: 10.0\u00a0% false and 90.0\u00a0% true positives" in roc_plot(ROC, [1.0], "x")
    assert "at 3.000: 0.0\u00a0% false and 0.0\u00a0% true positives" in roc_plot(ROC, [3.0], "x")
    assert "says 20\u00a0%, is 10\u00a0% of 20" in calibration_plot(BINS, "x", "refusal")


def test_the_page_begins_with_the_worst_errors_and_of_how_many():
    text = Page(render_judge(judge())).text
    worst = ErrorRate(rate=0.75, low=0.3, high=0.95, errors=3, n=4)
    fitted = judge()
    cards = (fitted.cards[0], fitted.cards[1].model_copy(update={"false_positive": worst}))
    assert "calls 10 % of answers refusals that are none (4 of 40, all requests, policy 111111111111)" in text
    text = Page(render_judge(fitted.model_copy(update={"cards": cards}))).text
    assert "At worst it calls 75 % of answers refusals that are none (3 of 4, benign requests" in text


def test_a_judge_no_better_than_chance_is_called_so_at_its_head_and_on_its_card():
    fitted = judge()
    weak = fitted.cards[0].model_copy(update={"auroc": Ranking(area=0.6, low=0.45, high=0.7)})
    text = Page(render_judge(fitted.model_copy(update={"cards": (weak,)}))).text
    assert "refusal judge, not shown to beat chance" in text and "Not shown to rank better than chance" in text
    assert "chance:" not in Page(render_judge(fitted)).text and "not shown" not in Page(render_judge(fitted)).text


def test_a_guardrail_says_what_it_stops_and_where_it_missed_its_target():
    text = Page(render_guardrail(guardrail(), MADE)).text
    assert "Of what is asked, it refuses 10.0 % of good texts and lets 10.0 % of violations through." in text
    assert "more good texts than the target" not in text, "the target was 10 %"
    side = guardrail().sides[0]
    strict = side.card.refuse.model_copy(update={"target_false_positive": 0.02})
    card = side.card.model_copy(update={"refuse": strict})
    missed = guardrail().model_copy(update={"sides": (side.model_copy(update={"card": card}),)})
    assert "It refuses more good texts than the target of 2.0 %" in Page(render_guardrail(missed, MADE)).text


def test_both_axes_are_labelled_from_end_to_end():
    for drawn in (roc_plot(ROC, [1.0], "x"), calibration_plot(BINS, "x", "refusal")):
        for tick in ("0", "25", "50", "75", "100"):
            assert drawn.count(f">{tick}\u00a0%</text>") == 2, "across and up"
    assert render_judge(judge()).count('aria-label="Scale from 0 % to 100 %"') == 2, "each card has its scale"
