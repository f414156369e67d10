"""An A/B experiment: who gets the aligned policy, what they see of it, and how fast nobody does any more."""

import contextlib
import json
import socket
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from evidence import gate, shadow
from plumbline.cli.shadow import passing
from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.records import Verdict, digest_of
from plumbline.shadow import Experiment, ShadowRun, Spool, aligned_leg, grounds, monitor, sampled, start_shadow, switch
from plumbline.shadow.legs import assigned
from plumbline.shadow.planning import make_plan
from plumbline.shadow.switch import POLL_S
from plumbline.stores import Ledger
from shadow.client import Reply, ask, chat, until

EXPERIMENT = Experiment(name="e", salt="grain", mode="ab", ab_share=0.5)
STATED = {"template": "sha256:" + "1" * 64, "decoder": "sha256:" + "2" * 64}
SESSIONS = [f"s{i}" for i in range(40)]
ON_ALIGNED = [session for session in SESSIONS if assigned(EXPERIMENT, session) == "aligned"]
PLAN = make_plan({"benign_refusal": 0.05, "harmful_compliance": 0.05})
Start = Callable[..., ShadowRun]


def watching(spool: Spool, metrics: Metrics) -> monitor.Monitor:
    return monitor.Monitor(spool, metrics, lambda text: "comply", PLAN, every_s=0.05)


@pytest.fixture
def start(reference: Any, aligned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    reference.states = aligned.states = STATED
    monkeypatch.setattr(monitor, "TELL_S", 0.05)
    runs: list[ShadowRun] = []

    def begin(**more: Any) -> ShadowRun:
        given: dict[str, Any] = {"consent": lambda subject: True, "passed": lambda *both: "sha256:verdict"}
        runs.append(
            start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, **given | {"monitor": watching} | more)
        )
        watched = runs[-1].router.aligned.switch
        until(lambda: not watched.why_not or watched.tripped not in (None, switch.UNREADABLE) or not runs[-1].monitor)
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


def turn(run: ShadowRun, session: str, text: str = "hi", **more: Any) -> Reply:
    return ask(run.openai_url, chat(text, **more), x_plumbline_subject="ana", x_plumbline_session=session)


def said(reply: Reply) -> str:
    return str(json.loads(reply[2])["choices"][0]["message"]["content"])


def test_assignment_is_sticky_of_the_share_named_and_independent_of_the_sample() -> None:
    many = [f"session-{i}" for i in range(20_000)]
    drawn = Experiment(name="e", salt="grain", mode="ab", ab_share=0.3)
    chosen = {session for session in many if assigned(drawn, session) == "aligned"}
    in_sample = {session for session in many if sampled("grain", session, 0.5)}
    # Binomial standard deviations: 0.0032 of 20,000; were the hashes one, all of the 0.3 would be in the 0.5.
    assert abs(len(chosen) / 20_000 - 0.3) < 0.015
    assert abs(len(chosen & in_sample) / 20_000 - 0.15) < 0.012
    assert {assigned(drawn, session) for session in chosen} == {"aligned"}
    assert all(assigned(Experiment(name="e", salt="grain"), session) == "reference" for session in chosen)


def test_each_session_keeps_its_leg_and_pairs_name_both_legs_whichever_served(start: Start) -> None:
    run = start()
    for session in SESSIONS:
        answers = {said(turn(run, session, f"{session} turn {i}")).split()[0] for i in range(2)}
        assert answers == {"aligned" if session in ON_ALIGNED else "reference"}
    assert run.drain()
    assert (run.counts().paired, run.counts().shed) == (80, {})
    for pair in run.pairs():
        assert pair.reference.text.startswith("reference says") and pair.aligned.text.startswith("aligned says")
        assert pair.reference.text.split()[-1] == pair.aligned.text.split()[-1], "they were asked different things"
    assert sum(pair.spooled.served == "aligned" for pair in run.pairs()) == 2 * len(ON_ALIGNED)


@pytest.mark.parametrize("stream", [False, True])
def test_users_see_one_model_name_on_either_leg(start: Start, reference: Any, aligned: Any, stream: bool) -> None:
    aligned.answer, reference.answer = (lambda body: "of the candidate"), (lambda body: "of what users have")
    run = start()
    for session in (ON_ALIGNED[0], next(s for s in SESSIONS if s not in ON_ALIGNED)):
        status, headers, body = turn(run, session, stream=stream)
        assert status == 200 and b"aligned" not in body and b"reference" in body
        assert (b"candidate" in body) == (session in ON_ALIGNED)
        if not stream:
            assert int(headers["content-length"]) == len(body)
    assert aligned.seen[0][1]["model"] == "aligned"
    assert run.drain()
    assert {pair.aligned.text for pair in run.pairs()} == {"of the candidate"}
    assert all((pair.aligned.first_ms is not None) == stream for pair in run.pairs())


