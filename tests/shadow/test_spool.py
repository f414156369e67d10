"""The spool keeps what it acknowledged, counts what it could not keep, and never counts anything twice."""

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Spool, read_pairs
from plumbline.shadow.spool import Outcome

EXPERIMENT = Experiment(name="e", salt="grain", max_pending=20, max_record=2_000)
ANSWER = Answer(text="yes", finish="stop", latency_ms=1.0, tokens=1)


def record(request: str, text: str = "hi", subject: str = "ana") -> SpoolRecord:
    return SpoolRecord(
        request=request,
        experiment="e",
        session="s",
        subject=subject,
        messages=(say("user", text),),
        decoder=DecoderSettings(),
        reference=ANSWER,
    )


STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 12)),
    st.tuples(st.just("oversize"), st.just(1)),
    st.tuples(st.just("door"), st.integers(1, 3)),
    st.tuples(st.just("pair"), st.integers(1, 30)),
    st.tuples(st.just("shed"), st.integers(1, 30)),
    st.tuples(st.just("forget"), st.integers(0, 2)),
    st.tuples(st.just("give up"), st.just(0)),
    st.tuples(st.just("reopen"), st.just(0)),
)


@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEP, max_size=15))
def test_the_accounting_balances_whatever_happens(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = Spool(folder, EXPERIMENT)
    offered = 0
    for step, n in steps:
        if step == "append":
            spool.append([record(f"r{offered + i}", subject=f"s{i % 3}") for i in range(n)])
            offered += n
        elif step == "oversize":
            assert spool.append([record("big", "x" * 3000)]) == Counter(oversize=1)
            offered += 1
        elif step == "door":
            spool.shed_at_door(Counter(no_consent=n))
            offered += n
        elif step == "pair":
            spool.settle([Outcome(n, aligned=ANSWER)])
        elif step == "shed":
            spool.settle([Outcome(n, reason="deadline")])
        elif step == "forget":
            spool.forget(f"s{n}")
        elif step == "give up":
            spool.shed_pending("closed")
        else:
            spool.close()
            spool = Spool(folder, EXPERIMENT)
        counts = spool.counts()
        assert counts.balanced
        assert counts.spooled == offered
        assert counts.paired == len(list(spool.pairs()))
        assert counts.pending == spool.waiting() <= EXPERIMENT.max_pending
    spool.close()
    shutil.rmtree(folder)


def test_a_settled_record_never_changes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1")])
    assert spool.settle([Outcome(1, aligned=ANSWER)]) == 1
    assert spool.settle([Outcome(1, aligned=ANSWER), Outcome(1, reason="error"), Outcome(99, reason="error")]) == 0
    assert spool.counts().paired == 1
    spool.close()


def test_records_and_pairs_come_back_as_they_went_in_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    records = [record(f"r{i}", "ünï \N{SNOWMAN} \x00 '\"") for i in range(10)]
    spool.append(records)
    assert [kept for _, kept in spool.pending(100)] == records
    assert [seq for seq, _ in spool.pending(3, after=4)] == [5, 6, 7]
    spool.settle([Outcome(seq, aligned=ANSWER) for seq in (7, 2, 5)])
    spool.close()
    assert [pair.spooled for pair in read_pairs(tmp_path)] == [records[1], records[4], records[6]]


def test_another_experiments_spool_is_refused_and_untouched(tmp_path: Path) -> None:
    Spool(tmp_path, EXPERIMENT).close()
    before = (tmp_path / "spool.sqlite").read_bytes()
    with pytest.raises(PlumblineError, match="belongs to another experiment"):
        Spool(tmp_path, EXPERIMENT.model_copy(update={"salt": "other"}))
    assert (tmp_path / "spool.sqlite").read_bytes() == before


def test_a_folder_without_a_spool_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"not a database, not at all" * 40)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(PlumblineError, match="no readable spool"):
            read_pairs(folder)


def test_erasing_a_subject_leaves_no_trace_of_words_and_keeps_the_count(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1", "my secret is blue", "ana"), record("r2", "kept words", "ben")])
    spool.settle([Outcome(1, aligned=ANSWER), Outcome(2, aligned=ANSWER)])
    assert spool.forget("ana") == 1
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"kept words" in kept and b"secret is blue" not in kept and b"ana" not in kept
    assert spool.counts().shed == {"withdrawn": 1} and spool.counts().paired == 1
    spool.close()


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: what the kernel says is EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_nothing_acknowledged_and_counts_the_rest(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1")])
    with full_disk((tmp_path / "spool.sqlite-wal").stat().st_size):
        assert spool.append([record("r2"), record("r3")]) == Counter(disk_full=2)
        counts = spool.counts()
        assert (counts.spooled, counts.pending, counts.shed) == (3, 1, {"disk_full": 2})
        with pytest.raises(sqlite3.Error):
            spool.settle([Outcome(1, aligned=ANSWER)])
    assert spool.append([record("r4")]) == Counter()
    spool.close()
    again = Spool(tmp_path, EXPERIMENT)
    counts = again.counts()
    assert (counts.spooled, counts.pending, counts.shed) == (4, 2, {"disk_full": 2})
    assert [kept.request for _, kept in again.pending(9)] == ["r1", "r4"]
    again.close()


def test_a_spool_bounded_in_bytes_counts_what_does_not_fit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT, max_bytes=60_000)
    shed: Counter[str] = Counter()
    for i in range(80):
        shed += spool.append([record(f"r{i}", "x" * 1500)])
        spool.settle([Outcome(seq, aligned=ANSWER) for seq, _ in spool.pending(20)] if i < 20 else [])
    assert shed["disk_full"] > 0
    assert spool.counts().spooled == 80
    spool.close()


def test_a_torn_tail_of_the_log_loses_only_what_was_torn(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "live", EXPERIMENT)
    for i in range(5):
        spool.append([record(f"r{i}")])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("spool.sqlite", "spool.sqlite-wal"):
        shutil.copy(tmp_path / "live" / name, crashed / name)
    spool.close()
    wal = crashed / "spool.sqlite-wal"
    os.truncate(wal, wal.stat().st_size - 100)
    again = Spool(crashed, EXPERIMENT)
    assert [kept.request for _, kept in again.pending(9)] == ["r0", "r1", "r2", "r3"]
    again.append([record("r5")])
    assert again.counts().pending == 5
    again.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_spool as t
spool = t.Spool(Path(sys.argv[1]), t.EXPERIMENT.model_copy(update={"max_pending": 10**6}))
for i in range(10**6):
    spool.append([t.record(f"r{i}")])
    print(i, flush=True)
"""


def test_a_writer_killed_at_any_moment_has_lost_no_acknowledged_record(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 60:
            process.send_signal(signal.SIGKILL)
            break
    acknowledged = [60, *(int(line) for line in process.stdout.read().split())]
    process.wait()
    spool = Spool.existing(tmp_path)
    kept = [record.request for _, record in spool.pending(10**6)]
    spool.close()
    assert kept[: max(acknowledged) + 1] == [f"r{i}" for i in range(max(acknowledged) + 1)]
    assert len(kept) <= max(acknowledged) + 2
