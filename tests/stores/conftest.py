"""A ledger with a clock that only moves when a test moves it, in SQLite and in PostgreSQL."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, Outsider, backend, blobs, ledger  # noqa: F401  (fixtures)

from plumbline.records import (
    DatasetChanges,
    DatasetManifest,
    GateDecision,
    Member,
    Notice,
    PolicyManifest,
    Split,
    Verdict,
    digest_of,
)
from plumbline.records.merkle import raw
from plumbline.stores import BlobStore, Lease, Ledger, NewExample, NewExamples, Published, TreeChange
from plumbline.stores.blobs import open_blobs


@dataclass
class Desk:
    """A ledger with the records that its tests keep needing."""

    backend: Backend
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    ledger: Ledger = field(init=False)
    blobs: BlobStore = field(init=False)
    notice: Notice = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.backend.ledger, clock=lambda: self.now, secret=b"reproducible")
        self.blobs = open_blobs(self.backend.blobs)
        self.notice = self.ledger.consent.register_notice("training", "1", "we train on what you write")

    @property
    def path(self) -> Path | str:
        """What `Ledger` opens."""
        return self.backend.ledger

    def give(self, subject: str, **options: datetime) -> int:
        return self.ledger.consent.append(subject, "given", ["training"], self.notice, **options).sequence

    def withdraw(self, subject: str) -> int:
        return self.ledger.consent.append(subject, "withdrawn", ["training"], self.notice).sequence

    def candidate(
        self, *subjects: str, version: int = 1, parent: str | None = None, run: str = "run", split: Split = "train"
    ) -> "Candidate":
        """A version with one example of each subject, and without everybody who is in the head and not named."""
        here = self.ledger.publications.members("assistant") if version > 1 else []
        known = {member.subject for member in here}
        added = tuple(
            Member(address=digest_of([subject, "example"]), split=split, slice="facts", subject=subject)
            for subject in sorted(set(subjects) - known, key=lambda subject: digest_of([subject, "example"]))
        )
        leaving = tuple(member.address for member in here if member.subject not in subjects)
        changes = DatasetChanges(added=added, removed=leaving)
        tree = self.ledger.publications.tree.plan(
            "assistant", [raw(member.address) for member in added], [raw(address) for address in leaving]
        )
        head = self.ledger.consent.head()
        manifest = DatasetManifest(
            dataset="assistant",
            version=version,
            parent=parent,
            run_key=digest_of(run),
            root=tree.root,
            changes=changes.digest,
            sizes={split: len(subjects)},
            slices={"facts": len(subjects)},
            subjects=len(subjects),
            rubric=digest_of("rubric"),
            code=digest_of("code"),
            consent_sequence=head.sequence,
            consent_head=head.digest,
            sealed=len(added),
            accepted=len(added),
        )
        return Candidate(self.ledger, self.blobs, manifest, changes, tree)

    def raw(self) -> Outsider:
        """The database as somebody sees it who does not go through plumbline."""
        return self.backend.outsider()


@dataclass(frozen=True)
class Candidate:
    """A version that could be published; `changed` forges one."""

    ledger: Ledger
    blobs: BlobStore
    manifest: DatasetManifest
    changes: DatasetChanges
    tree: TreeChange

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def changed(self, **updates: Any) -> "Candidate":
        return replace(self, manifest=self.manifest.model_copy(update=updates))

    def publish(self, lease: Lease | None = None) -> Published:
        words = [f"words of {member.subject}".encode() for member in self.changes.added]
        new = None
        if words:
            pack = self.ledger.payloads.write(self.blobs, "assistant", words)
            rows = tuple(NewExample("rewrite", None, *place) for place in pack.places)
            new = NewExamples(self.ledger.publications.reserve(len(rows)), rows, pack)
        return self.ledger.publications.publish(self.manifest, self.changes, self.tree, new, lease=lease)


@pytest.fixture
def desk(backend: Backend) -> Iterator[Desk]:  # noqa: F811
    opened = Desk(backend)
    yield opened
    opened.ledger.close()


def policy(name: str, *, dataset: str | None = None, base: str | None = None) -> PolicyManifest:
    return PolicyManifest(
        name=name,
        role="aligned",
        weights=digest_of([name, "weights"]),
        tokenizer=digest_of("tokenizer"),
        template=digest_of("template"),
        base_policy=base,
        dataset=dataset,
    )


def decision(aligned: str, verdict: Verdict = Verdict.PASS) -> GateDecision:
    return GateDecision(
        reference=digest_of("reference"),
        aligned=aligned,
        report=digest_of("report"),
        rubric=digest_of("rubric"),
        verdict=verdict,
        areas=(),
    )
