"""Dataset versions: written once, read back whole, compared, verified.

A version is a manifest (a blob, and a row in the publication table) over members, each an address whose payload
is the blob `salt || canonical bytes`. The payload's own SHA-256 *is* the example's address, so reading verifies
it. After erasure the payload is gone and the manifest, its root and its digest are what they were.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from plumbline.errors import PlumblineError
from plumbline.feedback.deduplicate import Signer
from plumbline.feedback.split import Components, drawn_split
from plumbline.records import (
    DatasetDiff,
    DatasetManifest,
    Example,
    Member,
    Split,
    digest_bytes,
    digest_of,
    merkle_root,
)
from plumbline.stores import BlobStore, Lease, Ledger, MemberDetail, Published
from plumbline.stores.subjects import HOUSE

SALT_BYTES = 16


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


@cache
def code_digest() -> str:
    """Digest of this room's own source: what turned events into a version is part of what the version is."""
    files = sorted(
        (item for item in resources.files("plumbline.feedback").iterdir() if item.name.endswith(".py")),
        key=lambda item: item.name,
    )
    return digest_of({item.name: digest_bytes(item.read_bytes()) for item in files})


def signer(ledger: Ledger) -> Signer:
    """Signatures are keyed with the store's own key, so that they mean nothing elsewhere."""
    return Signer(ledger.subjects.key(HOUSE))


def store_examples(ledger: Ledger, blobs: BlobStore, dataset: str, examples: Sequence[Example]) -> list[str]:
    """Write payloads durably and return their addresses. They are registered first, so that erasure finds them."""
    payloads: list[bytes] = []
    owners: dict[str, str | None] = {}
    with ledger.database.transaction():
        for example in examples:
            subject = subject_of(example)
            salt = ledger.subjects.salt(subject or HOUSE, example.digest)
            payload = salt + example.canonical_bytes()
            payloads.append(payload)
            owners[digest_bytes(payload)] = subject
        ledger.payloads.register(dataset, owners)
    return blobs.put_many(payloads)


def subject_of(example: Example) -> str | None:
    """The person whose consent carries an example; None for licensed public data."""
    return None if example.consent is None else example.consent.subject


def read_example(blobs: BlobStore, address: str) -> Example:
    """The example at an address, verified against it."""
    return Example.from_canonical(blobs.get(address)[SALT_BYTES:])


def publish_manifest(
    ledger: Ledger,
    blobs: BlobStore,
    manifest: DatasetManifest,
    details: dict[str, MemberDetail],
    *,
    lease: Lease | None = None,
) -> Published:
    """Blob first, then the one transaction. What a failed publication leaves is an invisible blob."""
    blobs.put(manifest.canonical_bytes())
    return ledger.publications.publish(manifest, details, lease=lease)


def publish_seed_version(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    examples: Sequence[Example],
    *,
    rubric: str,
    splits: Sequence[Split] | None = None,
    held_out_share: float = 0.1,
    licence: str = "unspecified",
    code: str | None = None,
    reason: str = "seed",
    holder: str = "local",
) -> Published:
    """Publish examples that were written for the purpose, as the dataset's next version.

    `splits` names each example's split; without it, components of cluster, prompt and conversation are drawn, so
    that nothing equal is on both sides. Seed authors are not users: one may have examples on both sides.

    Buckets: `duplicate` (an equal example is there already), `no_consent` (nobody's consent and no import
    licence carries it), `in_held_out` (the same prompt is held out, so it may not be trained on). Publishing the
    same examples again returns the version they made. Errors: ConsentLost when a demonstrator's consent does not
    hold, PlumblineError when `splits` does not fit, nothing is left, or the line is being worked on.
    """
    if splits is not None and len(splits) != len(examples):
        raise PlumblineError(
            f"{len(splits)} splits were given for {len(examples)} examples",
            consequence="nothing is published: which example is held out would be a guess",
            remedy="give one split per example, or none",
        )
    lease = ledger.runs.acquire_lease(f"dataset-line/{dataset}", holder)
    head = ledger.publications.head(dataset)
    parent = _manifest(blobs, head.digest) if head is not None else None
    consent = ledger.consent.require_valid()
    rejected: Counter[str] = Counter()
    lawful = [index for index, example in enumerate(examples) if _lawful(example)]
    rejected["no_consent"] = len(examples) - len(lawful)
    addresses = store_examples(ledger, blobs, dataset, [examples[index] for index in lawful])
    code = code or code_digest()
    run_key = digest_of(
        {"run": reason, "dataset": dataset, "examples": merkle_root(addresses), "rubric": rubric, "code": code}
    )
    existing = ledger.publications.by_run(run_key)
    if existing is not None:
        return existing

    signing = signer(ledger)
    details: dict[str, MemberDetail] = {}
    fresh: dict[str, tuple[Example, Split | None]] = {}
    known = {member.address: member for member in parent.members} if parent is not None else {}
    for index, address in zip(lawful, addresses, strict=True):
        example = examples[index]
        if address in known or address in fresh:
            rejected["duplicate"] += 1
            continue
        signature = signing.sign(example.prompt, example.target).signature
        details[address] = MemberDetail(example.provenance.origin, signature)
        fresh[address] = (example, None if splits is None else splits[index])
    members = _seed_members(fresh, details, held_out_share)
    held_out = {key.prompt_key for address, key in ledger.payloads.signatures(dataset).items()
                if address in known and known[address].split == "held_out"}  # fmt: skip
    held_out |= {details[member.address].signature.prompt_key for member in members if member.split == "held_out"}
    sound = [
        member
        for member in members
        if member.split == "held_out" or details[member.address].signature.prompt_key not in held_out
    ]
    rejected["in_held_out"] = len(members) - len(sound)
    if not sound:
        raise PlumblineError(
            f"none of the {len(examples)} examples can be published ({dict(+rejected)})",
            consequence="the dataset has no new version",
            remedy="give examples with a consent reference, or import them under a named licence",
        )
    everyone = sorted([*known.values(), *sound], key=lambda member: member.address)
    manifest = DatasetManifest(
        dataset=dataset,
        version=1 if head is None else head.version + 1,
        parent=None if head is None else head.digest,
        run_key=run_key,
        root=merkle_root(member.address for member in everyone),
        members=tuple(everyone),
        rubric=rubric,
        code=code,
        consent_sequence=consent.sequence,
        consent_head=consent.digest,
        sealed=len(examples),
        accepted=len(sound),
        rejected=dict(+rejected),
        licence=licence,
        reason=reason,
    )
    published = publish_manifest(ledger, blobs, manifest, details, lease=lease)
    ledger.runs.release_lease(lease)
    return published


