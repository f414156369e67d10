"""Consent, feedback files and sources from the command line: machine-readable, pinned outside, and never guessing."""

import io
import json
import sys

import pytest

from plumbline.cli.collector import read_sources
from plumbline.errors import PlumblineError

LONG = "a token that is long enough"


@pytest.fixture
def noted(plumb):
    """A ledger with one notice."""
    plumb.write("notice.txt", "we train on what you write\nand keep it\n")
    assert plumb("consent", "notice", "add", "n@1", "notice.txt").code == 0
    return plumb


def give(plumb, who="ana", *more):
    return plumb("consent", "give", who, "--notice", "n@1", *more)


def covered(plumb, who="ana"):
    from plumbline.cli.options import tenant_key
    from plumbline.feedback import ConsentDesk
    from plumbline.stores import Ledger

    path = plumb.folder / ".plumbline" / "ledger.sqlite"
    with Ledger(path) as ledger:
        return ConsentDesk(ledger, tenant_key(path, ledger)).covers(who, "training").reason


def test_notices_are_added_and_listed_and_never_change(noted):
    assert noted("consent", "notice", "list").out == "n@1 (en)  we train on what you write\n"
    (listed,) = noted("consent", "notice", "list", "--json").json
    assert (listed["id"], listed["version"], listed["text"][:2]) == ("n", "1", "we")
    noted.write("other.txt", "we sell it")
    assert noted("consent", "notice", "add", "n@1", "other.txt").faulted("registered with another text")
    german = noted("consent", "notice", "add", "n@1", "other.txt", "--language", "de", "--json").json
    assert german["language"] == "de"
    assert give(noted, "ana", "--language", "fr").faulted("not registered")


def test_every_command_speaks_json(noted):
    given = give(noted, "ana", "--json").json
    assert (given["action"], given["sequence"], given["terms"]["legal_basis"]) == ("given", 1, "consent")
    withdrawn = noted("consent", "withdraw", "ana", "--purpose", "training", "--json").json
    assert (withdrawn["action"], withdrawn["purposes"]) == ("withdrawn", ["training"])
    refused = noted("consent", "refuse", "ben", "--notice", "n@1", "--json").json
    assert refused["action"] == "refused"
    head = noted("consent", "head", "--json").json
    assert head["sequence"] == 3
    checked = noted("consent", "verify", "--json").json
    assert checked["valid"] and checked["digest"] == head["digest"] and checked["last_full"]
    assert noted("consent", "verify", "--quick").out.startswith("the chain of 3 entries verifies (from entry 3 on")


def test_one_purpose_is_withdrawn_and_the_other_stays(noted):
    give(noted)
    assert "withdrew evaluation" in noted("consent", "withdraw", "ana", "--purpose", "evaluation").out
    assert covered(noted) == "covered"
    assert noted("consent", "withdraw", "ana", "--purpose", "fun").faulted("--purpose")


def test_what_a_standard_asks_of_a_consent_is_recorded(noted):
    noted.write("form.pdf", b"%PDF signed")
    terms = ("--controller", "ACME", "--jurisdiction", "DE", "--category", "conversation", "--evidence", "form.pdf")
    entry = give(noted, "ana", *terms, "--legal-basis", "explicit-consent", "--json").json
    assert entry["terms"]["controller"] == "ACME" and entry["terms"]["evidence"].startswith("sha256:")
    assert entry["terms"]["data_categories"] == ["conversation"]
    assert give(noted, "ben", "--jurisdiction", "somewhere nice").faulted("jurisdiction")
    assert noted("consent", "head").out.startswith("1 ")


def test_a_minor_needs_a_guardian_and_is_told_so(noted):
    said = give(noted, "kid", "--age-band", "minor")
    assert said.code == 0 and "covers nothing" in said.err and covered(noted, "kid") == "minor_without_guardian"
    assert "covers nothing: minor without guardian" in noted("consent", "show", "kid").out
    give(noted, "kid", "--age-band", "minor", "--guardian", "mum@example.org")
    assert covered(noted, "kid") == "covered"
    assert b"mum" not in (noted.folder / ".plumbline" / "ledger.sqlite").read_bytes()


