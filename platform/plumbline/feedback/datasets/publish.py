"""Publishing: examples become members, members become changes, changes become a version.

A version is a manifest and the changes that lead to it from its parent (two blobs, and a row in the publication table).
A member is an address whose payload is `salt || canonical bytes`; the payload's own SHA-256 *is* the address, so
reading verifies it (reading.py). After erasure the payload is gone and manifest, root and digest are what they were.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.history import History, TextKeys, dialogue
from plumbline.feedback.signatures import Signatures, Signer
from plumbline.records import (
    DatasetChanges,
    DatasetManifest,
    Example,
    Member,
    Message,
    Split,
    digest_bytes,
    digest_of,
)
from plumbline.records.dataset import members_from
from plumbline.records.merkle import raw
from plumbline.stores import (
    BlobStore,
    ConsentHead,
    ConsentLost,
    HeadMoved,
    Lease,
    Ledger,
    Membership,
    NewExample,
    NewExamples,
    Packed,
    Published,
    Standing,
    TreeChange,
)
from plumbline.stores.subjects import HOUSE, salt_of


class Draft(NamedTuple):
    """An example before it has an address: its canonical bytes, and what its row will say."""

    data: bytes
    subject: str | None
    origin: str
    slice: str
    cluster: str
    licence: str

    @classmethod
    def of(cls, example: Example) -> "Draft":
        origin, licence = example.provenance.origin, example.provenance.licence
        return cls(example.canonical_bytes(), subject_of(example), origin, example.slice, example.cluster, licence)


@dataclass(frozen=True)
class Addition:
    """Members that a version adds, in address order, with what the ledger and the index keep about each."""

    members: tuple[Member, ...]
    new: tuple[NewExample, ...]
    keys: TextKeys
    pack: Packed


@dataclass(frozen=True)
class NextVersion:
    """A version that could be published: its manifest, its changes, and what they do to the tree."""

    manifest: DatasetManifest
    changes: DatasetChanges
    tree: TreeChange
    addition: Addition | None


# What turns events into a version: ingestion and all that it stands on in this room (tests/feedback hold it complete).
PIPELINE = (
    "datasets/history", "datasets/publish", "datasets/reading", "datasets/split",
    "ingestion/approval", "ingestion/candidate", "ingestion/examples", "ingestion/guard", "ingestion/ingest",
    "ingestion/injection", "ingestion/sealing", "ingestion/stages",
    "glance", "pseudonyms",
    "redaction/addresses", "redaction/numbers", "redaction/redact", "redaction/secrets",
    "signatures",
)  # fmt: skip


@cache
def code_digest() -> str:
    """Digest of the source of `PIPELINE`: it is part of what a version is. A card or a page may change without it."""
    room = resources.files("plumbline.feedback")
    return digest_of({name: digest_bytes(room.joinpath(f"{name}.py").read_bytes()) for name in PIPELINE})


def signer(ledger: Ledger) -> Signer:
    """Signatures are keyed with the store's own key, so that they mean nothing elsewhere."""
    return Signer(ledger.subjects.key(HOUSE))


