"""What an ingestion is configured by, what it proposes, and what it reports."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from plumbline.feedback.ingestion.guard import GuardLimits
from plumbline.records import DatasetManifest, Digest, Member, Message, Record
from plumbline.records.dataset import LongRecord
from plumbline.stores import BlobStore, Published, SealedEvent

State = Literal["published", "awaiting_approval", "rejected", "no_change"]


class IngestionConfig(Record):
    """What changes a run's outcome beside its events. Part of the run key and of the version's code digest."""

    schema_id = "plumbline.dev/ingestion-config/v1"

    near_duplicate: float = Field(default=0.9, gt=0, le=1)
    approved_rating: float = Field(default=0.5, ge=-1, le=1)
    held_out_share: float = Field(default=0.1, ge=0, le=1)
    most_events: int = Field(default=200_000, ge=1)  # of one run: what waits longer goes into the next version
    guards: GuardLimits = GuardLimits()
    licence: str = "user feedback under consent"


class Candidate(LongRecord):
    """What an approver says yes or no to: the change to the parent version and the account of every event."""

    schema_id = "plumbline.dev/candidate/v1"

    dataset: str
    parent: Digest | None
    rubric: Digest
    code: Digest
    events: Digest
    added: tuple[Member, ...]
    removed: tuple[Digest, ...]
    sealed: int
    accepted: int
    rejected: dict[str, int]
    redactions: dict[str, int]

    def only_removes_from(self, approved: "Candidate") -> bool:
        """Nothing here that the approved candidate did not have, and nothing kept that it removed."""
        same = (self.dataset, self.parent, self.rubric, self.code) == (
            approved.dataset, approved.parent, approved.rubric, approved.code,
        )  # fmt: skip
        return same and set(self.added) <= set(approved.added) and set(self.removed) >= set(approved.removed)


@dataclass(frozen=True)
class Preference:
    """A comparison: which of two answers a person preferred. Checks judges; never a target."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    source: str
    tie: bool = False


@dataclass(frozen=True)
class IngestionResult:
    """How a run ended. `redacted_samples` are texts *after* redaction; `seconds` by stage (near 0 when found again)."""

    state: State
    dataset: str
    run_key: str
    version: Published | None = None
    manifest: DatasetManifest | None = None
    candidate: Candidate | None = None
    sealed: int = 0
    accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    redactions: dict[str, int] = field(default_factory=dict)
    redacted_samples: tuple[str, ...] = ()
    preferences: tuple[Preference, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def load_candidate(blobs: BlobStore, digest: str) -> Candidate:
    """The candidate that a run or an approval names."""
    return Candidate.from_canonical(blobs.get(digest))


def preference(event: SealedEvent) -> Preference | None:
    """The comparison in an event: `text` and `rejected` are the preferred answer and the other one."""
    if event.data is None or event.kind != "comparison":
        return None
    messages = tuple(Message.model_validate(message) for message in event.messages)
    chosen = event.said("text") or event.said("answer", "")
    return Preference(messages, chosen, event.said("rejected") or "", event.source, event.said("preferred") == "tie")
