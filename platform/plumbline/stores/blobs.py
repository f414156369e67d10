"""Blobs: immutable bytes, found by digest, durable before anyone may name them.

The ledger refers to blobs only after they are on disk, so a reader never meets a reference to something that
a power cut took away. A local file is written under a temporary name, fsynced, linked to its final name (which
fails when that exists: the first writer wins) and made durable by an fsync of its directory.

Two kinds share one address space: *content* blobs, whose address is the SHA-256 of their bytes, and *keyed* blobs
(`put_at`), whose address is chosen, for example the inputs of a pipeline stage. Both are verified on every read;
a keyed blob carries its own digest in its first line.

*Packs* are the one kind that changes: many payloads in one file, so that a version costs a few fsyncs and not one
per example. A payload is cut out by offset and length and checked by its reader, who knows its address. Erasure
overwrites ranges of a pack in place: the file never grows or shrinks, so views and offsets stay good, and an
overwriting that was killed is simply repeated.
"""

import contextlib
import errno
import mmap
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes

_ADDRESS = re.compile(r"sha256:([0-9a-f]{64})\Z")
_FAN_OUT = 1  # hexadecimal digits that name a sub-directory: 16 of them, so that few need an fsync
_BATCH = 256  # files kept open between write and fsync: the disk sees one queue instead of many round trips


