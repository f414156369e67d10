"""Versions from the command line: in, looked at, compared, verified; and what may not become one."""

import json
from pathlib import Path

import pytest

from plumbline.records import TYPE_PREFIX

COMMENT = TYPE_PREFIX + "comment"


def event(number: int, person: str, asked: str, better: str, **envelope: object) -> str:
    data = {"messages": [{"role": "user", "content": asked}], "answer": "no", "slice": "benign", "text": better}
    kind = {"specversion": "1.0", "type": TYPE_PREFIX + "rewrite", "source": "app", "subject": person}
    return json.dumps({**kind, "id": str(number), "data": data, **envelope})


@pytest.fixture
def fed(plumb):
    """A dataset with a first version, two people who consent and one who does not, each with a rewrite."""
    plumb.import_messages()
    notice = plumb.write("notice.txt", "we train on what you write")
    for person in ("ana", "ben"):
        assert plumb("consent", "give", person, "--notice", "n@1", "--notice-text", notice).code == 0
    said = {"ana": "you end it with kill", "ben": "a lamp goes out by its switch", "eve": "take the stairs down"}
    asked = {"ana": "how do i kill a process ?", "ben": "how do i kill the light ?", "eve": "how do i get down ?"}
    lines = [event(n, person, asked[person], said[person]) for n, person in enumerate(said)]
    plumb.write("events.jsonl", "\n".join(lines))
    assert plumb("feedback", "import", "events.jsonl", "--source", "app").out.startswith("3 accepted")
    return plumb


def test_an_imported_file_is_a_version_that_can_be_looked_at_and_verified(plumb):
    said = plumb.import_messages()
    assert said.code == 0 and said.out.startswith("facts version 1: sha256:")
    (listed,) = plumb("dataset", "list", "--json").json
    shown = plumb("dataset", "show", "facts", "--json").json
    assert listed["digest"] == shown["digest"] == said.out.split()[-1]
    assert shown["accepted"] == shown["sealed"] == 24 and shown["licence"] == "MIT"
    assert plumb("dataset", "show", "facts").out.splitlines()[1].strip() == "24 sealed = 24 accepted + 0 refused"
    assert "is sound: 24 members" in plumb("dataset", "verify", "facts").out


def test_importing_the_same_file_again_makes_no_second_version(plumb):
    assert plumb.import_messages().out == plumb.import_messages().out
    assert len(plumb("dataset", "list", "--json").json) == 1


@pytest.mark.parametrize("name", ["a@1", "../up", "", "-x", "a b", "é"])
def test_a_name_that_could_be_mistaken_is_no_name(plumb, name):
    plumb.import_messages()
    given = ("dataset", "import", "facts.jsonl", "--format", "messages", f"--dataset={name}", "--licence", "MIT")
    assert plumb(*given).faulted()
    assert len(plumb("dataset", "list", "--json").json) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"messages": [', b'{"instruction": "a"}', b"", b"null"])
def test_half_a_file_is_no_version(plumb, content):
    file = plumb.write("in.jsonl", content)
    for kind in ("messages", "alpaca", "self-instruct"):
        assert plumb("dataset", "import", file, "--format", kind, "--dataset", "d", "--licence", "MIT").faulted()
    for kind in ("xstest", "hh"):
        assert plumb("dataset", "import", file, "--format", kind, "--suite", "suite.jsonl").faulted()
    assert not Path("suite.jsonl").exists()
    assert not Path(".plumbline/ledger.sqlite").exists() or plumb("dataset", "list").out == ""


def test_what_measures_is_never_trained_on(plumb):
    pairs = plumb.write("hh.jsonl", json.dumps({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}))
    given = ("dataset", "import", pairs, "--format", "hh", "--dataset", "d", "--licence", "MIT")
    assert plumb(*given).faulted("such text is never trained on")


def test_data_without_a_licence_is_not_imported(plumb):
    plumb.import_messages()
    assert plumb("dataset", "import", "facts.jsonl", "--format", "messages", "--dataset", "d").faulted("--licence")


def test_a_damaged_payload_makes_the_version_unsound(plumb):
    plumb.import_messages()
    shown = plumb("dataset", "show", "facts", "--json").json
    words = Path(".plumbline/facts.jsonl") if Path(".plumbline/facts.jsonl").exists() else Path("facts.jsonl")
    said = json.loads(words.read_text().splitlines()[0])["messages"][-1]["content"].encode()
    (pack,) = [p for p in Path(".plumbline/blobs/packs").rglob("*") if p.is_file() and said in p.read_bytes()]
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes().replace(said, said[::-1]))
    assert plumb("dataset", "verify", "facts").code == 2
    assert shown["version"] == 1


