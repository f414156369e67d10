"""`plumb import` and `plumb tasks` as people call them."""

from pathlib import Path

from plumbline.evaluation import save_suite
from plumbline.records import Suite, SuiteItem, say

LOGS = Path(__file__).resolve().parents[1] / "evaluation" / "exchange" / "logs"
SIDES = ("--reference", LOGS / "inspect-reference.eval", "--aligned", LOGS / "inspect-aligned.eval")


def test_their_logs_go_through_our_gate_and_its_exit_code(plumb):
    said = plumb("import", "inspect-log", *SIDES, "--out", "report.json")
    assert said.code == 0 and "sums.match: 95.8% and 87.5%, -8.3%" in said.out and "plumb gate" in said.out
    assert plumb("gate", "report.json", "--margin", "0.4").code == 0
    assert plumb("gate", "report.json", "--margin", "0.02").code == 3
    assert plumb("gate", "report.json").code == 2, "the rubric's areas are not in their logs"
    assert plumb("gate", "report.json", "--margin", "2").faulted("--margin 2.0 is no margin")


def test_what_is_no_log_is_said_with_a_remedy(plumb):
    plumb.write("no.json", "{}")
    refused = plumb("import", "inspect-log", "--reference", "no.json", *SIDES[2:], "--out", "report.json")
    assert refused.faulted("no log of inspect_ai")
    (plumb.folder / "empty").mkdir()
    refused = plumb("import", "lm-eval-samples", "--reference", "empty", "--aligned", "empty", "--out", "report.json")
    assert refused.faulted("holds no samples of lm-evaluation-harness")
    assert not (plumb.folder / "report.json").exists()


def test_a_suite_becomes_tasks_and_says_what_stays(plumb):
    items = tuple(
        SuiteItem(
            id=name, area="helpfulness", slice="s", cluster=name, messages=(say("user", name),), scorer=name,
            references=("a",), choices=("a", "b") if name == "choice_loglik" else (),
        )
        for name in ("exact", "choice_loglik", "refusal")
    )  # fmt: skip
    save_suite(Suite(name="three", version="1", items=items), plumb.folder / "suite.jsonl")
    said = plumb("tasks", "lm-eval", "suite.jsonl", "--out", "lm")
    assert "2 items" in said.out and "left out: 1 scored by `refusal`" in said.out
    assert (plumb.folder / "lm" / "three_exact.yaml").exists()
    assert plumb("tasks", "inspect", "suite.jsonl", "--out", "inspect", "--json").json["items"] == 2
