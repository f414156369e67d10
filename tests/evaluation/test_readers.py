"""Public held-out sets as they are published, each known by its content, whatever its file is called."""

import csv
import io
import json

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import read_suite, save_suite
from plumbline.evaluation.answers import ChoiceLikelihood, ItemAnswer
from plumbline.evaluation.baselines import baseline_rates
from plumbline.evaluation.behaviors import BEHAVIORS
from plumbline.evaluation.judging.judges import TextJudge
from plumbline.evaluation.scorers import fault_of, score
from plumbline.evaluation.suites.readers import FORMATS, read_ifeval, read_truthfulqa

TRUTHFULQA = ("Type", "Category", "Question", "Best Answer", "Best Incorrect Answer", "Correct Answers",
              "Incorrect Answers", "Source")  # fmt: skip
HARMBENCH = ("Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID")


def write_csv(path, columns, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([columns, *rows])
    path.write_text(text.getvalue(), "utf-8-sig")  # as spreadsheets write it
    return path


@pytest.fixture
def truthfulqa(tmp_path):
    def question(n, best, wrong):
        return (
            "Adversarial",
            "Stars",
            f"What is star {n}?",
            best,
            wrong[0],
            f"{best}; it shines ;",
            "; ".join(wrong),
            "",
        )

    rows = [question(n, f"A star no {n}", [f"A lamp {n} on a very long string", f"A hole {n}"]) for n in range(40)]
    return write_csv(tmp_path / "questions.txt", TRUTHFULQA, rows)


def write_lines(path, *entries):
    path.write_text("\n".join(map(json.dumps, entries)), "utf-8")
    return path


def test_xstest_becomes_over_refusal_and_harmlessness_clustered_by_focus(shared):
    suite = read_suite(shared("xstest/xstest_prompts.csv"))
    by_area = {area: [i for i in suite.items if i.area == area] for area in ("over_refusal", "harmlessness")}
    assert {area: len(items) for area, items in by_area.items()} == {"over_refusal": 250, "harmlessness": 200}
    assert len({item.slice for item in suite.items}) == 18
    assert {item.scorer for item in by_area["over_refusal"]} == {"compliance"}
    kill = {item.area for item in suite.items if item.cluster == "focus:kill"}
    assert kill == {"over_refusal", "harmlessness"}, "a prompt and its unsafe twin share a cluster"


@pytest.mark.parametrize(
    "name",
    [
        "xstest/xstest_prompts.csv",
        "hh-rlhf/harmless-test.jsonl.gz",
        "self-instruct/seed_tasks.jsonl",
        "self-instruct/user_oriented_instructions.jsonl",
    ],
)
def test_every_item_that_is_read_can_be_scored_and_written_as_ours(shared, tmp_path, name):
    suite = read_suite(shared(name))
    assert {fault_of(item) for item in suite.items} == {None}
    save_suite(suite, tmp_path / "ours.jsonl")
    assert read_suite(tmp_path / "ours.jsonl") == suite


def test_hh_pairs_become_held_out_comparisons_of_two_answers_to_one_request(shared):
    suite = read_suite(shared("hh-rlhf/harmless-test.jsonl.gz"))
    assert 2200 < len(suite.items) <= 2312
    for item in suite.items:
        assert item.area == "proxy_reward" and len(set(item.choices)) == 2 and item.true_choices == (0,)
        assert item.messages[0].role == "user" and item.messages[-1].role == "user"


def test_a_pair_that_diverges_before_the_last_answer_is_left_out(tmp_path):
    same, other = "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: x\n\nAssistant: c"
    good = {"chosen": same, "rejected": "\n\nHuman: a\n\nAssistant: c"}
    path = write_lines(tmp_path / "p", good, {"chosen": same, "rejected": other}, {**good, "rejected": same})
    assert [item.choices for item in read_suite(path).items] == [("b", "c")]
    with pytest.raises(PlumblineError, match="line 2 holds no dialogues"):
        read_suite(write_lines(tmp_path / "p", good, {"chosen": 1, "rejected": other}))


def test_truthfulqa_compares_the_best_answer_with_the_best_incorrect_one(truthfulqa):
    suite = read_suite(truthfulqa)
    assert suite.name == "truthfulqa-binary" and len(suite.items) == 40
    item = suite.items[3]
    assert (item.area, item.slice, item.scorer) == ("honesty", "Stars", "choice_loglik")
    assert set(item.choices) == {"A star no 3", "A lamp 3 on a very long string"}
    assert [item.choices[place] for place in item.true_choices] == ["A star no 3"]


def test_no_place_among_the_choices_is_the_right_one(truthfulqa):
    for form, places in (("binary", 2), ("mc1", 3)):
        items = read_truthfulqa(truthfulqa, form).items
        assert {item.true_choices[0] for item in items} == set(range(places)), form
        assert items == read_truthfulqa(truthfulqa, form).items, "and the order is the same for ever"


def test_a_policy_that_likes_all_answers_equally_scores_chance_wherever_the_truth_stands(truthfulqa):
    for form, expected in (("binary", 1 / 2), ("mc1", 1 / 3), ("mc2", 2 / 4)):
        for item in read_truthfulqa(truthfulqa, form).items:
            level = ItemAnswer(
                item=item.id, choices=tuple(ChoiceLikelihood(total=-5, tokens=1, bytes=9) for _ in item.choices)
            )
            assert score(item, level, TextJudge()).success == pytest.approx(expected)


def test_mc2_is_the_probability_of_all_true_answers(truthfulqa):
    item = read_truthfulqa(truthfulqa, "mc2").items[0]
    true = {item.choices[place] for place in item.true_choices}
    assert true == {"A star no 0", "it shines"}, "an answer that stands in two cells counts once"
    answer = ItemAnswer(
        item=item.id,
        choices=tuple(
            ChoiceLikelihood(total=-1 if choice in true else -4, tokens=1, bytes=1) for choice in item.choices
        ),
    )
    assert score(item, answer, TextJudge()).success == pytest.approx(1 / (1 + 2.718281828**-3))


def test_what_needs_no_model_stands_beside_truthfulqa(truthfulqa):
    metric = next(b for b in BEHAVIORS if b.area == "honesty").metrics[0]
    rates = baseline_rates(metric, read_truthfulqa(truthfulqa, "mc1").items)
    assert rates["longest_choice"] == 0.0 and rates["most_negations"] == 1.0
    assert rates["random_choice"] == pytest.approx(1 / 3) and 0.1 < rates["first_choice"] < 0.6


def test_truthfulqa_from_before_the_binary_choice_still_gives_mc1(tmp_path):
    old = [column for column in TRUTHFULQA if column != "Best Incorrect Answer"]
    path = write_csv(tmp_path / "old.csv", old, [("A", "C", "Q?", "yes", "yes", "no; never", "")])
    assert set(read_truthfulqa(path, "mc1").items[0].choices) == {"yes", "no", "never"}
    with pytest.raises(PlumblineError, match="lacks the columns Best Incorrect Answer"):
        read_suite(path)


def test_ifeval_keeps_arguments_of_zero_and_drops_those_that_are_null(tmp_path):
    entry = {
        "key": 12,
        "prompt": "Write no z.",
        "instruction_id_list": ["keywords:letter_frequency", "punctuation:no_comma"],
        "kwargs": [
            {"letter": "z", "let_frequency": 0, "let_relation": "at least", "num_words": None},
            {"num_words": None},
        ],
    }
    alone = {**entry, "key": 13, "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    suite = read_suite(write_lines(tmp_path / "input_data", entry, alone))
    zero, plain = suite.items
    assert zero.references[0] == (
        'keywords:letter_frequency {"let_frequency": 0, "let_relation": "at least", "letter": "z"}'
    )
    assert zero.references[1] == "punctuation:no_comma"
    assert (zero.slice, plain.slice, zero.scorer) == ("several", "punctuation", "instructions")
    assert score(zero, ItemAnswer(item=zero.id, text="fine"), TextJudge()).success == 1.0
    assert {i.scorer for i in read_ifeval(tmp_path / "input_data", loose=True).items} == {"instructions_loose"}


@pytest.mark.parametrize(
    ("names", "kwargs", "message"),
    [
        (["keywords:vibes"], [{}], "no such kind"),
        (["punctuation:no_comma"], [], "one set of kwargs for each"),
        (["length_constraints:number_words"], [{"num_words": 3}], "takes num_words, relation"),
        (["length_constraints:number_words"], [{"num_words": 3, "relation": "around"}], "compares with 'around'"),
    ],
)
def test_an_instruction_that_nobody_can_check_is_refused_by_its_line(tmp_path, names, kwargs, message):
    entry = {"key": 1, "prompt": "p", "instruction_id_list": names, "kwargs": kwargs}
    with pytest.raises(PlumblineError, match=f"line 1.*{message}"):
        read_suite(write_lines(tmp_path / "f", entry))


def test_harmbench_puts_the_context_before_the_request_and_marks_the_gravest(tmp_path):
    rows = [
        ("Do the thing", "standard", "illegal", "", "", "thing"),
        ("Use it", "contextual", "chemical_biological", "context", "Some notes", "use"),
        ("Recite it", "copyright", "copyright", "book", "", "recite"),
    ]
    plain, contextual, copied = read_suite(write_csv(tmp_path / "b.csv", HARMBENCH, rows)).items
    assert plain.messages[0].content == "Do the thing" and plain.slice == "illegal"
    assert contextual.messages[0].content == "Some notes\n\n---\n\nUse it"
    assert contextual.slice == "contextual/chemical_biological"
    assert [i.severity for i in (plain, contextual, copied)] == ["major", "severe", "minor"]
    assert {(i.area, i.scorer) for i in (plain, contextual, copied)} == {("harmlessness", "refusal")}


def test_self_instruct_scores_labels_exactly_and_compares_the_rest_with_another_tasks_output(shared):
    seed = read_suite(shared("self-instruct/seed_tasks.jsonl"))
    assert (seed.name, len(seed.items)) == ("self-instruct-seed", 175)
    assert {(i.slice, i.scorer) for i in seed.items} == {
        ("classification", "exact"),
        ("generation", "choice_loglik_per_byte"),
    }
    user = read_suite(shared("self-instruct/user_oriented_instructions.jsonl"))
    assert (user.name, len(user.items)) == ("self-instruct-user", 252)
    assert len({item.cluster for item in user.items}) < 252, "tasks of one application share a cluster"
    for item in [*seed.items, *user.items]:
        assert item.scorer == "exact" or (len(set(item.choices)) == 2 and item.true_choices == (0,))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a,b\n1,2\n", "CSV with a, b"),
        ('{"prompt": "x"}\n', "JSON lines with prompt"),
        ("just words\n", "neither JSON lines nor a CSV"),
        ("", "neither JSON lines nor a CSV"),
        ("[1, 2]\n", "neither JSON lines nor a CSV"),
    ],
)
def test_a_file_of_something_else_is_told_what_was_expected(tmp_path, text, seen):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(PlumblineError, match=seen) as caught:
        read_suite(tmp_path / "x.csv")
    assert all(name in caught.value.remedy for name in FORMATS), "every form that is read is named"


def test_a_later_line_that_is_damaged_is_named(tmp_path):
    (tmp_path / "t").write_text('{"id": "a", "instruction": "b", "instances": []}\n{"id": \n')
    with pytest.raises(PlumblineError, match="line 2 is no JSON"):
        read_suite(tmp_path / "t")
    with pytest.raises(PlumblineError, match="line 1 lacks instances"):
        write_lines(tmp_path / "t", {"id": "a", "instruction": "b", "chosen": 1})
        from plumbline.evaluation.suites.readers import read_self_instruct

        read_self_instruct(tmp_path / "t")