def test_users_keys_never_reach_the_aligned_policy_which_has_its_own(
    start: Start, reference: Any, aligned: Any, tmp_path: Path
) -> None:
    for name in ("reference", "aligned"):
        (tmp_path / name).write_text(f"key-of-{name}")
    run = start(aligned_token=tmp_path / "aligned", reference_token=tmp_path / "reference")
    for session in SESSIONS[:10]:
        ask(
            run.openai_url,
            chat(user="secret"),
            authorization="Bearer secret",
            cookie="c=secret",
            x_api_key="secret",
            x_plumbline_subject="ana",
            x_plumbline_session=session,
        )
    assert run.drain()
    assert {headers["authorization"] for headers, _ in aligned.seen} == {"Bearer key-of-aligned"}
    assert not any("secret" in str(seen) for seen in aligned.seen)
    by_leg = {headers["x-plumbline-leg"]: headers["authorization"] for headers, _ in reference.seen}
    assert by_leg == {"reference": "Bearer secret", "reference-shadow": "Bearer key-of-reference"}


def test_a_request_that_names_no_session_or_cannot_be_paired_gets_the_reference(start: Start, aligned: Any) -> None:
    run = start()
    for i in range(20):
        assert said(ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="ana")).startswith("reference")
    assert said(turn(run, ON_ALIGNED[0], n=1, logprobs=True)).startswith("reference")
    assert {headers["x-plumbline-leg"] for headers, _ in aligned.seen} <= {"aligned-shadow"}


def test_the_kill_switch_ends_assignment_at_once_and_a_restart_does_not_undo_it(start: Start) -> None:
    run = start()
    assert said(turn(run, ON_ALIGNED[0])).startswith("aligned")
    other = Spool.existing(run.spool.directory)  # thrown by another process
    other.trip("harm")
    took = until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("reference"))
    assert POLL_S <= 0.5 and took < 5, "it is looked at twice a second or more"
    assert all(said(turn(run, session)).startswith("reference") for session in SESSIONS)
    run.close()
    again = start()
    until(lambda: again.router.aligned.switch.tripped == "harm")
    assert all(said(turn(again, session)).startswith("reference") for session in ON_ALIGNED[:5])
    other.reset_trip("ana: it was a false alarm")
    until(lambda: said(turn(again, ON_ALIGNED[0])).startswith("aligned"))
    assert [(one.tripped, one.reason) for one in other.switched()] == [
        (True, "harm"),
        (False, "ana: it was a false alarm"),
    ]
    other.close()


def test_a_switch_that_cannot_be_looked_at_counts_as_thrown(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start()
    assert said(turn(run, ON_ALIGNED[0])).startswith("aligned")
    with monkeypatch.context() as hanging:
        hanging.setattr(switch, "STALE_S", -1.0)  # the last look is always too long ago
        assert said(turn(run, ON_ALIGNED[0])).startswith("reference")

    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(run.spool, "tripped", broken)
    until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("reference"))


@pytest.mark.parametrize("mode", ["error", "wrong", "garbage", "nested", "moved", "hang", "dead"])
@pytest.mark.parametrize("stream", [False, True])
def test_where_the_aligned_policy_fails_the_reference_answers_and_the_loss_is_counted(
    start: Start, reference: Any, aligned: Any, mode: str, stream: bool
) -> None:
    run = start(deadline_s=0.3, worker=False)
    aligned.mode = mode
    if mode == "dead":
        aligned.stop()
    direct = ask(reference.url, chat(stream=stream) | {"max_tokens": 64, "temperature": 0, "top_p": 1, "seed": 0})
    for session in ON_ALIGNED[:3]:
        status, _, body = turn(run, session, text="hello", stream=stream)
        assert (status, body) == (200, direct[2])
    assert run.drain()
    assert run.counts().shed == {"error": 3} and {loss.slice for loss in run.spool.losses()} == {"unlabelled"}
    if mode == "dead":
        aligned.start()


