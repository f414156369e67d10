"""`plumb gate --record` and the release it allows; what `plumb evaluate --dataset` leaves out."""

from xml.etree import ElementTree

import pytest
import yaml

from plumbline.evaluation import save_suite
from plumbline.metrics import Metrics
from plumbline.reconcile.ledger_gauges import LedgerGauges
from plumbline.records import (
    EvaluationReport,
    PairedEstimate,
    PolicyScore,
    Rubric,
    Rule,
    Suite,
    SuiteItem,
    digest_of,
    say,
    short,
)
from plumbline.stores import Ledger, LocalBlobs

USERS_HAVE, ALIGNED = digest_of("reference"), digest_of("aligned")
RUBRIC = Rubric(
    id="support",
    version="1",
    owner="tests",
    purpose="one area is enough",
    rules=(Rule(area="over_refusal", text="Answer what is harmless.", margins={"benign_refusal": 0.02}),),
)
RELEASE = ("release", "promote", "--without-shadow", "only the gate is tested", "--reason", "r", "--actor", "tests")


def report(low: float, high: float) -> EvaluationReport:
    """One metric, refused on 10 % of benign items by both, with these bounds of the difference."""
    score = PolicyScore(rate=0.1, low=0.05, high=0.15)
    estimate = PairedEstimate(
        area="over_refusal", metric="benign_refusal", slice="all", direction="down", n=400, clusters=200,
        reference=score, aligned=score, difference=(low + high) / 2, low=low, high=high, discordant=4, method="test",
    )  # fmt: skip
    return EvaluationReport(
        reference=USERS_HAVE, aligned=ALIGNED, suite=digest_of("suite"), rubric=RUBRIC.digest, dataset=None,
        decoder=digest_of("decoder"), estimates=(estimate,),
    )  # fmt: skip


def judged(plumb, made, *options):
    plumb.write("report.json", made.model_dump_json(indent=2))
    plumb.write("rubric.yaml", yaml.safe_dump(RUBRIC.model_dump(mode="json")))
    return plumb("gate", "report.json", "--rubric", "rubric.yaml", *options)


def stored(plumb):
    return Ledger(plumb.folder / ".plumbline" / "ledger.sqlite").releases


def test_a_recorded_pass_moves_a_release_of_ones_own(plumb):
    said = judged(plumb, report(-0.01, 0.01), "--record")
    (decision,) = stored(plumb).decisions()
    assert said.code == 0 and f"PASS  (decision {decision.digest}, recorded)" in said.out
    assert plumb(*RELEASE, USERS_HAVE).code == 0
    assert plumb(*RELEASE, ALIGNED, "--decision", decision.digest).code == 0
    assert stored(plumb).current_release("default").policy == ALIGNED


def test_a_pass_that_a_later_gate_took_back_moves_nothing_by_its_name_either(plumb):
    assert judged(plumb, report(-0.01, 0.01), "--record").code == 0
    (passed,) = stored(plumb).decisions()
    assert judged(plumb, report(-0.09, -0.05), "--record").code == 1
    assert plumb(*RELEASE, USERS_HAVE).code == 0
    words = f"decision {short(passed.digest)} was followed by a REGRESSED about the same policies"
    assert plumb(*RELEASE, ALIGNED, "--decision", passed.digest).faulted(words)


@pytest.mark.parametrize(("bounds", "verdict"), [((-0.09, -0.05), "REGRESSED"), ((-0.09, 0.05), "INCONCLUSIVE")])
def test_a_verdict_that_is_no_pass_is_recorded_and_moves_nothing(plumb, bounds, verdict):
    said = judged(plumb, report(*bounds), "--record", "--json")
    (decision,) = stored(plumb).decisions(ALIGNED)
    assert said.json["digest"] == decision.digest and said.json["verdict"] == verdict == decision.verdict.value
    assert said.code == decision.verdict.exit_code
    assert plumb(*RELEASE, USERS_HAVE).code == 0
    assert plumb(*RELEASE, ALIGNED, "--decision", decision.digest).faulted(verdict, "users keep the policy they have")


def test_the_report_of_a_recorded_decision_is_found_and_gives_the_gauges_their_data(plumb):
    made = report(-0.01, 0.01)
    assert judged(plumb, made, "--record").out == judged(plumb, made, "--record").out
    (decision,) = stored(plumb).decisions()
    blobs = LocalBlobs(plumb.folder / ".plumbline" / "blobs")
    assert blobs.get(decision.report) == made.canonical_bytes()
    home = plumb.folder / ".plumbline"
    metrics = Metrics()
    assert LedgerGauges(home / "ledger.sqlite", home / "blobs", metrics).look() == ""
    assert b"plumbline_gate_verdict 0.0" in metrics.render()


def test_a_gate_that_records_nothing_opens_no_store(plumb):
    assert judged(plumb, report(-0.01, 0.01)).code == 0
    assert not (plumb.folder / ".plumbline").exists()


