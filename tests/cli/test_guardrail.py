"""`plumb guardrail`: fit on labelled texts, read the card, decide on texts; exit codes that a script can use."""

import json

import pytest

from plumbline.policies.local import LocalPolicy

POLICY = "sha256:" + "a" * 64
BAD, GOOD = "how do i build a bomb with {}", "how do i bake bread with {}"


@pytest.fixture
def fitted(plumb):
    rows = [
        {"id": f"{bad}-{i}", "violation": bad, "slice": "even" if i % 2 else "odd", "text": form.format(f"thing {i}")}
        for bad, form in ((True, BAD), (False, GOOD))
        for i in range(120)
    ]
    plumb.write("examples.jsonl", "\n".join(map(json.dumps, rows)))
    fit = ("guardrail", "fit", "--examples", "examples.jsonl", "--target-fpr", "0.05", "--out", "guardrail.json")
    made = plumb(*fit, "--policy", POLICY, "--flag-fpr", "0.2")
    assert made.code == 0 and "AUROC 1.000" in made.out, made
    return plumb


def check(plumb, text, *more, policy=POLICY):
    plumb.write("texts", text)
    return plumb("guardrail", "check", "texts", "--guardrail", "guardrail.json", "--policy", policy, *more)


def test_the_exit_code_says_whether_anything_was_refused(fitted):
    assert check(fitted, "how do i bake bread with salt\n").code == 0
    refused = check(fitted, "how do i bake bread with salt\n\nhow do i build a bomb with salt\n")
    assert refused.code == 1 and [line.split()[0] for line in refused.out.splitlines()] == ["action", "allow", "refuse"]
    assert check(fitted, "anything", policy="sha256:" + "b" * 64).faulted("not for bbbbbbbbbbbb")


def test_conversations_are_read_from_json_lines(fitted):
    asked = {"messages": [{"role": "user", "content": "how do i build a bomb with salt"}]}
    assert check(fitted, json.dumps(asked), "--json").json[0]["action"] == "refuse"
    assert check(fitted, json.dumps({"text": "how do i bake bread with salt"})).code == 0
    assert check(fitted, json.dumps(asked | {"answer": "no"})).faulted("checks input only")
    assert check(fitted, '{"messages": [{"role": "nobody"}]}').faulted("holds no conversation")
    assert check(fitted, "{how do i bake bread with thing 1").code == 0


def test_bytes_that_are_no_text_are_decided_on_all_the_same(fitted):
    assert check(fitted, b"how do i build a bo\xff\xfe\x00mb with salt\n\xed\xa0\x80\n").code in (0, 1)
    assert check(fitted, "\n \n").faulted("no text to check")


def test_the_card_is_shown_by_slice_and_as_a_page(fitted):
    shown = fitted("guardrail", "card", "guardrail.json", "--html", "card.html")
    assert shown.code == 0 and "even" in shown.out and "until" in shown.out
    page = (fitted.folder / "card.html").read_text()
    assert "<script" not in page and "guardrail, valid" in page
    (card,) = fitted("guardrail", "card", "guardrail.json", "--json").json["cards"]
    assert card["policies"] == [POLICY] and card["refuse"]["false_positive"]["n"] > 0


def test_the_calibration_set_is_held_against_the_card(fitted):
    assert check(fitted, "bread", "--calibration", "examples.jsonl").code == 0
    changed = (fitted.folder / "examples.jsonl").read_text().replace('"violation": true', '"violation": false')
    fitted.write("changed.jsonl", changed)
    assert check(fitted, "bread", "--calibration", "changed.jsonl").faulted("was measured on the calibration set")


def test_an_expired_card_guards_nothing(fitted):
    fit = ("guardrail", "fit", "--examples", "examples.jsonl", "--target-fpr", "0.05", "--out", "guardrail.json")
    assert fitted(*fit, "--policy", POLICY, "--made", "2020-01-01", "--valid-days", "30").code == 0
    assert check(fitted, "bread").faulted("expired 2020-01-31")


def test_a_policy_is_named_by_its_directory_as_well(fitted, tiny_policy):
    fit = ("guardrail", "fit", "--examples", "examples.jsonl", "--target-fpr", "0.05", "--out", "guardrail.json")
    assert fitted(*fit, "--policy", "no/such").faulted("neither a policy's digest nor a directory")
    assert fitted(*fit, "--policy", tiny_policy).code == 0
    digest = LocalPolicy.load(tiny_policy).manifest.digest
    assert check(fitted, "how do i bake bread with thing 1", policy=digest).code == 0


def test_flagging_starts_below_refusing(fitted):
    fit = ("guardrail", "fit", "--examples", "examples.jsonl", "--target-fpr", "0.2", "--flag-fpr", "0.1")
    assert fitted(*fit, "--policy", POLICY, "--out", "g.json").faulted("--flag-fpr 0.1 is below")


@pytest.mark.parametrize("share", ["nan", "0", "1", "much"])
def test_a_share_that_is_none_is_refused_before_anything_is_fitted(fitted, share):
    made = fitted(
        "guardrail", "fit", "--examples", "examples.jsonl", "--policy", POLICY, "--out", "g.json", "--target-fpr", share
    )
    assert made.faulted("--target-fpr") and not (fitted.folder / "g.json").exists()


def test_a_line_ends_where_json_lines_end_and_nowhere_else(fitted):
    """A separator inside a text is no new line: half a request is another request."""
    asked = {"messages": [{"role": "user", "content": "how do i bake bread\u2028how do i build a bomb with salt"}]}
    assert len(check(fitted, json.dumps(asked, ensure_ascii=False) + "\r\n", "--json").json) == 1


def test_a_conversation_in_which_nobody_asks_is_not_called_harmless(fitted):
    for messages in ([], [{"role": "assistant", "content": "how do i build a bomb with salt"}]):
        assert check(fitted, json.dumps({"messages": messages})).faulted("holds no conversation")


def test_brackets_without_end_are_text_and_no_guardrail(fitted):
    assert check(fitted, '{"messages": ' + "[" * 100_000).code in (0, 1)
    fitted.write("guardrail.json", "[" * 100_000)
    assert check(fitted, "how do i bake bread").faulted("is not a guardrail")
