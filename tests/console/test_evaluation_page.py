"""The evaluation page: the verdict and why, everything that a sceptic asks for, and safe whatever was said in it."""

import json
import os
import re
import resource
import subprocess
import sys

import pytest

from console import sample_evaluation, sample_microworld
from console.test_report import HOSTILE, Page
from plumbline.console.evaluation_cases import cases
from plumbline.console.evaluation_page import evaluation_summary, render_evaluation, write_evaluation
from plumbline.errors import PlumblineError
from plumbline.evaluation import decide
from plumbline.microworld import microworld_rubric
from plumbline.records import (
    AREAS,
    EvaluationReport,
    FailureCase,
    PairedEstimate,
    PolicyScore,
    PressureReading,
    SevereCount,
    Suite,
    digest_of,
    say,
)
from plumbline.records.judging import Ranking
from plumbline.records.report import ContaminationCheck, Diagnostic


@pytest.fixture(scope="module")
def real() -> EvaluationReport:
    """Every eighth item of the micro-world's held-out suite, and every severe one."""
    items = sample_microworld.suite().items
    few = tuple(item for place, item in enumerate(items) if place % 8 == 0 or item.severity == "severe")
    return sample_microworld.report(Suite(name="microworld", version="1", items=few))


def page_of(report: EvaluationReport, **options: object) -> str:
    return render_evaluation(report, decide(report, microworld_rubric()), **options)  # type: ignore[arg-type]


def foreign(area: str = "mmlu_pro", verdict: str | None = None, of: int = 1) -> EvaluationReport:
    """A report as an import of another harness's logs makes it: tasks for areas, no contract, no baselines."""
    made = tuple(estimate(f"{area}_{place}" if of > 1 else area, "acc", "all") for place in range(of))
    slices = (estimate(area, "acc", "law", verdict), estimate(area, "acc", "physics"))
    return EvaluationReport(
        reference=digest_of("r"), aligned=digest_of("a"), suite=digest_of("s"), rubric=microworld_rubric().digest,
        dataset=None, decoder=digest_of("d"), estimates=made, slices=slices,
    )  # fmt: skip


def estimate(area: str, metric: str, name: str, verdict: str | None = None, rate: float = 0.62) -> PairedEstimate:
    return PairedEstimate(
        area=area, metric=metric, slice=name, direction="up", n=500, clusters=120, discordant=31,
        reference=PolicyScore(rate=0.66, low=0.6, high=0.71), aligned=PolicyScore(rate=rate, low=0.57, high=0.66),
        difference=rate - 0.66, low=-0.07, high=-0.01, method="test", verdict=verdict,
    )  # fmt: skip


def test_the_page_begins_with_the_verdict_its_exit_code_and_the_reason(real: EvaluationReport) -> None:
    page = Page(page_of(real))
    assert "REGRESSED, exit code 1 aligned-3 regressed: it refuses" in page.text
    assert page.text.index("exit code 1") < page.text.index("Who was compared")
    passing = sample_evaluation.report(2)
    assert "exit code 0" in Page(render_evaluation(passing, sample_evaluation.decision(2))).text
    undecided = sample_evaluation.decision(2, passing, undecided=("exact",))
    text = Page(render_evaluation(passing, undecided)).text
    assert "exit code 3" in text and "the suite cannot settle helpfulness; 1 240 items would" in text


def test_an_error_says_what_is_in_the_way_and_does_not_hide_a_regression(real: EvaluationReport) -> None:
    text = Page(page_of(real.model_copy(update={"missing": 7}))).text
    assert "exit code 2" in text and "could not be judged: 7 items have no pair of answers" in text
    assert "Whatever comes of that, it refuses" in text
    assert "7 items formed no pair of answers" in text


def test_who_was_compared_is_named_with_digests_and_how_far_it_is_known(real: EvaluationReport) -> None:
    html = page_of(real)
    for digest in (real.reference, real.aligned, real.suite, real.decoder, real.judge, real.rubric, real.digest):
        assert f'title="{digest}"' in html
    text = Page(html).text
    assert "declared, not verified" in text and "aligned-3" in text
    assert "not recorded" in Page(render_evaluation(sample_evaluation.report(1), sample_evaluation.decision(1))).text


def test_what_is_left_out_is_counted_by_sign_and_an_unchecked_suite_is_said_to_be_one(real: EvaluationReport) -> None:
    text = Page(page_of(real)).text
    assert "3 held-out items stood in the training data" in text
    assert "1 an exact copy, 1 a near copy, 1 shared n-grams" in text and "87 %" in text
    clean = real.model_copy(update={"overlaps": (), "contaminated": ()})
    assert "nothing shows that the held-out items were kept out of training" in Page(page_of(clean)).text


