"""Leaving: withdrawal, the version without the person, and erasure from every version there ever was.

In this order, each step repeatable, so that a kill anywhere is mended by calling again:

1. the withdrawal is in the ledger: from here on no publication can contain the person;
2. every dataset whose head holds them gets a removal-only version, which needs no approval;
3. policies trained on them (or built on one that was) are flagged with a recorded remediation;
4. payloads, salts, signatures, the subject's key and their events' words are erased, from all versions and from
   what candidates left behind; freed pages are overwritten and the write-ahead log is emptied.

What stays is content-free: addresses, sequences, counts. Roots and digests verify as before. A policy that was
trained on the data is not "unlearned" by any of this, and nothing here says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from plumbline.errors import PlumblineError
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.publish import code_digest, load_manifest, publish_manifest, verify
from plumbline.records import DatasetManifest, digest_of, merkle_root
from plumbline.stores import BlobStore, Lease, Ledger, Published, Remediation


@dataclass(frozen=True)
class ErasureResult:
    """What one erasure did. `versions` are the removal-only versions; `policies` those flagged, by digest."""

    subject: str
    consent_sequence: int
    versions: tuple[Published, ...]
    payloads: int
    events: int
    policies: tuple[str, ...]


@dataclass(frozen=True)
class AbsenceProof:
    """`subject` has no member in the version, whose root verifies, and no payload of theirs exists anywhere."""

    subject: str
    dataset: str
    version: int
    digest: str
    root: str
    consent_sequence: int


def publish_removal(
    ledger: Ledger, blobs: BlobStore, dataset: str, *, run_key: str | None = None, lease: Lease | None = None
) -> Published | None:
    """Publish the head without everyone whose consent ended. None when there is nobody to remove."""
    lost = ledger.publications.uncovered(dataset)
    head = ledger.publications.head(dataset)
    if head is None or not lost:
        return None
    consent = ledger.consent.require_valid()
    parent = load_manifest(ledger, blobs, dataset)
    members = tuple(member for member in parent.members if member.subject not in lost)
    key = run_key or digest_of(
        {"run": "removal", "dataset": dataset, "parent": head.digest, "consent": consent.sequence}
    )
    manifest = DatasetManifest(
        dataset=dataset,
        version=head.version + 1,
        parent=head.digest,
        run_key=key,
        root=merkle_root(member.address for member in members),
        members=members,
        rubric=parent.rubric,
        code=code_digest(),
        consent_sequence=consent.sequence,
        consent_head=consent.digest,
        sealed=0,
        accepted=0,
        licence=parent.licence,
        reason="withdrawal",
    )
    return publish_manifest(ledger, blobs, manifest, {}, lease=lease)


def erase(
    ledger: Ledger,
    blobs: BlobStore,
    subject: str,
    *,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
    on_step: Callable[[str], None] = lambda _: None,
) -> ErasureResult:
    """Carry out a withdrawal that is in the ledger, to the last byte. PlumblineError when none is: consent that
    still holds is withdrawn first (`withdraw_and_erase` does both)."""
    head = ledger.consent.head()
    coverage = ledger.consent.covers(subject, "training", head.sequence, ledger.database.clock())
    if coverage.covered:
        raise PlumblineError(
            "the subject's consent to training still holds",
            consequence="nothing is erased",
            remedy="withdraw the consent first",
        )
    trained = ledger.lineage.of_subject(subject).policies
    versions = []
    for dataset in ledger.publications.datasets():
        removal = publish_removal(ledger, blobs, dataset)
        if removal is not None:
            versions.append(removal)
            on_step(f"removed from {dataset}")
    for policy in trained:
        ledger.releases.flag(policy.policy, subject, remediation, reason=reason, actor=actor)
    on_step("flagged")
    addresses = ledger.payloads.of_subject(subject)
    with ledger.database.transaction():
        events = ledger.inbox.erase(subject)
        ledger.subjects.erase(subject)
        ledger.payloads.record_erasure(subject, head.sequence, payloads=len(addresses), events=events)
    on_step("events erased")
    for address in addresses:
        blobs.delete(address)
    blobs.sweep()
    on_step("payloads erased")
    ledger.payloads.forget(addresses)
    ledger.database.truncate_log()
    return ErasureResult(
        subject=subject,
        consent_sequence=head.sequence,
        versions=tuple(versions),
        payloads=len(addresses),
        events=events,
        policies=tuple(policy.policy for policy in trained),
    )


def withdraw_and_erase(
    ledger: Ledger,
    blobs: BlobStore,
    desk: ConsentDesk,
    identity: str,
    *,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
) -> ErasureResult:
    """One call: withdraw everything a person gave, then erase. Safe to call again after a crash."""
    entry = desk.withdraw(identity)
    return erase(ledger, blobs, entry.subject, remediation=remediation, reason=reason, actor=actor)


def prove_absent(
    ledger: Ledger, blobs: BlobStore, subject: str, dataset: str, version: int | str | None = None
) -> AbsenceProof:
    """Show that a subject is absent from a version (default: the head) and that no payload of theirs is left.

    Reads the manifest and the blobs, not the ledger's own opinion of them. PlumblineError when it is not so.
    """
    manifest = load_manifest(ledger, blobs, dataset, version)
    present = [member for member in manifest.members if member.subject == subject]
    addresses = {member.address for member in ledger.lineage.of_subject(subject).memberships}
    left = [address for address in sorted(addresses) if blobs.has(address)]
    check = verify(ledger, blobs, manifest)
    if present or left or not check.valid:
        raise PlumblineError(
            f"{len(present)} members and {len(left)} payloads of the subject are in {dataset} "
            f"version {manifest.version}, and its verification says {list(check.problems) or 'sound'}",
            consequence="their absence cannot be shown",
            remedy="erase the subject, then ask about the head version",
        )
    return AbsenceProof(
        subject=subject,
        dataset=dataset,
        version=manifest.version,
        digest=manifest.digest,
        root=manifest.root,
        consent_sequence=manifest.consent_sequence,
    )