class BlobStore(Protocol):
    """What every room may ask of blobs, whether they lie in a directory or in an object store."""

    @property
    def location(self) -> Path | str:
        """What `open_blobs` opens this store with."""

    def put(self, data: bytes) -> str:
        """Store `data` durably and return its address. Storing it twice is the same as once."""

    def put_many(self, items: Sequence[bytes]) -> list[str]:
        """`put` for many at once, at a fraction of the cost; all are durable when it returns."""

    def put_at(self, address: str, data: bytes) -> bool:
        """Store `data` under a chosen address. False when something is there already, which stays."""

    def get(self, address: str) -> bytes:
        """The bytes at an address, verified. PlumblineError when they are missing or damaged."""

    def has(self, address: str) -> bool: ...

    def delete(self, address: str) -> bool:
        """Erase the bytes durably. False when there was nothing."""

    def sweep(self) -> int:
        """Remove what killed writers left unfinished, and say how much that was."""

    def put_pack(self, name: str, data: bytes) -> bool:
        """Store a pack durably under a chosen address. False when that is there already, which stays as it is:
        what was erased from it does not come back."""

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. PlumblineError when the pack is missing or ends before."""

    def view_pack(self, name: str) -> memoryview:
        """The whole pack, read only. Locally it is mapped, and shows what is overwritten later."""

    def overwrite_pack(self, name: str, patches: Sequence[tuple[int, bytes]]) -> None:
        """Put bytes over those at each offset, durably. Repeating it, also after a kill, is the same as once."""

    def delete_pack(self, name: str) -> bool:
        """Erase a pack durably. False when there was nothing."""

    def remains(self) -> tuple[str, ...]:
        """Where erased bytes may outlive their erasure as this store is set up, a sentence each."""


class LocalBlobs:
    """A directory of blobs. Safe for several processes and for a crash at any point; see the module docstring.

    Errors: PlumblineError when the disk is full or refuses (nothing half-written stays), when a blob is missing,
    and when its bytes are not those that its address promises.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._content = self.root / "content"
        self._keyed = self.root / "keyed"
        self._packs = self.root / "packs"
        self._temporary = self.root / "tmp"
        with _disk(self.root):
            for folder in (self._content, self._keyed, self._packs, self._temporary):
                folder.mkdir(parents=True, exist_ok=True)

    @property
    def location(self) -> Path:
        return self.root

    def put(self, data: bytes) -> str:
        return self.put_many([data])[0]

    def put_many(self, items: Sequence[bytes]) -> list[str]:
        addresses = [digest_bytes(data) for data in items]
        wanted: dict[Path, bytes] = {}
        there: set[Path] = set()
        for address, data in zip(addresses, items, strict=True):
            path = _path(self._content, address)
            if path.exists():
                there.add(path.parent)
            else:
                wanted[path] = data
        self._write(wanted)
        self._settle(there - {path.parent for path in wanted})
        return addresses

    def put_at(self, address: str, data: bytes) -> bool:
        path = _path(self._keyed, address)
        if path.exists():
            self._settle([path.parent])
            return False
        return bool(self._write({path: digest_bytes(data).encode("ascii") + b"\n" + data}))

    def get(self, address: str) -> bytes:
        with _disk(self.root):
            with contextlib.suppress(FileNotFoundError):
                data = _path(self._content, address).read_bytes()
                if digest_bytes(data) != address:
                    raise damaged(address)
                return data
            with contextlib.suppress(FileNotFoundError):
                promised, _, data = _path(self._keyed, address).read_bytes().partition(b"\n")
                if digest_bytes(data).encode("ascii") != promised:
                    raise damaged(address)
                return data
        raise missing_blob(address, self.root)

    def has(self, address: str) -> bool:
        return _path(self._content, address).exists() or _path(self._keyed, address).exists()

    def delete(self, address: str) -> bool:
        found = False
        with _disk(self.root):
            for folder in (self._content, self._keyed):
                path = _path(folder, address)
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    _fsync_folder(path.parent)
                    found = True
        return found

    def sweep(self) -> int:
        """Remove what writers that were killed left under temporary names; a live writer simply writes again."""
        removed = 0
        with _disk(self.root):
            for path in self._temporary.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                    removed += 1
            _fsync_folder(self._temporary)
        return removed

    def put_pack(self, name: str, data: bytes) -> bool:
        path = _path(self._packs, name)
        if path.exists():
            self._settle([path.parent])
            return False
        return bool(self._write({path: data}))

    def read_pack(self, name: str, offset: int, length: int) -> bytes:
        with self._open_pack(name, os.O_RDONLY) as handle:
            data = os.pread(handle, length, offset) if offset >= 0 and length >= 0 else b""
            while 0 < len(data) < length and (more := os.pread(handle, length - len(data), offset + len(data))):
                data += more
            if offset < 0 or len(data) != length:
                raise outside(name, offset, length, os.fstat(handle).st_size)
            return data

    def view_pack(self, name: str) -> memoryview:
        with self._open_pack(name, os.O_RDONLY) as handle:
            if os.fstat(handle).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))

    def overwrite_pack(self, name: str, patches: Sequence[tuple[int, bytes]]) -> None:
        """In place: on a file system that copies on write, or keeps snapshots, the old bytes live on in those."""
        with self._open_pack(name, os.O_WRONLY) as handle:
            check_patches(name, patches, os.fstat(handle).st_size)
            for offset, data in patches:
                view = memoryview(data)
                while view:
                    done = os.pwrite(handle, view, offset)
                    view, offset = view[done:], offset + done
            os.fsync(handle)

    def delete_pack(self, name: str) -> bool:
        path = _path(self._packs, name)
        with _disk(self.root):
            try:
                path.unlink()
            except FileNotFoundError:
                return False
            _fsync_folder(path.parent)
            return True

    def remains(self) -> tuple[str, ...]:
        return ()

    @contextlib.contextmanager
    def _open_pack(self, name: str, flags: int) -> Iterator[int]:
        path = _path(self._packs, name)
        with _disk(self.root):
            try:
                handle = os.open(path, flags)
            except FileNotFoundError as error:
                raise missing_pack(name, self.root) from error
            try:
                yield handle
            finally:
                os.close(handle)

    def _write(self, wanted: dict[Path, bytes]) -> int:
        """Make every path durable with its bytes; how many this call created (others had been there first)."""
        created = 0
        paths = list(wanted)
        with _disk(self.root):
            for start in range(0, len(paths), _BATCH):
                created += self._link({path: wanted[path] for path in paths[start : start + _BATCH]})
        self._settle({path.parent for path in paths})
        return created

    def _settle(self, folders: Iterable[Path]) -> None:
        """Make links durable, also those of others: who made one may have been killed before this."""
        with _disk(self.root):
            for folder in folders:
                _fsync_folder(folder)

    def _link(self, wanted: dict[Path, bytes]) -> int:
        created = 0
        with self._temporaries(wanted.values()) as temporaries:
            for path, temporary in zip(wanted, temporaries, strict=True):
                if not path.parent.exists():
                    path.parent.mkdir(exist_ok=True)
                    _fsync_folder(path.parent.parent)
                try:
                    os.link(temporary, path)
                    created += 1
                except FileExistsError:
                    pass
                except FileNotFoundError:  # swept away between write and link: write this one again
                    created += self._link({path: wanted[path]})
        return created

    @contextlib.contextmanager
    def _temporaries(self, items: Iterable[bytes]) -> Iterator[list[Path]]:
        made: list[Path] = []
        handles: list[int] = []
        try:
            for data in items:
                path = self._temporary / secrets.token_hex(16)
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                made.append(path)
                handles.append(handle)
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
            _fsync_all(handles)
            yield made
        finally:
            for handle in handles:
                os.close(handle)
            for path in made:
                path.unlink(missing_ok=True)


