"""PostgreSQL keeps the promises that SQLite gives for nothing: one schema, durable commits, serial writers, erasure."""

import contextlib
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
from backends import Backend, Outsider, PostgreSQLServer, postgresql

import plumbline.stores.postgresql
from plumbline.errors import PlumblineError
from plumbline.stores import Ledger
from plumbline.stores.database import LedgerUnavailable
from plumbline.stores.postgresql import PostgreSQLDatabase

ERASURE = {"consent_sequence": 1, "payloads": 0, "events": 0, "completed_at": "2026"}


@pytest.fixture
def url() -> Iterator[str]:
    made = postgresql().schema()
    yield made
    postgresql().drop(made)


@pytest.fixture
def own_server() -> Iterator[PostgreSQLServer]:
    """A server that a test may stop."""
    postgresql()  # or skip
    server = PostgreSQLServer()
    yield server
    server.remove()


def outsider(url: str) -> Outsider:
    return Backend("postgresql+s3", url, "").outsider()


def erased(ledger: Ledger) -> list[str]:
    return [row[0] for row in ledger.database.rows("SELECT subject FROM erasure ORDER BY sequence")]


# --- one schema for both --------------------------------------------------------------------------------------------


def test_both_databases_have_the_same_tables_columns_and_keys(url: str, tmp_path) -> None:
    """Read back from the databases themselves, not from the translation."""
    with Ledger(tmp_path / "ledger.sqlite") as one, Ledger(url) as other:
        types = {"INTEGER": "bigint", "TEXT": "text", "BLOB": "bytea", "REAL": "double precision"}
        mine = {
            (table[0], column["name"], types[column["type"]], bool(column["notnull"] or column["pk"]), column["pk"] > 0)
            for table in one.database.rows(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
            for column in one.database.rows(f"PRAGMA table_info({table[0]})")
        }
        theirs = {
            (row[0], row[1], row[2], row[3] == "NO", bool(row[4]))
            for row in other.database.rows(
                "SELECT table_name, column_name, data_type, is_nullable, EXISTS (SELECT 1 FROM pg_index i"
                "   JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
                "   WHERE i.indrelid = table_name::regclass AND i.indisprimary AND a.attname = column_name)"
                " FROM information_schema.columns"
                " WHERE table_schema = current_schema() AND table_name != 'plumbline_schema'"
            )
        }
        assert theirs == mine and len(mine) > 100
        indexes = "SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        made = {
            row[0]
            for row in other.database.rows("SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()")
        }
        assert {row[0] for row in one.database.rows(indexes)} <= made
        triggers = {row[0] for row in one.database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
        assert triggers <= outsider(url).triggers().keys()
        collations = "SELECT DISTINCT collation_name FROM information_schema.columns WHERE data_type = 'text'"
        found = other.database.rows(f"{collations} AND table_schema = current_schema()")
        assert [row[0] for row in found] == ["C"]


# --- ledgers, one beside the other --------------------------------------------------------------------------------


def test_two_schemas_are_two_ledgers_that_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbline.stores.postgresql, "PATIENCE_SECONDS", 0.2)
    server = postgresql()
    with Ledger(server.schema()) as one, Ledger(server.schema()) as other:
        with one.database.transaction():
            one.database.insert("erasure", subject="s-1", **ERASURE)
            other.database.insert("erasure", subject="s-2", **ERASURE)
        assert (erased(one), erased(other)) == (["s-1"], ["s-2"])


def test_a_search_path_without_a_schema_is_refused() -> None:
    with pytest.raises(PlumblineError, match="none of the schemas"):
        Ledger(postgresql().url("nowhere"))


def test_history_cannot_be_truncated_either(url: str) -> None:
    with Ledger(url):
        raw = outsider(url)
        for table in ("consent", "publication", "release", "decision", "lease"):
            with pytest.raises(psycopg.errors.IntegrityError):
                raw.execute(f"TRUNCATE {table} CASCADE")


# --- commits ------------------------------------------------------------------------------------------------------


