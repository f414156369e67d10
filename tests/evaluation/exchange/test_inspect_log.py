"""Logs that inspect_ai 0.3.285 wrote (24 sums, two scorers; the reference misses one, the aligned policy three)."""

import json
import zipfile
from pathlib import Path

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import decide
from plumbline.evaluation.exchange import paired_report, read_inspect_log
from plumbline.records import Verdict

LOGS = Path(__file__).with_name("logs")


@pytest.fixture
def edited(tmp_path):
    """A log with something changed."""

    def make(change, name="inspect-aligned"):
        log = json.loads((LOGS / f"{name}.json").read_text())
        change(log)
        path = tmp_path / "log.json"
        path.write_text(json.dumps(log))
        return path

    return make


def paired(rubric, aligned):
    return paired_report([read_inspect_log(LOGS / "inspect-reference.json")], [read_inspect_log(aligned)], rubric)


def test_both_forms_of_a_log_say_the_same():
    for side in ("reference", "aligned"):
        assert (
            read_inspect_log(LOGS / f"inspect-{side}.json").samples
            == read_inspect_log(LOGS / f"inspect-{side}.eval").samples
        )


def test_two_logs_become_paired_clustered_estimates_by_task_and_scorer(rubric):
    report = paired(rubric, LOGS / "inspect-aligned.json")
    found = {(one.area, one.metric): one for one in report.estimates}
    assert found.keys() == {("sums", "match"), ("sums", "includes")}
    match = found["sums", "match"]
    assert (match.n, match.clusters, match.discordant) == (24, 12, 2)
    assert match.difference == pytest.approx(-2 / 24)
    assert match.reference.rate == pytest.approx(23 / 24), "what inspect_ai itself printed: 0.9583"
    assert {one.slice for one in report.slices if one.metric == "match"} == {"odd", "even"}
    lost = [case for case in report.failures if case.metric == "match"]
    assert [(case.item, case.reference_answer, case.aligned_answer) for case in sorted(lost, key=lambda c: c.item)] == [
        ("s5", "6", "no idea"),
        ("s8", "9", "no idea"),
    ]
    assert report.missing == 0 and not report.policies[1].verified


def test_the_gate_holds_their_runs_to_margins_and_says_what_n_would_decide(rubric):
    report = paired(rubric, LOGS / "inspect-aligned.json")
    wide = decide(report, rubric, margins={"sums": {"match": 0.35}})
    assert wide.verdict is Verdict.PASS and wide.own_margins
    narrow = decide(report, rubric, margins={"sums": {"match": 0.05}})
    assert narrow.verdict is Verdict.INCONCLUSIVE and narrow.areas[0].needed > 24
    assert decide(report, rubric).verdict is Verdict.ERROR, "the rubric's own areas are not in their logs"


def test_a_run_against_itself_does_not_differ(rubric):
    report = paired(rubric, LOGS / "inspect-reference.json")
    assert all(one.difference == 0 and one.low < 0 < one.high for one in report.estimates)


def test_a_sample_that_ended_in_an_error_is_a_missing_pair_and_so_an_error(rubric, edited):
    report = paired(rubric, edited(lambda log: log["samples"][4].update(error={"message": "boom"}, scores=None)))
    assert report.missing == 1
    assert decide(report, rubric, margins={"sums": {"match": 0.5}}).verdict is Verdict.ERROR


def test_a_sample_that_one_side_lacks_is_a_missing_pair(rubric, edited):
    assert paired(rubric, edited(lambda log: log["samples"].pop())).missing == 1


def test_epochs_are_averaged(rubric, edited):
    def twice(log):
        for sample in list(log["samples"]):
            log["samples"].append({**sample, "epoch": 2, "scores": {**sample["scores"], "match": {"value": "I"}}})

    report = paired_report([read_inspect_log(edited(twice))], [read_inspect_log(LOGS / "inspect-aligned.json")], rubric)
    (match,) = [one for one in report.estimates if one.metric == "match"]
    assert match.reference.rate == pytest.approx(21 / 48)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda log: log["eval"].update(model_generate_config={"temperature": 1}), "generate config"),
        (lambda log: log["eval"].update(task_version=2), "task version"),
        (lambda log: log["eval"].update(task="other"), "only one side ran"),
        (lambda log: log["samples"][0].update(target="another"), "is not the same text in both logs"),
        (lambda log: log["samples"][0]["scores"]["match"].update(value=7), "outside 0 to 1"),
        (lambda log: log.update(samples=[]), "holds no samples"),
        (lambda log: log.update(version=3), "version: 2"),
        (lambda log: log["eval"].pop("task"), "no log of inspect_ai"),
    ],
)
def test_what_cannot_be_paired_is_said_with_a_remedy(rubric, edited, change, said):
    with pytest.raises(PlumblineError, match=said) as caught:
        paired(rubric, edited(change))
    assert caught.value.remedy


def test_what_is_no_log_is_refused(tmp_path):
    for name, data in (("a.json", b"[1, 2"), ("b.eval", b"PK\x05\x06" + bytes(18)), ("c.json", b"[]")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PlumblineError, match="no log of inspect_ai"):
            read_inspect_log(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "d.eval", "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(PlumblineError, match="no log of inspect_ai"):
        read_inspect_log(tmp_path / "d.eval")


def test_secrets_in_model_arguments_stay_in_the_log(rubric, edited):
    log = edited(lambda log: log["eval"].update(model_args={"api_key": "sk-very-secret"}))
    assert b"very-secret" not in paired(rubric, log).canonical_bytes()
    assert "sk-very-secret" not in repr(read_inspect_log(log))