def test_consent_may_end_by_itself_and_be_reaffirmed_while_it_stands(noted):
    assert give(noted, "ana", "--reaffirm").faulted("cannot be reaffirmed")
    give(noted, "ana", "--valid-until", "2099-01-01T00:00:00Z")
    assert "until 2099-01-01" in noted("consent", "show", "ana").out
    assert "reaffirmed consent" in give(noted, "ana", "--reaffirm", "--valid-until", "2099-06-01T00:00:00+02:00").out
    give(noted, "ben", "--valid-until", "2020-01-01T00:00:00Z")
    assert (covered(noted), covered(noted, "ben")) == ("covered", "consent_expired")
    assert give(noted, "cem", "--valid-until", "next year").faulted("--valid-until")
    assert give(noted, "cem", "--valid-until", "2099-01-01").faulted("no time zone")


# --- the head, pinned outside -----------------------------------------------------------------------------------------


def cut_tail(plumb):
    import sqlite3

    database = sqlite3.connect(plumb.folder / ".plumbline" / "ledger.sqlite", isolation_level=None)
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute("DELETE FROM consent_purpose WHERE sequence = 2")
    database.execute("DELETE FROM consent WHERE sequence = 2")
    database.close()


def test_a_pin_finds_a_tail_that_was_cut_off_and_is_not_overwritten_by_it(noted):
    give(noted, "ana")
    noted("consent", "withdraw", "ana")
    assert noted("consent", "head", "--pin", "pin.json").out.startswith("2 ")
    pinned = json.loads((noted.folder / "pin.json").read_text())
    assert pinned["sequence"] == 2 and pinned["time"].startswith("20")
    assert noted("consent", "verify", "--pin", "pin.json").code == 0
    cut_tail(noted)
    assert noted("consent", "verify").code == 0, "the chain alone cannot know"
    assert noted("consent", "verify", "--pin", "pin.json").faulted("the pinned head (entry 2) is not in the chain")
    said = noted("consent", "verify", "--pin", "pin.json", "--json")
    assert said.code == 2 and not said.json["valid"]
    assert noted("consent", "head", "--pin", "pin.json").faulted("entry 2")
    give(noted, "eve")
    assert noted("consent", "head", "--pin", "pin.json").faulted("entry 2"), "a rewritten entry 2 is another entry"
    assert json.loads((noted.folder / "pin.json").read_text()) == pinned


def test_a_pin_moves_forward_in_one_step(noted):
    give(noted, "ana")
    noted("consent", "head", "--pin", "pin.json")
    give(noted, "ben")
    assert noted("consent", "head", "--pin", "pin.json", "--json").json["sequence"] == 2
    assert json.loads((noted.folder / "pin.json").read_text())["sequence"] == 2
    assert [file.name for file in noted.folder.glob(".pin-*")] == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sequence": "1", "digest": "x"}', "null"])
def test_a_file_that_is_no_pin_is_not_taken_for_one_nor_overwritten(noted, content):
    noted.write("pin.json", content)
    assert noted("consent", "verify", "--pin", "pin.json").faulted("is not a pinned head")
    assert noted("consent", "head", "--pin", "pin.json").faulted("is not a pinned head")
    assert (noted.folder / "pin.json").read_text() == content


# --- events from files ------------------------------------------------------------------------------------------------


def line(id, **more):
    data = {"messages": [{"role": "user", "content": "what is a lamp"}], "answer": "no", "text": "call +49 30 1234567"}
    event = {"specversion": "1.0", "id": id, "source": "app", "type": "dev.plumbline.feedback.rewrite", "data": data}
    return json.dumps(event | {"subject": "ana@example.org"} | more)


