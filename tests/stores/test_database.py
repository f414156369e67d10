"""What every room may rely on in the ledger database, whichever it is: the same tests on both."""

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from backends import Backend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import plumbline.stores.postgresql
import plumbline.stores.sqlite
from plumbline.errors import PlumblineError
from plumbline.stores import Ledger
from plumbline.stores.database import ConstraintViolation, Database, LedgerUnavailable

ERASURE = {"consent_sequence": 1, "payloads": 0, "events": 0, "completed_at": "2026"}
POLICY = "INSERT INTO policy (policy, name, role, manifest, recorded_at) VALUES (?, ?, ?, ?, ?)"


@pytest.fixture
def database(ledger: Ledger) -> Database:
    return ledger.database


def erased(database: Database) -> list[str]:
    return [row["subject"] for row in database.rows("SELECT subject FROM erasure ORDER BY sequence")]


class Stop(Exception):
    pass


# --- transactions -------------------------------------------------------------------------------------------------


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with pytest.raises(Stop), database.transaction():
        database.insert("erasure", subject="s-1", **ERASURE)
        raise Stop
    assert erased(database) == []
    with database.transaction():
        database.insert("erasure", subject="s-2", **ERASURE)
        database.insert("erasure", subject="s-3", **ERASURE)
    assert erased(database) == ["s-2", "s-3"]


def test_a_transaction_inside_another_is_part_of_it(database: Database) -> None:
    with pytest.raises(Stop), database.transaction():
        with database.transaction():
            database.insert("erasure", subject="s-1", **ERASURE)
        raise Stop
    assert erased(database) == []


def test_a_transaction_sees_its_own_writes_and_nobody_else_does_before_the_commit(backend: Backend) -> None:
    with Ledger(backend.ledger) as one, Ledger(backend.ledger) as other:
        with one.database.transaction():
            one.database.insert("erasure", subject="s-1", **ERASURE)
            assert erased(one.database) == ["s-1"]
            assert erased(other.database) == []
        assert erased(other.database) == ["s-1"]


def test_writers_are_serial_so_what_was_read_still_holds_at_the_commit(backend: Backend) -> None:
    """Threads and processes read a number and write it back one higher: none of the steps is lost."""
    program = (
        "import sys; from plumbline.stores import Ledger\n"
        "database = Ledger(sys.argv[1]).database\n"
        "for _ in range(int(sys.argv[2])):\n"
        "    with database.transaction():\n"
        "        token = database.value('SELECT token FROM lease')\n"
        "        database.execute('UPDATE lease SET token = ?', (token + 1,))\n"
    )
    with Ledger(backend.ledger) as ledger:
        ledger.database.insert("lease", name="line", holder="nobody", token=0, expires_at="")
        others = [subprocess.Popen([sys.executable, "-c", program, str(backend.ledger), "40"]) for _ in range(2)]

        def count() -> None:
            for _ in range(20):
                with ledger.database.transaction():
                    token = ledger.database.value("SELECT token FROM lease")
                    ledger.database.execute("UPDATE lease SET token = ?", (token + 1,))

        threads = [threading.Thread(target=count) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [other.wait(60) for other in others] == [0, 0]
        assert ledger.database.value("SELECT token FROM lease") == 2 * 40 + 3 * 20


def test_a_writer_that_waits_too_long_is_told_so(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plumbline.stores.sqlite, plumbline.stores.postgresql):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    with Ledger(backend.ledger) as one, Ledger(backend.ledger) as other:
        with one.database.transaction():
            with pytest.raises(LedgerUnavailable, match="locked by another process"):
                other.database.insert("erasure", subject="s-1", **ERASURE)
            assert erased(other.database) == [], "readers do not wait"
        other.database.insert("erasure", subject="s-2", **ERASURE)
        assert erased(one.database) == ["s-2"]


# --- rows ---------------------------------------------------------------------------------------------------------


def test_a_row_is_read_by_name_by_place_and_as_a_mapping(database: Database) -> None:
    database.insert("subject_key", subject="s-1", key=b"\0\xff")
    row = database.row("SELECT subject, key FROM subject_key")
    assert row is not None
    assert (row["subject"], row[1], len(row)) == ("s-1", b"\0\xff", 2)
    assert dict(row) == {"subject": "s-1", "key": b"\0\xff"}
    subject, key = row
    assert (subject, key) == ("s-1", b"\0\xff")
    assert database.row("SELECT 1 FROM subject_key WHERE subject = 'nobody'") is None
    assert database.value("SELECT 1 FROM subject_key WHERE subject = 'nobody'") is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
            st.integers(-(2**63), 2**63 - 1) | st.none(),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9) | st.none(),
        ),
        max_size=9,
        unique_by=lambda row: row[0],
    )
)
def test_what_is_written_is_read_and_text_is_in_the_order_of_its_code_points(
    database: Database, rows: list[tuple[str, int | None, str | None]]
) -> None:
    with pytest.raises(Stop), database.transaction():
        sql = "INSERT INTO inbox (source, id, type, subject, original, body, consent_sequence, received_at)"
        database.insert_many(f"{sql} VALUES (?, ?, 't', ?, ?, ?, 0, '')", [("web", i, "s", n, b) for i, n, b in rows])
        found = database.rows("SELECT id, original, body FROM inbox ORDER BY id")
        assert [tuple(row) for row in found] == sorted(rows, key=lambda row: row[0].encode())
        assert database.value("SELECT MAX(id) FROM inbox") == max((row[0] for row in rows), default=None)
        raise Stop


