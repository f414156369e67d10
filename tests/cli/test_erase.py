"""`plumb erase` from a terminal: one call, what it did in words and in JSON, and again after a kill."""

import contextlib
import json
import sys
from pathlib import Path

import pytest

from plumbline.records import TYPE_PREFIX, Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Spool

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


def record(number: str, subject: str) -> SpoolRecord:
    said = Answer(text=f"it is {CANARY}", finish="stop", latency_ms=1.0)
    return SpoolRecord(
        request=number, experiment="e", session="x", subject=subject, messages=(say("user", CANARY),),
        decoder=DecoderSettings(), answer=said,
    )  # fmt: skip


def test_one_call_withdraws_removes_and_erases(fed):
    assert on_disk()
    done = fed("erase", "ana", "--json").json
    assert (done["events"], done["payloads"]) == (1, 1)
    assert [(one["dataset"], one["version"]) for one in done["versions"]] == [("facts", 2)]
    assert on_disk() == []
    assert fed("dataset", "verify", "facts@1").code == fed("dataset", "verify", "facts@2").code == 0
    assert "ana" not in json.dumps(done)


def test_a_spool_that_is_named_is_erased_with_everything_else(fed):
    subject = fed("lineage", "subject", "ana", "--json").json["subject"]
    with contextlib.closing(Spool(Path("spool"), Experiment(name="e", salt="s"))) as spool:
        spool.append([record("1", subject), record("2", "s-" + "0" * 32)])
        assert fed("erase", "ana", "--spool", "spool", "--json").json["requests"] == 1
        assert (spool.counts().shed, spool.counts().pending) == ({"withdrawn": 1}, 1)
        assert fed("erase", "ana", "--spool", "spool", "--json").json["requests"] == 0


def test_every_spool_below_a_folder_is_erased_with_them(fed):
    subject = fed("lineage", "subject", "ana", "--json").json["subject"]
    for name in ("first/aa", "first/pairs"):
        with contextlib.closing(Spool(Path("spools") / name, Experiment(name="e", salt="s"))) as spool:
            spool.append([record("1", subject)])
    assert fed("erase", "ana", "--spools-below", "nowhere", "--json").json["requests"] == 0
    assert fed("erase", "ana", "--spools-below", "spools", "--json").json["requests"] == 2
    assert on_disk() == []
    assert fed("erase", "ana", "--spool", ".plumbline").faulted("there is no readable spool")


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


def cut_short(person: str) -> None:
    """An erasure that is killed when the request is in the ledger and nothing else is done."""
    from plumbline.feedback import ConsentDesk, Pseudonyms
    from plumbline.feedback.erase import withdraw_and_erase
    from plumbline.stores import Ledger, LocalBlobs

    class Killed(BaseException):
        pass

    def kill(_: str) -> None:
        raise Killed

    with Ledger(Path(".plumbline/ledger.sqlite")) as ledger, pytest.raises(Killed):
        desk = ConsentDesk(ledger, Pseudonyms.load_or_create(Path(".plumbline/tenant.key")))
        withdraw_and_erase(ledger, LocalBlobs(Path(".plumbline/blobs")), desk, person, on_step=kill)


@pytest.mark.parametrize("command", [("erase", "--unfinished"), ("erase", "ben"), ("ingest", "facts")])
def test_what_a_kill_left_of_an_erasure_is_finished_by_the_next_command_also_when_consent_is_given_again(fed, command):
    cut_short("ana")
    assert fed("consent", "give", "ana", "--notice", "n@1").code == 0
    assert on_disk()
    said = fed(*command)
    assert said.code == 0 and "which had been cut short, is finished" in said.err
    assert on_disk() == []
    assert fed("dataset", "verify", "facts@1").code == 0
    assert fed("consent", "show", "ana").out.splitlines()[-1].split()[1] == "given"
    assert "no erasure is unfinished" in fed("erase", "--unfinished").out


def test_whose_consent_holds_is_not_sent_away_by_who_only_carries_out(fed):
    assert fed("erase", "ana", "--withdrawn").faulted("still holds")
    fed("consent", "withdraw", "ana")
    assert fed("erase", "ana", "--withdrawn").code == 0
    assert on_disk() == []


def test_a_person_or_what_is_unfinished_but_not_both(fed):
    assert fed("erase").code == fed("erase", "ana", "--unfinished").code == 2
    assert on_disk()


def test_old_words_that_no_consent_covered_go_and_those_that_one_covered_stay(fed):
    from plumbline.stores import Ledger

    fed.write("events.jsonl", rewrite(3, "eve", CANARY.upper()))
    fed("feedback", "import", "events.jsonl", "--source", "app")
    assert "0 events from before" in fed("feedback", "retention", "--older-than", "30d").out
    with Ledger(Path(".plumbline/ledger.sqlite")) as ledger:
        ledger.database.execute("UPDATE inbox SET received_at = '2020-01-01T00:00:00.000000Z'")
    counted = fed("feedback", "retention", "--older-than", "4w", "--dry-run").out
    assert "1 event from before" in counted and "words would be erased\n         1  no_consent\n" in counted
    done = fed("feedback", "retention", "--older-than", "30d", "--json").json
    assert (done["events"], done["quarantined"], done["dry_run"]) == ({"no_consent": 1}, {}, False)
    assert CANARY.upper().encode() not in Path(".plumbline/ledger.sqlite").read_bytes()
    assert fed("feedback", "retention", "--older-than", "30d", "--json").json["events"] == {}


@pytest.mark.parametrize("age", ["", "30", "0d", "-1d", "1y", "999999w", "\u0663d"])
def test_a_length_of_time_that_is_none_erases_nothing(fed, age):
    assert fed("feedback", "retention", "--older-than", age).code == 2
    assert on_disk()


def test_an_erasure_that_is_killed_in_the_ledger_has_left_no_words_in_a_spool(fed, monkeypatch):
    """Nobody starts a call again for somebody who stands as erased, so what lies beside the ledger goes first."""
    erasing = sys.modules["plumbline.feedback.erase"]
    ana = fed("lineage", "subject", "ana", "--json").json["subject"]
    fed("consent", "withdraw", "ana")
    with contextlib.closing(Spool(Path("spool"), Experiment(name="e", salt="s"))) as spool:
        spool.append([record("r1", ana)])
        monkeypatch.setattr(erasing, "erase", lambda *given, **more: (_ for _ in ()).throw(KeyboardInterrupt))
        assert fed("erase", "ana", "--withdrawn", "--spool", "spool").code == 130
        assert (spool.counts().shed, spool.counts().pending) == ({"withdrawn": 1}, 0)
