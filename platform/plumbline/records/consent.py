"""A consent record: one append-only ledger entry about one subject. Shape after ISO/IEC TS 27560:2023.

Entries form a hash chain: `previous` is the digest of the entry before. Order is the ledger sequence, never a
clock. The subject is a keyed pseudonym (HMAC); the ledger is the only place that may relate it to a person.

    given        covers its purposes from this entry on
    reaffirmed   says again, and perhaps until later, what still holds; it cannot revive what ended
    withdrawn    ends them
    refused      the person was asked and said no
    expired      the validity ran out, and somebody recorded it (it ends without that, too)
"""

from typing import Literal, get_args

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest

Purpose = Literal["training", "evaluation", "service_improvement"]
ConsentAction = Literal["given", "reaffirmed", "withdrawn", "refused", "expired"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
GRANTS: frozenset[str] = frozenset({"given", "reaffirmed"})
ENDINGS: frozenset[str] = frozenset({"withdrawn", "refused", "expired"})
GENESIS = "sha256:" + "0" * 64
TERM = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}$"  # a vocabulary's term or a short name, never prose about a person


class Notice(Record):
    """The text people agreed to, by digest; an unknown notice version is no consent."""

    schema_id = "plumbline.dev/notice/v1"

    id: str
    version: str
    language: str = "en"
    text_digest: Digest


class ConsentTerms(Record):
    """What TS 27560 records about a consent beyond who, what for and under which notice.

    `legal_basis` and `data_categories` take the terms of the W3C Data Privacy Vocabulary without their prefix.
    `jurisdiction` is ISO 3166 ("DE", "US-CA"). A minor's consent counts only with a `guardian`, who is a pseudonym.
    `evidence` is the digest of what shows that the person agreed (a signed form, a logged click), kept elsewhere.
    """

    schema_id = "plumbline.dev/consent-terms/v1"

    controller: str = Field(default="", max_length=200)
    data_categories: tuple[str, ...] = ("conversation", "feedback")
    legal_basis: str = Field(default="consent", pattern=TERM)
    jurisdiction: str = Field(default="", pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,3})?)?$")
    age_band: Literal["unstated", "adult", "minor"] = "unstated"
    guardian: str | None = Field(default=None, min_length=1, max_length=200)
    evidence: Digest | None = None

    @property
    def flaw(self) -> str:
        """Why such a consent covers nothing; empty when it may."""
        return "minor_without_guardian" if self.age_band == "minor" and self.guardian is None else ""


class ConsentEntry(Record):
    schema_id = "plumbline.dev/consent-entry/v2"

    sequence: int = Field(ge=1)
    subject: str = Field(min_length=1, max_length=200)
    action: ConsentAction
    purposes: tuple[Purpose, ...] = Field(min_length=1)
    notice: Notice
    recorded_at: str
    valid_until: str | None = None
    method: str = "api"
    terms: ConsentTerms = ConsentTerms()
    previous: Digest = GENESIS