def test_sums_are_integers_averages_floats_and_truth_is_one(database: Database) -> None:
    for sequence in (1, 2):
        database.insert("erasure", subject="s-1", **{**ERASURE, "payloads": sequence})
    row = database.row("SELECT SUM(payloads), AVG(payloads), COUNT(*), MAX(payloads) > 1 FROM erasure")
    assert row is not None and list(row) == [3, 1.5, 2, True]
    assert [type(value) for value in row][:3] == [int, float, int]
    assert database.value("SELECT COUNT(*) FROM erasure WHERE payloads = ?", (True,)) == 1


def test_a_question_mark_in_quotes_is_no_placeholder(database: Database) -> None:
    found = database.row("SELECT 'why?' AS a, 'it''s ?' AS b WHERE '?' = ? -- really?", ("?",))
    assert found is not None and dict(found) == {"a": "why?", "b": "it's ?"}


def test_percent_signs_are_only_text(database: Database) -> None:
    database.insert("subject_key", subject="100%s", key=b"%")
    assert database.value("SELECT subject FROM subject_key WHERE subject LIKE '100%'") == "100%s"


def test_inserted_rows_get_ascending_numbers(database: Database) -> None:
    numbers = [database.insert("erasure", subject="s-1", **ERASURE) for _ in range(3)]
    assert numbers == sorted(set(numbers)) and numbers[0] >= 1
    assert [row[0] for row in database.rows("SELECT sequence FROM erasure ORDER BY sequence")] == numbers


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 1234])
def test_many_rows_go_in_as_if_one_by_one(database: Database, count: int) -> None:
    choose = random.Random(count)
    rows = [(f"p-{n}", "name", choose.choice(["aligned", "base"]), "{}", str(n)) for n in range(count)]
    database.insert_many(POLICY, rows)
    found = database.rows("SELECT policy, name, role, manifest, recorded_at FROM policy")
    assert sorted(tuple(row) for row in found) == sorted(rows)


def test_many_rows_may_hold_null_in_some_and_a_number_in_others(database: Database) -> None:
    sql = "INSERT INTO inbox VALUES (?, 'web', ?, 't', 's', NULL, 0, '', ?, ?)"
    rows = [(n, f"e-{n}", None if n % 3 else "body", n if n % 7 else None) for n in range(1, 1000)]
    database.insert_many(sql, rows)
    assert [tuple(row) for row in database.rows("SELECT sequence, id, body, original FROM inbox ORDER BY 1")] == rows


