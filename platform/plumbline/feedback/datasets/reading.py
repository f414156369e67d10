"""Dataset versions read back whole, compared and verified."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.history import SALT_BYTES, example_in
from plumbline.records import (
    DatasetChanges,
    DatasetDiff,
    DatasetManifest,
    Example,
    Member,
    Split,
    set_root,
)
from plumbline.stores import BlobStore, Ledger, Membership, Published, undisturbed

_BATCH = 2000


@dataclass(frozen=True)
class DatasetVersionData:
    """A version read back. `examples` pairs each member with its example, in address order; `erased` are the
    addresses whose payload was erased on a person's request."""

    published: Published
    manifest: DatasetManifest
    examples: tuple[tuple[Member, Example], ...]
    erased: tuple[str, ...]

    @property
    def digest(self) -> str:
        return self.published.digest

    @property
    def train(self) -> tuple[Example, ...]:
        return self.split("train")

    @property
    def held_out(self) -> tuple[Example, ...]:
        return self.split("held_out")

    def split(self, split: Split) -> tuple[Example, ...]:
        return tuple(example for member, example in self.examples if member.split == split)


@dataclass(frozen=True)
class Verification:
    """`problems` is empty for a sound version; `erased` counts members whose payload was lawfully erased."""

    problems: tuple[str, ...]
    erased: int

    @property
    def valid(self) -> bool:
        return not self.problems


def load_version(
    ledger: Ledger, blobs: BlobStore, dataset: str, version: int | str | None = None
) -> DatasetVersionData:
    """Read a version by number or digest (default: the head). Every payload is verified against its address."""
    published = _find(ledger, dataset, version)
    members = ledger.publications.members(dataset, published.version)
    payloads = ledger.payloads.read(blobs, members)
    found = tuple((one.member, example_in(payloads[one.id])) for one in members if one.id in payloads)
    erased = tuple(one.address for one in members if one.id not in payloads)
    return DatasetVersionData(published, _manifest(blobs, published.digest), found, erased)


def load_manifest(ledger: Ledger, blobs: BlobStore, dataset: str, version: int | str | None = None) -> DatasetManifest:
    """A version's manifest without its payloads."""
    return _manifest(blobs, _find(ledger, dataset, version).digest)


def load_changes(blobs: BlobStore, manifest: DatasetManifest) -> DatasetChanges:
    """What a version added to its parent and took away."""
    return DatasetChanges.from_canonical(blobs.get(manifest.changes))


def members_of(ledger: Ledger, dataset: str, version: int | str | None = None) -> list[Member]:
    """The members of a version (default: the head), in address order."""
    published = _find(ledger, dataset, version)
    return [one.member for one in ledger.publications.members(dataset, published.version)]


def diff(ledger: Ledger, dataset: str, older: int, newer: int) -> DatasetDiff:
    """What was added and removed between two versions, by address and by slice."""
    before = {member.address: member for member in members_of(ledger, dataset, older)}
    after = {member.address: member for member in members_of(ledger, dataset, newer)}
    added = sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    return DatasetDiff(
        older=older,
        newer=newer,
        added=tuple(added),
        removed=tuple(removed),
        added_by_slice=dict(sorted(Counter(after[address].slice for address in added).items())),
        removed_by_slice=dict(sorted(Counter(before[address].slice for address in removed).items())),
    )


def verify(
    ledger: Ledger,
    blobs: BlobStore,
    manifest: DatasetManifest,
    *,
    changes_only: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, of: None,
) -> Verification:
    """Check a version end to end: its row, balance, changes, root and counts, every payload, and that no prompt is on
    both sides.

    With `changes_only` the parent is taken as verified: only what this version added is read, and the root is that of
    the parent's tree with the changes, as the publishing transaction computed it.
    """
    with undisturbed():
        return _verify(ledger, blobs, manifest, changes_only, on_progress)


def _verify(
    ledger: Ledger,
    blobs: BlobStore,
    manifest: DatasetManifest,
    changes_only: bool,
    on_progress: Callable[[int, int], None],
) -> Verification:
    problems: list[str] = []
    published = ledger.publications.find(manifest.dataset, manifest.version)
    if published is None or published.digest != manifest.digest:
        problems.append(f"version {manifest.version} is published under another digest, or not at all")
    if not manifest.balanced:
        problems.append("accepted and rejected do not add up to sealed")
    try:
        added = orjson.loads(blobs.get(manifest.changes))["content"]["added"]
    except PlumblineError as error:
        return Verification((*problems, error.fact), 0)
    if changes_only:
        where, parameters = "dataset = ? AND added_in = ?", (manifest.dataset, manifest.version)
        new = members = ledger.publications.memberships(where, parameters)
    else:
        members = ledger.publications.members(manifest.dataset, manifest.version)
        new = [row for row in members if row.added_in == manifest.version]
    if {row.address: row.facts for row in new} != {one["address"]: one for one in added}:
        problems.append("the ledger's new members are not those that the version's changes name")
    if not changes_only:
        if set_root(member.address for member in members) != manifest.root:
            problems.append("the root is not the Merkle root of the members")
        if Counter(member.split for member in members) != +Counter(manifest.sizes):
            problems.append("the sizes are not those of the members")
        if Counter(member.slice for member in members) != +Counter(manifest.slices):
            problems.append("the slices are not those of the members")
        if len({member.subject for member in members} - {None}) != manifest.subjects:
            problems.append("the number of people is not that of the members")
    erased = _check_payloads(ledger, blobs, members, problems, on_progress)
    return Verification(tuple(problems), erased)


def _check_payloads(
    ledger: Ledger,
    blobs: BlobStore,
    members: Sequence[Membership],
    problems: list[str],
    on_progress: Callable[[int, int], None],
) -> int:
    """Read every payload; append what is wrong. Returns how many were lawfully erased."""
    erased = 0
    prompts: dict[bytes, set[Split]] = {}
    gone = ledger.payloads.erased_subjects()
    for start in range(0, len(members), _BATCH):
        part = members[start : start + _BATCH]
        try:
            payloads = ledger.payloads.read(blobs, part)
        except PlumblineError as error:
            problems.append(error.fact)
            continue
        for member in part:
            if member.id not in payloads:
                if member.subject in gone:
                    erased += 1
                else:
                    problems.append(f"{member.address} has no payload, and nobody asked for its erasure")
                continue
            content = orjson.loads(payloads[member.id][SALT_BYTES:])["content"]
            if (content["consent"] or {}).get("subject") != member.subject:
                problems.append(f"{member.address} names another subject than its payload")
            prompt = hashlib.sha256(orjson.dumps(content["messages"][:-1])).digest()
            prompts.setdefault(prompt, set()).add(member.split)
        on_progress(min(start + _BATCH, len(members)), len(members))
    leaks = sum(len(sides) > 1 for sides in prompts.values())
    if leaks:
        problems.append(f"{leaks} prompts are both trained on and held out")
    return erased


def _find(ledger: Ledger, dataset: str, version: int | str | None) -> Published:
    published = ledger.publications.find(dataset, version)
    if published is None:
        known = [f"{found.version} ({found.digest})" for found in ledger.publications.versions(dataset)]
        raise PlumblineError(
            f"dataset {dataset!r} has no version {version if version is not None else 'at all'}",
            consequence="there is nothing to read",
            remedy=f"use one of {', '.join(known)}" if known else "publish or import a first version",
        )
    return published


def _manifest(blobs: BlobStore, digest: str) -> DatasetManifest:
    return DatasetManifest.from_canonical(blobs.get(digest))