def test_feedback_waits_for_approval_and_then_becomes_the_next_version(fed):
    waiting = fed("ingest", "facts", "--json").json
    assert (waiting["state"], waiting["version"]) == ("awaiting_approval", None)
    assert waiting["sealed"] == waiting["accepted"] + sum(waiting["rejected"].values()) == 3
    assert waiting["rejected"] == {"no_consent": 1}
    assert waiting["approvals"] == {"required": 1, "approved_by": [], "missing": 1}
    assert "approved by 0 of 1; 1 missing\n  to approve and publish: plumb ingest facts" in fed("ingest", "facts").out
    assert fed("ingest", "facts", "--approve", "read", "--approver", "rita", "--json").json["version"] == 2
    diff = fed("dataset", "diff", "facts", "1", "2", "--json").json
    assert (len(diff["added"]), len(diff["removed"])) == (2, 0)
    assert fed("ingest", "facts", "--json").json["state"] == "no_change"


def test_whoever_approves_can_see_what_redaction_left_and_what_needs_people(fed):
    comment = json.loads(event(8, "ana", "was it good ?", "no"))
    lines = [
        event(7, "ana", "where do i write ?", "write to ana@example.org"),
        json.dumps({**comment, "type": COMMENT}),
    ]
    fed.write("more.jsonl", "\n".join(lines))
    fed("feedback", "import", "more.jsonl", "--source", "app")
    said = fed("ingest", "facts", "--samples").out
    assert "redacted, for example: write to [EMAIL]" in said
    assert "1  selected_for_review  (plumb review open)" in said
    assert "[EMAIL]" not in fed("ingest", "facts").out, "words are shown to who asks for them, not to every log"
    in_json = fed("ingest", "facts", "--samples", "--json")
    assert "[EMAIL]" not in in_json.out and "[EMAIL]" in in_json.err
    fed("ingest", "facts", "--approve", "read")
    assert fed("ingest", "facts").out.startswith("facts: the inbox holds nothing new; the newest version is 2: sha256:")


def test_of_several_approvals_it_is_said_who_gave_theirs_and_how_many_are_missing(fed):
    two = ("ingest", "facts", "--approvals", "2", "--approver")
    first = fed(*two, "rita", "--approve", "read").out
    assert "approved by 1 of 2 (rita); 1 missing" in first and "--approver WHO --approvals 2" in first
    again = fed(*two, "rita", "--approve", "read", "--json").json
    assert (again["state"], again["approvals"]) == (
        "awaiting_approval",
        {"required": 2, "approved_by": ["rita"], "missing": 1},
    )
    assert fed(*two, "ana", "--approve", "mine").faulted("was decided by 'ana'")
    done = fed(*two, "omar", "--approve", "read", "--json").json
    assert (done["version"], done["approvals"]) == (
        2,
        {"required": 2, "approved_by": ["omar", "rita"], "missing": 0},
    )


def test_whoever_withdraws_is_gone_from_the_next_version(fed):
    fed("ingest", "facts", "--approve", "read")
    assert fed("consent", "withdraw", "ana").code == 0
    said = fed("ingest", "facts", "--removal", "--json")
    assert said.json == {"state": "published", "version": 3}
    assert "everyone who withdrew is removed" in said.err
    assert fed("ingest", "facts", "--removal", "--json").json == {"state": "no_change", "version": 3}
    assert [made["version"] for made in fed("lineage", "subject", "ana", "--json").json["versions"]] == [2]
    assert len(fed("dataset", "diff", "facts", "2", "3", "--json").json["removed"]) == 1


def test_a_first_version_by_a_misspelt_name_is_remarked(fed):
    assert "fakts has no version yet" in fed("ingest", "fakts").err


def test_events_that_may_not_be_taken_are_named_by_line(plumb):
    good = event(1, "ana", "a ?", "b")
    plumb.write("events.jsonl", "\n".join([good, "not json", event(2, "ana", "a ?", "b", source="elsewhere")]))
    said = plumb("feedback", "import", "events.jsonl", "--source", "app")
    assert said.code == 0 and said.out.startswith("1 accepted, 0 there already, 0 in conflict, 2 refused\n")
    assert "events.jsonl:2: refused: not_json" in said.err and "events.jsonl:3: refused: other_source" in said.err
    plumb.write("bad.jsonl", b"\xff\xfe")
    said = plumb("feedback", "import", "bad.jsonl", "--source", "app")
    assert said.code == 2 and "  do: " in said.err