def test_the_forest_holds_every_gated_metric_with_margin_items_clusters_and_the_n_that_would_decide(
    real: EvaluationReport,
) -> None:
    decision = decide(real, microworld_rubric())
    html = render_evaluation(real, decision)
    forest = html.split('id="gate"')[1].split('id="areas"')[0]
    assert forest.count('class="strip forest"') == len(decision.areas) == 12
    text = Page(f"<p>{forest.split('>', 1)[1].rsplit('</section>', 1)[0]}</p>").text
    for area in decision.areas:
        found = next(e for e in real.estimates if (e.area, e.metric) == (area.area, area.metric))
        assert f"{found.n} / {found.clusters}" in text
        if area.needed:
            assert f"needs {area.needed:,} items".replace(",", " ") in text
    assert "Proven worse." in text and "90 % interval +" not in text, "figures stand in the row, and once"


def test_a_loss_within_the_margin_and_one_against_the_released_policy_stay_visible() -> None:
    before = sample_evaluation.report(2)
    lost = before.estimates[0].model_copy(update={"difference": -0.01, "low": -0.02, "high": -0.002})
    slow = before.model_copy(update={"estimates": (lost, *before.estimates[1:])})
    decision = sample_evaluation.decision(2, slow)
    text = Page(render_evaluation(slow, decision)).text
    assert "measurably worse, within the margin, on two (helpfulness" in text and "worse, within margin" in text
    since = decision.model_copy(
        update={
            "areas": (*decision.areas, decision.areas[0].model_copy(update={"metric": "exact@released"})),
            "last_released": slow.digest,
        }
    )
    assert "Against the policy released last" in Page(render_evaluation(slow, since, last_released=slow)).text


def test_each_area_states_its_contract_its_rates_what_no_model_scores_and_its_slices(real: EvaluationReport) -> None:
    text = Page(page_of(real)).text
    assert text.count("How it is measured") == 15
    assert "no model: always abstain 100.0 %, always comply 0.0 %, always refuse 100.0 %" in text
    assert "proven to have lost" in text and "Template and language variants of served score: 3" in text
    assert text.index("neutral ✕ lost") > text.index("Slices of benign refusal")
    honest = real.model_copy(update={"estimates": tuple(e for e in real.estimates if e.area != "honesty")})
    assert "Not measured in this report: Honesty. Nothing is known" in Page(page_of(honest)).text


def test_severe_items_are_named_with_their_exact_bound(real: EvaluationReport) -> None:
    count = SevereCount(
        area="harmlessness", metric="unsafe_compliance", n=27, reference_failures=0, aligned_failures=1, high=0.1644,
        items=("bad-one",),
    )  # fmt: skip
    text = Page(page_of(real.model_copy(update={"severe": (count,)}))).text
    assert "✕ severe items 1 of 27 fail unsafe compliance (0 with the reference)" in text
    assert "at most 16.4 % (exact 95 % bound)" in text and "Failed: bad-one" in text
    assert "it newly fails 1 severe item of harmlessness" in text or "of benign look-alikes" in text


def test_a_judge_shows_its_errors_and_one_without_a_card_is_said_to_have_none(real: EvaluationReport) -> None:
    text = Page(page_of(real)).text
    assert "aligned-3, benign requests" in text and "9 of 50" in text and "0.061 (0.034 by chance alone)" in text
    assert "61.2 % 55.1 % 47.0 % to 63.2 %" in text and "3 labels stale" in text
    bare = Page(page_of(real.model_copy(update={"cards": (), "corrected": ()}))).text
    assert "has no error card here" in bare


def test_pressures_give_statistic_alarm_and_sentence(real: EvaluationReport) -> None:
    reading = PressureReading(
        pressure="proxy_reward", statistics={"goodhart_gap": 0.31}, alarm=True, explanation="the proxy runs ahead"
    )
    text = Page(page_of(real.model_copy(update={"pressures": (reading,)}))).text
    assert "▲ alarm The proxy runs ahead. Statistics goodhart gap 0.31" in text
    assert text.count("Not read in this report.") == 4


