"""`plumb shadow evaluate` from a terminal: A/A to verdict in one command, each step once, and what is refused."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from plumbline.shadow import Experiment, Spool
from shadow.conftest import Endpoint

VOUCHED = ("--consented-by", "InventedPeople")
STATED = {"template": "t", "decoder": "d"}


@pytest.fixture
def legs() -> Iterator[tuple[Endpoint, Endpoint]]:
    """Two endpoints that state what they serve, and answer alike."""
    found = Endpoint("reference").start(), Endpoint("aligned").start()
    for one in found:
        one.states, one.answer = STATED, lambda body: "sure"
    yield found
    for one in found:
        one.stop()


def lines(sessions: int = 60, **more: Any) -> str:
    return "".join(
        json.dumps({"messages": [{"role": "user", "content": f"q{i}"}], "session": f"s{i}", "slice": kind, **more})
        + "\n"
        for i in range(sessions)
        for kind in ("benign", "harmful")
    )


def command(legs: tuple[Endpoint, Endpoint], *step: str) -> list[str]:
    reference, aligned = legs
    policies = f"--reference-policy={reference.policy}", f"--aligned-policy={aligned.policy}"
    where = f"--reference={reference.url}", f"--aligned={aligned.url}", "--folder=evaluation", "--patience=0.4"
    margins = "--margin=benign_refusal=0.4", "--margin=harmful_compliance=0.4", "--aa-sessions=20"
    return ["shadow", "evaluate", *step, "--experiment=first", "--requests=r.jsonl", *policies, *where, *margins]


def test_one_command_goes_from_a_file_to_a_verdict_and_asks_nothing_twice(plumb: Any, legs: Any) -> None:
    plumb.write("r.jsonl", lines())
    for step in ("aa", "plan"):  # a Job each; the rest in one go
        assert plumb(*command(legs, step), *VOUCHED, "--json").json["reason"] == "Done"
    assert (len(legs[0].seen), len(legs[1].seen)) == (240, 0), "the A/A run asks the reference alone"
    said = plumb(*command(legs), *VOUCHED)
    assert said.code == 0 and "PASS  (shadow verdict sha256:" in said.out, said
    assert "pairs: 120 spooled = 120 paired" in said.err and "aa:" not in said.err
    asked = len(legs[0].seen), len(legs[1].seen)
    assert asked == (360, 120)
    again = plumb(*command(legs), *VOUCHED, "--json")
    assert again.code == 0 and again.json["aligned"] == legs[1].policy
    assert (len(legs[0].seen), len(legs[1].seen)) == asked


def test_who_does_not_consent_is_not_asked_about_and_nothing_is_decided_from_nobody(plumb: Any, legs: Any) -> None:
    plumb.write("r.jsonl", lines(20, subject="s-0123456789abcdef0123456789abcdef"))
    plumb("consent", "verify")
    said = plumb(*command(legs))
    assert said.faulted("no request of first became a pair", "plumb shadow status")
    assert legs[0].seen == legs[1].seen == []


def test_a_kill_switch_ends_the_pairing_and_the_verdict_says_so(plumb: Any, legs: Any) -> None:
    plumb.write("r.jsonl", lines())
    for step in ("aa", "plan", "pairs"):
        assert plumb(*command(legs, step), *VOUCHED).code == 0
    assert plumb("shadow", "trip", "evaluation/pairs", "--reason", "complaints", "--actor", "on call").code == 0
    said = plumb(*command(legs), *VOUCHED)
    assert said.code == 1 and "REGRESSED     the kill switch stopped the experiment" in said.out


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("policy", ("the aligned policy at", "nobody was asked", "serve the policy that was named")),
        ("silent", ("is not stated", "it states no digests")),
        ("template", ("different templates", "nothing was started")),
        ("gone", ("nothing answers there", "nobody was asked")),
        ("malformed", ("2 malformed lines: line 1", "nobody was asked")),
        ("missing", ("there is no file of requests at r.jsonl",)),
        ("blob", ("--blobs",)),
        ("changed", ("not those that this evaluation began with", "put the file back")),
        ("spool", ("another experiment",)),
    ],
)
def test_a_fault_is_said_before_anybody_is_asked(plumb: Any, legs: Any, what: str, words: tuple[str, ...]) -> None:
    plumb.write("r.jsonl", "{\n[]\n" if what == "malformed" else lines(20))
    asked = command(legs)
    match what:
        case "policy":
            legs[1].policy = legs[0].policy
        case "silent":
            legs[1].states = None
        case "template":
            legs[1].states = {**STATED, "template": "u"}
        case "gone":
            asked[asked.index(f"--aligned={legs[1].url}")] = "--aligned=http://127.0.0.1:9/v1"
        case "missing":
            (plumb.folder / "r.jsonl").unlink()
        case "blob":
            asked[asked.index("--requests=r.jsonl")] = "--requests=sha256:" + 64 * "0"
        case "changed":
            (plumb.folder / "evaluation").mkdir()
            plumb.write("evaluation/requests.sha256", "0" * 64)
        case "spool":
            other = Experiment(name="other", salt="s", mode="aa")
            with contextlib.closing(Spool(plumb.folder / "evaluation" / "aa", other)):
                pass
    assert plumb(*asked, *VOUCHED).faulted(*words)
    assert legs[0].seen == legs[1].seen == []