def prompt_text(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def keys_of(
    signing: Signer, prompts: Sequence[str], targets: Sequence[str], conversations: Sequence[str]
) -> tuple[TextKeys, Signatures]:
    """Keys and signatures of texts given as prompt, target and conversation (empty: nothing ties it to others)."""
    signed = signing.sign_many([dialogue(prompt, target) for prompt, target in zip(prompts, targets, strict=True)])
    named = signing.keys("conversation", conversations)
    named[np.array([not conversation for conversation in conversations], dtype=bool)] = 0
    return TextKeys(signed.texts, signing.keys("prompt", prompts), named, signed.bands), signed


def subject_of(example: Example) -> str | None:
    """The person whose consent carries an example; None for licensed public data."""
    return None if example.consent is None else example.consent.subject


def require_consent(
    ledger: Ledger,
    subjects: Collection[str],
    since: int,
    known: tuple[ConsentHead, Mapping[str, Standing]] | None = None,
) -> None:
    """ConsentLost unless training is covered for all of these people now and did not end after entry `since`.

    To be asked in the transaction that writes their words: an erasure comes before it, and is seen, or after it, and
    finds them. `known` is where people stood at a head: while it is the head, nobody's entries are read again."""
    last, now = ledger.consent.head(), ledger.database.clock()
    head = last.sequence
    here = known is not None and known[0] == last
    standings = known[1] if known is not None and here else ledger.consent.standings(sorted(subjects), "training")
    for subject in sorted(subjects):
        standing = standings[subject]
        if not standing.covers(head, now).covered or standing.withdrawn_between(since, head):
            raise ConsentLost(
                f"consent of {subject} does not hold now",
                consequence="nothing of theirs is written",
                remedy="start the run again; it is built without them",
            )


def salted(ledger: Ledger, drafts: Sequence[Draft]) -> list[bytes]:
    """Payloads: `salt || canonical bytes`. The salt is derived from the subject's key, so that a run which is started
    again gives the same addresses; once the key is erased nobody can derive it."""
    keys = ledger.subjects.keys({draft.subject or HOUSE for draft in drafts})
    return [salt_of(keys[subject or HOUSE], digest_bytes(data)) + data for data, subject, *_ in drafts]


def store(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    drafts: Sequence[Draft],
    payloads: Sequence[bytes],
    splits: Sequence[Split],
    keys: TextKeys,
    events: Sequence[int | None],
    rows: Sequence[int],
) -> Addition:
    """Make the drafts of `rows` durable, in one pack that belongs to no version yet, and members of them.

    The other arguments are columns of all drafts. Only what is to be a member is written: what is in a pack and in no
    version would be found by nobody."""
    addresses = {row: digest_bytes(payloads[row]) for row in rows}
    picked = sorted(rows, key=addresses.__getitem__)
    pack = ledger.payloads.write(blobs, dataset, [payloads[row] for row in picked])
    return Addition(
        members=members_from(
            [
                {
                    "address": addresses[row],
                    "split": splits[row],
                    "slice": drafts[row].slice,
                    "cluster": drafts[row].cluster,
                    "subject": drafts[row].subject,
                    "licence": drafts[row].licence,
                }
                for row in picked
            ]
        ),
        new=tuple(
            NewExample(drafts[row].origin, events[row], *place) for row, place in zip(picked, pack.places, strict=True)
        ),
        keys=keys.take(picked),
        pack=pack,
    )


def compose(
    ledger: Ledger,
    dataset: str,
    parent: DatasetManifest | None,
    added: Addition | None,
    leaving: Sequence[Membership],
    *,
    run_key: str,
    rubric: str,
    code: str,
    consent: ConsentHead,
    reason: str,
    policy_text: str | None = None,
    approved_by: tuple[str, ...] = (),
    licence: str = "unspecified",
    sealed: int = 0,
    accepted: int = 0,
    rejected: Mapping[str, int] | None = None,
    redactions: Mapping[str, int] | None = None,
) -> NextVersion:
    """The version that is `parent` with what is added and without who is leaving. Reads the ledger, writes nothing."""
    members = added.members if added is not None else ()
    changes = DatasetChanges(added=members, removed=tuple(sorted(member.address for member in leaving)))
    tree = ledger.publications.tree.plan(
        dataset, [raw(member.address) for member in members], [raw(member.address) for member in leaving]
    )
    if parent is not None and tree.parent != parent.root:
        head = ledger.publications.head(dataset)
        if head is None or head.digest != parent.digest:
            raise HeadMoved(
                f"{dataset} has moved on from version {parent.version} meanwhile",
                consequence="the candidate is not published",
                remedy="start the run again; it is built on the new head",
            )
        raise PlumblineError(
            f"the ledger's tree of {dataset} does not have the root of version {parent.version}",
            consequence="the ledger was altered or damaged; nothing is published, and nothing is lost",
            remedy="restore the ledger from a backup, then start the run again",
        )
    gone = {member.subject for member in leaving} - {None}
    come = {member.subject for member in members if member.subject is not None}
    stay = ledger.publications.with_members(dataset, sorted(come)) - gone
    manifest = DatasetManifest(
        dataset=dataset,
        version=1 if parent is None else parent.version + 1,
        parent=None if parent is None else parent.digest,
        run_key=run_key,
        root=tree.root,
        changes=changes.digest,
        sizes={"train": 0, "held_out": 0}
        | _moved(parent.sizes if parent else {}, [m.split for m in members], [m.split for m in leaving]),
        slices=_moved(parent.slices if parent else {}, [m.slice for m in members], [m.slice for m in leaving]),
        subjects=(parent.subjects if parent else 0) - len(gone) + len(come - stay),
        rubric=rubric,
        policy_text=policy_text,
        code=code,
        consent_sequence=consent.sequence,
        consent_head=consent.digest,
        approved_by=approved_by,
        sealed=sealed,
        accepted=accepted,
        rejected=dict(rejected or {}),
        redactions=dict(redactions or {}),
        licence=licence,
        reason=reason,
    )
    return NextVersion(manifest, changes, tree, added)


def publish_version(ledger: Ledger, blobs: BlobStore, version: NextVersion, *, lease: Lease | None = None) -> Published:
    """Blobs and index first, invisibly; then the one transaction. What a failed publication leaves stays invisible."""
    manifest, added = version.manifest, version.addition
    blobs.put_many([version.changes.canonical_bytes(), manifest.canonical_bytes()])
    if added is None:
        return ledger.publications.publish(manifest, version.changes, version.tree, lease=lease)
    history = History(ledger, blobs, manifest.dataset, signer(ledger))
    first = ledger.publications.reserve(len(added.members))
    ids = range(first, first + len(added.members))
    staged = history.stage(added.keys, ids, [member.split for member in added.members])
    with ledger.database.transaction():
        published = ledger.publications.publish(
            manifest, version.changes, version.tree, NewExamples(first, added.new, added.pack), lease=lease
        )
        if not published.replayed:
            history.admit(staged)
    history.tidy()
    return published


def _moved(before: Mapping[str, int], come: Sequence[str], gone: Sequence[str]) -> dict[str, int]:
    """Counts by name after some came and some went; names with none are left out."""
    counts = Counter(before)
    counts.update(come)
    counts.subtract(gone)
    return dict(sorted((+counts).items()))