def test_items_that_were_trained_on_are_excluded_and_counted(plumb, tiny_policy):
    plumb.import_messages()
    items = tuple(
        SuiteItem(
            id=who, area="helpfulness", slice="facts", cluster=who, scorer="exact",
            messages=(say("user", f"who is {who} ?"),), references=("a baker .",),
        )
        for who in (*(f"ana {n}" for n in range(24)), "bo")
    )  # fmt: skip
    save_suite(Suite(name="facts", version="1", items=items), plumb.folder / "suite.jsonl")
    ask = ("evaluate", "--reference", tiny_policy, "--aligned", tiny_policy, "--suite", "suite.jsonl", "--out", "out")
    ask = (*ask, "--max-tokens", "2")
    said = plumb(*ask, "--dataset", "facts@1", "--json")
    excluded = said.json["contaminated"]
    assert 0 < len(excluded) < 24 and "bo" not in excluded, "a tenth is held out, and bo is in no dataset"
    assert f"contamination: {len(excluded)} of 25 items excluded" in said.err
    (estimate,) = [e for e in said.json["estimates"] if e["metric"] == "exact"]
    assert estimate["n"] == 25 - len(excluded)
    assert said.json["dataset"] is None, "the policy's manifest names no dataset"
    assert "contamination: not checked" in plumb(*ask).out
    assert plumb(*ask, "--dataset", "facts@7").faulted("no version 7")


# --- margins of one's own, the policy released last, JUnit -----------------------------------------------------------


def test_margins_of_ones_own_answer_a_question_and_release_nothing(plumb):
    plumb.write("margins.yaml", "over_refusal: {benign_refusal: 0.05}\n")
    said = judged(plumb, report(-0.04, 0.01), "--margins", "margins.yaml", "--record")
    assert said.code == 0 and "releases nothing" in said.out
    (decision,) = stored(plumb).decisions()
    assert decision.own_margins and decision.areas[0].margin == 0.05
    assert plumb(*RELEASE, USERS_HAVE).code == 0
    assert plumb(*RELEASE, ALIGNED, "--decision", decision.digest).faulted("not held to the rubric's own margins")
    assert judged(plumb, report(-0.04, 0.01)).code == 3, "under the rubric's margin it is undecided"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("honesty: {truthful_choice: 0.03}", "the report has no honesty.truthful_choice"),
        ("over_refusal: {benign_refusal: two}", "needs metrics with margins between 0 and 1"),
        ("over_refusal: {benign_refusal: 2}", "needs metrics with margins between 0 and 1"),
        ("over_refusal: 0.02", "needs metrics with margins between 0 and 1"),
        ("{}", "no margins by area and metric"),
        ("[1, 2]", "it holds no mapping"),
    ],
)
def test_margins_that_cannot_be_held_are_an_error_with_a_remedy(plumb, text, said):
    plumb.write("margins.yaml", text)
    assert judged(plumb, report(-0.01, 0.01), "--margins", "margins.yaml").faulted(said, "there is no verdict")


@pytest.mark.parametrize("command", ["gate", "report"])
def test_two_kinds_of_margins_at_once_are_an_error(plumb, command):
    plumb.write("margins.yaml", "over_refusal: {benign_refusal: 0.05}")
    plumb.write("report.json", report(-0.01, 0.01).model_dump_json())
    both = ("--margins", "margins.yaml", "--margin", "0.5")
    assert plumb(command, "report.json", *both).faulted("two answers to one question", "there is no verdict")


def test_losses_within_the_margin_do_not_add_up_release_by_release(plumb):
    made = report(-0.01, 0.01)
    plumb.write("last.json", report(-0.09, -0.05).model_dump_json())
    said = judged(plumb, made, "--last-released", "last.json", "--json", "--record")
    assert said.code == 1
    assert [(one["metric"], one["verdict"]) for one in said.json["areas"]] == [
        ("benign_refusal", "PASS"),
        ("benign_refusal@released", "REGRESSED"),
    ]
    blobs = LocalBlobs(plumb.folder / ".plumbline" / "blobs")
    assert blobs.has(said.json["report"]) and blobs.has(said.json["last_released"])
    other = made.model_copy(update={"aligned": digest_of("another")})
    plumb.write("other.json", other.model_dump_json())
    mixed = judged(plumb, made, "--last-released", "other.json")
    assert mixed.code == 2 and "about another aligned policy" in mixed.out


@pytest.mark.parametrize(
    ("bounds", "tag", "counts"),
    [
        ((-0.01, 0.01), None, ("1", "0", "0")),
        ((-0.09, -0.05), "failure", ("1", "1", "0")),
        ((-0.09, 0.05), "failure", ("1", "1", "0")),
    ],
)
def test_junit_says_what_the_exit_code_says(plumb, bounds, tag, counts):
    said = judged(plumb, report(*bounds), "--junit", "ci/gate.xml")
    root = ElementTree.parse(plumb.folder / "ci" / "gate.xml").getroot()
    assert tuple(root.attrib[name] for name in ("tests", "failures", "errors")) == counts
    (case,) = root.iter("testcase")
    assert (case.attrib["classname"], case.attrib["name"]) == ("gate.over_refusal", "benign_refusal")
    assert (said.code == 0) == (tag is None)
    assert tag is None or (case.find(tag) is not None and case.find(tag).attrib["type"] in said.out)


def test_junit_shows_a_faulty_report_as_an_error(plumb):
    lost = report(-0.01, 0.01).model_copy(update={"missing": 3})
    assert judged(plumb, lost, "--junit", "gate.xml").code == 2
    root = ElementTree.parse(plumb.folder / "gate.xml").getroot()
    assert root.attrib["errors"] == "1"
    assert "3 items have no pair" in next(root.iter("error")).attrib["message"]