def test_cases_are_sorted_by_area_and_direction_and_an_item_of_two_metrics_is_one_case() -> None:
    report = sample_evaluation.report(1)
    twin = report.failures[0].model_copy(update={"metric": "exact", "reference_score": 1.0, "aligned_score": 0.0})
    better = report.failures[1].model_copy(update={"reference_score": 1.0, "aligned_score": 0.0, "item": "won"})
    found = cases(report.model_copy(update={"failures": (*report.failures, twin, better)}), None)
    turns = [(bucket.area, bucket.turn) for bucket in found.buckets]
    assert turns.index(("Over-refusal", "worse")) < turns.index(("Over-refusal", "better"))
    assert found.held == len(report.failures) + 1 == found.shown
    (doubled,) = [case for bucket in found.buckets for case in (*bucket.first, *bucket.more) if case.also]
    assert doubled.item == twin.item and doubled.also == ("exact 1 \u2192 0",)
    assert {case.turn for bucket in found.buckets for case in bucket.first} == {"newly wrong", "newly right"}


def test_an_import_of_another_harness_has_a_forest_and_no_contract() -> None:
    report = foreign(verdict="worse")
    text = Page(render_evaluation(report, None)).text
    assert "The aligned policy was compared with the reference and not judged: no margins were given." in text
    assert "Without a margin, so without a verdict" in text and "Mmlu pro" in text and "500 / 120" in text
    assert "no contract of ours" in text and "None of Plumbline's ten areas was measured here." in text
    assert "law ✕ lost" in text
    held = decide(report, microworld_rubric(), margins={"mmlu_pro": {"acc": 0.02}})
    text = Page(render_evaluation(report, held)).text
    assert "exit code 1" in text and "the verdict releases nothing" in text


def test_a_page_is_of_one_report_and_one_decision(real: EvaluationReport) -> None:
    with pytest.raises(PlumblineError, match="the decision is about report"):
        render_evaluation(real, sample_evaluation.decision(1))
    with pytest.raises(PlumblineError, match="released last"):
        render_evaluation(real, decide(real, microworld_rubric()), last_released=real)


def hostile(real: EvaluationReport) -> EvaluationReport:
    """Every place that holds foreign text, holding hostile text."""
    case = FailureCase(
        item=HOSTILE, area=HOSTILE, metric=HOSTILE, slice=HOSTILE, references=(HOSTILE,),
        messages=(say("system", HOSTILE), say("user", HOSTILE)), reference_answer=HOSTILE,
        aligned_answer=HOSTILE + " x", reference_score=1.0, aligned_score=0.0,
    )  # fmt: skip
    reading = PressureReading(
        pressure=HOSTILE, statistics={HOSTILE: 1.0}, alarm=True, blocking=True, explanation=HOSTILE
    )
    areas = (estimate(HOSTILE, HOSTILE, "all"), estimate("over_refusal", "benign_refusal", "all"))
    slices = (estimate(HOSTILE, HOSTILE, HOSTILE, "worse"), estimate(HOSTILE, HOSTILE, "variant:" + HOSTILE))
    severe = SevereCount(
        area=HOSTILE, metric=HOSTILE, n=3, reference_failures=0, aligned_failures=1, high=0.9, items=(HOSTILE,)
    )
    return real.model_copy(
        update={
            "policies": tuple(one.model_copy(update={"name": HOSTILE}) for one in real.policies),
            "estimates": areas, "slices": (*slices, *slices), "severe": (severe,), "failures": (case, case),
            "pressures": (reading,), "baselines": {f"{HOSTILE}.{HOSTILE}": {HOSTILE: 0.5}},
            "overlaps": tuple(one.model_copy(update={"item": HOSTILE}) for one in real.overlaps),
            "contaminated": (HOSTILE,), "cards": (real.cards[0].model_copy(update={"policy": HOSTILE}),),
            "corrected": (real.corrected[0].model_copy(update={"policy": HOSTILE}),),
        }
    )  # fmt: skip


def test_hostile_text_is_shown_and_never_obeyed(real: EvaluationReport) -> None:
    report = hostile(real)
    margins = {HOSTILE: {HOSTILE: 0.01}, "over_refusal": {"benign_refusal": 0.02}}
    for decision in (None, decide(report, microworld_rubric(), margins=margins)):
        html = render_evaluation(report, decision, source=HOSTILE)
        page = Page(html)
        assert page.with_tag("script") == [] and page.with_tag("img") == []
        assert not any(key.startswith("on") or key == "style" for _, found in page.tags for key in found)
        assert "\u202e" not in html and "\x00" not in html and "\x1b" not in html
        assert "</script><script>alert(1)</script>" in page.text and "{{ 7*7 }}" in page.text
        assert HOSTILE[:8] not in html.split("<style>")[1].split("</style>")[0]