def test_a_transaction_in_which_a_statement_failed_unseen_is_not_called_committed(url: str) -> None:
    with Ledger(url) as ledger:
        with pytest.raises(PlumblineError, match="did not commit"), ledger.database.transaction():
            ledger.database.insert("erasure", subject="s-1", **ERASURE)
            with pytest.raises(PlumblineError):
                ledger.database.execute("DELETE FROM no_such_table")
        assert erased(ledger) == []


def test_a_paused_writer_loses_its_transaction_and_not_everybody_theirs(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plumbline.stores.postgresql, "_IDLE_SECONDS", 1)
    with Ledger(url) as paused, Ledger(url) as other:
        with pytest.raises(LedgerUnavailable, match="lost|left waiting"), paused.database.transaction():
            paused.database.insert("erasure", subject="s-paused", **ERASURE)
            other.database.insert("erasure", subject="s-other", **ERASURE)  # waits until the pause is too long
            paused.database.insert("erasure", subject="s-awake", **ERASURE)
        assert erased(paused) == ["s-other"]


def test_a_commit_is_there_after_the_server_crashed(own_server: PostgreSQLServer) -> None:
    url = own_server.schema()
    with Ledger(url) as ledger:
        ledger.database.insert("erasure", subject="s-1", **ERASURE)
        own_server.stop(signal.SIGQUIT)
        own_server.start()
        assert erased(ledger) == ["s-1"]


def test_a_server_that_does_not_fsync_is_not_trusted() -> None:
    postgresql()
    server = PostgreSQLServer(fsync="off")
    try:
        with pytest.raises(PlumblineError, match="fsync"):
            Ledger(server.schema())
    finally:
        server.remove()


def test_commits_wait_for_the_disk_even_where_the_server_would_not(url: str) -> None:
    with Ledger(f"{url}%20-csynchronous_commit%3Doff") as ledger:
        assert ledger.database.value("SHOW synchronous_commit") == "on"


# --- connections --------------------------------------------------------------------------------------------------


def end_sessions(url: str) -> None:
    outsider(url).execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'plumbline'")


def test_a_connection_that_was_lost_between_uses_is_made_anew(url: str) -> None:
    with Ledger(url) as ledger:
        for subject in ("s-1", "s-2"):
            end_sessions(url)
            ledger.database.insert("erasure", subject=subject, **ERASURE)
        end_sessions(url)
        assert erased(ledger) == ["s-1", "s-2"]


def test_a_connection_that_is_lost_in_a_transaction_takes_all_of_it_along(url: str) -> None:
    with Ledger(url) as ledger:
        with pytest.raises(LedgerUnavailable, match="was lost") as lost, ledger.database.transaction():
            ledger.database.insert("erasure", subject="s-1", **ERASURE)
            end_sessions(url)
            ledger.database.insert("erasure", subject="s-2", **ERASURE)
        assert lost.value.consequence == "nothing was changed"
        ledger.database.insert("erasure", subject="s-3", **ERASURE)
        assert erased(ledger) == ["s-3"]


def test_a_connection_that_is_lost_at_the_commit_leaves_the_outcome_open_and_says_so(url: str) -> None:
    with Ledger(url) as ledger:
        with pytest.raises(LedgerUnavailable, match="unknown whether"), ledger.database.transaction():
            ledger.database.insert("erasure", subject="s-1", **ERASURE)
            end_sessions(url)
        assert erased(ledger) == []


def test_a_server_that_is_away_is_named_and_used_again_when_it_is_back(own_server: PostgreSQLServer) -> None:
    url = own_server.schema()
    with Ledger(url) as ledger:
        own_server.stop()
        for _ in range(2):
            with pytest.raises(LedgerUnavailable, match="cannot be reached"):
                ledger.database.insert("erasure", subject="s-1", **ERASURE)
        own_server.start()
        ledger.database.insert("erasure", subject="s-2", **ERASURE)
        assert erased(ledger) == ["s-2"]