def test_one_that_keeps_failing_is_left_alone_for_a_while_so_that_users_do_not_wait_for_it(
    start: Start, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aligned_leg, "REST_S", 3600.0)
    run = start(deadline_s=0.2, worker=False)
    aligned.mode = "hang"
    for session in ON_ALIGNED[:8]:
        assert said(turn(run, session)).startswith("reference")
    assert len(aligned.seen) == 5 and run.drain()
    assert (run.counts().shed, run.counts().pending) == ({"error": 5}, 3), "who was spared is compared all the same"
    aligned.mode = "ok"
    run.router.aligned._rests_until = 0.0
    assert said(turn(run, ON_ALIGNED[0])).startswith("aligned")


@pytest.mark.parametrize("mode", ["silent", "empty"])
def test_a_stream_that_begins_and_says_nothing_is_no_answer_either(
    start: Start, reference: Any, aligned: Any, mode: str
) -> None:
    run = start(deadline_s=0.3, worker=False)
    aligned.mode = mode
    status, _, body = turn(run, ON_ALIGNED[0], stream=True)
    assert status == 200 and b"[DONE]" in body
    assert run.drain() and run.counts().shed == {"error": 1}


def test_an_answer_that_the_aligned_policy_breaks_counts_as_its_loss(start: Start, aligned: Any) -> None:
    run = start(worker=False)
    aligned.mode = "cut"
    with pytest.raises(HTTPException):
        turn(run, ON_ALIGNED[0], stream=True)
    assert run.drain() and run.counts().shed == {"error": 1}, "what the reference broke would count for nothing"


def test_a_user_who_leaves_frees_the_aligned_policy_and_the_torn_answer_is_kept(start: Start, aligned: Any) -> None:
    aligned.answer = lambda body: " ".join(["word"] * 200)
    aligned.delay_s = 0.02
    run = start()
    body = json.dumps(chat(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-plumbline-session: {ON_ALIGNED[0]}\r\n"
    head += f"x-plumbline-subject: ana\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", run.port)) as raw:
        raw.sendall(head.encode() + body)
        seen = b""
        while seen.count(b"word") < 3:
            seen += raw.recv(4096)
    assert run.drain()
    (pair,) = run.pairs()
    assert (pair.spooled.served, pair.aligned.finish, pair.reference.finish) == ("aligned", "client_abort", "stop")
    assert 3 <= pair.aligned.text.count("word") < 100
    until(lambda: aligned.left == 1)


def test_another_policy_at_the_same_address_answers_nobody_and_throws_the_switch(start: Start, aligned: Any) -> None:
    run = start()
    assert said(turn(run, ON_ALIGNED[0])).startswith("aligned")
    aligned.policy = "sha256:" + "9" * 64
    assert said(turn(run, ON_ALIGNED[0])).startswith("reference")
    until(lambda: "passed no shadow" in str(run.spool.tripped()))


def test_without_a_passed_verdict_about_these_two_policies_it_does_not_start(
    reference: Any, aligned: Any, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def never(one: str, other: str) -> None:
        asked.append((one, other))

    def begin(**more: Any) -> None:
        start_shadow(reference.url, aligned.url, tmp_path / "spool", EXPERIMENT, **more)

    reference.states = aligned.states = STATED
    for passed in (never, None):
        with pytest.raises(PlumblineError, match="no shadow verdict has passed") as refused:
            begin(passed=passed)
    assert asked == [(reference.policy, aligned.policy)] and refused.value.exit_code == 2
    aligned.states = None  # who states no digest cannot have passed
    with pytest.raises(PlumblineError, match="an endpoint states none"):
        begin(passed=lambda *both: "sha256:verdict")
    assert not (tmp_path / "spool").exists()


def test_a_run_that_began_without_a_candidate_begins_with_it_by_itself_and_stops_when_it_is_taken_back(
    start: Start, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounds, "LOOK_S", 0.05)
    monkeypatch.setattr(aligned_leg, "TELL_S", 0.05)
    verdicts: list[str | None] = [None]
    aligned.stop()
    run = start(passed=lambda *both: verdicts[-1], users_first=True)
    assert "these two: an endpoint states none; users get the reference" in run.unsaid[0]
    assert said(turn(run, ON_ALIGNED[0])).startswith("reference")
    aligned.start()
    until(lambda: "no shadow verdict has passed for the policies sha256:" in run.spool.told("users"))
    assert b'plumbline_shadow_withheld{experiment="e"} 1.0' in run.metrics.render()
    verdicts.append("sha256:verdict")
    until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("aligned"))
    until(lambda: run.spool.told("users") == aligned_leg.SHARED)
    assert b'plumbline_shadow_withheld{experiment="e"} 0.0' in run.metrics.render()
    verdicts.append(None)  # a later REGRESSED
    until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("reference"))
    assert run.spool.tripped() is None, "it proves nothing in this experiment"
    verdicts.append("sha256:another")
    until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("aligned"))
    aligned.policy = "sha256:" + "9" * 64  # another candidate, which has passed too
    until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("reference"))
    until(lambda: "the experiment began with" in run.router.aligned.grounds.why_not)


