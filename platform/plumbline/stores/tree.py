"""The Merkle tree of a dataset's head, kept so that the next version costs what it changes.

`plan` reads the buckets that a change touches and says what the root would be; `write` stores it in the publishing
transaction. Between the two the head must not have moved, which that transaction checks anyway.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plumbline.records.merkle import (
    FAN,
    WIDTH,
    bucket_digest,
    bucket_of,
    changed_bucket,
    group_digest,
    root_of,
)
from plumbline.stores.database import Database

ID_BYTES = 8


@dataclass(frozen=True)
class TreeChange:
    """What a change does to the tree: the new root and the one before (empty when a touched bucket is damaged), touched
    buckets (their addresses) and touched groups."""

    root: str
    parent: str
    buckets: Mapping[int, bytes]
    groups: Mapping[int, bytes]


class Tree:
    def __init__(self, database: Database) -> None:
        self._database = database

    def plan(self, dataset: str, added: Iterable[bytes], removed: Iterable[bytes]) -> TreeChange:
        """The tree after a change; addresses are 32 bytes each. Stores nothing."""
        coming, going = _by_bucket(added), _by_bucket(removed)
        touched = sorted(coming.keys() | going.keys())
        before = {row["bucket"]: row["addresses"] for row in self._buckets(dataset, touched)}
        after = {
            number: changed_bucket(before.get(number, b""), coming.get(number, ()), going.get(number, ()))
            for number in touched
        }
        every = self._database.rows("SELECT number, digests FROM bucket_group WHERE dataset = ?", (dataset,))
        groups = {row["number"]: bytearray(row["digests"]) for row in every}
        parent = root_of({number: group_digest(bytes(digests)) for number, digests in groups.items()})
        for number, addresses in before.items():
            at = (number & 0xFF) * WIDTH
            if groups.get(number >> 8, b"")[at : at + WIDTH] != bucket_digest(addresses):
                parent = ""  # the root of no version: this bucket is not what its group says
        for number, addresses in after.items():
            group = groups.setdefault(number >> 8, bytearray(FAN * WIDTH))
            at = (number & 0xFF) * WIDTH
            group[at : at + WIDTH] = bucket_digest(addresses)
        root = root_of({number: group_digest(bytes(digests)) for number, digests in groups.items()})
        return TreeChange(root, parent, after, {n: bytes(groups[n]) for n in {number >> 8 for number in touched}})

    def write(self, dataset: str, change: TreeChange, ids: Mapping[bytes, int]) -> None:
        """Store a planned change. `ids` are those of added addresses; kept addresses keep theirs."""
        known: dict[bytes, bytes] = {}
        for row in self._buckets(dataset, list(change.buckets)):
            for place in range(len(row["addresses"]) // WIDTH):
                address = row["addresses"][place * WIDTH : (place + 1) * WIDTH]
                known[address] = row["ids"][place * ID_BYTES : (place + 1) * ID_BYTES]
        rows = []
        for number, addresses in change.buckets.items():
            each = (addresses[at : at + WIDTH] for at in range(0, len(addresses), WIDTH))
            packed = b"".join(
                ids[address].to_bytes(ID_BYTES, "little") if address in ids else known[address] for address in each
            )
            rows.append((dataset, number, addresses, packed))
        self._database.insert_many(
            "INSERT INTO bucket (dataset, bucket, addresses, ids) VALUES (?, ?, ?, ?) ON CONFLICT (dataset, bucket)"
            " DO UPDATE SET addresses = excluded.addresses, ids = excluded.ids",
            rows,
        )
        self._database.insert_many(
            "INSERT INTO bucket_group (dataset, number, digests) VALUES (?, ?, ?)"
            " ON CONFLICT (dataset, number) DO UPDATE SET digests = excluded.digests",
            [(dataset, number, digests) for number, digests in change.groups.items()],
        )

    def find(self, dataset: str, addresses: Iterable[bytes]) -> dict[bytes, int]:
        """Ids of those addresses that are in the head."""
        wanted = set(addresses)
        found: dict[bytes, int] = {}
        for row in self._buckets(dataset, sorted({bucket_of(address) for address in wanted})):
            for place in range(len(row["addresses"]) // WIDTH):
                address = row["addresses"][place * WIDTH : (place + 1) * WIDTH]
                if address in wanted:
                    at = place * ID_BYTES
                    found[address] = int.from_bytes(row["ids"][at : at + ID_BYTES], "little")
        return found

    def _buckets(self, dataset: str, numbers: list[int]) -> list[Any]:
        return self._database.rows_in(
            "SELECT bucket, addresses, ids FROM bucket WHERE dataset = ? AND bucket IN ({marks})",
            numbers,
            before=(dataset,),
        )


def _by_bucket(addresses: Iterable[bytes]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = defaultdict(list)
    for address in addresses:
        found[bucket_of(address)].append(address)
    return found
