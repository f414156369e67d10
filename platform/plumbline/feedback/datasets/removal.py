"""The removal-only version: the head without those whose consent ended. Leaving needs nobody's approval."""

from collections.abc import Sequence

from plumbline.feedback.datasets.publish import code_digest, compose, publish_version
from plumbline.feedback.datasets.reading import load_manifest
from plumbline.records import digest_of
from plumbline.stores import BlobStore, Lease, Ledger, Membership, Published


def publish_removal(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    *,
    run_key: str | None = None,
    lease: Lease | None = None,
    also: Sequence[Membership] = (),
) -> Published | None:
    """Publish the head without everyone whose consent ended, and without the examples in `also`. None when there is
    nothing to remove."""
    consent = ledger.consent.require_valid()  # before looking who left: whoever leaves after it is asked about again
    head = ledger.publications.head(dataset)
    lost = ledger.publications.uncovered(dataset)
    if head is None or not (lost or also):
        return None
    parent = load_manifest(ledger, blobs, dataset)
    key = run_key or digest_of(
        {"run": "removal", "dataset": dataset, "parent": head.digest, "consent": consent.sequence}
    )
    leaving = {member.id: member for member in (*ledger.publications.of_subjects(dataset, sorted(lost)), *also)}
    version = compose(
        ledger,
        dataset,
        parent,
        None,
        list(leaving.values()),
        run_key=key,
        rubric=parent.rubric,
        policy_text=parent.policy_text,
        code=code_digest(),
        consent=consent,
        licence=parent.licence,
        reason="withdrawal",
    )
    return publish_version(ledger, blobs, version, lease=lease)
