"""Disks, clocks and ledgers that fail: nothing is published, nothing is lost, the error says why, and then it goes on.

Each test breaks something under a store that is about to ingest, tries, repairs it, and goes on: the version that comes
out is the one of a store that was never broken (`Bench.expected`).
"""

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.stores import sqlite as sqlite_ledger
from soak.failpoints import Failpoints, watching
from soak.kills import Bench
from soak.stories import DATASET, LEAVING, Store, feedback


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("faults"), "ingest")


def head(place: Path) -> int:
    with Store(place) as store:
        found = store.ledger.publications.head(DATASET)
        return 0 if found is None else found.version


def ingest(place: Path, **how: Any) -> None:
    with Store(place, **how) as store:
        store.ingest()


def refused(place: Path, why: str, **how: Any) -> PlumblineError:
    """Ingesting fails with a reason, a consequence and a remedy."""
    with pytest.raises(PlumblineError, match=why) as caught:
        ingest(place, **how)
    assert caught.value.fact and caught.value.consequence and caught.value.remedy
    return caught.value


def goes_on(bench: Bench, place: Path) -> None:
    ingest(place)
    assert bench.read(place) == bench.expected


# --- the ledger -------------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_ledger, "PATIENCE_SECONDS", 0.3)


@pytest.mark.usefixtures("impatient")
def test_a_ledger_that_somebody_keeps_locked(bench: Bench) -> None:
    place = bench.copy("locked")
    rival = sqlite3.connect(place / "ledger.db", isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    refused(place, "locked|busy")
    rival.execute("ROLLBACK")
    rival.close()
    assert head(place) == 1
    goes_on(bench, place)


def test_a_ledger_that_is_slow_is_waited_for(bench: Bench) -> None:
    place = bench.copy("slow")
    stop = threading.Event()

    def hog() -> None:
        rival = sqlite3.connect(place / "ledger.db", isolation_level=None, timeout=10)
        while not stop.is_set():
            rival.execute("BEGIN IMMEDIATE")
            time.sleep(0.05)
            rival.execute("ROLLBACK")
            time.sleep(0.005)
        rival.close()

    thread = threading.Thread(target=hog)
    thread.start()
    try:
        goes_on(bench, place)
    finally:
        stop.set()
        thread.join()


def test_a_ledger_that_is_not_there_any_more(bench: Bench) -> None:
    place = bench.copy("gone")
    (place / "ledger.db").rename(place / "elsewhere")
    (place / "ledger.db").mkdir()
    refused(place, "cannot be (opened|used)")
    (place / "ledger.db").rmdir()
    (place / "elsewhere").rename(place / "ledger.db")
    goes_on(bench, place)


@pytest.mark.slow
def test_damage_to_any_page_of_the_ledger_is_an_error_or_without_effect(bench: Bench) -> None:
    """32 bytes in each page of the file, one page at a time: never another version than the expected. What SQLite does
    not notice (it has no checksums) is found by chains, roots and fingerprints."""
    whole = (bench.prepared / "ledger.db").read_bytes()
    outcomes = set()
    for page in range(len(whole) // 4096):
        place = bench.copy("damaged")
        damaged = bytearray(whole)
        for offset in range(page * 4096 + 2000, page * 4096 + 2032):
            damaged[offset] ^= 0x5A
        (place / "ledger.db").write_bytes(damaged)
        try:
            ingest(place)
            found = bench.read(place).versions
            assert found == bench.expected.versions, f"page {page}"
            outcomes.add("without effect")
        except PlumblineError:
            outcomes.add("error")
        if page % 8:
            continue
        for file in place.glob("ledger.db*"):
            file.unlink()
        (place / "ledger.db").write_bytes(whole)  # the backup
        goes_on(bench, place)
    assert outcomes == {"error", "without effect"}


def test_consent_that_was_rewritten_behind_the_ledgers_back(bench: Bench) -> None:
    place = bench.copy("rewritten")
    with sqlite3.connect(place / "ledger.db") as rival:
        rival.execute("DROP TRIGGER consent_no_update")
        (entry,) = rival.execute("SELECT entry FROM consent WHERE sequence = 3").fetchone()
        rival.execute("UPDATE consent SET entry = ? WHERE sequence = 3", (entry.replace("training", "evaluation"),))
    rival.close()
    refused(place, "does not verify")
    assert head(place) == 1
    with sqlite3.connect(place / "ledger.db") as rival:
        rival.execute("UPDATE consent SET entry = ? WHERE sequence = 3", (entry,))
    rival.close()
    goes_on(bench, place)


def test_consent_that_was_rolled_back_under_a_published_version(bench: Bench) -> None:
    """Somebody restores the consent tables of last week: a published version remembers a head that is not there."""
    place = bench.copy("rolled back")
    with Store(place) as store:
        store.desk.withdraw(LEAVING)
        store.ingest()
    with sqlite3.connect(place / "ledger.db") as rival:
        for (trigger,) in rival.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            rival.execute(f"DROP TRIGGER {trigger}")
        last = rival.execute("SELECT MAX(sequence) FROM consent").fetchone()
        for table in ("consent_purpose", "consent"):
            rival.execute(f"DELETE FROM {table} WHERE sequence = ?", last)
    rival.close()
    with Store(place) as store:
        store.post([store.event("person 1", "rewrite", "what came later", text="a cup")])
    refused(place, "cut off or rewritten")
    assert head(place) == 2


def test_a_ledger_put_back_to_an_older_copy_is_found_by_the_head_that_was_pinned(bench: Bench) -> None:
    place = bench.copy("put back")
    with Store(place) as store:
        store.desk.withdraw(LEAVING)
        pinned = store.desk.head()
    for file in place.glob("ledger.db*"):
        file.unlink()
    shutil.copy(bench.prepared / "ledger.db", place / "ledger.db")
    with Store(place) as store:
        assert store.desk.verify().valid  # in itself it is in order: that is why heads are pinned outside
        check = store.desk.verify(pinned)
        assert not check.valid and "pinned head" in str(check.problem)
        with pytest.raises(PlumblineError, match="pinned head"):
            store.ledger.consent.require_valid(pinned)


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 40, 100, 400, 1_000, 4_000, 20_000, 100_000])
def test_a_disk_on_which_files_cannot_grow(bench: Bench, limit: int) -> None:
    place = bench.copy("full")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        refused(place, "no space left|cannot be (used|opened)|disk refused")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert head(place) == 1
    goes_on(bench, place)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_is_full_to_the_last_byte(bench: Bench, small_disk: Path) -> None:
    place = small_disk / "store"
    shutil.copytree(bench.prepared, place)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    refused(place, "no space left|cannot be used")
    ballast.unlink()
    assert head(place) == 1
    goes_on(bench, place)


