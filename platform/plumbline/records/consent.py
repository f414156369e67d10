"""A consent record: one append-only ledger entry about one subject. Shape after ISO/IEC TS 27560:2023.

Entries form a hash chain: `previous` is the digest of the entry before. Order is the ledger sequence, never a
clock. The subject is a keyed pseudonym (HMAC); the ledger is the only place that may relate it to a person.
"""

from typing import Literal

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest

Purpose = Literal["training", "evaluation", "service_improvement"]
ConsentAction = Literal["given", "withdrawn"]
GENESIS = "sha256:" + "0" * 64


class Notice(Record):
    """The text people agreed to, by digest; an unknown notice version is no consent."""

    schema_id = "plumbline.dev/notice/v1"

    id: str
    version: str
    language: str = "en"
    text_digest: Digest


class ConsentEntry(Record):
    schema_id = "plumbline.dev/consent-entry/v1"

    sequence: int = Field(ge=1)
    subject: str = Field(min_length=1, max_length=200)
    action: ConsentAction
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    notice: Notice
    recorded_at: str
    valid_until: str | None = None
    method: str = "api"
    previous: Digest = GENESIS