def test_many_rows_that_are_there_already_are_left_or_replaced_as_the_statement_says(database: Database) -> None:
    keep = "INSERT INTO subject_key (subject, key) VALUES (?, ?) ON CONFLICT DO NOTHING"
    replace = (
        "INSERT INTO subject_key (subject, key) VALUES (?, ?) ON CONFLICT (subject) DO UPDATE SET key = excluded.key"
    )
    database.insert_many(keep, [(f"s-{n % 300}", bytes([n // 300])) for n in range(900)])
    assert {bytes(row[0]) for row in database.rows("SELECT key FROM subject_key")} == {b"\0"}
    database.insert_many(replace, [(f"s-{n % 300}", bytes([n // 300])) for n in range(900)])
    assert [tuple(row) for row in database.rows("SELECT key, COUNT(*) FROM subject_key GROUP BY key")] == [(b"\2", 300)]


def test_many_rows_of_which_one_is_refused_leave_none(database: Database) -> None:
    rows = [(f"p-{n % 1000}", "name", "base", "{}", "now") for n in range(1001)]
    with pytest.raises(ConstraintViolation):
        database.insert_many(POLICY, rows)
    assert database.value("SELECT COUNT(*) FROM policy") == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 500, 501, 1700])
def test_rows_are_found_for_any_number_of_values(database: Database, count: int) -> None:
    rows = [(f"p-{n}", "name", "base" if n % 2 else "aligned", "{}", "now") for n in range(2000)]
    database.insert_many(POLICY, rows)
    wanted = [f"p-{n}" for n in range(count)]
    found = database.rows_in("SELECT policy FROM policy WHERE policy IN ({marks})", [*wanted, *wanted, "p-none"])
    assert sorted(row["policy"] for row in found) == sorted(wanted)
    sql = "SELECT policy FROM policy WHERE role = ? AND policy IN ({marks})"
    odd = database.rows_in(sql, wanted, before=("base",), chunk=7)
    assert sorted(row["policy"] for row in odd) == sorted(wanted[1::2])


def test_a_statement_says_how_many_rows_it_changed(database: Database) -> None:
    database.insert_many(POLICY, [(f"p-{n}", "name", "base", "{}", "now") for n in range(5)])
    assert database.execute("UPDATE policy SET name = ? WHERE policy != ?", ("other", "p-0")) == 4
    assert database.execute("DELETE FROM policy WHERE name = 'other'") == 4
    assert database.execute("INSERT INTO policy SELECT * FROM policy WHERE 1 = 1 ON CONFLICT DO NOTHING") == 0


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_refusal_is_an_error_with_a_remedy_and_undoes_the_transaction(desk: Any) -> None:
    desk.give("s-ana")
    database = desk.ledger.database
    with pytest.raises(ConstraintViolation, match="append-only"), database.transaction():
        database.insert("erasure", subject="s-1", **ERASURE)
        database.execute("DELETE FROM consent")
    assert erased(database) == [] and desk.ledger.consent.head().sequence == 1
    with pytest.raises(ConstraintViolation):
        database.insert("consent", sequence=1, subject="s-eve", digest="d", entry="e")
    with pytest.raises(ConstraintViolation):
        database.insert("policy_dataset", policy="unknown", dataset_digest="d", use="dataset")
    with pytest.raises(PlumblineError):
        database.rows("SELECT * FROM no_such_table")


def test_a_schema_from_before_the_release_is_left_alone(desk: Any) -> None:
    raw = desk.raw()
    raw.set_schema_version(7)
    before = raw.schema()
    with pytest.raises(PlumblineError, match="before the first release"):
        Ledger(desk.path)
    assert raw.schema() == before


# --- SQLite alone -------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_ledger_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, not a database, and long enough to be read as a header " * 3)
    before = path.read_bytes()
    with pytest.raises(PlumblineError, match="damaged or not a ledger"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_ledger_in_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerUnavailable, match="cannot be opened"):
        Ledger(tmp_path / "file" / "ledger.sqlite")


def test_in_sqlite_commits_are_durable_and_freed_pages_are_overwritten(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.database.value("PRAGMA journal_mode") == "wal"
        assert ledger.database.value("PRAGMA synchronous") == 2
        assert ledger.database.value("PRAGMA secure_delete") == 1
        assert ledger.database.value("PRAGMA foreign_keys") == 1
        assert ledger.database.remains() == ()


def test_in_sqlite_a_reader_that_holds_the_log_is_named(tmp_path: Path) -> None:
    backend = Backend("sqlite+local", tmp_path / "ledger.sqlite", tmp_path / "blobs")
    with Ledger(backend.ledger) as ledger:
        reader = backend.outsider()
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM erasure").fetchone()
        ledger.database.insert("erasure", subject="s-1", **ERASURE)
        ledger.database.execute("PRAGMA busy_timeout = 100")
        with pytest.raises(LedgerUnavailable, match="could not be emptied"):
            ledger.database.truncate_log()
        reader.execute("COMMIT")
        ledger.database.truncate_log()
