"""The spool keeps what it acknowledged, counts what it could not keep, and never counts anything twice."""

import contextlib
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
        answer=ANSWER,
    )


def test_a_settled_record_never_changes(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1")])
    assert spool.settle([Outcome(1, replayed=ANSWER)]) == 1
    assert spool.settle([Outcome(1, replayed=ANSWER), Outcome(1, reason="error"), Outcome(99, reason="error")]) == 0
    assert spool.counts().paired == 1
    spool.close()


def test_records_and_pairs_come_back_as_they_went_in_and_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    records = [record(f"r{i}", "ünï \N{SNOWMAN} \x00 '\"") for i in range(10)]
    spool.append(records)
    assert [kept for _, kept in spool.pending(100)] == records
    assert [seq for seq, _ in spool.pending(3, after=4)] == [5, 6, 7]
    spool.settle([Outcome(seq, replayed=ANSWER) for seq in (7, 2, 5)])
    spool.close()
    assert [pair.spooled for pair in read_pairs(tmp_path)] == [records[1], records[4], records[6]]


def test_another_experiments_spool_is_refused_and_untouched(tmp_path: Path) -> None:
    Spool(tmp_path, EXPERIMENT).close()
    before = (tmp_path / "spool.sqlite").read_bytes()
    with pytest.raises(PlumblineError, match="belongs to another experiment"):
        Spool(tmp_path, EXPERIMENT.model_copy(update={"salt": "other"}))
    assert (tmp_path / "spool.sqlite").read_bytes() == before


def test_a_spool_of_another_version_is_refused_with_a_remedy_and_untouched(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "spool.sqlite")) as old, old:
        old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        old.executemany("INSERT INTO meta VALUES (?, ?)", {"format": "1", "experiment": "{}"}.items())
    before = (tmp_path / "spool.sqlite").read_bytes()
    for begin in (lambda: Spool(tmp_path, EXPERIMENT), lambda: Spool.existing(tmp_path)):
        with pytest.raises(PlumblineError, match=r"another version of Plumbline \(format 1, not 2\)") as refused:
            begin()
        assert "another --spool" in refused.value.remedy and refused.value.exit_code == 2
    assert (tmp_path / "spool.sqlite").read_bytes() == before


def test_a_folder_without_a_spool_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "spool.sqlite").write_bytes(b"not a database, not at all" * 40)
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(PlumblineError, match="no readable spool"):
            read_pairs(folder)


def test_erasing_a_subject_leaves_no_trace_of_words_and_keeps_the_count(tmp_path: Path) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1", "my secret is blue", "ana"), record("r2", "kept words", "ben")])
    spool.settle([Outcome(1, replayed=ANSWER), Outcome(2, replayed=ANSWER)])
    assert spool.forget("ana") == 1
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"kept words" in kept and b"secret is blue" not in kept and b"ana" not in kept
    assert spool.counts().shed == {"withdrawn": 1} and spool.counts().paired == 1
    spool.close()


@pytest.mark.parametrize("reason", ["withdrawn", "consent_unavailable"])
def test_what_nobody_agrees_to_any_more_at_pairing_leaves_neither_words_nor_name(tmp_path: Path, reason: str) -> None:
    spool = Spool(tmp_path, EXPERIMENT)
    spool.append([record("r1", "my secret is blue", "ana"), record("r2", "kept words", "ben")])
    spool.settle([Outcome(1, reason=reason)])
    assert spool.subjects() == ["ben"] and spool.counts().shed == {reason: 1} and spool.counts().pending == 1
    spool.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"kept words" in kept and b"secret is blue" not in kept and b"ana" not in kept


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
            spool.settle([Outcome(1, replayed=ANSWER)])
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
        spool.settle([Outcome(seq, replayed=ANSWER) for seq, _ in spool.pending(20)] if i < 20 else [])
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
