"""Review from the command line: two people label, agreement decides, files go out and come back."""

import csv
import io
import json
import re
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

RULE = ("--rule", "helpfulness")


@pytest.fixture
def desk(plumb):
    """A ledger with ana's consent and a function that has her rate answers."""
    plumb.write("notice.txt", "we train on what you write")
    assert plumb("consent", "give", "ana", "--notice", "n@1", "--notice-text", "notice.txt").code == 0
    return plumb


def rate(plumb, numbers, answer="answer {}"):
    lines = [
        {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "app",
            "subject": "ana",
            "type": "dev.plumbline.feedback.rating",
            "data": {
                "messages": [{"role": "user", "content": f"question {number} from ana@example.org"}],
                "answer": answer.format(number),
                "score": 1.0,
            },
        }
        for number in numbers
    ]
    file = plumb.write(f"events-{min(numbers)}.jsonl", "\n".join(map(json.dumps, lines)))
    assert plumb("feedback", "import", file, "--source", "app").code == 0
    return plumb("review", "open", "--json").json


def verdict_of(answer):
    return "approve" if int(answer.split()[-1]) % 2 else "reject"


def label(plumb, who, task, verdict, *more):
    severity = () if verdict == "approve" else ("--severity", "major")
    words = ("--verdict", verdict, "--text", task["text"], *RULE, *severity, *more)
    return plumb("review", "label", task["item"], who, *words)


def fill(plumb, who, wrong=()):
    """A reviewer takes a sheet home, fills it in, and brings it back."""
    sheet = Path(f"{who}.jsonl")
    assert plumb("review", "export", sheet, "--for", who).code == 0
    rows = [json.loads(line) for line in sheet.read_text().splitlines()]
    for row in rows:
        right = verdict_of(row["answer"])
        flipped = {"approve": "reject", "reject": "approve"}[right]
        row["verdict"] = flipped if int(row["answer"].split()[-1]) in wrong else right
        row |= {"rules": ["helpfulness"], "severity": "none" if row["verdict"] == "approve" else "major"}
    sheet.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return plumb("review", "import", sheet)


def test_from_a_thumb_to_a_released_answer(desk):
    opened = rate(desk, range(12))
    assert opened["opened"] == {"rating": 12} and opened["batch"] == 1
    for who in ("rita", "rolf"):
        tasks = desk("review", "queue", who, "--json").json
        assert len(tasks) == 12 and all("ana" not in json.dumps(task) for task in tasks)
        assert "from [EMAIL]" in tasks[0]["messages"][0]["content"]
        assert not {"subject", "what", "reviewer"} & set(tasks[0])
        for task in tasks:
            assert label(desk, who, task, verdict_of(task["answer"])).code == 0
    assert desk("review", "agreement").code == 0
    settled = desk("review", "settle", "--json").json
    assert len(settled["approved"]) == len(settled["rejected"]) == len(settled["released"]) == 6
    assert desk("review", "settle", "--json").json["approved"] == []


def test_a_label_names_the_text_that_was_read(desk):
    rate(desk, range(1))
    (task,) = desk("review", "queue", "rita", "--json").json
    shown = desk("review", "show", task["item"], "rita")
    assert task["text"] in shown.out and "ANSWER: answer 0" in shown.out
    assert label(desk, "rita", {**task, "text": "sha256:" + "0" * 64}, "approve").faulted("for another text")
    assert label(desk, "rita", {**task, "text": task["text"][7:15]}, "approve").faulted("this is no label: text")
    assert label(desk, "rita", {**task, "text": task["text"][7:19]}, "approve").code == 0
    assert label(desk, "rita", task, "reject").faulted("has judged review item 1 already", "--correct")
    assert label(desk, "rita", task, "reject", "--correct").code == 0
    assert desk("review", "show", task["item"], "rita", "--json").json["mine"]["verdict"] == "reject"
    assert label(desk, "ana", task, "approve").faulted("own words")
    assert desk("review", "show", task["item"], "ana").faulted("own words")
    assert desk("review", "show", 99, "rita").faulted("no review item 99")
    bad = ("--verdict", "reject", "--text", task["text"], *RULE)
    assert desk("review", "label", task["item"], "rolf", *bad).faulted("say how badly")


def test_disagreement_is_decided_by_somebody_else(desk):
    rate(desk, range(30))
    fill(desk, "rita")
    fill(desk, "rolf", wrong={3})
    assert "wait for an adjudicator" in desk("review", "settle").out
    (task,) = desk("review", "queue", "alma", "--adjudicate", "--json").json
    assert sorted(one["verdict"] for one in task["labels"]) == ["approve", "reject"]
    said = ("--verdict", "approve", "--text", task["text"], *RULE)
    assert desk("review", "adjudicate", task["item"], "rita", *said).faulted("judged review item")
    assert desk("review", "adjudicate", task["item"], "alma", *said).code == 0
    assert len(desk("review", "settle", "--json").json["approved"]) == 1


