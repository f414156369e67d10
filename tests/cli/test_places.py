"""--ledger and --blobs name files or servers, and the same commands work on either."""

from pathlib import Path

import pytest
from backends import Backend, backend, postgresql  # noqa: F401  (a fixture)

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture
def at(backend: Backend, plumb, monkeypatch: pytest.MonkeyPatch) -> Backend:  # noqa: F811
    """The places as a deployment sets them: by environment."""
    monkeypatch.setenv("PLUMBLINE_LEDGER", str(backend.ledger))
    monkeypatch.setenv("PLUMBLINE_BLOBS", str(backend.blobs))
    monkeypatch.setenv("PLUMBLINE_TENANT_KEY", KEY)
    return backend


def test_data_and_consent_go_to_the_named_places_and_nowhere_else(plumb, at: Backend) -> None:
    assert plumb.import_messages().code == 0
    assert "facts" in plumb("dataset", "list").out
    assert plumb("dataset", "verify", "facts").code == 0
    notice = plumb.write("notice.txt", "we train on what you write")
    given = plumb("consent", "give", "ana@example.org", "--notice", "training@1", "--notice-text", notice)
    assert given.code == 0, given
    assert plumb("consent", "verify").code == 0
    assert plumb("consent", "show", "ana@example.org", "--json").json
    assert at.stored_blobs()
    assert not (Path(plumb.folder) / ".plumbline").exists()


def test_a_command_that_reads_does_not_make_a_ledger_where_none_is(plumb, at: Backend) -> None:
    assert plumb("dataset", "list").faulted("there is no ledger")
    if at.name == "sqlite+local":
        assert not Path(at.ledger).exists()
    else:
        found = at.outsider().execute("SELECT COUNT(*) FROM pg_tables WHERE schemaname = current_schema()").fetchone()
        assert found == (0,)


def test_on_a_server_the_tenant_key_is_given_and_never_drawn(plumb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLUMBLINE_LEDGER", postgresql().schema())
    notice = plumb.write("notice.txt", "we train on what you write")
    give = ("consent", "give", "ana@example.org", "--notice", "training@1", "--notice-text", notice)
    assert plumb(*give).faulted("tenant key", "PLUMBLINE_TENANT_KEY")
    assert not list(plumb.folder.rglob("tenant.key"))
    monkeypatch.setenv("PLUMBLINE_TENANT_KEY", KEY)
    assert plumb(*give).code == 0


def test_a_password_in_a_url_is_not_repeated(plumb, monkeypatch: pytest.MonkeyPatch) -> None:
    postgresql()
    for url in (
        "postgresql://ana:hunter2@127.0.0.1:1/ledger",
        "postgresql://ana:hunter2-%zz@127.0.0.1:1/ledger",
        "postgres://ana:hunter2@127.0.0.1:1/ledger",
        "mysql://ana:hunter2@127.0.0.1/ledger",
        "s3://ana:hunter2@bucket/x",
    ):
        said = plumb("consent", "head", "--ledger", url)
        assert said.code == 2 and "hunter2" not in said.out + said.err, said
        monkeypatch.setenv("PLUMBLINE_LEDGER", url)
        for words in (("consent", "head"), ("consent", "head", "--help")):
            said = plumb(*words)
            assert "hunter2" not in said.out + said.err, said
    said = plumb("dataset", "verify", "facts", "--ledger", postgresql().schema(), "--blobs", "s3://ana:hunter2@b/x")
    assert said.code == 2 and "hunter2" not in said.out + said.err, said
