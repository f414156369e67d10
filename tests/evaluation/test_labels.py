"""Labels: bound to the text that was read, given under one rubric, of answers that nobody picked for what was said."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.evaluation import evaluate
from plumbline.evaluation.answers import Answers, ItemAnswer
from plumbline.evaluation.judging.acts import Act, AnswerText, text_digest
from plumbline.evaluation.judging.labels import (
    Labels,
    answers_at_hand,
    bind,
    joined,
    pick,
    read_answers,
    read_labels,
    write_tasks,
)
from plumbline.records import Suite, SuiteItem, digest_of, say
from plumbline.records.judging import LabelledText

RUBRIC = digest_of("rubric")


def answer(item="a", text="Sure.", policy="p", prompt_class="benign"):
    return AnswerText(policy, prompt_class, item, text, (say("user", f"about {item}"),))


def line(at_hand=None, act="comply", **changed):
    at_hand = at_hand or answer()
    return LabelledText.model_validate(
        {
            "policy": at_hand.policy, "item": at_hand.item, "prompt_class": at_hand.prompt_class, "act": act,
            "text": text_digest(at_hand.text), "labeller": "ana", "labelled": "2026-11-21", "rubric": RUBRIC,
        }
        | changed
    )  # fmt: skip


def population(n=200, policies=("p",)):
    """Half benign, half harmful; every fifth answer is judged a refusal."""
    answers = [
        answer(f"{i:03}", f"{policy} says {i}", policy, "harmful" if i % 2 else "benign")
        for policy in policies
        for i in range(n)
    ]
    return answers, [Act.REFUSE if int(a.item) % 5 == 0 else Act.COMPLY for a in answers]


@pytest.mark.parametrize("now", ["Sure. ", "sure.", "", "Sure\u002e\u200b"])
def test_a_label_of_another_text_is_refused_and_counted(now):
    bound = bind(Labels((line(),)), [answer(text=now)])
    assert bound.rows == () and bound.stale == 1


def test_a_label_of_this_very_text_is_taken_with_what_is_known_of_the_answer():
    bound = bind(Labels((line(act="abstain"), line(answer(item="gone")))), [answer()])
    (row,) = bound.rows
    assert (row.act, row.refused, row.messages) == (Act.ABSTAIN, False, answer().messages)
    assert (bound.stale, bound.absent) == (0, 1)


def test_a_line_whose_answer_was_edited_after_labelling_is_stale():
    assert bind(Labels((line(answer_text := answer(), answer="Sure!"),))).stale == 1
    assert bind(Labels((line(answer_text, answer="Sure."),))).rows[0].text == "Sure."
    assert bind(Labels((line(),))).absent == 1, "a label without its text, once the answer was erased"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_label_binds_exactly_one_text(read, shown):
    bound = bind(Labels((line(answer(text=read)),)), [answer(text=shown)])
    assert len(bound.rows) == (read == shown) and bound.stale == (read != shown)


def test_two_labellers_who_differ_are_sent_to_settle_it():
    with pytest.raises(PlumblineError, match="labelled comply by ana and refuse by ana"):
        joined([Labels((line(),)), Labels((line(act="refuse"),))])
    assert joined([Labels((line(),), 2), Labels((line(),), 1)]) == Labels((line(),), 3)


def test_labels_under_two_rubrics_are_not_mixed():
    with pytest.raises(PlumblineError, match="two rubrics"):
        joined([Labels((line(), line(answer("b"), rubric=digest_of("another"))))])


def test_tasks_are_written_without_what_a_judge_said_and_read_back_once_filled_in(tmp_path: Path):
    file = tmp_path / "labels.jsonl"
    write_tasks([answer(), answer("b", "No.")], file, rubric=RUBRIC, labeller="ana", date="2026-11-21")
    tasks = [json.loads(text) for text in file.read_text().splitlines()]
    assert set(tasks[0]) == {
        "act", "messages", "answer", "policy", "prompt_class", "item", "text", "labeller", "labelled", "rubric",
    }  # fmt: skip
    with pytest.raises(PlumblineError, match="2 lines wait"):
        read_labels(file)
    tasks[1]["act"] = "refuse"
    file.write_text("\n".join(map(json.dumps, tasks)))
    labels = read_labels(file)
    assert labels.empty == 1 and labels.lines[0].act == "refuse"
    assert [row.text for row in bind(labels).rows] == ["No."]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"act": "maybe"}, "act"),
        ({"act": "refuse", "labeller": ""}, "labeller"),
        ({"act": "refuse", "labelled": "yesterday"}, "labelled"),
        ({"act": "refuse", "text": "sha256:1"}, "text"),
        ({"act": "refuse", "prompt_class": "rude"}, "prompt_class"),
    ],
)
def test_a_malformed_label_is_named_by_its_line(tmp_path: Path, wrong, said):
    good = json.loads(line(answer="Sure.").model_dump_json())
    (tmp_path / "l.jsonl").write_text(json.dumps(good) + "\n\n" + json.dumps(good | {"item": "b"} | wrong))
    with pytest.raises(PlumblineError, match=f"(?s)line 3.*{said}"):
        read_labels(tmp_path / "l.jsonl")


def test_every_answer_is_as_likely_to_be_picked_as_any_other_of_its_class():
    answers, acts = population()
    counts: Counter[str] = Counter()
    for seed in range(400):
        counts.update(a.item for a in pick(answers, acts, per_policy=50, seed=seed))
    expected = 400 * 50 / 200
    assert len(counts) == 200
    assert all(abs(n - expected) < 5 * (expected * 0.75) ** 0.5 for n in counts.values())


def test_what_is_picked_is_spread_over_classes_and_over_what_the_judge_said():
    answers, acts = population()
    for seed in range(20):
        picked = pick(answers, acts, per_policy=50, seed=seed)
        assert Counter(a.prompt_class for a in picked) == {"benign": 25, "harmful": 25}
        assert 4 <= sum(int(a.item) % 5 == 0 for a in picked if a.prompt_class == "benign") <= 6
    assert picked == pick(answers, acts, per_policy=50, seed=19) != pick(answers, acts, per_policy=50, seed=18)


def test_two_policies_are_read_on_the_same_items():
    answers, acts = population(policies=("p", "q"))
    picked = pick(answers, acts, per_policy=30, seed=1)
    assert {a.item for a in picked if a.policy == "p"} == {a.item for a in picked if a.policy == "q"}
    assert Counter(a.policy for a in picked) == {"p": 30, "q": 30}


def test_more_labels_than_answers_takes_them_all():
    answers, acts = population(20)
    assert len(pick(answers, acts, per_policy=500)) == 20


def test_a_reports_answers_become_answers_at_hand_by_the_suites_areas(tmp_path: Path):
    areas = {"a": "over_refusal", "b": "harmlessness", "c": "helpfulness"}
    items = tuple(
        SuiteItem(id=i, area=area, slice="s", cluster=f"k{i}", messages=(say("user", i),), scorer="refusal")
        for i, area in areas.items()
    )
    suite = Suite(name="s", version="1", items=items)
    record = Answers(
        policy=digest_of("p"), name="p", template=digest_of("t"), dataset=None, suite=suite.digest,
        decoder=digest_of("d"), answers=(ItemAnswer(item="a", text="Yes."), ItemAnswer(item="b"), ItemAnswer(item="c")),
    )  # fmt: skip
    found = answers_at_hand(record, suite)
    assert [(a.prompt_class, a.text, a.cluster) for a in found] == [("benign", "Yes.", "ka"), ("harmful", "", "kb")]
    (tmp_path / "p.json").write_text(record.model_dump_json())
    assert read_answers(tmp_path, suite) == found
    with pytest.raises(PlumblineError, match="a suite that was not given"):
        read_answers(tmp_path)


def test_answers_are_found_again_in_a_reports_directory(tmp_path: Path, written, make_suite, rubric, decoder):
    """The same that the report was made of, also where the directory of answers itself is named."""
    suite = make_suite(6)
    legs = [written(manner, manner) for manner in ("sound", "refuses")]
    report = evaluate(*legs, suite, rubric=rubric, decoder=decoder, cache_dir=tmp_path / "answers")
    (tmp_path / "report.json").write_text(report.model_dump_json())
    for place in (tmp_path, tmp_path / "answers"):
        found = read_answers(place, suite)
        assert {(a.policy, a.prompt_class) for a in found} == {
            (leg.manifest.digest, prompt_class) for leg in legs for prompt_class in ("benign", "harmful")
        }
        assert len(found) == 2 * 2 * 6 and all(a.text and a.messages and a.cluster for a in found)
        refused = [a for a in found if a.policy == legs[1].manifest.digest]
        assert {a.text for a in refused} == {"sorry, i can not help with that."}
    with pytest.raises(PlumblineError, match="which was not given"):
        read_answers(tmp_path, make_suite(5))
    with pytest.raises(PlumblineError, match="belongs to no report"):
        read_answers(Path(__file__).parent)


@pytest.mark.parametrize("content", ["[1]", '{"policy": "p"}', "not json", '{"policy":"p","prompt_class":"x"}'])
def test_answers_that_cannot_be_read_name_their_line(tmp_path: Path, content):
    (tmp_path / "a.jsonl").write_text("\n" + content)
    with pytest.raises(PlumblineError, match="line 2"):
        read_answers(tmp_path / "a.jsonl")
