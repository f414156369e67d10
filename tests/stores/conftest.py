"""A ledger on a temporary file with a clock that only moves when a test moves it."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plumbline.records import (
    DatasetManifest,
    GateDecision,
    Member,
    Notice,
    PolicyManifest,
    Verdict,
    digest_of,
    merkle_root,
)
from plumbline.stores import Ledger, MemberDetail, Signature


@dataclass
class Desk:
    """A ledger with the records that its tests keep needing."""

    path: Path
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    ledger: Ledger = field(init=False)
    notice: Notice = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.path, clock=lambda: self.now, secret=b"reproducible")
        self.notice = self.ledger.consent.register_notice("training", "1", "we train on what you write")

    def give(self, subject: str, **options: datetime) -> int:
        return self.ledger.consent.append(subject, "given", ["training"], self.notice, **options).sequence

    def withdraw(self, subject: str) -> int:
        return self.ledger.consent.append(subject, "withdrawn", ["training"], self.notice).sequence

    def manifest(
        self, *subjects: str, version: int = 1, parent: str | None = None, run: str = "run"
    ) -> DatasetManifest:
        members = tuple(
            Member(address=digest_of([subject, "example"]), split="train", slice="facts", subject=subject)
            for subject in subjects
        )
        head = self.ledger.consent.head()
        return DatasetManifest(
            dataset="assistant",
            version=version,
            parent=parent,
            run_key=digest_of(run),
            root=merkle_root(member.address for member in members),
            members=members,
            rubric=digest_of("rubric"),
            code=digest_of("code"),
            consent_sequence=head.sequence,
            consent_head=head.digest,
            sealed=len(members),
            accepted=len(members),
        )

    def details(self, manifest: DatasetManifest) -> dict[str, MemberDetail]:
        signature = Signature("text", "prompt", "", b"bands")
        return {member.address: MemberDetail("rewrite", signature, None) for member in manifest.members}

    def raw(self) -> sqlite3.Connection:
        """The database as somebody with the file in hand sees it."""
        return sqlite3.connect(self.path, isolation_level=None)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "ledger.db")
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