@pytest.mark.slow
def test_an_input_or_output_error_at_any_step(bench: Bench) -> None:
    """EIO from each call on files, and SQLite's own I/O error from each statement, one step at a time."""

    def fail() -> None:
        if points.steps[-1].isupper() or " " in points.steps[-1]:
            raise sqlite3.OperationalError("disk I/O error")
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    refusals = 0
    for step in range(1, len(bench.steps) + 1, 5):
        place = bench.copy("broken")
        points = Failpoints(step, fail)
        try:
            with watching(points, place):
                ingest(place)
        except PlumblineError as error:
            assert error.consequence and error.remedy
            refusals += 1
        except OSError as error:
            raise AssertionError(f"step {step} ({points.steps[-1]}): {error!r} came through") from error
        goes_on(bench, place)
    assert refusals > len(bench.steps) / 5 / 2


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_is_a_day_off_changes_no_digest(bench: Bench, days: int) -> None:
    place = bench.copy("clock")
    ingest(place, skew=timedelta(days=days))
    assert bench.read(place) == bench.expected


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_while_consent_is_given_and_withdrawn_reorders_nothing(tmp_path: Path, days: int) -> None:
    with Store(tmp_path) as store:
        store.seed()
        store.give("person 1", "person 2")
        store.post(feedback(store))
        store.skew = timedelta(days=days)
        store.desk.withdraw("person 1")
        store.skew = timedelta(days=-days)
        result = store.ingest()
        gone = store.names.of("person 1")
        assert result.version is not None and result.candidate is not None
        assert result.accepted and gone not in {member.subject for member in result.candidate.added}


def test_consent_that_ran_out_on_a_clock_that_is_ahead_publishes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    """Ahead, consent seems to have expired: those events are refused and counted, never published by mistake."""
    with Store(tmp_path) as store:
        store.seed()
        until = store.clock() + timedelta(hours=12)
        store.desk.give("person 1", ["training"], store.notice, valid_until=until)
        store.post([store.event("person 1", "rewrite", "what is a lamp", text="it shines")])
        store.skew = timedelta(days=1)
        result = store.ingest()
        assert (result.accepted, result.rejected) == (0, {"consent_expired": 1})
        assert store.ledger.inbox.last_sequence() == 1
