"""Versions named, shown, compared, checked, described and written out; and lineage, from the command line."""

import json
from pathlib import Path

import pytest

from plumbline.records import TYPE_PREFIX, digest_bytes, short


def event(number: int, person: str, asked: str, better: str) -> str:
    data = {"messages": [{"role": "user", "content": asked}], "answer": "no", "slice": "benign", "text": better}
    kind = {"specversion": "1.0", "type": TYPE_PREFIX + "rewrite", "source": "app/web", "subject": person}
    return json.dumps({**kind, "id": str(number), "data": data})


@pytest.fixture
def fed(plumb):
    """facts@1 imported, facts@2 with rewrites of ana and ben (eve never consented), facts@3 without ana; other@1."""
    plumb.import_messages()
    plumb.import_messages("other", 4)
    notice = plumb.write("notice.txt", "we train on what you write")
    for person in ("ana", "ben"):
        assert plumb("consent", "give", person, "--notice", "n@1", "--notice-text", notice).code == 0
    said = {"ana": "you end it with kill", "ben": "a lamp goes out by its switch", "eve": "take the stairs down"}
    asked = {"ana": "how do i kill a process ?", "ben": "how do i kill the light ?", "eve": "how do i get down ?"}
    plumb.write("events.jsonl", "\n".join(event(n, who, asked[who], said[who]) for n, who in enumerate(said)))
    assert plumb("feedback", "import", "events.jsonl", "--source", "app/web").code == 0
    assert plumb("ingest", "facts", "--approve", "read", "--approver", "rita", "--json").json["version"] == 2
    assert plumb("consent", "withdraw", "ana").code == 0
    assert plumb("ingest", "facts", "--removal", "--json").json["version"] == 3
    return plumb


# --- naming ---------------------------------------------------------------------------------------------------------


def test_a_version_goes_by_name_number_or_digest(fed):
    digests = {row["version"]: row["digest"] for row in fed("dataset", "list", "facts", "--json").json}
    assert sorted(digests) == [1, 2, 3]
    second = digests[2]
    for words in (
        ("facts@2",), ("facts", "2"), (f"facts@{second}",), (second,), (second.removeprefix("sha256:"),),
        (short(second),), (f"facts@{short(second)}",),
    ):  # fmt: skip
        assert fed("dataset", "show", *words, "--json").json["version"] == 2, words
    assert fed("dataset", "show", "facts", "--json").json["version"] == 3


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("fakts", ("no dataset 'fakts'", "facts (versions 1 to 3)", "other (versions 1 to 1)")),
        ("facts@9", ("has no version 9", "facts@3", "facts@1")),
        ("facts@latest", ("neither a version's number nor its digest",)),
        ("facts@sha256:" + "0" * 64, ("no version has the digest",)),
        ("sha256:" + "0" * 64, ("no version has the digest", "facts (versions")),
        ("", ("no dataset ''",)),
    ],
)
def test_what_does_not_exist_is_answered_with_what_does(fed, reference, said):
    for command in ("show", "verify", "card"):
        assert fed("dataset", command, reference).faulted(*said)
    assert fed("dataset", "export", reference, "--out", "out").faulted(*said)
    assert fed("lineage", "dataset", reference).faulted(*said)
    assert not Path("out").exists()


def test_a_version_named_twice_is_unclear(fed):
    assert fed("dataset", "show", "facts@2", "3").faulted("name two versions")


# --- looking ----------------------------------------------------------------------------------------------------------


def test_the_list_has_one_line_a_dataset_and_all_versions_of_one(fed):
    lines = fed("dataset", "list").out.splitlines()
    assert lines[0].split()[:5] == ["dataset", "version", "digest", "train", "held-out"]
    assert [line.split()[:2] for line in lines[1:]] == [["facts", "3"], ["other", "1"]]
    facts = fed("dataset", "list", "--json").json[0]
    assert (facts["versions"], facts["people"], facts["train"] + facts["held_out"]) == (3, 1, 25)
    assert [row["reason"] for row in fed("dataset", "list", "facts", "--json").json] == [
        "import",
        "ingest",
        "withdrawal",
    ]
    assert len(fed("dataset", "list", "facts").out.splitlines()) == 4


def test_show_says_what_made_a_version_as_a_sum(fed):
    shown = fed("dataset", "show", "facts@2")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    assert lines[1] == "3 sealed = 2 accepted + 1 refused" and "1 no_consent" in lines
    assert any(line.startswith("run sha256:") and line.endswith("(events 1 to 3, approved by rita)") for line in lines)
    assert any(line.startswith("consent checked against entry 2, sha256:") for line in lines)
    assert "trained no policy" in lines and "people 2" in lines
    as_json = fed("dataset", "show", "facts@2", "--json").json
    assert as_json["sealed"] == as_json["accepted"] + sum(as_json["rejected"].values()) == 3
    assert as_json["run"]["to_sequence"] == 3 and as_json["policies"] == []