def test_the_exit_code_says_whether_labels_count(desk):
    rate(desk, range(5))
    assert desk("review", "agreement").code == 3, "nobody has said anything"
    fill(desk, "rita")
    fill(desk, "rolf")
    assert desk("review", "agreement").code == 3
    rate(desk, range(5, 40))
    fill(desk, "rita")
    fill(desk, "rolf")
    passed = desk("review", "agreement")
    assert passed.code == 0 and "alpha 1.00" in passed.out and "helpfulness" in passed.out
    assert desk("review", "settle").out.startswith("20 approved, 20 rejected, 20 released")
    rate(desk, range(40, 70))
    fill(desk, "rita")
    fill(desk, "rolf", wrong=range(40, 55))
    told = desk("review", "agreement", "--json")
    assert told.code == 1
    assert [one["decided"] for one in told.json["batches"]] == ["blocked", "pass", "blocked"], (
        "five items alone tell nothing: they are judged with all the others"
    )
    assert "rubric revision is open" in desk("review", "settle").out
    (revision,) = desk("review", "revisions", "--json").json
    assert revision["state"] == "open" and revision["rules"][0][0] == "helpfulness" and len(revision["examples"]) == 15
    assert "open" in desk("review", "revisions").out


def test_another_rubric_puts_again_what_rested_on_its_changed_rules(desk):
    from plumbline.microworld import microworld_rubric

    rate(desk, range(12))
    fill(desk, "rita")
    fill(desk, "rolf")
    desk("review", "settle")
    rubric = microworld_rubric().model_dump(mode="json")
    for rule in rubric["rules"]:
        rule["text"] += " Always." if rule["area"] == "helpfulness" else ""
    file = desk.write("rubric.json", json.dumps(rubric))
    told = desk("review", "open", "--rubric", file, "--json").json
    assert told["again"] == 12 and told["stale"]["settled"] == 12 and len(told["stale"]["released"]) == 6
    assert len(desk("review", "queue", "rita", "--json").json) == 12, "the rubric opened last is in force"
    old = microworld_rubric().digest
    assert desk("review", "queue", "rita", "--rubric", old, "--json").json == []


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_sheet_for_outside_holds_nobodys_label(desk):
    rate(desk, range(3))
    fill(desk, "rita")
    assert desk("review", "export", "sheet.csv", "--for", "rolf").code == 0
    rows = list(csv.DictReader(io.StringIO(Path("sheet.csv").read_text("utf-8-sig"), newline="")))
    assert len(rows) == 3 and {row["verdict"] + row["rules"] + row["severity"] for row in rows} == {""}
    text = Path("sheet.csv").read_text("utf-8-sig")
    pseudonym = desk("consent", "show", "ana", "--json").json[0]["subject"]
    assert pseudonym not in text and "example.org" not in text and "[EMAIL]" in text


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_labels_go_out_and_come_back_the_same(desk, kind):
    rate(desk, range(4))
    for who in ("rita", "rolf"):
        for task in desk("review", "queue", who, "--json").json:
            reason = '=HYPERLINK("http://x.example") "quoted",\nand -- more, \'=kept'
            assert label(desk, who, task, verdict_of(task["answer"]), "--reason", reason).code == 0
    first, second = f"first.{kind}", f"second.{kind}"
    assert desk("review", "export", first).out == f"{first}: 8 labels\n"
    again = desk("review", "import", first)
    assert again.out == "0 labels taken, 8 there already, 0 left blank\n"
    desk("review", "export", second)
    assert Path(first).read_bytes() == Path(second).read_bytes()


