"""Consent, lineage and release from the command line."""

from pathlib import Path

import pytest


@pytest.fixture
def asked(plumb):
    """A ledger with one registered notice, to which ana agreed."""
    plumb.write("notice.txt", "we train on what you write")
    assert plumb("consent", "give", "ana", "--notice", "n@1", "--notice-text", "notice.txt").code == 0
    return plumb


def test_consent_is_given_shown_and_withdrawn(asked):
    (given,) = asked("consent", "show", "ana", "--json").json
    assert given["action"] == "given" and given["purposes"] == ["evaluation", "training"]
    assert asked("consent", "withdraw", "ana").out.startswith("2: s-")
    assert [entry["action"] for entry in asked("consent", "show", "ana", "--json").json] == ["given", "withdrawn"]
    assert asked("consent", "withdraw", "ana").out.startswith("2: s-"), "withdrawing again adds nothing"
    assert asked("consent", "verify").out.startswith("the chain of 2 entries verifies")
    assert asked("consent", "head").out.split()[0] == "2"


def test_the_ledger_never_holds_the_name(asked):
    held = b"".join(file.read_bytes() for file in Path(".plumbline").iterdir() if file.is_file())
    assert b"ana" not in held


@pytest.mark.parametrize(
    "words",
    [
        ("", "--notice", "n@1"),
        ("ben", "--notice", ""),
        ("ben", "--notice", "unknown@1"),
        ("ben", "--notice", "n@1", "--purpose", "fun"),
        ("ben", "--notice", "n@2", "--notice-text", "latin.txt"),
        ("ben", "--notice", "n@1", "--notice-text", "other.txt"),
    ],
)
def test_consent_to_something_unclear_is_not_recorded(asked, words):
    asked.write("latin.txt", b"caf\xe9")
    asked.write("other.txt", "we sell what you write")
    assert asked("consent", "give", *words).faulted()
    assert asked("consent", "head").out.split()[0] == "1"


def test_nobody_who_never_consented_can_be_withdrawn_by_mistake(asked):
    assert asked("consent", "withdraw", "anna").faulted("no consent is recorded")


def test_without_its_key_a_ledger_full_of_people_answers_nothing_about_them(asked):
    """A fresh key would make ana a stranger, and "no consent is recorded" a lie."""
    pseudonym = asked("consent", "show", "ana", "--json").json[0]["subject"]
    key = Path(".plumbline/tenant.key")
    kept = key.read_bytes()
    key.unlink()
    commands = [("consent", "show"), ("consent", "withdraw"), ("lineage", "subject")]
    for command in commands:
        assert asked(*command, "ana").faulted("the tenant key")
    assert asked("consent", "give", "ana", "--notice", "n@1").faulted("the tenant key")
    assert not key.exists()
    assert len(asked("consent", "show", pseudonym, "--json").json) == 1, "a pseudonym needs no key"
    key.write_bytes(kept)
    assert len(asked("consent", "show", "ana", "--json").json) == 1


@pytest.mark.parametrize("key", ["zz", "00", "é"])
def test_a_key_that_is_none_is_refused_and_not_repeated(asked, monkeypatch, key):
    monkeypatch.setenv("PLUMBLINE_TENANT_KEY", key)
    assert asked("consent", "show", "ana").faulted("tenant key" if key == "00" else "PLUMBLINE_TENANT_KEY")


def test_a_release_moves_only_by_a_decision_that_says_pass(asked):
    first, candidate = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    why = ("--reason", "r", "--actor", "me")
    assert asked("release", "promote", "the good one", *why).faulted("no policy's digest")
    assert "names no policy yet" in asked("release", "history").out
    assert asked("release", "promote", first, *why).code == 0, "what users have at the start needs no decision"
    move = ("release", "promote", candidate, *why)
    assert asked(*move).faulted("no gate decision compares it", "users keep the policy they have")
    named = ("--decision", "sha256:" + "3" * 64, "--without-shadow", "r")
    assert asked(*move, *named).faulted("is not stored", "users keep the policy they have")
    assert [entry["policy"] for entry in asked("release", "history", "--json").json] == [first]


def test_every_area_and_pressure_is_a_printed_contract(plumb):
    for command, count in (("behaviors", 10), ("pressures", 5)):
        contracts = plumb(command, "--json").json
        assert len(contracts) == count
        assert all(all(c[step] for step in ("target", "variable", "estimator", "rule", "regression_metric"))
                   for c in contracts)  # fmt: skip
        assert plumb(command, contracts[0]["name"]).code == 0
        assert plumb(command, "nope").faulted("choose from")