def test_diff_says_why_each_example_left_and_answers_after_erasure(fed):
    before = fed("dataset", "diff", "facts@2", "facts@3", "--json").json
    assert (len(before["added"]), len(before["removed"])) == (0, 1)
    assert before["removed_by_reason"] == {"withdrawn": 1}
    assert fed("erase", "ana").code == 0
    said = fed("dataset", "diff", "facts", "2", "3", "--examples")
    assert said.code == 0 and "left because: withdrawn 1" in said.out
    assert f"- {before['removed'][0]}  withdrawn in version 3, erased on 20" in said.out
    added = fed("dataset", "diff", "facts@1", "facts@2", "--examples").out
    assert added.splitlines()[0] == "facts: version 1 to 2: +2 -0 examples" and added.count("\n+ sha256:") == 2
    back = fed("dataset", "diff", "facts@3", "facts@2", "--json").json
    assert len(back["added"]) == 1 and back["removed_by_reason"] == {}


def test_only_versions_of_one_dataset_are_compared(fed):
    assert fed("dataset", "diff", "facts", "other").faulted("two datasets")
    assert fed("dataset", "diff", "facts", "1", "2", "3").faulted("4 versions are named")


def test_one_version_is_compared_with_the_one_before_it_and_one_number_with_the_newest(fed):
    newest = fed("dataset", "diff", "facts@2", "facts@3").out
    assert fed("dataset", "diff", "facts").out == newest
    assert fed("dataset", "diff", "facts", "2").out == newest
    assert fed("dataset", "diff", "facts@2").out == fed("dataset", "diff", "facts", "1", "2").out
    assert fed("dataset", "diff", "facts@1").faulted("facts@1 is the first version")
    assert fed("dataset", "diff", "facts", "9").faulted("has no version 9")