def test_a_filled_in_csv_is_taken_and_blank_rows_are_left(desk):
    rate(desk, range(3))
    desk("review", "export", "sheet.csv", "--for", "rita")
    rows = list(csv.DictReader(io.StringIO(Path("sheet.csv").read_text("utf-8-sig"), newline="")))
    for row in rows[:2]:
        row |= {"verdict": "reject", "rules": "helpfulness, honesty", "severity": "minor", "reason": "'=1+1"}
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    desk.write("filled.csv", out.getvalue())
    assert desk("review", "import", "filled.csv").out == "2 labels taken, 0 there already, 1 left blank\n"
    shown = desk("review", "show", rows[0]["item"], "rita", "--json").json["mine"]
    assert shown["rules"] == ["helpfulness", "honesty"] and shown["reason"] == "=1+1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text": "sha256:" + "0" * 64}, "line 2: review item 1: the label is for another text"),
        ({"item": 99}, "line 2: there is no review item 99"),
        ({"item": "1; DROP"}, "line 2: item: '1; DROP' is no number"),
        ({"reviewer": "ana"}, "line 2: review item 1: it is about the reviewer's own words"),
        ({"verdict": "maybe"}, "line 2: verdict"),
        ({"rules": []}, "line 2: rules"),
        ({"rules": ["kindness"]}, "line 2: rules.0"),
        ({"severity": "none", "verdict": "reject"}, "line 2: Value error, a rejected answer"),
        ({"reason": "x" * 1001}, "line 2: reason"),
        ({"reviewer": ""}, "line 2: reviewer: nobody is named"),
        ({"role": "boss"}, "line 2: role: 'boss'"),
        ({"role": "adjudicator"}, "line 2: review item 1: there is nothing to adjudicate"),
    ],
)
def test_a_line_that_may_not_count_is_named_and_then_nothing_is_taken(desk, change, said):
    rate(desk, range(2))
    tasks = sorted(desk("review", "queue", "rita", "--json").json, key=lambda task: -task["item"])
    good = {"reviewer": "rita", "verdict": "approve", "rules": ["helpfulness"]}
    rows = [{**good, "item": task["item"], "text": task["text"]} for task in tasks]
    rows[1] |= change
    desk.write("labels.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert desk("review", "import", "labels.jsonl").faulted(said, "no label of the file was recorded")
    desk("review", "export", "after.jsonl")
    assert Path("after.jsonl").read_text() == "", "all or none"


def test_without_the_tenant_key_pseudonyms_are_taken_and_names_are_not(desk):
    """Under another key a name would be a stranger's pseudonym, and could judge their own words."""
    rate(desk, range(2))
    fill(desk, "rita")
    rows = [json.loads(line) for line in Path("rita.jsonl").read_text().splitlines()]
    desk.write("mixed.jsonl", "".join(json.dumps(row) + "\n" for row in (rows[0], {**rows[1], "reviewer": "ana"})))
    Path(".plumbline/tenant.key").unlink()
    assert desk("review", "import", "rita.jsonl").out.startswith("0 labels taken, 2 there already")
    assert desk("review", "import", "mixed.jsonl").faulted("the tenant key")
    assert desk("review", "serve", rows[0]["reviewer"], "rolf").faulted("the tenant key")


def test_labels_of_others_are_refused_where_one_reviewer_is_named(desk):
    rate(desk, range(1))
    fill(desk, "rita")
    row = json.loads(Path("rita.jsonl").read_text())
    desk.write("claimed.jsonl", json.dumps({**row, "reviewer": "rolf"}))
    assert desk("review", "import", "claimed.jsonl", "--reviewer", "ruth").faulted("another reviewer's")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", "{}\n[1]\n", "line 2 is no JSON object"),
        ("a.jsonl", "[" * 100_000, "line 1 is no JSON object"),
        ("a.csv", "item,verdict\n1,approve\n", "its header lacks text, rules"),
        ("a.csv", "item,text,verdict,rules\n1,2\n", "line 2 has 2 cells, the header 4"),
        ("a.csv", 'item,text,verdict,rules\n"1\n2",x,y,z\n1,"a', "line 4 is no CSV"),
        ("a.csv", b"\xff\xfe", "not UTF-8"),
        ("a.txt", "", "neither JSONL nor CSV"),
    ],
)
def test_a_file_that_holds_no_labels_says_where(desk, name, content, said):
    rate(desk, range(1))
    desk.write(name, content)
    assert desk("review", "import", name).faulted(said)


# --- before anything ------------------------------------------------------------------------------------------------


def test_a_desk_that_was_never_opened_says_so(desk):
    for command in (("queue", "rita"), ("agreement",), ("settle",), ("export", "x.jsonl"), ("serve", "rita")):
        assert desk("review", *command).faulted("nothing was ever opened", "plumb review open")
    assert desk("review", "queue", "rita", "--rubric", "sha256:" + "1" * 64).faulted("knows no rubric")


@pytest.mark.slow
def test_the_page_is_served_to_those_with_a_link_and_stops_on_a_signal(desk, wait_for):
    rate(desk, range(1))
    running = desk.start("review", "serve", "rita", "--port", "0")
    try:
        line = wait_for(running, "rita (reviewer): ")
        link = re.search(r"http://127\.0\.0\.1:\d+/enter\?token=\S+", line)[0]
        with urllib.request.urlopen(link) as response:
            assert "Review answers" in response.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(link.partition("?")[0].replace("/enter", "/"))
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0
        running.stdout.close()
        running.stderr.close()
