"""The root of a set of addresses: one digest for all of them, moved on by what changes.

Addresses fall into 65,536 *buckets* by their first 16 bits, buckets into 256 *groups* by the first 8 (RFC 6962 domain
separation: 0x00 before a leaf, 0x01 before a node):

    bucket = SHA-256(0x00 || its addresses, sorted, 32 bytes each)         an empty bucket is 32 zero bytes
    group  = SHA-256(0x01 || its 256 buckets)                              a group of empty buckets likewise
    root   = SHA-256(0x01 || the 256 groups)

So the root is a function of the *set* (the same examples by another way are the same version), a new version costs
what it changes and not what there is, and an address is shown to be in or out with its bucket and two nodes. Addresses
are salted commitments: the tree says nothing about what they commit to, and stands when that is erased.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from plumbline.records.canonical import digest_bytes

WIDTH = 32  # bytes of an address and of a node
FAN = 256
EMPTY = bytes(WIDTH)


def raw(address: str) -> bytes:
    """The 32 bytes of `sha256:<64 hex>`."""
    return bytes.fromhex(address.removeprefix("sha256:"))


def named(address: bytes) -> str:
    """`sha256:<64 hex>` of 32 bytes."""
    return "sha256:" + address.hex()


def bucket_of(address: bytes) -> int:
    return address[0] << 8 | address[1]


def bucket_digest(addresses: bytes) -> bytes:
    """Digest of a bucket from its sorted, concatenated addresses."""
    return hashlib.sha256(b"\x00" + addresses).digest() if addresses else EMPTY


def changed_bucket(addresses: bytes, added: Iterable[bytes], removed: Iterable[bytes]) -> bytes:
    """A bucket's sorted addresses after some came and some went."""
    found = {addresses[at : at + WIDTH] for at in range(0, len(addresses), WIDTH)}
    return b"".join(sorted((found | set(added)) - set(removed)))


def group_digest(buckets: bytes) -> bytes:
    """Digest of a group from its 256 bucket digests, concatenated."""
    return hashlib.sha256(b"\x01" + buckets).digest() if buckets.strip(b"\x00") else EMPTY


def root_of(groups: Mapping[int, bytes]) -> str:
    """The root from the digests of groups that are not empty."""
    every = b"".join(groups.get(number, EMPTY) for number in range(FAN))
    return named(hashlib.sha256(b"\x01" + every).digest()) if every.strip(b"\x00") else digest_bytes(b"")


def set_root(addresses: Iterable[str]) -> str:
    """The root of a whole set: O(n log n), for verification and for small sets."""
    buckets: dict[int, list[bytes]] = defaultdict(list)
    for address in set(addresses):
        bytes_ = raw(address)
        buckets[bucket_of(bytes_)].append(bytes_)
    groups: dict[int, bytearray] = defaultdict(lambda: bytearray(FAN * WIDTH))
    for number, found in buckets.items():
        at = (number & 0xFF) * WIDTH
        groups[number >> 8][at : at + WIDTH] = bucket_digest(b"".join(sorted(found)))
    return root_of({number: group_digest(bytes(group)) for number, group in groups.items()})
