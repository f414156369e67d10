"""Naming a dataset version: NAME, NAME@3, NAME@sha256:..., a digest alone, or the first digits that lists print."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from plumbline.cli.options import open_blobs, open_ledger

if TYPE_CHECKING:
    from plumbline.records import DatasetManifest
    from plumbline.stores import BlobStore, Ledger, Published

DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
SHOWN = 8


def find_version(store: "Ledger", reference: str, version: int | None = None) -> "Published":
    """The version that a reference names; the head when it names a dataset alone. PlumblineError lists what exists.

    `version` is the number as an argument of its own, as in `plumb dataset show NAME 3`.
    """
    name, at, wanted = reference.partition("@")
    if version is not None:
        if at:
            _no(store, f"{reference!r} and {version} name two versions", "nothing was read: which is meant is unclear")
        wanted = str(version)
    datasets = store.publications.datasets()
    if name in datasets:
        return _of_dataset(store, name, wanted)
    digest = DIGEST.fullmatch(reference)
    if digest:
        everywhere = [found for dataset in datasets for found in store.publications.versions(dataset)]
        return _by_digest(store, reference, digest[1], everywhere)
    _no(store, f"there is no dataset {name!r}", "there is nothing to read")


def open_version(
    ledger: Path, blobs: Path, reference: str, version: int | None
) -> "tuple[Ledger, BlobStore, Published, DatasetManifest]":
    """The stores and the version that a reference names, with its manifest."""
    from plumbline.feedback import load_manifest

    store, kept = open_ledger(ledger, must_exist=True), open_blobs(blobs, must_exist=True)
    published = find_version(store, reference, version)
    return store, kept, published, load_manifest(store, kept, published.dataset, published.version)


def _of_dataset(store: "Ledger", name: str, wanted: str) -> "Published":
    if not wanted:
        head = store.publications.head(name)
        assert head is not None
        return head
    versions = store.publications.versions(name)
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 8:
        found = next((one for one in versions if one.version == int(wanted)), None)
        if found is None:
            _no(store, f"dataset {name!r} has no version {wanted}", "there is nothing to read", name)
        return found
    digest = DIGEST.fullmatch(wanted)
    if digest is None:
        _no(store, f"{wanted!r} is neither a version's number nor its digest", "there is nothing to read", name)
    return _by_digest(store, f"{name}@{wanted}", digest[1], versions)


def _by_digest(store: "Ledger", reference: str, start: str, versions: "list[Published]") -> "Published":
    found = [one for one in versions if one.digest.removeprefix("sha256:").startswith(start)]
    if not found:
        _no(store, f"no version has the digest {reference}", "there is nothing to read")
    if len(found) > 1:
        names = ", ".join(f"{one.dataset}@{one.version}" for one in found)
        _no(
            store,
            f"{reference} is the start of several digests ({names})",
            "nothing was read: which is meant is unclear",
        )
    return found[0]


def _no(store: "Ledger", fact: str, consequence: str, name: str | None = None) -> NoReturn:
    from plumbline.errors import PlumblineError

    raise PlumblineError(fact, consequence=consequence, remedy=f"name one of: {existing(store, name)}")


def existing(store: "Ledger", name: str | None = None) -> str:
    """What there is to name: the datasets with their versions, or one dataset's versions with their digests."""
    from plumbline.records import short

    if name is None:
        said = [f"{one} (versions 1 to {head.version})" for one, head in _heads(store)]
    else:
        said = [f"{name}@{one.version} ({short(one.digest)})" for one in reversed(store.publications.versions(name))]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return ", ".join(said[:SHOWN]) + more if said else "nothing yet; `plumb dataset import` makes a first version"


def _heads(store: "Ledger") -> "list[tuple[str, Published]]":
    heads = ((name, store.publications.head(name)) for name in store.publications.datasets())
    return [(name, head) for name, head in heads if head is not None]
