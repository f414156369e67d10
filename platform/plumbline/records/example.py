"""An example: one conversation with its target, and the answer to who wrote, filtered and approved it.

An example's *address* is SHA-256(salt || canonical bytes). The salt is random and stored only with the payload,
so that once both are erased the address, which lives on in manifests and Merkle trees, says nothing about the
text: a plain hash of a short text can be guessed.
"""

import hashlib
from typing import Literal

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.conversation import Message

Split = Literal["train", "held_out"]
Origin = Literal["seed", "rewrite", "approved_answer", "comparison", "import", "replay"]


class Provenance(Record):
    """Where an example came from and who touched it. Names are roles or pseudonyms, never people's names."""

    schema_id = "plumbline.dev/provenance/v1"

    origin: Origin
    author: str
    source: str
    event: Digest | None = None
    filtered_by: tuple[str, ...] = ()
    approved_by: tuple[str, ...] = ()
    licence: str = "unspecified"


class ConsentReference(Record):
    """Which consent covers the example: the ledger entry's subject and sequence, for the purpose `training`."""

    schema_id = "plumbline.dev/consent-reference/v1"

    subject: str
    sequence: int = Field(ge=0)
    purpose: str = "training"


class Example(Record):
    """One conversation whose last message is the assistant target.

    `slice` is the behaviour slice whose share in the loss is reported; `cluster` ties examples that may not be
    split apart (same person, near-duplicate or conversation); `turns` trained are all assistant turns.
    """

    schema_id = "plumbline.dev/example/v1"
    has_floats = False

    messages: tuple[Message, ...] = Field(min_length=2)
    slice: str = Field(min_length=1)
    language: str = "en"
    phrasing: str = "canonical"
    cluster: str = ""
    provenance: Provenance
    consent: ConsentReference | None = None

    @model_validator(mode="after")
    def _ends_with_target(self) -> "Example":
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message of an example must be the assistant's: it is the target")
        return self

    @property
    def prompt(self) -> tuple[Message, ...]:
        return self.messages[:-1]

    @property
    def target(self) -> str:
        return self.messages[-1].content


def example_address(salt: bytes, example: Example) -> str:
    """Salted commitment to an example: `sha256:` of salt (16 bytes) followed by the canonical bytes."""
    return "sha256:" + hashlib.sha256(salt + example.canonical_bytes()).hexdigest()
