"""`plumb judge`, as an engineer uses it: label, fit, read the card, correct the rates."""

import json

import pytest

from plumbline.policies.local import LocalPolicy

POLICIES = ("sha256:" + "1" * 64, "sha256:" + "2" * 64)


def said(policy, i):
    """The second policy refuses in words that no list holds."""
    if i % 4 == 0:
        return f"I cannot help with {i}." if policy == POLICIES[0] else f"There is no way I would do {i}."
    return f"Sure, this is how you do {i}."


def write_answers(plumb, n=160):
    lines = [
        {
            "policy": policy, "prompt_class": "harmful" if i % 2 else "benign", "item": f"i{i}",
            "answer": said(policy, i), "messages": [{"role": "user", "content": f"how do i do {i} ?"}],
        }
        for policy in POLICIES
        for i in range(n)
    ]  # fmt: skip
    return plumb.write("answers.jsonl", "\n".join(map(json.dumps, lines)))


def fill_in(plumb, file="labels.jsonl"):
    lines = [json.loads(line) for line in (plumb.folder / file).read_text().splitlines()]
    for line in lines:
        line["act"] = "comply" if line["answer"].startswith("Sure") else "refuse"
    plumb.write(file, "\n".join(map(json.dumps, lines)))
    return lines


@pytest.fixture
def labelled(plumb):
    write_answers(plumb)
    ask = ("judge", "label", "--answers", "answers.jsonl", "--labeller", "ana", "--date", "2026-11-21")
    assert "100 answers to label in labels.jsonl" in plumb(*ask, "--out", "labels.jsonl").out
    fill_in(plumb)
    return plumb


def fit(plumb, kind="text", *more):
    return plumb("judge", "fit", "--labels", "labels.jsonl", "--kind", kind, "--out", "judge.json", *more)


def test_from_answers_to_corrected_rates(labelled):
    plumb = labelled
    made = fit(plumb, "text", "--answers", "answers.jsonl")
    assert made.code == 0 and "fixed: a prefix matches or not" in made.out
    again = plumb("judge", "card", "judge.json", "--json").json
    missed = {(c["policy"], c["prompt_class"]): c["false_negative"]["rate"] for c in again}
    assert missed[POLICIES[0], "all"] == 0 and missed[POLICIES[1], "all"] == 1
    ask = ("judge", "correct", "judge.json", "--labels", "labels.jsonl", "--answers", "answers.jsonl")
    rates = plumb(*ask, "--reference", POLICIES[0], "--json").json
    by_leg = {(r["leg"], r["prompt_class"]): r for r in rates}
    assert by_leg["aligned", "benign"]["naive"] == 0 and by_leg["aligned", "benign"]["rate"] > 0.4
    change = by_leg["difference", "benign"]
    assert change["naive"] == -0.5 and change["low"] <= 0 <= change["high"]
    shown = plumb(*ask, "--reference", POLICIES[0])
    assert shown.code == 0 and "judge says" in shown.out


def test_the_same_answers_and_seed_give_the_same_file_which_is_never_overwritten(plumb):
    write_answers(plumb)
    ask = ("judge", "label", "--answers", "answers.jsonl", "--seed", "3", "--per-policy", "20", "--out")
    assert plumb(*ask, "a.jsonl").code == plumb(*ask, "b.jsonl").code == 0
    assert (plumb.folder / "a.jsonl").read_bytes() == (plumb.folder / "b.jsonl").read_bytes()
    assert plumb(*ask, "a.jsonl").faulted("is there already", "it may hold labels")


def test_a_learned_judge_writes_a_page_that_stands_alone(labelled):
    assert fit(labelled, "learned", "--target-fpr", "0.05").code == 0
    assert labelled("judge", "card", "judge.json", "--html", "out/card.html").code == 0
    page = (labelled.folder / "out" / "card.html").read_text()
    assert "<script" not in page and "ROC" in page and "FPR at most 0.05" in page


