"""Leaving: withdrawal, the version without the person, and erasure from every version there ever was.

In this order, each step repeatable, so that a kill anywhere is mended by calling again:

1. in one transaction: the withdrawal, from which on no publication can contain the person; the request to erase, which
   stays open until the last step; and the words of their events, their key, what reviewers wrote about them and their
   links to the review page go;
2. every dataset whose head holds them gets a removal-only version, which needs no approval;
3. policies trained on them (or built on one that was) are flagged with a recorded remediation;
4. payloads, salts and signatures are erased, from all versions and from what candidates left behind; freed pages are
   overwritten and the log is emptied.

A request that nobody carried to its end is found by `finish_erasures`, and finished whatever the person did since: who
consents again is a new voice, whose new words stay, and what they said before is gone all the same.

What stays is content-free: addresses, sequences, counts. Roots and digests verify as before. A policy that was
trained on the data is not "unlearned" by any of this, and nothing here says so.
"""

from collections.abc import Callable
from dataclasses import dataclass

from plumbline.errors import PlumblineError
from plumbline.feedback.consent import ConsentDesk
from plumbline.feedback.datasets.history import History, sweep_staged
from plumbline.feedback.datasets.publish import signer
from plumbline.feedback.datasets.reading import load_manifest, members_of, verify
from plumbline.feedback.datasets.removal import publish_removal
from plumbline.records import GRANTS
from plumbline.stores import (
    BlobStore,
    ConsentLost,
    Export,
    HeadMoved,
    Ledger,
    Published,
    Remediation,
)
from plumbline.stores.erasures import ErasureRequest, ErasureRequests
from plumbline.stores.projections import erasure_record
from plumbline.stores.runs import this_worker

__all__ = [
    "AbsenceProof",
    "ErasureResult",
    "erase",
    "erase_or_withdraw",
    "finish_erasures",
    "prove_absent",
    "publish_removal",
    "withdraw_and_erase",
]
_ATTEMPTS = 8  # removals while others publish on the same head, before a person should look
OnStep = Callable[[str], None]


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


def erase(
    ledger: Ledger,
    blobs: BlobStore,
    subject: str,
    *,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
    on_step: OnStep = lambda _: None,
) -> ErasureResult:
    """Carry out a withdrawal that is in the ledger, to the last byte, or what is left of a request that was made before
    the person consented again. PlumblineError when consent holds and there is no such request: it is withdrawn first
    (`withdraw_and_erase` does both)."""
    with ledger.database.transaction():
        head = ledger.consent.head()
        if not ledger.consent.covers(subject, "training", head.sequence, ledger.database.clock()).covered:
            request = _ask(ledger, subject, remediation, reason, actor)
        elif unfinished := ErasureRequests(ledger.database).open(subject):
            request = unfinished[0]
        else:
            raise PlumblineError(
                "the subject's consent to training still holds",
                consequence="nothing is erased",
                remedy="withdraw the consent first",
            )
    on_step("requested")
    return _carry_out(ledger, blobs, request, on_step)


def withdraw_and_erase(
    ledger: Ledger,
    blobs: BlobStore,
    desk: ConsentDesk,
    identity: str,
    *,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
    on_step: OnStep = lambda _: None,
) -> ErasureResult:
    """One call: withdraw everything a person gave, then erase. Withdrawal and request are one commit. Safe to call
    again after a crash."""
    with ledger.database.transaction():
        entry = desk.withdraw(identity)
        request = _ask(ledger, entry.subject, remediation, reason, actor)
    on_step("requested")
    return _carry_out(ledger, blobs, request, on_step)


def finish_erasures(ledger: Ledger, blobs: BlobStore) -> tuple[list[ErasureResult], list[tuple[str, PlumblineError]]]:
    """Carry out every request that a killed call left open, unless another worker is at it. One look-up when there is
    none. Returns what was finished, and the subjects that still wait with the reason."""
    done: list[ErasureResult] = []
    waiting: list[tuple[str, PlumblineError]] = []
    for request in ErasureRequests(ledger.database).open():
        try:
            done.append(_carry_out(ledger, blobs, request, lambda _: None, alone=True))
        except PlumblineError as error:
            waiting.append((request.subject, error))
    return done, waiting


