"""A dataset version: an immutable, numbered, content-addressed set of examples with train and held-out splits."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest, digest_bytes
from plumbline.records.example import Split


class Member(Record):
    """One example in a version: its address, its split, and the pseudonym whose consent carries it (if any)."""

    schema_id = "plumbline.dev/member/v2"

    address: Digest
    split: Split
    slice: str
    cluster: str = ""
    subject: str | None = None
    licence: str = "unspecified"


def members_from(values: Sequence[Mapping[str, Any]]) -> tuple[Member, ...]:
    """Many members at once, each validated. Raises pydantic.ValidationError."""
    validate = Member.__pydantic_validator__.validate_python
    return tuple([validate(value) for value in values])


class LongRecord(Record):
    """A record of thousands of members, without floats: written attribute by attribute, and digested once."""

    has_floats = False

    def canonical(self) -> dict[str, Any]:
        content = {name: _plain(getattr(self, name)) for name in type(self).model_fields}
        return {"schema": self.schema_id, "content": content}

    @cached_property
    def digest(self) -> str:
        return digest_bytes(self.canonical_bytes())

    def model_copy(self, **options: Any) -> Self:
        made = super().model_copy(**options)
        made.__dict__.pop("digest", None)
        return made


def _plain(value: Any) -> Any:
    if type(value) is tuple and value and type(value[0]) is Member:
        return [
            {
                "address": one.address, "cluster": one.cluster, "licence": one.licence, "slice": one.slice,
                "split": one.split, "subject": one.subject,
            }
            for one in value
        ]  # fmt: skip
    return value


class DatasetChanges(LongRecord):
    """What a version adds to its parent and takes away, in address order. The members of a version are the additions
    of all its ancestors without what was removed since: a version costs what it changes."""

    schema_id = "plumbline.dev/dataset-changes/v1"

    added: tuple[Member, ...] = ()
    removed: tuple[Digest, ...] = ()


class DatasetManifest(Record):
    """Everything that made a version, by digest. The version's digest is the manifest's.

    `root` is the Merkle root over the members' addresses (records/merkle.py), so it still verifies after payloads are
    erased; `changes` is the digest of the `DatasetChanges` that lead here from `parent`. `policy_text` is the digest of
    the rubric's rules as people read them: a new margin makes a new rubric, but no new text.
    `accepted + sum(rejected.values()) == sealed` holds, or the version cannot be published (conservation).
    """

    schema_id = "plumbline.dev/dataset-manifest/v2"

    dataset: str
    version: int = Field(ge=1)
    parent: Digest | None = None
    run_key: Digest
    root: Digest
    changes: Digest
    sizes: dict[str, int]
    slices: dict[str, int]
    subjects: int = Field(ge=0)
    rubric: Digest
    policy_text: Digest | None = None
    code: Digest
    consent_sequence: int = Field(ge=0)
    consent_head: Digest
    approved_by: tuple[str, ...] = ()
    sealed: int = Field(ge=0)
    accepted: int = Field(ge=0)
    rejected: dict[str, int] = Field(default_factory=dict)
    redactions: dict[str, int] = Field(default_factory=dict)
    licence: str = "unspecified"
    reason: str = "ingest"

    @property
    def balanced(self) -> bool:
        return self.accepted + sum(self.rejected.values()) == self.sealed

    @property
    def size(self) -> int:
        return sum(self.sizes.values())


class DatasetDiff(Record):
    """Difference between two versions, by example address, with counts by slice."""

    schema_id = "plumbline.dev/dataset-diff/v1"

    older: int
    newer: int
    added: tuple[Digest, ...]
    removed: tuple[Digest, ...]
    added_by_slice: dict[str, int]
    removed_by_slice: dict[str, int]
