"""Blobs are durable before they are named, verified when they are read, and never half-written.

What a directory and a bucket both promise is tested on both; what is a matter of disks, on the directory.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backends import Backend
from hypothesis import given
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores import BlobStore, LocalBlobs
from plumbline.stores.blobs import open_blobs


@pytest.fixture
def local(tmp_path: Path) -> LocalBlobs:
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


def test_many_are_put_as_if_one_by_one(blobs: BlobStore) -> None:
    items = [f"item {number % 300}".encode() for number in range(700)]
    assert blobs.put_many(items) == [digest_bytes(item) for item in items]
    assert all(blobs.get(digest_bytes(item)) == item for item in items)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_flipped_byte_is_noticed_on_reading(backend: Backend, blobs: BlobStore, keyed: bool) -> None:
    address = digest_bytes(b"key") if keyed else blobs.put(b"evidence")
    if keyed:
        blobs.put_at(address, b"evidence")
    ((name, data),) = backend.stored_blobs().items()
    backend.tamper(name, data[:-1] + b"E")
    with pytest.raises(PlumblineError, match="does not have the bytes"):
        blobs.get(address)


def test_the_first_writer_of_a_chosen_address_wins(blobs: BlobStore) -> None:
    address = digest_bytes(b"stage 1")
    assert blobs.put_at(address, b"first")
    assert not blobs.put_at(address, b"second")
    assert blobs.get(address) == b"first"


def test_a_deleted_blob_is_gone_and_deleting_again_says_so(blobs: BlobStore) -> None:
    address = blobs.put(b"forget me")
    assert blobs.delete(address)
    assert not blobs.has(address)
    assert not blobs.delete(address)
    with pytest.raises(PlumblineError, match="is not in the store"):
        blobs.get(address)


def test_an_address_that_leads_out_of_the_store_is_refused(blobs: BlobStore) -> None:
    for address in ("sha256:../../etc/passwd", "md5:00", "sha256:" + "A" * 64, "sha256:" + "a" * 64 + "\n"):
        with pytest.raises(PlumblineError, match="not a blob address"):
            blobs.get(address)


def test_a_full_disk_is_reported_and_leaves_nothing_half_written(local: LocalBlobs) -> None:
    """A file-size limit makes the kernel refuse the write as a full disk would."""
    kept = local.put(b"small")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(PlumblineError, match="no space left"):
            local.put(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not local.has(digest_bytes(b"x" * 100_000))
    assert local.get(kept) == b"small"
    assert [path for path in local.root.rglob("*") if path.is_file()] == [only_file(local)]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PlumblineError, match="disk refused"):
        LocalBlobs(tmp_path / "file" / "blobs")


def test_sweeping_under_a_live_writer_loses_nothing(local: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process sweeps between write and link: the writer writes again."""
    real_link, swept = os.link, []

    def link(source: Path, target: Path) -> None:
        if not swept:
            swept.append(local.sweep())
        real_link(source, target)

    monkeypatch.setattr(os, "link", link)
    assert local.get(local.put(b"still here")) == b"still here"
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


PACK = digest_bytes(b"pack")


def test_a_pack_is_read_by_range_and_as_a_whole(blobs: BlobStore) -> None:
    assert blobs.put_pack(PACK, b"one two three")
    assert blobs.read_pack(PACK, 4, 3) == b"two"
    assert blobs.read_pack(PACK, 13, 0) == b""
    assert bytes(blobs.view_pack(PACK)) == b"one two three"
    assert blobs.view_pack(PACK).readonly


def test_an_empty_pack_can_be_viewed(blobs: BlobStore) -> None:
    assert blobs.put_pack(PACK, b"")
    assert bytes(blobs.view_pack(PACK)) == b""


@pytest.mark.parametrize(("offset", "length"), [(10, 4), (14, 1), (-1, 2), (0, -1)])
def test_a_range_outside_a_pack_is_refused(blobs: BlobStore, offset: int, length: int) -> None:
    blobs.put_pack(PACK, b"one two three")
    with pytest.raises(PlumblineError, match="outside pack"):
        blobs.read_pack(PACK, offset, length)


def test_overwriting_keeps_the_rest(blobs: BlobStore) -> None:
    blobs.put_pack(PACK, b"one two three")
    for _ in range(2):
        blobs.overwrite_pack(PACK, [(0, b"\0\0\0"), (8, b"\0\0\0\0\0")])
    assert blobs.read_pack(PACK, 0, 13) == b"\0\0\0 two \0\0\0\0\0"


def test_what_is_overwritten_shows_in_a_map_that_is_open(local: LocalBlobs) -> None:
    local.put_pack(PACK, b"one two three")
    view = local.view_pack(PACK)
    local.overwrite_pack(PACK, [(4, b"\0\0\0")])
    assert bytes(view) == b"one \0\0\0 three"


def test_a_store_opens_again_where_it_says_it_lies(blobs: BlobStore) -> None:
    address = blobs.put(b"kept")
    assert open_blobs(blobs.location).get(address) == b"kept"
    assert pickle.loads(pickle.dumps(blobs)).get(address) == b"kept"


def test_what_was_overwritten_does_not_come_back_by_storing_the_pack_again(blobs: BlobStore) -> None:
    blobs.put_pack(PACK, b"one two three")
    blobs.overwrite_pack(PACK, [(4, b"\0\0\0")])
    assert not blobs.put_pack(PACK, b"one two three")
    assert blobs.read_pack(PACK, 4, 3) == b"\0\0\0"


def test_patches_that_reach_outside_change_nothing(blobs: BlobStore) -> None:
    blobs.put_pack(PACK, b"one two three")
    with pytest.raises(PlumblineError, match="outside pack"):
        blobs.overwrite_pack(PACK, [(0, b"xxx"), (12, b"xx")])
    assert blobs.read_pack(PACK, 0, 13) == b"one two three"


def test_a_deleted_pack_is_gone(blobs: BlobStore) -> None:
    blobs.put_pack(PACK, b"one two three")
    assert blobs.delete_pack(PACK)
    assert not blobs.delete_pack(PACK)
    for use in (
        lambda: blobs.read_pack(PACK, 0, 1),
        lambda: blobs.view_pack(PACK),
        lambda: blobs.overwrite_pack(PACK, [(0, b"x")]),
    ):
        with pytest.raises(PlumblineError, match="is not in the store"):
            use()


def test_packs_and_blobs_do_not_share_addresses(blobs: BlobStore) -> None:
    address = blobs.put(b"content")
    blobs.put_pack(address, b"a pack")
    assert blobs.get(address) == b"content"
    assert blobs.read_pack(address, 0, 6) == b"a pack"


def test_an_overwriting_that_was_killed_is_finished_by_repeating_it(tmp_path: Path) -> None:
    """A process overwrites a pack range by range without end and is killed; whatever it left, once more is enough."""
    program = (
        "import sys; from plumbline.stores import LocalBlobs; blobs = LocalBlobs(sys.argv[1]); name = sys.argv[2]\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    for byte in (b'a', b'b'):\n"
        "        blobs.overwrite_pack(name, [(at, byte * 4096) for at in range(0, 1 << 20, 8192)])"
    )
    blobs = LocalBlobs(tmp_path)
    size, untouched = 1 << 20, b"k" * 4096
    blobs.put_pack(PACK, (b"s" * 4096 + untouched) * (size // 8192))
    for round in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), PACK], stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(0.05 * (round + 1))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        blobs.overwrite_pack(PACK, [(at, b"\0" * 4096) for at in range(0, size, 8192)])
        assert bytes(blobs.view_pack(PACK)) == (b"\0" * 4096 + untouched) * (size // 8192)