def open_blobs(location: Path | str) -> BlobStore:
    """The blobs in a directory, or at `s3://bucket/prefix`."""
    if isinstance(location, str) and location.startswith("s3://"):
        from plumbline.stores.s3 import S3Blobs

        return S3Blobs(location)
    return LocalBlobs(location)


def digits(address: str) -> str:
    """The 64 hexadecimal digits of an address. PlumblineError when it is none."""
    found = _ADDRESS.match(address)
    if found is None:
        raise PlumblineError(
            f"{address[:80]!r} is not a blob address",
            consequence="nothing can be stored or found under it",
            remedy="use a digest of the form sha256:<64 hexadecimal digits>",
        )
    return found[1]


def _path(folder: Path, address: str) -> Path:
    name = digits(address)
    return folder / name[:_FAN_OUT] / name


def missing_blob(address: str, store: object) -> PlumblineError:
    return PlumblineError(
        f"blob {address} is not in the store {store}",
        consequence="what refers to it cannot be read",
        remedy="point to the store it was written to, or restore it from a backup",
    )


def damaged(address: str) -> PlumblineError:
    return PlumblineError(
        f"blob {address} does not have the bytes that its address promises",
        consequence="it was altered or damaged on disk and is not used",
        remedy="restore it from a backup, or build again what it belongs to",
    )


def missing_pack(name: str, store: object) -> PlumblineError:
    return PlumblineError(
        f"pack {name} is not in the store {store}",
        consequence="the examples in it cannot be read",
        remedy="point to the store it was written to, or restore it from a backup",
    )


def check_patches(name: str, patches: Sequence[tuple[int, bytes]], size: int) -> None:
    """Refuse patches that reach outside a pack of `size` bytes, before any is written."""
    for offset, data in patches:
        if offset < 0 or offset + len(data) > size:
            raise outside(name, offset, len(data), size)


def outside(name: str, offset: int, length: int, size: int) -> PlumblineError:
    return PlumblineError(
        f"{length} bytes at {offset} lie outside pack {name}, which has {size}",
        consequence="nothing of them was read or written: the pack was cut short, or is not the one that is meant",
        remedy="restore the pack from a backup, or build again what it belongs to",
    )


def _fsync_all(handles: Sequence[int]) -> None:
    """Make files durable together: waiting side by side lets the file system commit them in one go (ten times
    faster than one after the other on ext4)."""
    if len(handles) < 4:
        for handle in handles:
            os.fsync(handle)
        return
    with ThreadPoolExecutor(max_workers=16) as pool:
        list(pool.map(os.fsync, handles))


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _disk(root: Path) -> Iterator[None]:
    """Say what a disk's refusal means. A missing file is left to the caller, who knows whether that is a fault."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise PlumblineError(
                f"no space left for blobs under {root}",
                consequence="nothing was stored; what is already there is intact",
                remedy="free space, or choose another directory, and start the same command again",
            ) from error
        raise PlumblineError(
            f"the disk refused under {root}: {error.strerror or error}",
            consequence="nothing was stored; what is already there is intact",
            remedy="check the directory's permissions and the disk, and start the same command again",
        ) from error
