"""Leaving: withdrawal, the version without the person, and erasure from every version there ever was.

In this order, each step repeatable, so that a kill anywhere is mended by calling again:

1. the withdrawal is in the ledger: from here on no publication can contain the person;
2. every dataset whose head holds them gets a removal-only version, which needs no approval;
3. policies trained on them (or built on one that was) are flagged with a recorded remediation;
4. payloads, salts, signatures, the subject's key, their events' words and what reviewers wrote about them are erased,
   from all versions and from what candidates left behind; freed pages are overwritten and the log is emptied.

What stays is content-free: addresses, sequences, counts. Roots and digests verify as before. A policy that was
trained on the data is not "unlearned" by any of this, and nothing here says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from plumbline.errors import PlumblineError
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.datasets.history import History, sweep_staged
from plumbline.feedback.datasets.publish import code_digest, compose, publish_version, signer
from plumbline.feedback.datasets.reading import load_manifest, members_of, verify
from plumbline.records import GRANTS, digest_of
from plumbline.stores import BlobStore, Export, Lease, Ledger, Published, Remediation
from plumbline.stores.projections import erasure_record


@dataclass(frozen=True)
class ErasureResult:
    """What one erasure did. `versions` are the removal-only versions; `policies` those flagged, by digest. `labels`
    counts reviewers' reasons. `copies` left the house and are for people to delete; `remains` are places that the
    database does not reach. `proof` is the digest of the content-free facts that the ledger keeps."""

    subject: str
    consent_sequence: int
    versions: tuple[Published, ...]
    payloads: int
    events: int
    labels: int
    policies: tuple[str, ...]
    copies: tuple[Export, ...]
    remains: tuple[str, ...]
    proof: str


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
    consent = ledger.consent.require_valid()  # before looking who left: whoever leaves after it is asked about again
    head = ledger.publications.head(dataset)
    lost = ledger.publications.uncovered(dataset)
    if head is None or not lost:
        return None
    parent = load_manifest(ledger, blobs, dataset)
    key = run_key or digest_of(
        {"run": "removal", "dataset": dataset, "parent": head.digest, "consent": consent.sequence}
    )
    version = compose(
        ledger,
        dataset,
        parent,
        None,
        ledger.publications.of_subjects(dataset, sorted(lost)),
        run_key=key,
        rubric=parent.rubric,
        policy_text=parent.policy_text,
        code=code_digest(),
        consent=consent,
        licence=parent.licence,
        reason="withdrawal",
    )
    return publish_version(ledger, blobs, version, lease=lease)


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
    held = [one for one in ledger.publications.datasets() if ledger.publications.with_members(one, [subject])]
    if held:
        raise PlumblineError(
            f"the head of {', '.join(held)} still holds the subject",
            consequence="nothing of theirs is erased yet: a head with a hole in it would be no version",
            remedy="withdraw their consent (`plumb consent withdraw`), then erase again",
        )
    for policy in trained:
        ledger.releases.flag(policy.policy, subject, remediation, reason=reason, actor=actor)
    on_step("flagged")
    with ledger.database.transaction():
        events = ledger.inbox.erase(subject)
        labels = ledger.reviews.erase(subject)
        ledger.subjects.erase(subject)
    on_step("events erased")
    ledger.payloads.drop_unpublished(blobs)
    sweep_staged(ledger, blobs)
    theirs = ledger.publications.memberships("subject = ?", (subject,))
    for dataset in sorted({member.dataset for member in theirs}):
        ids = [member.id for member in theirs if member.dataset == dataset]
        History(ledger, blobs, dataset, signer(ledger)).forget(ids)
    on_step("signatures erased")
    payloads = ledger.payloads.erase(blobs, theirs)
    blobs.sweep()
    on_step("payloads erased")
    if payloads or events or erasure_record(ledger, subject) is None:  # one that found nothing left adds no record
        ledger.payloads.record_erasure(subject, head.sequence, payloads=payloads, events=events)
    ledger.database.truncate_log()
    record = erasure_record(ledger, subject)
    assert record is not None
    return ErasureResult(
        subject=subject,
        consent_sequence=head.sequence,
        versions=tuple(versions),
        payloads=payloads,
        events=events,
        labels=labels,
        policies=tuple(policy.policy for policy in trained),
        copies=tuple(ledger.exports.holding(subject)),
        remains=ledger.database.remains(),
        proof=record.proof,
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


def erase_or_withdraw(
    ledger: Ledger,
    blobs: BlobStore,
    desk: ConsentDesk,
    identity: str,
    *,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
) -> ErasureResult:
    """`withdraw_and_erase`, also for somebody who never consented: their events are erased all the same."""
    if any(entry.action in GRANTS for entry in desk.show(identity)):
        return withdraw_and_erase(ledger, blobs, desk, identity, remediation=remediation, reason=reason, actor=actor)
    subject = desk.subject(identity)
    known = ledger.lineage.of_subject(subject)
    if not (desk.show(identity) or known.events or known.memberships):
        raise PlumblineError(
            "nobody in the ledger is known by this name",
            consequence="nothing is erased",
            remedy="check the identity as its source writes it, and the tenant key it is pseudonymised with",
        )
    return erase(ledger, blobs, subject, remediation=remediation, reason=reason, actor=actor)


def prove_absent(
    ledger: Ledger, blobs: BlobStore, subject: str, dataset: str, version: int | str | None = None
) -> AbsenceProof:
    """Show that a subject is absent from a version (default: the head) and that no payload of theirs is left.

    The ledger's rows are held against the version's changes, root and payloads. PlumblineError when it is not so.
    """
    manifest = load_manifest(ledger, blobs, dataset, version)
    present = [member for member in members_of(ledger, dataset, manifest.version) if member.subject == subject]
    left = [one for one in ledger.publications.memberships("subject = ?", (subject,)) if one.pack is not None]
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