def load_version(
    ledger: Ledger, blobs: BlobStore, dataset: str, version: int | str | None = None
) -> DatasetVersionData:
    """Read a version by number or digest (default: the head). Every payload is verified against its address."""
    published = ledger.publications.find(dataset, version)
    if published is None:
        known = [f"{found.version} ({found.digest})" for found in ledger.publications.versions(dataset)]
        raise PlumblineError(
            f"dataset {dataset!r} has no version {version if version is not None else 'at all'}",
            consequence="there is nothing to read",
            remedy=f"use one of {', '.join(known)}" if known else "publish or import a first version",
        )
    manifest = _manifest(blobs, published.digest)
    erased_subjects = ledger.payloads.erased_subjects()
    examples, erased = [], []
    for member in manifest.members:
        if member.subject in erased_subjects and not blobs.has(member.address):
            erased.append(member.address)
        else:
            examples.append((member, read_example(blobs, member.address)))
    return DatasetVersionData(published, manifest, tuple(examples), tuple(erased))


def load_manifest(ledger: Ledger, blobs: BlobStore, dataset: str, version: int | str | None = None) -> DatasetManifest:
    """A version's manifest without its payloads."""
    published = ledger.publications.find(dataset, version)
    if published is None:
        raise PlumblineError(
            f"dataset {dataset!r} has no version {version if version is not None else 'at all'}",
            consequence="there is nothing to read",
            remedy="list the dataset's versions, or publish a first one",
        )
    return _manifest(blobs, published.digest)


def diff(older: DatasetManifest, newer: DatasetManifest) -> DatasetDiff:
    """What was added and removed between two versions, by address and by slice."""
    before = {member.address: member for member in older.members}
    after = {member.address: member for member in newer.members}
    added = sorted(after.keys() - before.keys())
    removed = sorted(before.keys() - after.keys())
    return DatasetDiff(
        older=older.version,
        newer=newer.version,
        added=tuple(added),
        removed=tuple(removed),
        added_by_slice=dict(sorted(Counter(after[address].slice for address in added).items())),
        removed_by_slice=dict(sorted(Counter(before[address].slice for address in removed).items())),
    )


def verify(ledger: Ledger, blobs: BlobStore, manifest: DatasetManifest) -> Verification:
    """Check a version end to end: its row, root and balance, every payload, and that no prompt is on both sides."""
    problems: list[str] = []
    published = ledger.publications.find(manifest.dataset, manifest.version)
    if published is None or published.digest != manifest.digest:
        problems.append(f"version {manifest.version} is published under another digest, or not at all")
    if manifest.computed_root() != manifest.root:
        problems.append("the root is not the Merkle root of the members")
    if not manifest.balanced:
        problems.append("accepted and rejected do not add up to sealed")
    erased_subjects = ledger.payloads.erased_subjects()
    erased = 0
    prompts: dict[str, set[Split]] = {}
    for member in manifest.members:
        if member.subject in erased_subjects and not blobs.has(member.address):
            erased += 1
            continue
        try:
            example = read_example(blobs, member.address)
        except PlumblineError as error:
            problems.append(error.fact)
            continue
        if subject_of(example) != member.subject:
            problems.append(f"{member.address} names another subject than its payload")
        prompts.setdefault(digest_of([m.model_dump() for m in example.prompt]), set()).add(member.split)
    leaks = sum(len(sides) > 1 for sides in prompts.values())
    if leaks:
        problems.append(f"{leaks} prompts are both trained on and held out")
    return Verification(tuple(problems), erased)


def _manifest(blobs: BlobStore, digest: str) -> DatasetManifest:
    return DatasetManifest.from_canonical(blobs.get(digest))


def _lawful(example: Example) -> bool:
    """Somebody's consent carries it, or it is public data imported under a named licence."""
    if example.consent is not None:
        return True
    return example.provenance.origin == "import" and example.provenance.licence != "unspecified"


def _seed_members(
    fresh: dict[str, tuple[Example, Split | None]], details: dict[str, MemberDetail], held_out_share: float
) -> list[Member]:
    components: Components[str] = Components()
    for address, (example, _) in fresh.items():
        components.join(address, "prompt:" + details[address].signature.prompt_key)
        if example.cluster:
            components.join(address, "cluster:" + example.cluster)
    members = []
    for group in components.groups(fresh):
        drawn = drawn_split(min(_stable_key(fresh[address][0]) for address in group), held_out_share)
        for address in group:
            example, given = fresh[address]
            members.append(
                Member(
                    address=address,
                    split=given or drawn,
                    slice=example.slice,
                    cluster=example.cluster,
                    subject=subject_of(example),
                )
            )
    return members


def _stable_key(example: Example) -> str:
    """What a seed's split is drawn from: its content, so that two stores draw alike."""
    return example.cluster or digest_of([message.model_dump() for message in example.prompt])