def test_a_password_is_never_shown() -> None:
    postgresql()
    password = "hunter2-%zz-secret"
    for url in (
        "postgresql://ana:hunter2-secret@127.0.0.1:1/plumbline",
        f"postgresql://ana:{password}@127.0.0.1:1/plumbline",
        "postgresql://127.0.0.1:1/plumbline?user=ana&password=hunter2-secret",
        "postgresql://127.0.0.1:1/plumbline?pass=hunter2-secret",
    ):
        with pytest.raises(PlumblineError) as refused:
            Ledger(url)
        assert "hunter2" not in f"{refused.value}" and "hunter2" not in repr(refused.value)
    server = postgresql()
    with Ledger(server.schema() + "&password=hunter2-secret") as ledger:
        assert "hunter2" not in f"{ledger.database}"
        with pytest.raises(PlumblineError) as refused:
            ledger.database.rows("SELECT * FROM no_such_table")
        assert "hunter2" not in f"{refused.value}"


def test_without_psycopg_the_extra_is_named() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from plumbline.stores import Ledger\n"
        "Ledger('postgresql://localhost/plumbline')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "pip install 'plumbline[postgresql]'" in done.stderr


# --- erasure ------------------------------------------------------------------------------------------------------


def test_after_erasure_no_file_of_the_server_holds_the_bytes(own: PostgreSQLServer) -> None:
    """Short and long bodies, deleted and blanked rows, an index, statistics, a checkpoint and a rolled-back try."""
    canary = secrets.token_hex(12)
    columns = "source, id, type, subject, body, consent_sequence, received_at"
    sql = f"INSERT INTO inbox ({columns}) VALUES (?, ?, 't', ?, ?, 0, '')"
    url = own.schema()
    with Ledger(url) as ledger:
        database = ledger.database
        long = [(secrets.token_hex(4000) + canary, f"l-{n}") for n in range(30)]
        database.insert_many(sql, [("web", name, "s-ana", body) for body, name in long])
        database.insert_many(sql, [("web", f"s-{n}", "s-ana", f"{canary} said") for n in range(300)])
        database.insert_many(sql, [("web", f"b-{n}", "s-ben", "somebody else") for n in range(300)])
        database.insert_many(
            "INSERT INTO subject_key (subject, key) VALUES (?, ?)",
            [(f"{canary}-{n}", canary.encode()) for n in range(300)],
        )
        raw = outsider(url)
        raw.execute("ANALYZE")
        raw.execute("CHECKPOINT")
        with pytest.raises(ZeroDivisionError), database.transaction():
            database.execute("UPDATE inbox SET body = ? WHERE subject = 's-ben'", (canary,))
            raise ZeroDivisionError
        assert len(places(own, canary)) >= 4
        database.execute("UPDATE inbox SET body = NULL WHERE subject = 's-ana' AND id LIKE 'l-%'")
        database.execute("DELETE FROM inbox WHERE subject = 's-ana' AND id NOT LIKE 'l-%'")
        database.execute("DELETE FROM subject_key")
        assert places(own, canary), "deleting alone leaves the bytes where they are"
        assert database.remains() == ()
        database.truncate_log()
        assert places(own, canary) == []
        assert database.value("SELECT COUNT(*) FROM inbox WHERE body = 'somebody else'") == 300
        database.truncate_log()


def places(server: PostgreSQLServer, canary: str) -> list[str]:
    found = []
    for path in server.folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the server is at work
            if path.is_file() and canary.encode() in path.read_bytes():
                found.append(str(path.relative_to(server.folder)))
    return found


def test_a_reader_that_still_sees_erased_rows_holds_the_erasure_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plumbline.stores.postgresql, "PATIENCE_SECONDS", 1)
    with Ledger(url) as ledger:
        ledger.database.insert("subject_key", subject="s-ana", key=b"k")
        reader = outsider(url)
        reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT COUNT(*) FROM consent")
        ledger.database.execute("DELETE FROM subject_key")
        with pytest.raises(LedgerUnavailable, match=r"still sees rows .* subject_key"):
            ledger.database.truncate_log()
        end = threading.Timer(0.5, lambda: reader.execute("COMMIT"))
        end.start()
        ledger.database.truncate_log()  # waits for it
        end.join()