def test_the_page_asks_for_nothing_outside_and_every_link_lands(real: EvaluationReport) -> None:
    html = page_of(real)
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "")[1:] for a in page.with_tag("a")} <= set(ids)
    assert "url(" not in re.sub(r"url\(#[a-z-]+\)", "", html) and "@import" not in html
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for key in ("href", "src"):
            assert (attributes.get(key) or "#").startswith(("#", "data:,"))
        if tag == "svg" and attributes.get("role") == "img":
            assert attributes.get("aria-label") or attributes.get("aria-labelledby")


def test_the_same_records_give_the_same_bytes_whatever_the_hash_seed() -> None:
    script = (
        "import sys; from plumbline.console.evaluation_page import render_evaluation\n"
        "from plumbline.records import EvaluationReport\n"
        "report = EvaluationReport.model_validate_json(sys.stdin.read())\n"
        "sys.stdout.buffer.write(render_evaluation(report, None).encode())"
    )
    report = sample_evaluation.report(1)
    pages = [
        subprocess.run(
            [sys.executable, "-c", script], input=report.model_dump_json().encode(), capture_output=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"},
        ).stdout
        for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo"))
    ]  # fmt: skip
    assert pages[0] == pages[1] == render_evaluation(report, None).encode()


def test_a_large_report_is_quick_small_and_says_what_it_leaves_to_the_file() -> None:
    """Twenty slices and forty long cases in every area, and fifty tasks of another harness's beside them."""
    report = foreign(of=50)
    areas = [*AREAS, *(e.area for e in report.estimates)]
    slices = tuple(estimate(area, "exact", f"slice-{n:02d}") for area in areas for n in range(20))
    long = tuple(
        FailureCase(
            item=f"{area}-{n}", area=area, metric="exact", slice="s", messages=(say("user", f"{n} <why> " * 300),),
            reference_answer="word & more " * 400, aligned_answer="other < words " * 400, reference_score=1.0,
            aligned_score=0.0,
        )
        for area in AREAS
        for n in range(40)
    )  # fmt: skip
    mine = tuple(estimate(area, "exact", "all") for area in AREAS)
    large = report.model_copy(
        update={"estimates": (*mine, *report.estimates), "slices": slices, "failures": long}
    )  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    html = render_evaluation(large, None, source="run-7.json")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2
    assert len(html.encode()) < 2_000_000
    text = Page(html).text
    assert "The report keeps 400 cases" in text and "the rest is in run-7.json" in text
    assert all(f"{area}-0" in text for area in AREAS), "every area keeps some of its cases"


def test_the_same_as_json_holds_everything_that_the_page_caps(real: EvaluationReport) -> None:
    decision = decide(real, microworld_rubric())
    held = json.loads(json.dumps(evaluation_summary(real, decision)))
    assert EvaluationReport.model_validate(held["report"]).digest == real.digest == held["digests"]["report"]
    assert held["exit_code"] == 1 and held["sentence"] in render_evaluation(real, decision)
    assert set(held["contracts"]["over_refusal"]) == {"Target", "Variable", "Estimator", "Rule", "Regression metric"}


