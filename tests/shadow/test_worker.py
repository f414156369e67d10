"""The worker's cap, its patience, and what it says about nobody being there."""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from plumbline.errors import PlumblineError
from plumbline.records import Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Spool, recorder, replay
from plumbline.shadow.accounting import Accounting
from plumbline.shadow.recorder import Recorder, Served
from plumbline.shadow.spool import Outcome
from plumbline.shadow.worker import Worker

EXPERIMENT = Experiment(name="e", salt="grain", aligned_model="candidate")
ANSWER = Answer(text="yes", finish="stop", latency_ms=1.0, tokens=1)


def fill(spool: Spool, n: int) -> None:
    spool.append(
        [
            SpoolRecord(
                request=f"r{i}",
                experiment="e",
                session=f"s{i}",
                subject="ana",
                messages=(say("system", "be kind"), say("user", f"q{i}")),
                decoder=DecoderSettings(max_tokens=5, temperature=0.3, seed=i, stop=("x",)),
                answer=ANSWER,
            )
            for i in range(n)
        ]
    )


def test_it_asks_exactly_what_was_recorded_and_no_more_at_once_than_it_may(tmp_path: Path, aligned: Any) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 30)
    together: Counter[str] = Counter()

    def answer(body: dict[str, Any]) -> str:
        together["now"] -= 1
        return "ok"

    original = aligned._answer

    async def counting(request: Any, body: dict[str, Any]) -> Any:
        together["now"] += 1
        together["most"] = max(together["most"], together["now"])
        await asyncio.sleep(0.01)
        return await original(request, body)

    aligned._answer, aligned.answer = counting, answer
    replay(spool, aligned.url, consent=lambda subject: True, concurrency=4)
    assert spool.counts().paired == 30
    assert 1 < together["most"] <= 4
    body = next(body for _, body in aligned.seen if body["seed"] == 7)
    assert body == {
        "model": "candidate",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "q7"}],
        "max_tokens": 5,
        "temperature": 0.3,
        "top_p": 1.0,
        "seed": 7,
        "stop": ["x"],
    }
    spool.close()


def test_a_replay_against_nobody_ends_with_a_remedy_and_loses_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 3)
    with pytest.raises(PlumblineError, match="nothing has listened") as ended:
        replay(spool, "http://127.0.0.1:9/v1", consent=lambda subject: True, unreachable_s=0.3)
    assert "3 records still wait" in ended.value.consequence
    assert spool.counts().pending == 3
    spool.close()


def test_two_workers_on_one_spool_pair_each_record_once(tmp_path: Path, aligned: Any) -> None:
    aligned.delay_s = 0.005
    mine, other = Spool(tmp_path, EXPERIMENT), Spool(tmp_path, EXPERIMENT)
    fill(mine, 40)
    threads = [
        threading.Thread(target=replay, args=(spool, aligned.url), kwargs={"consent": lambda subject: True})
        for spool in (mine, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert mine.counts().paired == 40 == len({pair.spooled.request for pair in mine.pairs()})
    mine.close()
    other.close()


def test_one_answer_that_hangs_does_not_hold_up_later_records(tmp_path: Path, aligned: Any) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    aligned.mode = "hang"
    worker = Worker(spool, aligned.url, consent=lambda subject: True, concurrency=4, deadline_s=20)

    async def work() -> None:
        stop = asyncio.Event()
        running = asyncio.ensure_future(worker.run(stop))
        await asyncio.to_thread(fill, spool, 1)
        while not aligned.seen:
            await asyncio.sleep(0.01)
        aligned.mode = "ok"
        await asyncio.to_thread(fill, spool, 5)
        until = time.monotonic() + 15
        while spool.counts().paired < 5 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        stop.set()
        await running

    asyncio.run(work())
    counts = spool.counts()
    assert (counts.paired, counts.pending) == (5, 1)
    spool.close()


def test_an_outcome_that_the_disk_does_not_take_is_written_later(
    tmp_path: Path, aligned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 5)
    settle, failures = spool.settle, [1, 2]

    def failing(outcomes: list[Outcome]) -> int:
        if failures:
            failures.pop()
            raise sqlite3.OperationalError("database or disk is full")
        return settle(outcomes)

    monkeypatch.setattr(spool, "settle", failing)
    replay(spool, aligned.url, consent=lambda subject: True)
    assert not failures and spool.counts().paired == 5
    spool.close()


def test_a_redirect_is_not_followed_with_what_a_user_said(tmp_path: Path, aligned: Any, reference: Any) -> None:
    aligned.mode, aligned.elsewhere = "moved", reference.url
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 1)
    replay(spool, aligned.url, consent=lambda subject: True)
    assert spool.counts().shed == {"error": 1} and not reference.seen
    spool.close()


def test_a_spool_that_cannot_be_read_for_a_while_does_not_end_the_worker(tmp_path: Path, aligned: Any) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 2)
    worker = Worker(spool, aligned.url, consent=lambda subject: True)

    async def work() -> None:
        stop = asyncio.Event()
        with contextlib.closing(sqlite3.connect(tmp_path / "spool.sqlite")) as db:
            db.execute("ALTER TABLE record RENAME TO away")
            working = asyncio.create_task(worker.run(stop))
            await asyncio.sleep(0.5)
            assert not working.done()
            db.execute("ALTER TABLE away RENAME TO record")
        async with asyncio.timeout(20):
            while spool.counts().paired < 2:
                await asyncio.sleep(0.02)
        stop.set()
        await working

    asyncio.run(work())
    spool.close()


def test_a_worker_stops_when_told_and_leaves_the_rest_pending(tmp_path: Path, aligned: Any) -> None:
    aligned.mode = "hang"
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 5)
    worker = Worker(spool, aligned.url, consent=lambda subject: True, concurrency=2)

    async def work() -> float:
        stop = asyncio.Event()
        running = asyncio.ensure_future(worker.run(stop))
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        stop.set()
        await asyncio.wait_for(running, 10)
        return time.monotonic() - begun

    assert asyncio.run(work()) < 2
    assert spool.counts().pending == 5
    spool.close()


def test_metrics_are_the_spools_own_accounting_and_outlive_the_process(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    fill(spool, 3)
    spool.settle([Outcome(1, replayed=ANSWER), Outcome(2, reason="deadline")])
    spool.close()
    again = Spool(tmp_path, EXPERIMENT)
    registry = CollectorRegistry()
    registry.register(Accounting(again))
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        'plumbline_shadow_spooled_total{experiment="e"} 3.0',
        'plumbline_shadow_pairs_total{experiment="e"} 1.0',
        'plumbline_shadow_shed_total{experiment="e",reason="deadline"} 1.0',
        'plumbline_shadow_pending{experiment="e"} 1.0',
    ):
        assert line in lines
    again.close()


def test_a_recorder_that_cannot_keep_up_sheds_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "QUEUE", 5)
    spool = Spool(tmp_path, EXPERIMENT)
    ledger = threading.Event()

    def slow(subject: str) -> bool:
        return ledger.wait(10)

    slow_recorder = Recorder(spool, slow)
    slow_recorder.start()
    body = b'{"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}'
    for i in range(20):
        served = Served(f"r{i}", "s", "ana", "a", (say("user", "?"),), DecoderSettings(), body, False, False, 1.0, "")
        slow_recorder.offer(served)
    ledger.set()
    assert slow_recorder.flush()
    slow_recorder.close()
    counts = spool.counts()
    assert counts.spooled == 20 and counts.pending + counts.shed["queue_full"] == 20
    assert counts.shed["queue_full"] >= 9
    spool.close()