def test_only_tables_whose_rows_may_change_and_that_hold_something_are_written_anew(url: str) -> None:
    with Ledger(url) as ledger:
        database = ledger.database
        notice = ledger.consent.register_notice("training", "1", "we train on what you write")
        ledger.consent.append("s-ana", "given", ["training"], notice)
        for subject in ("s-ana", "s-ben"):
            database.insert("subject_key", subject=subject, key=b"k")
            database.insert("erasure", subject=subject, **ERASURE)
        database.execute("DELETE FROM erasure")
        sql = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
        before = {row[0]: row[1] for row in database.rows(sql)}
        database.truncate_log()
        anew = {row[0] for row in database.rows(sql) if before[row[0]] != row[1]}
        assert {"notice", "subject_key", "subject_key_pkey", "erasure", "erasure_pkey"} <= anew
        assert not anew & {"consent", "consent_purpose", "publication", "inbox", "quarantine"}


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("wal_recycle", "on", "wal_recycle"),
        ("wal_keep_size", "64", "wal_keep_size"),
        ("log_statement", "all", "server log"),
        ("log_min_duration_statement", "0", "server log"),
    ],
)
def test_where_erased_bytes_outlive_erasure_is_said(own: PostgreSQLServer, setting: str, value: str, said: str) -> None:
    url = own.schema()
    with Ledger(url) as ledger:
        assert ledger.database.remains() == ()
        raw = outsider(url)
        raw.execute(f"ALTER SYSTEM SET {setting} = '{value}'")
        reload(raw)
        (sentence,) = ledger.database.remains()
        assert said in sentence
        raw.execute(f"ALTER SYSTEM RESET {setting}")
        reload(raw)
        assert ledger.database.remains() == ()


@pytest.fixture(scope="module")
def own() -> Iterator[PostgreSQLServer]:
    """A server whose settings a test may change; those under test are left at the ledger's wish by its file."""
    postgresql()
    server = PostgreSQLServer()
    server.stop()
    server.settings.pop("wal_recycle")
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("wal_recycle = off\n")
    server.start()
    yield server
    server.remove()


def reload(raw: Outsider) -> None:
    raw.execute("SELECT pg_reload_conf()")
    time.sleep(0.3)


def test_a_user_without_the_right_to_checkpoint_is_told_what_remains(url: str) -> None:
    raw, name = outsider(url), f"clerk_{secrets.token_hex(4)}"
    raw.execute(f"CREATE ROLE {name} LOGIN")
    raw.execute(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
    theirs = postgresql().url(name).replace("//plumbline@", f"//{name}@")
    with Ledger(theirs) as ledger:
        ledger.database.insert("subject_key", subject="s-ana", key=b"k")
        ledger.database.truncate_log()
        assert [sentence.split()[0] for sentence in ledger.database.remains()] == ["statistics", "the"]
    raw.execute(f"GRANT USAGE ON SCHEMA {url.rpartition('%3D')[2]} TO {name}")
    with pytest.raises(LedgerUnavailable, match="does not let this user in"):
        PostgreSQLDatabase(url.replace("//plumbline@", f"//{name}@"))


def test_right_after_many_rows_came_in_a_few_are_found_without_reading_all(url: str) -> None:
    columns = "source, id, type, subject, body, consent_sequence, received_at"
    with Ledger(url) as ledger:
        rows = [("web", f"e-{n}", "t", "s-ana", "words " * 50) for n in range(20_000)]
        ledger.database.insert_many(f"INSERT INTO inbox ({columns}) VALUES (?, ?, ?, ?, ?, 0, '')", rows)
        plan = "\n".join(
            row[0]
            for row in ledger.database.rows_in(
                "EXPLAIN ANALYZE SELECT id FROM inbox WHERE source = ? AND type = ? AND id IN ({marks})",
                [f"e-{n}" for n in range(0, 200, 2)],
                before=("web", "t"),
            )
        )
        assert "Rows Removed" not in plan, plan


def test_threads_share_a_connection_without_mixing_their_transactions(url: str) -> None:
    with Ledger(url) as ledger:

        def write(subject: str) -> None:
            for _ in range(10):
                with ledger.database.transaction():
                    ledger.database.insert("erasure", subject=subject, **ERASURE)
                    ledger.database.insert("erasure", subject=subject, **ERASURE)

        threads = [threading.Thread(target=write, args=(f"s-{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = erased(ledger)
        assert len(found) == 80
        assert all(found[n] == found[n + 1] for n in range(0, 80, 2)), "pairs stay together"