def test_a_page_that_cannot_be_written_is_told(tmp_path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(PlumblineError, match="could not be written"):
        write_evaluation("page", tmp_path / "taken" / "report.html")


def test_the_verdicts_are_counted_at_the_head_worst_first(real: EvaluationReport) -> None:
    decision = decide(real, microworld_rubric())
    text = Page(render_evaluation(real, decision)).text
    given = [area.verdict.value for area in decision.areas]
    bad, open_, good = (given.count(name) for name in ("REGRESSED", "INCONCLUSIVE", "PASS"))
    assert bad and open_ and good
    counted = f"✕ {bad} regressed ? {open_} undecided ✓ {good} pass of 12 metrics held to a margin"
    assert counted in text and text.index(counted) < text.index("Who was compared")


def test_a_severe_item_is_told_before_a_larger_loss(real: EvaluationReport) -> None:
    one = SevereCount(
        area="harmlessness", metric="unsafe_compliance", n=27, reference_failures=0, aligned_failures=2, high=0.22,
        items=("bad-one", "bad-two"),
    )  # fmt: skip
    text = Page(page_of(real.model_copy(update={"severe": (one,)}))).text
    assert "aligned-3 regressed: it newly fails 2 severe items of harmlessness and refuses" in text


def test_what_has_no_items_is_one_reason_and_not_ten(real: EvaluationReport) -> None:
    few = real.model_copy(
        update={"estimates": tuple(e for e in real.estimates if e.area in ("harmlessness", "over_refusal"))}
    )
    text = Page(page_of(few)).text
    assert "could not be judged: nothing was measured for ten of 12 gated metrics." in text


def test_policies_that_nothing_tells_apart_are_not_declared_to_be_one(real: EvaluationReport) -> None:
    same = foreign().model_copy(update={"aligned": digest_of("r")})
    assert "If they are one policy, this is an A/A comparison" in Page(render_evaluation(same, None)).text
    known = tuple(one.model_copy(update={"verified": True, "policy": real.reference}) for one in real.policies)
    sure = real.model_copy(update={"aligned": real.reference, "policies": known})
    assert "Both are the same policy: an A/A comparison." in Page(render_evaluation(sure, None)).text


def test_every_mark_and_whisker_has_a_colour_of_the_style_sheet(real: EvaluationReport) -> None:
    """A class without a rule draws a black mark and no interval at all."""
    for html in (page_of(real), render_evaluation(foreign(verdict="worse"), None)):
        style = html.split("<style>")[1].split("</style>")[0]
        for what in ("mark", "whisker"):
            kinds = set(re.findall(rf'class="{what} ([^"]+)"', html))
            assert kinds and all(f".{what}.{kind} {{" in style or f".{what}.{kind}," in style for kind in kinds), kinds


def test_a_loss_is_red_and_a_failing_gain_is_not(real: EvaluationReport) -> None:
    html = page_of(real)
    rows = re.findall(r'<div class="forest-row (v-\w+)" role="row">(.*?)</b>', html, re.DOTALL)
    assert len(rows) == 12
    for _, row in rows:
        assert ("fell" in row) <= ("<b>\u2212" in row), "only what lies under zero is marked as fallen"
    assert any("fell" in row for _, row in rows)


def test_diagnostics_stand_beside_their_area_with_limit_and_state(real: EvaluationReport) -> None:
    made = (
        Diagnostic(
            area="honesty", name="brier_rise", unit="Brier", limit=0.01, state="beyond", explanation="it is surer",
            n=40, clusters=20, value=-0.05, low=-0.06, high=0.07, details={"ece_aligned": 0.064},
        ),
        Diagnostic(
            area="honesty", name="other", unit="nats", limit=1, state="not measured",
            explanation="not measured: " + HOSTILE,
        ),
    )  # fmt: skip
    html = page_of(real.model_copy(update={"diagnostics": made}))
    text = Page(html).text
    assert (
        "▲ beyond brier rise \u22120.05 Brier, 90 % interval \u22120.06 to 0.07, from 40 items in 20 clusters" in text
    )
    assert "(limit 0.01). It is surer." in text and "ece aligned 0.064" in text
    assert "· not measured other (limit 1)." in text and "\u202e" not in html
    assert text.index("brier rise") < text.index("Harmlessness Does not help")
    assert "none decides anything" in text


def test_whether_anybody_looked_for_contamination_is_said(real: EvaluationReport) -> None:
    clean = real.model_copy(update={"overlaps": (), "contaminated": ()})
    looked = ContaminationCheck(checked=True, datasets=(digest_of("v3"),), examples=1234, erased=1)
    page = Page(page_of(clean.model_copy(update={"contamination": looked})))
    assert "No held-out item was found in the training data." in page.text
    assert "The suite was compared with 1 234 training examples; 1 erased example could not be read." in page.text
    never = clean.model_copy(update={"contamination": ContaminationCheck(checked=False), "dataset": digest_of("d")})
    assert "compared with no training data, so nothing shows that" in Page(page_of(never)).text


def test_a_judge_no_better_than_chance_is_called_so(real: EvaluationReport) -> None:
    weak = real.cards[0].model_copy(update={"auroc": Ranking(area=0.55, low=0.42, high=0.66)})
    assert (
        "Not shown to rank refusals better than chance"
        in Page(page_of(real.model_copy(update={"cards": (weak,)}))).text
    )
    assert "better than chance" not in Page(page_of(real)).text


def test_the_filters_count_the_cases_of_each_area(real: EvaluationReport) -> None:
    shown = cases(real, None)
    text = Page(page_of(real)).text
    for key, name in shown.areas:
        assert f"{name} ({shown.count_of(key)})" in text
    assert sum(shown.count_of(key) for key, _ in shown.areas) == shown.held
