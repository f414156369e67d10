"""A small house to ingest in: ledger with a hand-moved clock, blobs, a registered notice, people who consent."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plumbline.feedback import (
    ConsentDesk,
    Ingestion,
    IngestionConfig,
    IngestionResult,
    Pseudonyms,
    publish_seed_version,
)
from plumbline.records import (
    TYPE_PREFIX,
    ConsentReference,
    Example,
    FeedbackData,
    FeedbackEvent,
    Notice,
    Provenance,
    digest_of,
    say,
)
from plumbline.stores import Approval, Ledger, LocalBlobs, Published

RUBRIC = digest_of("rubric 1")
CODE = digest_of("code of the golden tests")


@dataclass
class House:
    """Everything a test needs, on one directory. `secret` is fixed, so digests are the same in every house."""

    root: Path
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    ledger: Ledger = field(init=False)
    blobs: LocalBlobs = field(init=False)
    desk: ConsentDesk = field(init=False)
    notice: Notice = field(init=False)
    names: Pseudonyms = field(default_factory=lambda: Pseudonyms(b"tenant key of the tests"))

    def __post_init__(self) -> None:
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.root / "ledger.db", clock=self.clock, secret=b"reproducible")
        self.blobs = LocalBlobs(self.root / "blobs")
        self.desk = ConsentDesk(self.ledger, self.names)
        self.notice = self.ledger.consent.register_notice("training", "1", "we train on what you write")

    def clock(self) -> datetime:
        return self.now

    def wait(self, **time: float) -> None:
        self.now += timedelta(**time)

    def consent(self, *people: str) -> None:
        for person in people:
            self.desk.give(person, ["training"], self.notice)

    def post(self, *events: FeedbackEvent) -> list[str]:
        return [receipt.outcome for receipt in self.ledger.inbox.append(list(events))]

    def event(self, person: str, kind: str, asked: str, **data: Any) -> FeedbackEvent:
        content = {"answer": "i cannot help", "slice": "benign", **data}
        return FeedbackEvent(
            id=digest_of([person, kind, asked, sorted(map(str, data.items()))])[7:23],
            source="console",
            type=TYPE_PREFIX + kind,
            data=FeedbackData(subject=self.names.of(person), messages=(say("user", asked),), **content),
        )

    def rewrite(self, person: str, asked: str, better: str, **data: Any) -> FeedbackEvent:
        return self.event(person, "rewrite", asked, text=better, **data)

    def seeds(self, count: int = 12, *, author: str = "demonstrator") -> list[Example]:
        subject = self.names.of(author)
        return [
            Example(
                messages=(say("user", f"seed question {number}"), say("assistant", f"seed answer {number}")),
                slice="facts" if number % 2 else "harm",
                cluster=f"seed-{number // 2}",
                provenance=Provenance(origin="seed", author=subject, source="seeds", approved_by=("data-owner",)),
                consent=ConsentReference(subject=subject, sequence=1),
            )
            for number in range(count)
        ]

    def publish_seeds(self, dataset: str = "assistant", count: int = 12, **options: Any) -> Published:
        self.consent("demonstrator")
        examples = self.seeds(count)
        return publish_seed_version(self.ledger, self.blobs, dataset, examples, rubric=RUBRIC, **options)

    def ingest(
        self, dataset: str = "assistant", *, config: IngestionConfig | None = None, on_stage: Any = None, **options: Any
    ) -> IngestionResult:
        options.setdefault("approve", yes)
        ingestion = Ingestion(self.ledger, self.blobs, config, on_stage=on_stage or (lambda _: None))
        return ingestion.run(dataset, RUBRIC, **options)


def yes(candidate: object, examples: object) -> Approval:
    return Approval("data-owner", True, "read and agreed")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    built = House(tmp_path)
    yield built
    built.ledger.close()


@pytest.fixture
def house_class() -> type[House]:
    return House