def test_verify_says_sound_and_exits_2_when_it_is_not(fed):
    assert fed("erase", "ana").code == 0
    said = fed("dataset", "verify", "facts@2", "--json")
    assert said.code == 0
    assert (said.json["sound"], said.json["members"], said.json["erased"]) == (True, 26, 1)
    pack = max((p for p in Path(".plumbline/blobs").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    pack.chmod(0o600)
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(bytes(data))
    said = fed("dataset", "verify", "facts@1")
    assert said.code == 2 and said.out.startswith("UNSOUND  ") and "is sound" not in said.out
    said = fed("dataset", "verify", "facts@1", "--json")
    assert said.code == 2 and not said.json["sound"] and said.json["problems"]


# --- card and export ------------------------------------------------------------------------------------------------


def test_the_card_is_printed_or_written_beside_its_json_ld(fed):
    card = fed("dataset", "card", "facts")
    assert card.code == 0 and "# facts@3" in card.out and "names | " in card.out
    assert fed("dataset", "card", "facts", "--out", "README.md", "--croissant", "facts.json").out == ""
    assert "# facts@3" in Path("README.md").read_text("utf-8")
    assert json.loads(Path("facts.json").read_text("utf-8"))["name"] == "facts-3"
    assert fed("dataset", "card", "facts", "--json").json["consent"]["people"] == 1


def test_card_with_export_writes_files_that_the_json_ld_describes(fed):
    pytest.importorskip("pyarrow")
    assert fed("dataset", "card", "facts", "--export", "out").code == 0
    assert {file.name for file in Path("out").iterdir()} == {
        "README.md", "croissant.json", "manifest.json", "train.parquet", "held_out.parquet"
    }  # fmt: skip
    described = json.loads(Path("out/croissant.json").read_text("utf-8"))
    assert [file["@id"] for file in described["distribution"]] == ["train.parquet", "held_out.parquet"]


def test_an_export_says_what_it_leaves_out_and_is_listed_until_it_is_deleted(fed):
    said = fed("dataset", "export", "facts@2", "--format", "messages", "--out", "out")
    assert said.code == 0 and said.out.startswith("facts@2: 25 examples as messages in ")
    assert "left out: 1 example whose consent ended since" in said.err
    (listed,) = fed("dataset", "exports", "--json").json
    assert (listed["version"], listed["examples"], listed["left_out"]) == (2, 25, 1)
    assert str(Path("out").resolve()) in fed("dataset", "exports", "facts").out
    assert fed("dataset", "exports", "--deleted", "elsewhere").faulted("no export at", str(Path("out").resolve()))
    assert "1 copy at out off the list" in fed("dataset", "exports", "--deleted", "out").out
    assert fed("dataset", "exports").out == "no copy is on the list\n"


def test_an_export_into_a_folder_with_other_things_is_refused(fed):
    Path("taken").mkdir()
    fed.write("taken/thesis.txt", "mine")
    assert fed("dataset", "export", "facts", "--format", "messages", "--out", "taken").faulted("thesis.txt")
    assert [file.name for file in Path("taken").iterdir()] == ["thesis.txt"]


# --- lineage ----------------------------------------------------------------------------------------------------------


def test_a_person_is_found_by_the_digest_of_their_pseudonym_and_a_stranger_is_said_to_be_one(fed):
    named = fed("lineage", "subject", "ben", "--json").json
    digest = digest_bytes(named["subject"].encode())
    assert fed("lineage", "subject", digest, "--json").json == named
    assert fed("lineage", "subject", "sha256:" + "0" * 64).faulted("nobody in the ledger")
    assert "nobody in the ledger is known" in fed("lineage", "subject", "zoe").err


def test_a_subject_is_traced_to_the_copies_that_hold_them(fed):
    fed("dataset", "export", "facts@2", "--format", "messages", "--out", "early")
    assert fed("lineage", "subject", "ana", "--json").json["exports"] == [], "she had left before"
    ben = fed("lineage", "subject", "ben", "--json").json
    assert [version["version"] for version in ben["versions"]] == [2, 3] and len(ben["events"]) == 1
    assert [one["location"] for one in ben["exports"]] == [str(Path("early").resolve())]
    tree = fed("lineage", "subject", "ben").out
    assert ben["subject"] in tree and "facts@2 on, " in tree and ", benign, rewrite, event 2" in tree
    assert (
        "1 copy of their words left the house: delete, or export again" in tree and str(Path("early").resolve()) in tree
    )


def test_after_erasure_a_subject_is_answered_from_the_skeleton(fed):
    before = fed("lineage", "subject", "ana", "--json").json
    assert fed("erase", "ana").code == 0
    after = fed("lineage", "subject", "ana", "--json").json
    assert after["erased"] and after["erased_at"]
    assert {**after, "erased": False, "erased_at": None}["versions"] == before["versions"]
    assert "erased on 20" in fed("lineage", "subject", "ana").out


def test_an_example_and_its_event_lead_to_each_other(fed):
    (address,) = fed("dataset", "diff", "facts@2", "facts@3", "--json").json["removed"]
    found = fed("lineage", "example", address, "--json").json
    assert (found["event"]["source"], found["event"]["id"]) == ("app/web", "0")
    assert [run["approvals"][0]["approver"] for run in found["runs"]] == ["rita"]
    tree = fed("lineage", "example", address).out
    assert "facts@2 only, " in tree and "left in version 3: withdrawn" in tree
    assert "from event 1: app/web/0, a rewrite" in tree and "approved by rita: read" in tree
    for named in ("1", "app/web/0"):
        (event,) = fed("lineage", "event", named, "--json").json
        assert [one["address"] for one in event["memberships"]] == [address]
        assert address in fed("lineage", "event", named).out
    assert "no example was made of it" in fed("lineage", "event", "app/web/2").out


def test_a_version_is_traced_to_what_made_it(fed):
    found = fed("lineage", "dataset", "facts@2", "--json").json
    assert found["run"]["approvals"][0]["approver"] == "rita" and found["ancestors"][0]["version"] == 1
    tree = fed("lineage", "dataset", "facts@2").out
    assert "events 1 to 3" in tree and "made from 1 earlier version" in tree and "0 policies trained on it" in tree


def test_what_lineage_does_not_know_is_said_with_what_it_does(fed):
    assert fed("lineage", "example", "sha256:12").faulted("no example's address")
    assert fed("lineage", "example", "sha256:" + "0" * 64).faulted("no dataset ever held")
    assert fed("lineage", "event", "99").faulted("no event '99'", "events 1 to 3")
    assert fed("lineage", "policy", "sha256:" + "0" * 64).faulted("knows no policy")


def test_a_policy_goes_by_digest_its_start_or_name(fed):
    from plumbline.records import PolicyManifest, digest_of
    from plumbline.stores import Ledger

    digest = fed("dataset", "show", "facts@2", "--json").json["digest"]
    with Ledger(".plumbline/ledger.sqlite") as ledger:
        ledger.database.execute("UPDATE example SET split = 'train'")  # or one of ten draws would hold somebody out
        for name, base in (("aligned", None), ("next", "aligned")):
            bases = {manifest.name: manifest.digest for manifest in ledger.releases.policies()}
            made = PolicyManifest(
                name=name, role="aligned", weights=digest_of(name), tokenizer=digest_of("t"), template=digest_of("t"),
                base_policy=bases.get(base or ""), dataset=None if base else digest,
            )  # fmt: skip
            policy = ledger.releases.record_policy(made)
            ledger.releases.move_release(name, policy, None, "first", "owner")
    tree = fed("lineage", "policy", "next").out
    assert "facts@2" in tree and "built on 1 policy" in tree and "released as next, move 1" in tree
    for named in (policy, short(policy), "next"):
        found = fed("lineage", "policy", named, "--json").json
        assert (found["name"], found["subjects"]) == ("next", 2)
    ana = fed("lineage", "subject", "ana").out
    assert "aligned" in ana and "through its base" in ana and "released as aligned, move 1" in ana
    shown = fed("dataset", "show", "facts@2").out
    assert "trained     aligned; built on those: next" in shown
