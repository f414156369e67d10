"""Migrations and checks of an installation: killed half-way and run again, on both databases."""

import signal
import subprocess
import sys

import pytest
from backends import Backend

from plumbline.errors import PlumblineError
from plumbline.stores import Ledger
from plumbline.stores.blobs import LocalBlobs
from plumbline.stores.upkeep import (
    SchemaAhead,
    SchemaBehind,
    check_blobs,
    check_ledger,
    migrate,
    newest_schema,
    patiently,
)

# A migration that stops for ever after the first half of what the newest script does.
HALF = """
import sys, signal
from plumbline.stores import database, postgresql, sqlite, upkeep
scripts, done = database.migrations(), 0
database.migrations = lambda: scripts
def half(define):
    def one(self, statement):
        global done
        define(self, statement)
        done += 1
        if done == int(sys.argv[2]):
            print("half", flush=True)
            signal.pause()
    return one
for kind in (sqlite.SQLiteDatabase, postgresql.PostgreSQLDatabase):
    kind._define = half(kind._define)
place = sys.argv[1]
from pathlib import Path
upkeep.migrate(place if "://" in place else Path(place))
"""


@pytest.mark.slow
def test_a_migration_killed_half_way_and_run_again_ends_as_one_that_was_not(backend: Backend) -> None:
    for statement in (1, 7, 20):
        command = [sys.executable, "-c", HALF, str(backend.ledger), str(statement)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "half\n"
            process.send_signal(signal.SIGKILL)
        with pytest.raises(SchemaBehind, match="is not made yet"):
            check_ledger(backend.ledger)
    first = migrate(backend.ledger)
    assert (first.before, first.after) == (0, newest_schema())
    schema = backend.outsider().schema()
    again = migrate(backend.ledger)
    assert (again.before, again.after) == (newest_schema(), newest_schema())
    assert backend.outsider().schema() == schema, "a second run changes nothing"
    assert check_ledger(backend.ledger) == newest_schema()


def test_a_ledger_that_is_behind_or_ahead_is_named_and_left_alone(backend: Backend) -> None:
    Ledger(backend.ledger).close()
    outside = backend.outsider()
    for version, error in ((newest_schema() - 1, SchemaBehind), (newest_schema() + 1, SchemaAhead)):
        outside.set_schema_version(version)
        before = outside.schema()
        with pytest.raises(error, match=str(version)):
            check_ledger(backend.ledger)
        assert outside.schema() == before
    with pytest.raises(PlumblineError, match="newer"):
        migrate(backend.ledger)


def test_looking_for_a_ledger_makes_none(tmp_path) -> None:
    with pytest.raises(SchemaBehind, match="not made yet"):
        check_ledger(tmp_path / "none" / "ledger.sqlite")
    assert not (tmp_path / "none").exists()


def test_blobs_are_tried_and_left_as_they_were(backend: Backend, monkeypatch) -> None:
    assert check_blobs(backend.blobs) == str(backend.blobs)
    assert not any(b"plumb stores check" in data for data in backend.stored_blobs().values())
    monkeypatch.setattr(LocalBlobs, "delete", lambda self, address: False)
    if backend.name.startswith("sqlite"):
        with pytest.raises(PlumblineError, match="still holds what was erased"):
            check_blobs(backend.blobs)


def test_waiting_ends_with_success_or_at_once_where_waiting_is_vain() -> None:
    said: list[str] = []
    faults = [SchemaBehind("not yet", consequence="c", remedy="r")] * 2

    def attempt() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert patiently(attempt, 60, say=said.append) == "done"
    assert said == ["waiting: not yet"], "a reason is said once"
    faults = [SchemaAhead("ahead", consequence="c", remedy="r")]
    with pytest.raises(SchemaAhead):
        patiently(attempt, 60, say=said.append)
    faults = [SchemaBehind("never", consequence="c", remedy="r")]
    with pytest.raises(SchemaBehind):
        patiently(attempt, 0, say=said.append)