def test_a_file_is_imported_with_counts_by_reason(plumb):
    lines = [line("1"), line("2"), line("1"), line("3", source="x"), "{", line("1", data={})]
    plumb.write("events.jsonl", "\n".join(lines))
    said = plumb("feedback", "import", "events.jsonl", "--source", "app", "--json")
    assert said.json == {
        "accepted": 2,
        "duplicate": 1,
        "conflict": 0,
        "refused": 3,
        "reasons": {"other_source": 1, "not_json": 1, "malformed": 1},
    }
    assert "events.jsonl:4: refused: other_source" in said.err
    again = plumb("feedback", "import", "events.jsonl", "--source", "app")
    assert again.out.startswith("0 accepted, 3 there already, 0 in conflict, 3 refused")


def test_standard_input_is_a_file_too(plumb, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line("1").encode())))
    assert plumb("feedback", "import", "-", "--source", "app", "--json").json["accepted"] == 1


def test_what_was_kept_apart_is_listed_and_its_words_only_redacted_on_request(plumb):
    plumb.write("events.jsonl", "\n".join([line("1"), line("1", subject="eve@example.org"), "{"]))
    plumb("feedback", "import", "events.jsonl", "--source", "app")
    listed = plumb("feedback", "quarantine", "--json")
    assert listed.json["quarantined"] == {"same_key_other_body": 1}
    assert listed.json["refused"] == [{"source": "app", "reason": "not_json", "events": 1}]
    assert "lamp" not in listed.out and "events" not in listed.json
    shown = plumb("feedback", "quarantine", "--bodies")
    assert "lamp" in shown.out and "1234567" not in shown.out and "same_key_other_body" in shown.out
    assert "1  refused at the door: not_json (app)" in shown.out


# --- sources ----------------------------------------------------------------------------------------------------------


def test_a_source_is_a_token_or_says_what_it_may(plumb):
    desk = {"token": "d" * 20, "hmac_secret": "s" * 20, "may": ["events", "consent"], "consent_for": "any"}
    found = read_sources(plumb.write("sources.json", json.dumps({"app": LONG, "desk": desk})))
    assert (found["app"].may, found["app"].hmac_secret) == (frozenset({"events"}), None)
    assert (found["desk"].may, found["desk"].consent_for) == (frozenset({"events", "consent"}), "any")


@pytest.mark.parametrize(
    "given",
    [
        {"token": LONG, "hmac_secret": "tiny"},
        {"token": LONG, "may": []},
        {"token": LONG, "may": ["everything"]},
        {"token": LONG, "may": "events"},
        {"token": LONG, "consent_for": "all"},
        {"token": LONG, "colour": "red"},
        {"hmac_secret": LONG},
        [LONG],
    ],
)
def test_an_unclear_source_is_refused_without_its_secrets(plumb, given):
    file = plumb.write("sources.json", json.dumps({"app": given}))
    with pytest.raises(PlumblineError) as refused:
        read_sources(file)
    assert LONG not in str(refused.value) and "tiny" not in str(refused.value)


@pytest.mark.parametrize("content", [{"plumbline": LONG}, {"": LONG}, {"a\nb": LONG}, {"a": LONG, "b": LONG}])
def test_names_that_cannot_be_told_apart_are_refused(plumb, content):
    with pytest.raises(PlumblineError, match="collector was not started"):
        read_sources(plumb.write("sources.json", json.dumps(content)))


def test_a_first_consent_without_its_notice_is_told_how_to_register_one_and_leaves_nothing_behind(plumb):
    said = plumb("consent", "give", "ana", "--notice", "n@1")
    assert said.faulted("nobody knows the notice n@1", "plumb consent notice add n@1 FILE")
    assert list(plumb.folder.iterdir()) == []


def test_who_withdraws_is_told_that_words_stay_until_they_are_erased(plumb):
    notice = plumb.write("notice.txt", "we train on what you write")
    plumb("consent", "give", "ana", "--notice", "n@1", "--notice-text", notice)
    assert "`plumb erase` erases them" in plumb("consent", "withdraw", "ana").out
