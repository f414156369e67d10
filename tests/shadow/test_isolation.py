"""Users are served as if there were no candidate, and as if there were no shadow: whatever happens to either."""

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plumbline.shadow import Experiment, Spool, start_shadow
from plumbline.shadow.requests import held, replayed
from shadow.client import ask, chat, until

EXPERIMENT = Experiment(name="e", salt="grain")
SLOW_S = 0.3


def pinned(body: dict[str, Any]) -> dict[str, Any]:
    """The request as the router writes it out, for a direct call."""
    return body | {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0}


@pytest.mark.parametrize("mode", ["ok", "slow", "hang", "error", "wrong", "garbage", "cut", "dead"])
def test_whatever_the_candidate_does_users_get_the_same_bytes_no_later(
    tmp_path: Path, reference: Any, aligned: Any, mode: str, record_property: Any
) -> None:
    """The bound is on isolation alone: were users to wait for a candidate that takes 0.3 s, or hangs, the median would
    be no less."""
    if mode == "dead":
        aligned.stop()
    elif mode == "slow":
        aligned.delay_s = SLOW_S
    else:
        aligned.mode = mode
    bodies = [chat(f"q{i}", stream=i % 2 == 1) for i in range(20)]
    direct = [ask(reference.url, pinned(body)) for body in bodies]
    times: dict[str, list[float]] = {"direct": [], "through": []}
    given: dict[str, Any] = {"consent": lambda subject: True, "concurrency": 2, "deadline_s": 2.0}
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, **given) as run:
        for body, (status, headers, said) in zip(bodies, direct, strict=True):
            begun = time.perf_counter()
            ask(reference.url, pinned(body))
            asked = time.perf_counter()
            through = ask(run.openai_url, body, x_plumbline_subject="ana")
            times["direct"].append(asked - begun)
            times["through"].append(time.perf_counter() - asked)
            assert (through[0], through[2]) == (status, said)
            assert through[1]["content-type"] == headers["content-type"]
        until(lambda: run.counts().spooled == len(bodies))
        assert run.counts().balanced
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    record_property("ratio_of_medians", medians["through"] / medians["direct"])
    assert medians["through"] < SLOW_S / 2
    if mode == "dead":
        aligned.start()


