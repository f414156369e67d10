"""Payloads: the words of examples, many to a file.

A *pack* is one file of payloads (`salt || canonical bytes` each), written once and named by its digest. A run's
examples make one pack, so that a version costs one write to disk and not one for each example. Where each payload lies
is in the ledger's `example` rows; a payload's own SHA-256 is its example's address, so every reading is verified.

A pack is in the ledger *before* it is on disk, and belongs to no version until one is published with it: what a killed
or refused run leaves behind is found (`drop_unpublished`). Erasure overwrites a payload where it lies, in place.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from plumbline.errors import PlumblineError
from plumbline.records import digest_bytes
from plumbline.stores.blobs import BlobStore
from plumbline.stores.database import Database


@dataclass(frozen=True)
class Packed:
    """A pack on disk: its name, and (place, length) of each payload in the order in which they were given."""

    name: str
    places: tuple[tuple[int, int], ...]


class Placed(Protocol):
    """What says where a payload lies; `pack` is None once it is erased."""

    @property
    def id(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def pack(self) -> int | None: ...
    @property
    def place(self) -> int | None: ...
    @property
    def length(self) -> int | None: ...


class Payloads:
    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, blobs: BlobStore, dataset: str, payloads: Sequence[bytes]) -> Packed:
        """Make payloads durable in one pack that no version names yet. Writing the same again changes nothing.

        Row and file are made in one transaction: an erasure, which deletes both, comes before or after, never between.
        """
        data = b"".join(payloads)
        name, places, at = digest_bytes(data), [], 0
        for payload in payloads:
            places.append((at, len(payload)))
            at += len(payload)
        if payloads:
            with self._database.transaction():
                self._database.execute(
                    "INSERT INTO pack (name, dataset, published) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
                    (name, dataset),
                )
                blobs.put_pack(name, data)
        return Packed(name, tuple(places))

    def publish(self, pack: Packed) -> int:
        """Note, in the publishing transaction, that a version names the pack. Returns its id."""
        row = self._database.row("SELECT id FROM pack WHERE name = ?", (pack.name,))
        if row is None:
            raise PackGone(
                "the candidate's payloads were deleted while it waited",
                consequence="the candidate is not published: somebody was erased, or the run was dropped",
                remedy="start the run again; it is built anew",
            )
        self._database.execute("UPDATE pack SET published = 1 WHERE id = ?", (row["id"],))
        return int(row["id"])

    def read(self, blobs: BlobStore, examples: Iterable[Placed]) -> dict[int, bytes]:
        """Payloads by example id, each verified against its address; those that were erased are not in it.

        Errors: PlumblineError when a payload is missing or is not what its address promises.
        """
        found: dict[int, bytes] = {}
        for pack, inside in _by_pack(examples).items():
            name = self._name(pack)
            few = len(inside) < 16
            view = None if few else blobs.view_pack(name)
            for one in inside:
                assert one.place is not None and one.length is not None
                if view is None:
                    payload = blobs.read_pack(name, one.place, one.length)
                else:
                    payload = bytes(view[one.place : one.place + one.length])
                if digest_bytes(payload) != one.address:
                    raise PlumblineError(
                        f"the payload of {one.address} does not have the bytes that its address promises",
                        consequence="it was altered or damaged on disk and is not used",
                        remedy="restore the pack from a backup, or build the version again",
                    )
                found[one.id] = payload
        return found

    def erase(self, blobs: BlobStore, examples: Sequence[Placed]) -> int:
        """Overwrite payloads where they lie, and forget where that was. Safe to repeat. Returns how many."""
        inside = _by_pack(examples)
        for pack, ones in inside.items():
            name = self._name(pack)
            with self._database.transaction():  # two erasures that rewrite one object at once would undo each other
                blobs.overwrite_pack(name, [(one.place or 0, bytes(one.length or 0)) for one in ones])
                self._database.insert_many(
                    "UPDATE example SET pack = NULL, place = NULL, length = NULL WHERE id = ?",
                    [(one.id,) for one in ones],
                )
                left = self._database.value("SELECT 1 FROM example WHERE pack = ? LIMIT 1", (pack,))
                if left is None:
                    self._delete(blobs, pack, name)
        return sum(len(ones) for ones in inside.values())

    def drop_unpublished(self, blobs: BlobStore, dataset: str | None = None, *, keep: str | None = None) -> int:
        """Delete packs that belong to no version: what killed, refused and overtaken runs left. An open candidate whose
        pack goes is built again, to the same digest. Returns how many packs went."""
        where, parameters = ("", ()) if dataset is None else (" AND dataset = ?", (dataset,))
        gone = 0
        with self._database.transaction():
            for row in self._database.rows(f"SELECT id, name FROM pack WHERE published = 0{where}", parameters):
                if row["name"] != keep:
                    self._delete(blobs, row["id"], row["name"])
                    gone += 1
        return gone

    def record_erasure(self, subject: str, consent_sequence: int, *, payloads: int, events: int) -> None:
        self._database.insert(
            "erasure",
            subject=subject,
            consent_sequence=consent_sequence,
            payloads=payloads,
            events=events,
            completed_at=self._database.now(),
        )

    def erased_subjects(self) -> set[str]:
        """Everybody of whom an erasure is recorded, or acknowledged and not finished yet."""
        rows = self._database.rows(
            "SELECT subject FROM erasure UNION SELECT subject FROM erasure_request WHERE completed_at IS NULL"
        )
        return {row[0] for row in rows}

    def _name(self, pack: int) -> str:
        return str(self._database.value("SELECT name FROM pack WHERE id = ?", (pack,)))

    def _delete(self, blobs: BlobStore, pack: int, name: str) -> None:
        self._database.execute("DELETE FROM pack WHERE id = ?", (pack,))
        blobs.delete_pack(name)


class PackGone(PlumblineError):
    """The payloads of a candidate are no longer there: build it again."""


def _by_pack(examples: Iterable[Placed]) -> dict[int, list[Placed]]:
    found: dict[int, list[Placed]] = defaultdict(list)
    for one in examples:
        if one.pack is not None:
            found[one.pack].append(one)
    return found
