"""Whatever goes wrong comes out as fact, consequence and remedy, with exit code 2, and leaves nothing behind."""

import sqlite3

import pytest

READERS = [
    ("dataset", "list"),
    ("dataset", "show", "facts"),
    ("dataset", "diff", "facts", "1", "2"),
    ("dataset", "verify", "facts"),
    ("ingest", "facts"),
    ("consent", "show", "ana"),
    ("consent", "withdraw", "ana"),
    ("consent", "give", "ana", "--notice", "n@1"),
    ("consent", "verify"),
    ("consent", "head"),
    ("lineage", "subject", "ana"),
    ("lineage", "policy", "sha256:0"),
    ("release", "history"),
    ("release", "promote", "sha256:" + "0" * 64, "--reason", "r", "--actor", "a"),
]


@pytest.mark.parametrize("command", READERS, ids=lambda words: " ".join(words[:2]))
def test_without_a_ledger_nothing_is_read_and_nothing_made(plumb, command):
    assert plumb(*command).faulted("there is no ledger at .plumbline/ledger.sqlite")
    assert list(plumb.folder.iterdir()) == []


def test_a_wrong_blobs_directory_is_named_and_not_made(plumb):
    plumb.import_messages()
    assert plumb("dataset", "show", "facts", "--blobs", "elsewhere").faulted("there are no blobs at elsewhere")
    assert not (plumb.folder / "elsewhere").exists()


def test_a_file_that_is_no_ledger_is_left_as_it_is(plumb):
    file = plumb.write("notes.txt", "these are my notes, " * 100)
    before = file.read_bytes()
    assert plumb("dataset", "list", "--ledger", file).faulted("not a ledger")
    assert file.read_bytes() == before


def test_names_and_versions_that_are_not_there_are_named(plumb):
    plumb.import_messages()
    assert plumb("dataset", "show", "fakts").faulted("fakts")
    assert plumb("dataset", "show", "facts", "9").faulted("no version 9")
    assert plumb("dataset", "diff", "facts", "1", "9").faulted("no version 9")
    assert plumb("ingest", "fakts", "--removal").faulted("fakts")
    assert plumb("lineage", "policy", "sha256:0").faulted("knows no policy")


NO_RUBRIC = {
    "broken.yaml": b"rules: [1\n b: }",
    "text.yaml": b"be nice",
    "latin.yaml": b"purpose: caf\xe9",
    "empty.yaml": b"",
    "other.yaml": b"colour: red",
    "deep.yaml": b"[" * 5000,
}


@pytest.mark.parametrize("name", NO_RUBRIC)
def test_a_rubric_that_is_none_is_refused_before_anything_is_published(plumb, name):
    plumb.import_messages()
    rubric = plumb.write(name, NO_RUBRIC[name])
    for command in (
        ("dataset", "import", "facts.jsonl", "--format", "messages", "--dataset", "d", "--licence", "MIT"),
        ("ingest", "facts"),
    ):
        assert plumb(*command, "--rubric", rubric).faulted(f"{name} is not a rubric")
    assert len(plumb("dataset", "list", "--json").json) == 1


@pytest.mark.parametrize("content", [b"null", b'{"cases": 1}', b"not json", b"\xff\xfe", b""])
def test_what_is_no_report_gets_no_verdict(plumb, content):
    report = plumb.write("report.json", content)
    assert plumb("gate", report).faulted("is not an evaluation report", "there is no verdict")
    assert plumb("gate", report, "--json").faulted()


def test_an_unforeseen_fault_never_looks_like_a_verdict(plumb, monkeypatch):
    """Python ends with 1 on an exception, and 1 is REGRESSED."""
    plumb.write("report.json", "{}")
    monkeypatch.setattr("pathlib.Path.read_text", lambda *_: 1 / 0)
    assert plumb("gate", "report.json").faulted("ZeroDivisionError", "PLUMBLINE_TRACEBACK=1")
    monkeypatch.setenv("PLUMBLINE_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        plumb("gate", "report.json")


def test_a_ledger_that_was_tampered_with_stops_whatever_rests_on_it(plumb, tiny_policy):
    plumb.write("notice.txt", "we train on what you write")
    plumb("consent", "give", "ana", "--notice", "n@1", "--notice-text", "notice.txt")
    plumb.import_messages()
    assert plumb("consent", "verify").code == 0
    database = sqlite3.connect(plumb.folder / ".plumbline" / "ledger.sqlite")
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    database.execute("UPDATE consent SET entry = replace(entry, 'training', 'service_improvement')")
    database.commit()
    database.close()
    objective = plumb.objective(tiny_policy)
    for command in (
        ("consent", "verify"),
        ("objective", "show", objective),
        ("train", objective, "--out", "policy", "--in-process"),
    ):
        assert plumb(*command).faulted("the consent ledger does not verify", "entry 1 was altered"), command
    assert not (plumb.folder / "policy").exists()
    assert plumb.import_messages("more").faulted("does not verify")
    assert "more" not in plumb("dataset", "list").out


def test_a_path_that_cannot_be_written_is_named(plumb, tiny_policy):
    plumb.import_messages()
    plumb.write("file", "")
    objective = plumb.objective(tiny_policy)
    assert plumb("train", objective, "--out", "file/policy", "--in-process").faulted("file/policy")
    assert plumb("train", objective, "--out", "p", "--job", "file", "--in-process").faulted("file")
    assert not (plumb.folder / "p").exists()