def _ask(ledger: Ledger, subject: str, remediation: Remediation, reason: str, actor: str) -> ErasureRequest:
    """The request, and the words that no version needs: both or neither, so that what is said later is told apart."""
    with ledger.database.transaction():
        events = ledger.inbox.erase(subject)
        labels = ledger.reviews.erase(subject)
        ledger.review_access.dismiss(subject)
        ledger.subjects.erase(subject)
        return ErasureRequests(ledger.database).ask(
            subject, events=events, labels=labels, remediation=remediation, reason=reason, actor=actor
        )


def _carry_out(
    ledger: Ledger, blobs: BlobStore, request: ErasureRequest, on_step: OnStep, *, alone: bool = False
) -> ErasureResult:
    """What is left of a request, up to where it reaches. `alone`: PlumblineError while another worker is at it."""
    name, lease = f"erasure/{request.sequence}", None
    try:
        lease = ledger.runs.acquire_lease(name, this_worker())
    except PlumblineError:
        if alone:
            raise
    try:
        return _steps(ledger, blobs, request, on_step)
    finally:
        if lease is not None:
            ledger.runs.release_lease(lease)


def _steps(ledger: Ledger, blobs: BlobStore, request: ErasureRequest, on_step: OnStep) -> ErasureResult:
    subject, requests = request.subject, ErasureRequests(ledger.database)
    versions = _without(ledger, blobs, request, on_step)
    theirs = ledger.publications.memberships(*request.reach)
    trained = ledger.lineage.trained_on(theirs)
    for policy in trained:
        ledger.releases.flag(policy.policy, subject, request.remediation, reason=request.reason, actor=request.actor)
    on_step("flagged")
    ledger.payloads.drop_unpublished(blobs)
    sweep_staged(ledger, blobs)
    for dataset in sorted({member.dataset for member in theirs}):
        ids = [member.id for member in theirs if member.dataset == dataset]
        History(ledger, blobs, dataset, signer(ledger)).forget(ids)
    on_step("signatures erased")
    payloads = max(request.payloads, ledger.payloads.erase(blobs, theirs))
    blobs.sweep()
    on_step("payloads erased")
    with ledger.database.transaction():
        # One that found nothing left adds no record.
        something = payloads or request.events or erasure_record(ledger, subject) is None
        if something and not requests.recorded(request):
            ledger.payloads.record_erasure(subject, request.consent_sequence, payloads=payloads, events=request.events)
            requests.link(request)
    on_step("recorded")
    ledger.database.truncate_log()
    requests.complete(request)
    record = erasure_record(ledger, subject)
    assert record is not None
    return ErasureResult(
        subject=subject,
        consent_sequence=request.consent_sequence,
        versions=tuple(versions),
        payloads=payloads,
        events=request.events,
        labels=request.labels,
        policies=tuple(policy.policy for policy in trained),
        copies=tuple(ledger.exports.holding(subject)),
        remains=ledger.database.remains(),
        proof=record.proof,
    )


def _without(ledger: Ledger, blobs: BlobStore, request: ErasureRequest, on_step: OnStep) -> list[Published]:
    """The removal-only versions that are still missing: of every dataset whose head holds what is to be erased. While
    others publish, it is asked again."""
    condition, parameters = request.reach
    versions: list[Published] = []
    for dataset in ledger.publications.datasets():
        for attempt in range(_ATTEMPTS):
            held = ledger.publications.memberships(
                f"{condition} AND example.dataset = ? AND example.removed_in IS NULL", (*parameters, dataset)
            )
            if not held and not ledger.publications.uncovered(dataset):
                break
            try:
                removal = publish_removal(ledger, blobs, dataset, also=held)
            except (HeadMoved, ConsentLost):
                if attempt == _ATTEMPTS - 1:
                    raise
                continue
            if removal is not None:
                versions.append(removal)
                on_step(f"removed from {dataset}")
    return versions


def erase_or_withdraw(
    ledger: Ledger,
    blobs: BlobStore,
    desk: ConsentDesk,
    identity: str,
    *,
    withdraw: bool = True,
    remediation: Remediation = "retrain",
    reason: str = "the subject withdrew consent",
    actor: str = "erasure",
) -> ErasureResult:
    """`withdraw_and_erase`, also for somebody who never consented: their events are erased all the same. Without
    `withdraw`, nobody is erased whose consent holds."""
    if withdraw and any(entry.action in GRANTS for entry in desk.show(identity)):
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