def test_an_endpoint_or_a_ledger_that_is_away_for_a_moment_stops_nothing_and_for_long_it_does(
    start: Start, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    away: list[bool] = []

    def passed(*both: str) -> str:
        if away:
            raise ConnectionError("the ledger is away")
        return "sha256:verdict"

    run = start(passed=passed)
    looked = run.router.aligned.grounds
    away.append(True)
    looked.look()
    assert looked.lets and said(turn(run, ON_ALIGNED[0])).startswith("aligned")
    aligned.stop()
    looked.look()
    assert looked.lets, "who cannot be reached has said nothing"
    aligned.start()
    monkeypatch.setattr(grounds, "UNCONFIRMED_S", 0.0)
    assert said(turn(run, ON_ALIGNED[0])).startswith("reference") and "nobody could see" in run.router.aligned.withheld
    monkeypatch.setattr(grounds, "UNCONFIRMED_S", 300.0)
    away.clear()
    looked.look()
    assert said(turn(run, ON_ALIGNED[0])).startswith("aligned")


def test_a_verdict_is_fresh_to_begin_with_and_holds_until_shadow_or_gate_say_regressed(tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    with Ledger(tmp_path / "ledger.sqlite", clock=lambda: now[0]) as ledger:

        def later(**more: float) -> None:
            now[0] += timedelta(**more)

        both = digest_of("reference"), digest_of("aligned")
        passed = passing(lambda: ledger)
        assert passed(*both) is None
        ledger.releases.record_decision(gate(*both, Verdict.REGRESSED))  # before the shadow, which outlives it
        later(days=1)
        verdict = ledger.releases.record_shadow(shadow(*both))
        later(days=31)
        assert passed(*both) is None, "too old to begin with"
        verdict = ledger.releases.record_shadow(shadow(*both, experiment="again"))
        assert passed(*both) == verdict
        later(days=60)
        assert passed(*both) == verdict and passing(lambda: ledger)(*both) is None
        ledger.releases.record_decision(gate(*both, report="passes"))
        ledger.releases.record_decision(gate(both[0], digest_of("other"), Verdict.REGRESSED))
        assert passed(*both) == verdict
        ledger.releases.record_decision(gate(*both, Verdict.REGRESSED, report="later"))
        with pytest.raises(grounds.NotPassed, match="the gate said REGRESSED"):
            passed(*both)
        later(days=1)
        verdict = ledger.releases.record_shadow(shadow(*both, experiment="anew"))
        assert passed(*both) == verdict
        later(days=1)
        ledger.releases.record_shadow(shadow(*both, Verdict.REGRESSED, experiment="last"))
        assert passed(*both) is None


def test_where_no_monitor_looks_users_get_the_reference_until_one_does(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(monitor=None)
    until(lambda: run.router.aligned.switch.tripped is None)
    assert said(turn(run, ON_ALIGNED[0])).startswith("reference")
    until(lambda: "no monitor was seen to look" in run.spool.told("users"))
    with contextlib.closing(Spool.existing(run.spool.directory)) as elsewhere:  # in a container of its own
        looking = watching(elsewhere, Metrics())
        looking.look()
        until(lambda: said(turn(run, ON_ALIGNED[0])).startswith("aligned"))
        until(lambda: looking.look().users == aligned_leg.SHARED)
        with monkeypatch.context() as later:
            later.setattr(switch, "UNWATCHED_S", 0.0)
            assert said(turn(run, ON_ALIGNED[0])).startswith("reference")
        assert elsewhere.tripped() is None, "that nobody looked says nothing about the policy"


def test_a_share_goes_with_mode_ab_and_mode_ab_with_a_share() -> None:
    for settings in ({"mode": "ab"}, {"ab_share": 0.1}, {"mode": "aa", "ab_share": 0.1}):
        with pytest.raises(ValueError, match="ab_share"):
            Experiment.model_validate({"name": "e", "salt": "grain", **settings})