def test_a_disk_that_takes_nothing_costs_users_nothing_and_is_counted(
    tmp_path: Path, reference: Any, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    with start_shadow(reference.url, None, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        write = run.spool._transaction

        def full(*writes: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(run.spool, "_transaction", full)
        for i in range(5):
            assert ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="ana")[0] == 200
        assert run.drain()
        assert (run.counts().spooled, run.counts().pending) == (5, 0) and sum(run.counts().shed.values()) == 5
        monkeypatch.setattr(run.spool, "_transaction", write)
        assert ask(run.openai_url, chat("after"), x_plumbline_subject="ana")[0] == 200
        assert run.drain()
    again = Spool.existing(tmp_path)
    assert (again.counts().spooled, again.counts().pending) == (6, 1)
    again.close()


def test_a_stream_is_recorded_whole_on_both_legs(tmp_path: Path, reference: Any, aligned: Any) -> None:
    reference.answer = lambda body: " ".join(f"r{i}" for i in range(50))
    aligned.answer = lambda body: " ".join(f"a{i}" for i in range(70))
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        ask(run.openai_url, chat(stream=True), x_plumbline_subject="ana")
        assert run.drain()
        (pair,) = run.pairs()
    assert pair.reference.text.split() == [f"r{i}" for i in range(50)]
    assert pair.aligned.text.split() == [f"a{i}" for i in range(70)]
    for answer in (pair.reference, pair.aligned):
        assert answer.first_ms is not None and 0 < answer.first_ms <= answer.latency_ms
    assert aligned.seen[0][1]["stream"] is True, "time to the first token needs the same kind of answer"


def test_tools_are_offered_to_both_legs_called_by_text_and_run_by_nobody(
    tmp_path: Path, reference: Any, aligned: Any
) -> None:
    tool = {"type": "function", "function": {"name": "delete", "parameters": {"type": "object"}}}
    reference.calls = [{"name": "delete", "arguments": '{"what": "a"}'}]
    aligned.calls = [{"name": "delete", "arguments": '{"what": "b"}'}]
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        body = chat(tools=[tool], tool_choice="auto", parallel_tool_calls=False)
        _, _, said = ask(run.openai_url, body, x_plumbline_subject="ana")
        assert json.loads(said)["choices"][0]["message"]["tool_calls"], "the user's own answer is not touched"
        assert run.drain()
        (pair,) = run.pairs()
    names = ("tools", "tool_choice", "parallel_tool_calls")
    assert {n: aligned.seen[0][1][n] for n in names} == {n: body[n] for n in names}
    assert aligned.seen[0][0]["x-plumbline-leg"] == "aligned-shadow"
    assert json.loads(pair.reference.text) == reference.calls and json.loads(pair.aligned.text) == aligned.calls
    assert len(reference.seen) == len(aligned.seen) == 1, "nobody answered a call"


def test_what_is_asked_again_is_what_was_asked() -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    body = chat("hi", tools=[tool], temperature=0.5)
    assert held(body) is not None
    for other in ({"type": "web_search"}, {"type": "mcp", "server_url": "http://x"}, 7):
        assert held(chat("hi", tools=[tool, other])) is None, "a server may run this one by itself"
    assert held(chat("hi", functions=[{"name": "find"}])) is None
    assert held(chat("hi", response_format={"type": "json_object"})) is None
    assert replayed  # its body is compared in test_worker


WORKER = """
import sys
from pathlib import Path
from plumbline.shadow import Spool, replay
replay(Spool.existing(Path(sys.argv[1])), sys.argv[2], consent=lambda subject: True, follow=True)
"""


def test_a_worker_killed_with_9_and_started_again_loses_no_record_and_pairs_none_twice(
    tmp_path: Path, reference: Any, aligned: Any
) -> None:
    aligned.delay_s = 0.01
    with start_shadow(reference.url, None, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        for i in range(120):
            assert ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="ana")[0] == 200
        until(lambda: run.counts().spooled == 120)
        for paired in (20, 70, 120):
            worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), aligned.url])
            until(lambda: run.counts().paired >= paired)  # noqa: B023
            worker.kill()
            worker.wait()
            counts = run.counts()
            assert counts.balanced and counts.spooled == 120 and not counts.shed
        assert counts.paired == 120
        assert Counter(pair.spooled.messages[0].content for pair in run.pairs()) == Counter(f"q{i}" for i in range(120))


def test_a_thrown_switch_stops_the_worker_and_what_waits_is_counted_until_it_is_reset(
    tmp_path: Path, reference: Any, aligned: Any
) -> None:
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT, consent=lambda subject: True) as run:
        ask(run.openai_url, chat("before"), x_plumbline_subject="ana")
        assert run.drain()
        run.spool.trip("harm")
        assert run.worker is not None
        until(lambda: run.worker.switch.tripped == "harm")  # type: ignore[union-attr]
        for i in range(5):
            assert ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="ana")[0] == 200
        until(lambda: run.counts().spooled == 6)
        assert not run.drain(0.5)
        assert (run.counts().paired, run.counts().pending) == (1, 5) and len(aligned.seen) == 1
        run.spool.reset_trip("ana: looked at the pairs")
        assert run.drain()
        assert run.counts().paired == 6


def test_in_mode_aa_the_worker_asks_the_reference_again(tmp_path: Path, reference: Any, aligned: Any) -> None:
    twice = EXPERIMENT.model_copy(update={"mode": "aa"})
    with start_shadow(reference.url, None, tmp_path, twice, consent=lambda subject: True) as run:
        for i in range(4):
            ask(run.openai_url, chat(f"q{i}", temperature=1.0), x_plumbline_subject="ana")
        assert run.drain()
        assert all(pair.reference.text == pair.aligned.text for pair in run.pairs()) and run.counts().paired == 4
    assert not aligned.seen and len(reference.seen) == 8
    assert Counter(headers["x-plumbline-leg"] for headers, _ in reference.seen)["reference"] == 4
