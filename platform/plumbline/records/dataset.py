"""A dataset version: an immutable, numbered, content-addressed set of examples with train and held-out splits."""

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest, merkle_root
from plumbline.records.example import Split


class Member(Record):
    """One example in a version: its address, its split, and the pseudonym whose consent carries it (if any)."""

    schema_id = "plumbline.dev/member/v1"

    address: Digest
    split: Split
    slice: str
    cluster: str = ""
    subject: str | None = None


class DatasetManifest(Record):
    """Everything that made a version, by digest. The version's digest is the manifest's.

    `root` is the Merkle root over members' addresses, so it still verifies after payloads are erased.
    `accepted + sum(rejected.values()) == sealed` holds, or the version cannot be published (conservation).
    """

    schema_id = "plumbline.dev/dataset-manifest/v1"

    dataset: str
    version: int = Field(ge=1)
    parent: Digest | None = None
    run_key: Digest
    root: Digest
    members: tuple[Member, ...]
    rubric: Digest
    code: Digest
    consent_sequence: int = Field(ge=0)
    consent_head: Digest
    sealed: int = Field(ge=0)
    accepted: int = Field(ge=0)
    rejected: dict[str, int] = Field(default_factory=dict)
    redactions: dict[str, int] = Field(default_factory=dict)
    licence: str = "unspecified"
    reason: str = "ingest"

    @property
    def balanced(self) -> bool:
        return self.accepted + sum(self.rejected.values()) == self.sealed

    def split_addresses(self, split: Split) -> list[str]:
        return [member.address for member in self.members if member.split == split]

    def computed_root(self) -> str:
        return merkle_root(member.address for member in self.members)


class DatasetDiff(Record):
    """Difference between two versions, by example address, with counts by slice."""

    schema_id = "plumbline.dev/dataset-diff/v1"

    older: int
    newer: int
    added: tuple[Digest, ...]
    removed: tuple[Digest, ...]
    added_by_slice: dict[str, int]
    removed_by_slice: dict[str, int]
