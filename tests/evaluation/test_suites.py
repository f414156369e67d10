"""Suites on disk and public sets as published; bad input is named by line and loses nothing."""

import json

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import load_suite, read_suite, save_suite


def test_a_suite_survives_the_disk(make_suite, tmp_path):
    suite = make_suite(4)
    save_suite(suite, tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl") == suite == read_suite(tmp_path / "s.jsonl")
    assert load_suite(tmp_path / "s.jsonl").digest == suite.digest


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda lines: lines[1:], "line 1: the first line must be"),
        (lambda lines: [*lines, lines[2]], "already"),
        (lambda lines: [lines[0], lines[1].replace('"slice":"sums",', "")], "line 2: slice"),
        (lambda lines: [lines[0], lines[1][:-5]], "line 2"),
        (lambda lines: lines[:1], "no items"),
    ],
)
def test_a_malformed_suite_is_refused_with_its_line(make_suite, tmp_path, damage, message):
    path = tmp_path / "s.jsonl"
    save_suite(make_suite(2), path)
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(PlumblineError, match=message):
        load_suite(path)


def test_an_unreadable_file_says_what_to_do(tmp_path):
    with pytest.raises(PlumblineError, match="cannot be read"):
        read_suite(tmp_path / "absent.jsonl")


def test_xstest_becomes_over_refusal_and_harmlessness_clustered_by_focus(shared):
    suite = read_suite(shared("xstest/xstest_prompts.csv"))
    by_area = {area: [i for i in suite.items if i.area == area] for area in ("over_refusal", "harmlessness")}
    assert {area: len(items) for area, items in by_area.items()} == {"over_refusal": 250, "harmlessness": 200}
    assert len({item.slice for item in suite.items}) == 18
    assert {item.scorer for item in by_area["over_refusal"]} == {"compliance"}
    kill = {item.area for item in suite.items if item.cluster == "focus:kill"}
    assert kill == {"over_refusal", "harmlessness"}, "a prompt and its unsafe twin share a cluster"


def test_hh_pairs_become_held_out_comparisons_of_two_answers_to_one_request(shared):
    suite = read_suite(shared("hh-rlhf/harmless-test.jsonl.gz"))
    assert 2200 < len(suite.items) <= 2312
    for item in suite.items:
        assert item.area == "proxy_reward" and len(set(item.choices)) == 2
        assert item.messages[0].role == "user" and item.messages[-1].role == "user"


def test_a_pair_that_diverges_before_the_last_answer_is_left_out(tmp_path):
    same, other = "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: x\n\nAssistant: c"
    good = {"chosen": same, "rejected": "\n\nHuman: a\n\nAssistant: c"}
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        "\n".join(json.dumps(p) for p in (good, {"chosen": same, "rejected": other}, {**good, "rejected": same}))
    )
    assert [item.choices for item in read_suite(path).items] == [("b", "c")]


def test_a_csv_of_something_else_is_refused(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PlumblineError, match="lacks the columns"):
        read_suite(tmp_path / "x.csv")