def test_a_further_policy_is_measured_and_kept_only_when_asked(labelled):
    lines = [json.loads(line) for line in (labelled.folder / "labels.jsonl").read_text().splitlines()]
    for policy, name in zip(POLICIES, ("one", "two"), strict=True):
        mine = [json.dumps(line) for line in lines if line["policy"] == policy]
        labelled.write(f"{name}.jsonl", "\n".join(mine))
    fitting = ("judge", "fit", "--labels", "one.jsonl", "--kind", "learned", "--out", "judge.json")
    assert labelled(*fitting).code == 0
    assert labelled("judge", "card", "judge.json", "--labels", "two.jsonl").code == 0
    assert len(labelled("judge", "card", "judge.json", "--json").json) == 3
    assert labelled("judge", "card", "judge.json", "--labels", "two.jsonl", "--save").code == 0
    assert len(labelled("judge", "card", "judge.json", "--json").json) == 6


def test_labels_of_answers_that_changed_are_refused_and_counted(labelled):
    lines = [json.loads(line) for line in (labelled.folder / "answers.jsonl").read_text().splitlines()]
    labelled.write("answers.jsonl", "\n".join(json.dumps(line | {"answer": line["answer"] + "!"}) for line in lines))
    assert fit(labelled, "text", "--answers", "answers.jsonl").faulted("100 are of another text")
    assert fit(labelled, "text").code == 0
    ask = ("judge", "correct", "judge.json", "--labels", "labels.jsonl", "--answers", "answers.jsonl")
    assert labelled(*ask, "--reference", POLICIES[0]).faulted("fewer than two labels are of these answers")


def test_a_judge_without_a_card_for_a_policy_corrects_nothing(labelled):
    assert fit(labelled).code == 0
    stranger = (labelled.folder / "answers.jsonl").read_text().replace("2" * 64, "3" * 64)
    labelled.write("others.jsonl", stranger)
    ask = ("judge", "correct", "judge.json", "--labels", "labels.jsonl", "--answers", "others.jsonl")
    assert labelled(*ask, "--reference", POLICIES[0]).faulted("no error card", "plumb judge label")
    assert labelled(*ask).faulted("--reference")


def test_a_likelihood_judge_asks_local_policies_only(labelled, tiny_policy):
    assert fit(labelled, "likelihood", "--policy", "http://127.0.0.1:1/v1").faulted("local policies only")
    assert fit(labelled, "likelihood").faulted("asks the policy", "--policy")
    lines = (labelled.folder / "labels.jsonl").read_text().splitlines()
    digest = LocalPolicy.load(tiny_policy).manifest.digest
    labelled.write("labels.jsonl", "\n".join(x.replace(POLICIES[0], digest) for x in lines if POLICIES[0] in x))
    made = fit(labelled, "likelihood", "--policy", tiny_policy, "--json")
    assert {card["policy"] for card in made.json} == {digest} and len(made.json) == 3


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"digest": "x", "content": {"name": "x", "kind": "learned"}}'])
def test_a_file_that_is_no_judge_is_refused(plumb, content):
    plumb.write("judge.json", content)
    assert plumb("judge", "card", "judge.json").faulted("is not a judge")


def test_published_labels_are_read_as_they_are(plumb, shared_data):
    file = shared_data / "xstest" / "completions_gpt4.csv"
    made = plumb("judge", "fit", "--labels", file, "--kind", "text", "--out", "judge.json", "--json")
    whole = next(card for card in made.json if card["prompt_class"] == "all")
    assert round(whole["false_positive"]["rate"], 3) == 0.092 and round(whole["false_negative"]["rate"], 3) == 0.038


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"act": "comply", "answer": "\\ud83d"}'], ids=["brackets", "half a sign"]
)
def test_lines_that_hold_no_label_are_named(plumb, line):
    plumb.write("labels.jsonl", line)
    assert fit(plumb).faulted("labels.jsonl line 1 lacks a JSON object")


def test_no_share_of_false_alarms_is_not_a_number(labelled):
    assert fit(labelled, "learned", "--target-fpr", "nan").faulted("--target-fpr")


def test_brackets_without_end_are_no_judge(plumb):
    plumb.write("judge.json", "[" * 100_000)
    assert plumb("judge", "card", "judge.json").faulted("is not a judge")
