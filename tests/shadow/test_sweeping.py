"""What people said who withdrew, or were erased, goes from every spool by itself; nothing else does."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, backend, ledger  # noqa: F401  (fixtures)

from plumbline.shadow import Outcome, Spool, spool_forgetting, sweeping
from plumbline.shadow.observed import Labels
from plumbline.shadow.sweeping import SWEPT, Sweeper, sweep, swept_at
from plumbline.shadow.watching import Watch
from plumbline.shadow.worker import Worker
from plumbline.stores import Ledger
from shadow.client import until
from shadow.leavers import ANA, ANSWER, BEN, EVA, EXPERIMENT, Away, House, on_disk, put, record, words
from shadow.test_monitor import PLAN


@pytest.fixture
def house(ledger: Ledger) -> House:  # noqa: F811
    return House(ledger)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(tmp_path / "spool", EXPERIMENT)) as opened:
        yield opened


def test_who_withdrew_or_was_erased_leaves_no_word_and_who_came_back_keeps_what_they_said_since(
    house: House, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    for person in (ANA, BEN, EVA):
        house.says(person, "given")
        put(spool, house, person, f"{person} one", f"{person} two")
    spool.settle([Outcome(1, replayed=ANSWER), Outcome(3, replayed=ANSWER)])
    watch = Watch(spool, Labels(lambda text: "comply"), PLAN)
    assert sweep(spool, house.leaving) == 0 and watch.status().counts.paired == 2

    house.says(ANA, "withdrawn")
    house.erases(EVA)
    house.says(ANA, "given")
    put(spool, house, ANA, "ana is back")
    assert sweep(spool, house.leaving) == 4 == sweep(spool, house.leaving) + 4
    assert words(spool) == [f"{BEN} one", f"{BEN} two", "ana is back"]
    left = on_disk(spool.directory)
    assert f"{ANA} one".encode() not in left and EVA.encode() not in left and b"ana is back" in left
    counts = spool.counts()
    assert (counts.balanced, counts.shed, counts.paired) == (True, {"withdrawn": 4}, 1)
    assert [one.getMessage().partition(" were")[0] for one in caplog.records] == ["4 records"]
    assert spool.ever_paired() == 2, "a counter never falls"
    seen = watch.status()
    assert (seen.sessions, seen.counts.paired, seen.swept) == (1, 1, swept_at(spool)) and seen.swept > 0
    assert all(loss.counted is False for loss in seen.losses), "they are no loss of the aligned policy's"

    house.says(BEN, "refused")
    house.says(ANA, "withdrawn")
    assert sweep(spool, house.leaving) == 3 and words(spool) == []


def test_a_record_that_comes_late_goes_when_its_consent_was_looked_up_before_the_withdrawal(
    house: House, spool: Spool
) -> None:
    """It lay between router and disk while sweeps went by. The other was looked up after its person came back."""
    asked = house.says(ANA, "given")
    sweep(spool, house.leaving)
    house.says(ANA, "withdrawn")
    sweep(spool, house.leaving)
    back = house.says(ANA, "given")
    sweep(spool, house.leaving)
    spool.append([record(ANA, "before")], consented=asked)
    spool.append([record(ANA, "after")], consented=back)
    assert sweep(spool, house.leaving) == 1 and words(spool) == ["after"]


def test_a_withdrawal_from_while_nobody_swept_is_found_also_in_a_spool_that_was_never_swept(
    house: House, spool: Spool
) -> None:
    house.says(ANA, "given")
    house.says(BEN, "given")
    spool.append([record(ANA, "an older router's"), record(BEN, "stays")])  # which knew of no entries
    house.says(ANA, "withdrawn")
    house.says(ANA, "given")
    assert sweep(spool, house.leaving) == 1 and words(spool) == ["stays"]


def test_spools_of_earlier_versions_get_what_they_lacked_and_lose_nothing(house: House, tmp_path: Path) -> None:
    with contextlib.closing(Spool(tmp_path, EXPERIMENT)) as made:
        house.says(ANA, "given")
        put(made, house, ANA, "old words")
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.sqlite")) as db:
        db.execute("ALTER TABLE record DROP COLUMN consented")
    with contextlib.closing(Spool(tmp_path, EXPERIMENT)) as again:
        put(again, house, ANA, "new words")
        assert words(again) == ["old words", "new words"]
        house.says(ANA, "withdrawn")
        assert sweep(again, house.leaving) == 2


def test_a_ledger_that_is_away_empty_or_an_old_copy_erases_nothing_and_withdrawals_in_it_count_again(
    tmp_path: Path, spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        house = House(opened)
        house.says(ANA, "given")
    shutil.copy(tmp_path / "ledger.sqlite", tmp_path / "old.sqlite")
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        house = House(opened)
        house.says(BEN, "given", valid_until=datetime.now(UTC) + timedelta(days=1))
        put(spool, house, ANA, "ana's")
        put(spool, house, BEN, "ben's")
        assert Sweeper(spool, house.leaving).look()
        when = swept_at(spool)
        assert Sweeper(spool, Away()).look() is False and swept_at(spool) == when
        assert "nobody answers" in caplog.text
        with Ledger(tmp_path / "empty.sqlite") as empty:
            assert not Sweeper(spool, House(empty).leaving).look() and words(spool) == ["ana's", "ben's"]
        assert "knows nobody whose words are in" in caplog.text and swept_at(spool) == when
        opened.database.clock = lambda: datetime.now(UTC) + timedelta(days=9)
        assert Sweeper(spool, house.leaving).look() and words(spool) == ["ana's", "ben's"], "a clock withdraws nothing"
    with Ledger(tmp_path / "old.sqlite") as opened:  # restored; it never knew ben, and goes on from there
        house = House(opened)
        assert Sweeper(spool, house.leaving).look() and words(spool) == ["ana's", "ben's"]
        assert "is not the one that" in caplog.text
        house.says(ANA, "withdrawn")
        assert Sweeper(spool, house.leaving).look() and words(spool) == ["ben's"]


def test_a_wrong_ledger_for_a_while_costs_nobody_who_came_back_a_word(
    tmp_path: Path, house: House, spool: Spool
) -> None:
    """Neither before the first sweep nor after one: what is noted stays that of the ledger that knows these people."""
    for action in ("given", "withdrawn", "given"):
        house.says(ANA, action)
    put(spool, house, ANA, "ana is back")
    with Ledger(tmp_path / "wrong.sqlite") as wrong:
        other = House(wrong)
        for _ in range(9):
            other.says(BEN, "given")
        assert not Sweeper(spool, other.leaving).look()
        assert Sweeper(spool, house.leaving).look()
        assert not Sweeper(spool, other.leaving).look()
        assert Sweeper(spool, house.leaving).look() and words(spool) == ["ana is back"]
    house.says(ANA, "withdrawn")
    assert Sweeper(spool, house.leaving).look() and words(spool) == []


def test_a_router_goes_on_writing_while_many_are_erased(
    house: House, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in (ANA, BEN):
        house.says(person, "given")
        put(spool, house, person, *(f"{person} {i}" for i in range(5)))
    spool.settle([Outcome(seq, replayed=ANSWER) for seq in range(1, 8)])
    monkeypatch.setattr(spool_forgetting, "AT_ONCE", 2)
    paused: list[float] = []
    with contextlib.closing(Spool(spool.directory, EXPERIMENT)) as router:
        router._db.execute("PRAGMA busy_timeout=0")

        def pause(seconds: float) -> None:
            paused.append(seconds)
            put(router, house, EVA, f"eva's {len(paused)}")

        monkeypatch.setattr(spool_forgetting, "pause", pause)
        for person in (ANA, BEN):
            house.says(person, "withdrawn")
        assert sweep(spool, house.leaving) == 10 and all(seconds > 0 for seconds in paused)
        counts = spool.counts()
        assert (counts.balanced, counts.shed, counts.pending) == (True, {"withdrawn": 10}, len(paused) >= 4 and 5)
        assert len(paused) == 5 and spool.ever_paired() == 7


def test_nobody_waits_long_to_write_because_a_reader_keeps_the_log_from_being_emptied(
    house: House, spool: Spool
) -> None:
    put(spool, house, ANA, "my secret is blue")
    reader = sqlite3.connect(spool.directory / "spool.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM record").fetchall()
    with contextlib.closing(Spool(spool.directory, EXPERIMENT)) as router, contextlib.closing(reader):
        router._db.execute("PRAGMA busy_timeout=5000")  # less than the ten seconds of whoever empties it
        put(spool, house, ANA, "more")
        emptied: list[bool] = []
        emptying = threading.Thread(target=lambda: emptied.append(spool.empty_log()))
        emptying.start()
        while emptying.is_alive():
            put(router, house, BEN, "ben's")
        emptying.join()
        assert emptied == [False] and router.counts().shed == {}


def test_an_entry_that_was_tampered_with_erases_nobody_and_the_fault_is_said_once(
    house: House,
    backend: Backend,  # noqa: F811
    spool: Spool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    house.says(ANA, "given")
    put(spool, house, ANA, "ana's")
    sweep(spool, house.leaving)
    when = json.loads(spool.told(SWEPT))
    outsider = backend.outsider()
    row = "INSERT INTO consent_purpose (subject, purpose, sequence, action) VALUES (?, 'evaluation', ?, 'withdrawn')"
    house.says(BEN, "given")
    outsider.execute(row, (ANA, house.head()))
    outsider.close()
    sweeper = Sweeper(spool, house.leaving)
    assert (sweeper.look(), sweeper.look()) == (False, False) and words(spool) == ["ana's"]
    assert caplog.text.count("does not verify") == 1 and json.loads(spool.told(SWEPT)) == when


def test_spools_of_earlier_experiments_and_aa_runs_are_swept_too_and_one_that_cannot_be_is_said(
    house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.ExitStack() as opened:
        alike = EXPERIMENT.model_copy(update={"mode": "aa"})
        made = [
            opened.enter_context(contextlib.closing(Spool(tmp_path / name, one)))
            for name, one in (("e-shadow", EXPERIMENT), ("e-aa", alike), ("old/er", EXPERIMENT))
        ]
        house.says(ANA, "given")
        for one in made:
            put(one, house, ANA, "ana's")
        sweeper = Sweeper(made[0], house.leaving, below=[tmp_path, tmp_path / "absent"])
        assert sweeper.look()
        house.says(ANA, "withdrawn")
        assert sweeper.look() and [words(one) for one in made] == [[], [], []]
        assert [one.counts().shed for one in made] == [{"withdrawn": 1}] * 3
        when = swept_at(made[0])
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "spool.sqlite").write_bytes(b"not a database, not at all" * 40)
        assert not sweeper.look() and "broken" in caplog.text
        assert swept_at(made[0]) == when, "not everything is known to be gone"


def test_while_somebody_reads_the_log_is_not_emptied_and_it_is_at_the_next_sweep(house: House, spool: Spool) -> None:
    house.says(ANA, "given")
    put(spool, house, ANA, "my secret is blue")
    sweep(spool, house.leaving)
    when = swept_at(spool)
    spool._db.execute("PRAGMA busy_timeout=10")
    reader = sqlite3.connect(spool.directory / "spool.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM record").fetchall()
    house.says(ANA, "withdrawn")
    sweep(spool, house.leaving)
    assert words(spool) == [] and b"secret is blue" in on_disk(spool.directory) and swept_at(spool) == when
    reader.close()
    sweep(spool, house.leaving)
    assert b"secret is blue" not in on_disk(spool.directory) and swept_at(spool) != when


def test_a_worker_sweeps_before_it_asks_and_again_and_again_whatever_the_switch_says(
    house: House, spool: Spool, aligned: Any
) -> None:
    house.says(ANA, "given")
    house.says(BEN, "given")
    put(spool, house, ANA, "ana's")
    put(spool, house, BEN, "ben's")
    house.says(ANA, "withdrawn")
    sweeper = Sweeper(spool, house.leaving, every_s=0.02)
    worker = Worker(spool, aligned.url, consent=lambda subject: True, sweeper=sweeper)

    async def work() -> None:
        stop = asyncio.Event()
        running = asyncio.ensure_future(worker.run(stop))
        await asyncio.to_thread(until, lambda: spool.counts().paired == 1)
        spool.trip("harm")
        house.says(BEN, "withdrawn")
        await asyncio.to_thread(until, lambda: words(spool) == [])
        stop.set()
        await running

    asyncio.run(work())
    assert [body["messages"][0]["content"] for _, body in aligned.seen] == ["ben's"]
    assert spool.counts().shed == {"withdrawn": 2}


def test_what_was_erased_while_it_waited_to_be_asked_is_not_asked_though_its_person_came_back(
    house: House, spool: Spool, aligned: Any
) -> None:
    """The worker has read it already: it waits in its memory for a place, for hours while nobody listens."""
    house.says(ANA, "given")
    put(spool, house, BEN, "ben's", "ben's too")
    put(spool, house, ANA, "ana's")
    asked: list[str] = []

    def consents(subject: str) -> bool:
        asked.append(subject)
        if len(asked) == 1:  # all three are read by now, one place is there
            house.says(ANA, "withdrawn")
            house.says(ANA, "given")
            sweep(spool, house.leaving)
        return True

    worker = Worker(spool, aligned.url, consent=consents, concurrency=1)

    async def work() -> None:
        ending = asyncio.Event()
        ending.set()
        await worker.run(asyncio.Event(), ending=ending)

    asyncio.run(work())
    assert [body["messages"][0]["content"] for _, body in aligned.seen] == ["ben's", "ben's too"]
    assert spool.counts().shed == {"withdrawn": 1}


def test_the_ledger_is_read_by_the_page_and_each_sweep_reads_only_what_is_new(
    house: House, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "PAGE", 2)
    house.says(ANA, "given")
    spool.append([record(ANA, "ana's")])
    for _ in range(3):
        house.says(BEN, "given")
    house.says(ANA, "withdrawn")
    asked: list[tuple[int, int]] = []
    counting = house.leaving
    between = counting.between

    def noted(after: int, up_to: int) -> set[str]:
        asked.append((after, up_to))
        return between(after, up_to)

    counting.between = noted  # type: ignore[method-assign]
    assert sweep(spool, counting) == 1 and asked == [(0, 2), (2, 4), (4, 5)]
    assert sweep(spool, counting) == 0 and asked[3:] == [(5, 5)]
