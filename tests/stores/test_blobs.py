"""Blobs are durable before they are named, verified when they are read, and never half-written."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores import LocalBlobs


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "blobs")


def only_file(blobs: LocalBlobs) -> Path:
    return next(path for path in blobs.root.rglob("*") if path.is_file())


@given(st.binary(max_size=200))
def test_what_is_put_is_what_is_got(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    blobs = LocalBlobs(tmp_path_factory.getbasetemp() / "shared-blobs")
    address = blobs.put(data)
    assert address == digest_bytes(data)
    assert blobs.get(address) == data
    assert blobs.put(data) == address


def test_the_address_does_not_depend_on_where_the_store_lies(tmp_path: Path) -> None:
    assert LocalBlobs(tmp_path / "a").put(b"same") == LocalBlobs(tmp_path / "b").put(b"same")


def test_many_are_put_as_if_one_by_one(blobs: LocalBlobs) -> None:
    items = [f"item {number % 300}".encode() for number in range(700)]
    assert blobs.put_many(items) == [digest_bytes(item) for item in items]
    assert all(blobs.get(digest_bytes(item)) == item for item in items)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_flipped_byte_is_noticed_on_reading(blobs: LocalBlobs, keyed: bool) -> None:
    address = digest_bytes(b"key") if keyed else blobs.put(b"evidence")
    if keyed:
        blobs.put_at(address, b"evidence")
    path = only_file(blobs)
    path.write_bytes(path.read_bytes()[:-1] + b"E")
    with pytest.raises(PlumblineError, match="does not have the bytes"):
        blobs.get(address)


def test_the_first_writer_of_a_chosen_address_wins(blobs: LocalBlobs) -> None:
    address = digest_bytes(b"stage 1")
    assert blobs.put_at(address, b"first")
    assert not blobs.put_at(address, b"second")
    assert blobs.get(address) == b"first"


def test_a_deleted_blob_is_gone_and_deleting_again_says_so(blobs: LocalBlobs) -> None:
    address = blobs.put(b"forget me")
    assert blobs.delete(address)
    assert not blobs.has(address)
    assert not blobs.delete(address)
    with pytest.raises(PlumblineError, match="is not in the store"):
        blobs.get(address)


def test_an_address_that_leads_out_of_the_store_is_refused(blobs: LocalBlobs) -> None:
    for address in ("sha256:../../etc/passwd", "md5:00", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n"):
        with pytest.raises(PlumblineError, match="not a blob address"):
            blobs.get(address)


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(blobs: LocalBlobs) -> None:
    """A file-size limit makes the kernel refuse the write as a full disk would."""
    kept = blobs.put(b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(PlumblineError, match="no space left"):
            blobs.put(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not blobs.has(digest_bytes(b"x" * 100_000))
    assert blobs.get(kept) == b"small"
    assert [path for path in blobs.root.rglob("*") if path.is_file()] == [only_file(blobs)]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlumblineError, match="disk refused"):
        LocalBlobs(tmp_path / "file" / "blobs")


def test_sweeping_under_a_live_writer_loses_nothing(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process sweeps between write and link: the writer writes again."""
    real_link, swept = os.link, []

    def link(source: Path, target: Path) -> None:
        if not swept:
            swept.append(blobs.sweep())
        real_link(source, target)

    monkeypatch.setattr(os, "link", link)
    assert blobs.get(blobs.put(b"still here")) == b"still here"
    assert swept == [1]


def test_killed_writers_leave_only_whole_blobs(tmp_path: Path) -> None:
    program = (
        "import sys; from plumbline.stores import LocalBlobs; blobs = LocalBlobs(sys.argv[1]); number = 0\n"
        "while True: number += 1; blobs.put(f'{sys.argv[2]}:{number}:'.encode() * 500)"
    )
    blobs = LocalBlobs(tmp_path)
    for round in range(3):
        before = len(list((tmp_path / "content").rglob("*")))
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(round)])
        deadline = time.monotonic() + 30
        while len(list((tmp_path / "content").rglob("*"))) < before + 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    found = [path for path in (tmp_path / "content").rglob("*") if path.is_file()]
    assert len(found) > 20
    for path in found:
        blobs.get("sha256:" + path.name)
    blobs.sweep()
    assert list((tmp_path / "tmp").iterdir()) == []
