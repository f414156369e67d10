"""`plumb erase` from a terminal: one call, what it did in words and in JSON, and again after a kill."""

import json
from pathlib import Path

import pytest

from plumbline.records import TYPE_PREFIX

CANARY = "zanzibarquux"


def rewrite(number: int, person: str, words: str) -> str:
    data = {"messages": [{"role": "user", "content": f"what is {words} ?"}], "answer": "no", "text": f"it is {words}"}
    kind = {"specversion": "1.0", "type": TYPE_PREFIX + "rewrite", "source": "app", "subject": person}
    return json.dumps({**kind, "id": str(number), "data": data})


@pytest.fixture
def fed(plumb):
    """A version with an example of ana's and one of ben's."""
    notice = plumb.write("notice.txt", "we train on what you write")
    for person in ("ana", "ben"):
        plumb("consent", "give", person, "--notice", "n@1", "--notice-text", notice)
    plumb.write("events.jsonl", "\n".join([rewrite(1, "ana", CANARY), rewrite(2, "ben", "a lamp")]))
    plumb("feedback", "import", "events.jsonl", "--source", "app")
    assert plumb("ingest", "facts", "--approve", "read", "--json").json["accepted"] == 2
    Path("events.jsonl").unlink()
    return plumb


def on_disk() -> list[Path]:
    return [path for path in Path(".plumbline").rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_one_call_withdraws_removes_and_erases(fed):
    assert on_disk()
    done = fed("erase", "ana", "--json").json
    assert (done["events"], done["payloads"]) == (1, 1)
    assert [(one["dataset"], one["version"]) for one in done["versions"]] == [("facts", 2)]
    assert on_disk() == []
    assert fed("dataset", "verify", "facts@1").code == fed("dataset", "verify", "facts@2").code == 0
    assert "ana" not in json.dumps(done)


def test_calling_again_gives_the_same_proof_and_changes_nothing(fed):
    first = fed("erase", "ana", "--json").json
    again = fed("erase", first["subject"], "--json").json
    assert (again["proof"], again["versions"], again["payloads"]) == (first["proof"], [], 0)


def test_people_read_what_was_done_and_that_nothing_is_unlearned(fed):
    said = fed("erase", "ana").out
    assert "events 1, payloads 1" in said and "facts version 2 is without them" in said and "proof sha256:" in said


def test_nobody_else_is_touched(fed):
    fed("erase", "ana")
    assert fed("dataset", "show", "facts", "--json").json["sizes"] in (
        {"train": 1, "held_out": 0},
        {"train": 0, "held_out": 1},
    )


def test_somebody_unknown_is_not_erased_by_a_slip_of_the_pen(fed):
    assert fed("erase", "eve").faulted("nobody in the ledger is known")
