"""Where a person stands: what their entries in the consent ledger say about one purpose, at any of its sequences.

A `Standing` is read once and then asked as often as there are events, without the database. It was re-digested on
the way in: what it says is what the hash chain's entries say, not what an index beside them says.
"""

import json
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from plumbline.records import ENDINGS, ConsentTerms, canonical_bytes, digest_bytes
from plumbline.stores.database import timestamp


class Coverage(NamedTuple):
    """Whether a purpose is covered and, if not, why: `no_consent`, `consent_withdrawn`, `consent_refused`,
    `consent_expired`, `minor_without_guardian`, `unknown_notice` or `unknown_purpose`.

    `sequence` is the entry that decided (0 when there is none).
    """

    covered: bool
    reason: str
    sequence: int


class Change(NamedTuple):
    """One entry, as far as one purpose is concerned. `flaw` is why it covers nothing although it gives."""

    sequence: int
    action: str
    valid_until: str | None
    flaw: str


class Standing(NamedTuple):
    """`changes` in order of sequence; none when the subject is not in the ledger, or never with this purpose."""

    subject: str
    purpose: str
    changes: tuple[Change, ...] = ()
    unknown: bool = False

    def covers(self, at_sequence: int, now: datetime | str) -> Coverage:
        """Whether the purpose was covered as of ledger entry `at_sequence`, with validity judged at `now` (a moment,
        or a time as the ledger writes it). Only entries up to `at_sequence` count: a later grant legalises nothing."""
        for change in reversed(self.changes):
            if change.sequence <= at_sequence:
                return self._decided_by(change, now)
        return Coverage(False, "unknown_purpose" if self.unknown else "no_consent", 0)

    def withdrawn_between(self, after: int, up_to: int) -> bool:
        """Whether consent ended in the entries (after, up_to], even if it was given again since."""
        return any(change.action in ENDINGS and after < change.sequence <= up_to for change in self.changes)

    def _decided_by(self, change: Change, now: datetime | str) -> Coverage:
        sequence, action, valid_until, flaw = change
        if action in ENDINGS:
            return Coverage(False, f"consent_{action}", sequence)
        if flaw:
            return Coverage(False, flaw, sequence)
        if valid_until is not None and valid_until <= (now if isinstance(now, str) else timestamp(now)):
            return Coverage(False, "consent_expired", sequence)
        return Coverage(True, "covered", sequence)


def entry_content(text: str) -> dict[str, Any]:
    """The content of a stored entry. ValueError when it holds none."""
    read = from_json(text)
    if not isinstance(read, dict):
        raise ValueError("no JSON object")
    content = read.get("content", read)
    if not isinstance(content, dict):
        raise ValueError("no content")
    return content


def entry_digest(text: str) -> str:
    """The digest of a stored entry: of the very bytes. Entries of version 1 were stored in another form than the one
    that was digested, which is made again here."""
    if text.startswith('{"content":'):
        return digest_bytes(text.encode())
    return digest_bytes(canonical_bytes({"schema": "plumbline.dev/consent-entry/v1", "content": json.loads(text)}))


def flaw_of(content: dict[str, Any], notices: set[tuple[str, str, str, str]]) -> str:
    """Why a granting entry covers nothing; empty when it may."""
    notice = content["notice"]
    if (notice["id"], notice["version"], notice["language"], notice["text_digest"]) not in notices:
        return "unknown_notice"
    terms = content.get("terms")
    return ConsentTerms.model_validate(terms).flaw if terms and terms.get("age_band") == "minor" else ""
