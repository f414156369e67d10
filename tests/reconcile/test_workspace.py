"""A loop's directory is one loop's, one process's, and remembers exactly what was finished."""

from pathlib import Path

import pytest

from plumbline.errors import PlumblineError
from plumbline.reconcile.workspace import Workspace

IDENTITY = {"seed": 1, "code": "sha256:abc"}


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work() -> dict[str, int]:
        done.append("train")
        return {"steps": 3}

    for _ in range(2):
        with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
            line = workspace.stage("train", {"objective": "a"}, work)
            assert line.result == {"steps": 3}
    assert done == ["train"] and line.resumed


def test_a_stage_with_other_inputs_is_done_again(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        assert workspace.stage("train", {"objective": "a"}, lambda: 1).result == 1
        assert workspace.stage("train", {"objective": "b"}, lambda: 2).result == 2


def test_a_torn_journal_line_is_a_stage_that_was_not_finished(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        workspace.stage("one", {}, lambda: 1)
        workspace.stage("two", {}, lambda: 2)
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        assert set(workspace.lines) == {"one"}
        assert workspace.stage("two", {}, lambda: 3).result == 3
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        assert workspace.lines["two"].result == 3


def test_a_stage_that_fails_is_not_recorded(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        with pytest.raises(ZeroDivisionError):
            workspace.stage("train", {}, lambda: 1 // 0)
        assert workspace.lines == {}


def test_another_runs_directory_is_refused_and_untouched(tmp_path: Path) -> None:
    with Workspace.open(tmp_path / "out", IDENTITY) as workspace:
        workspace.stage("one", {}, lambda: 1)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with (
        pytest.raises(PlumblineError, match="it differs in seed: 1 there, 2 here"),
        Workspace.open(tmp_path / "out", {**IDENTITY, "seed": 2}),
    ):
        pass
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(PlumblineError, match="is not empty and holds no loop"), Workspace.open(tmp_path, IDENTITY):
        pass


def test_two_loops_cannot_share_a_directory(tmp_path: Path) -> None:
    with (
        Workspace.open(tmp_path / "out", IDENTITY),
        pytest.raises(PlumblineError, match="another loop is running"),
        Workspace.open(tmp_path / "out", IDENTITY),
    ):
        pass


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlumblineError, match="cannot be written to"), Workspace.open(tmp_path / "file" / "out", {}):
        pass
