"""One secret key per subject: what makes salts and fingerprints repeatable until the subject is erased.

A crash and a restart must give the same digests, so the salt of an example cannot be drawn afresh each time. It
is therefore derived: HMAC(subject's key, digest of the example). Yet after erasure nobody may recompute it, not
even with the whole store in hand: so the key is random, belongs to one subject, and is erased with everything
else. What remains (an address, a run key) is then a commitment that says nothing about the text.

With a `secret`, keys are derived from it instead of drawn, so that a demonstration or a test on a fresh store
gives the same digests again. Whoever keeps that secret could recompute erased salts: leave it out in production.

Beside the keys lies which source spoke of a subject first. That is no secret and is not erased: it says who may
manage the person's consent.
"""

import hmac
import secrets
from collections.abc import Iterable, Mapping

from plumbline.stores.database import Database

HOUSE = ""  # the key of examples that are about nobody (imported public data)


class SubjectKeys:
    def __init__(self, database: Database, secret: bytes | None = None) -> None:
        self._database = database
        self._secret = secret

    def key(self, subject: str) -> bytes:
        """The subject's 32-byte key, made on first use."""
        found = self._database.value("SELECT key FROM subject_key WHERE subject = ?", (subject,))
        return bytes(found) if found is not None else self.keys([subject])[subject]

    def keys(self, subjects: Iterable[str]) -> dict[str, bytes]:
        """The keys of many subjects at once, made where there is none yet."""
        wanted = dict.fromkeys(subjects)
        with self._database.transaction():
            found = self._stored(wanted)
            if missing := [subject for subject in wanted if subject not in found]:
                self._database.insert_many(
                    "INSERT INTO subject_key (subject, key) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    [(subject, self._new(subject)) for subject in missing],
                )
                found |= self._stored(missing)
            return found

    def keys_and_unclaimed(self, subjects: Iterable[str]) -> tuple[dict[str, bytes], set[str]]:
        """`keys`, and those of the subjects that no source spoke of before (see `claim`)."""
        wanted = dict.fromkeys(subjects)
        rows = self._database.rows_in(
            "SELECT k.subject, k.key, s.source IS NULL FROM subject_key k"
            " LEFT JOIN subject_source s ON s.subject = k.subject WHERE k.subject IN ({marks})",
            wanted,
        )
        found = {row[0]: bytes(row[1]) for row in rows}
        missing = [subject for subject in wanted if subject not in found]
        if missing:
            found |= self.keys(missing)
        return found, {row[0] for row in rows if row[2]} | set(missing)

    def known(self, subjects: Iterable[str]) -> dict[str, bytes]:
        """The keys of those subjects that have one: who was erased has none."""
        return self._stored(dict.fromkeys(subjects))

    def _stored(self, subjects: Iterable[str]) -> dict[str, bytes]:
        sql = "SELECT subject, key FROM subject_key WHERE subject IN ({marks})"
        return {row[0]: bytes(row[1]) for row in self._database.rows_in(sql, subjects)}

    def _new(self, subject: str) -> bytes:
        if self._secret is None:
            return secrets.token_bytes(32)
        return hmac.digest(self._secret, subject.encode(), "sha256")

    def fingerprint(self, subject: str, data: bytes) -> str:
        """A keyed digest, written like any other: equal data of one subject have equal fingerprints."""
        return fingerprint(self.key(subject), data)

    def erase(self, subject: str) -> None:
        self._database.execute("DELETE FROM subject_key WHERE subject = ?", (subject,))

    # --- who speaks for whom ----------------------------------------------------------------------------------

    def claim(self, sources: Mapping[str, str]) -> None:
        """Note the source of each subject that no source spoke of before. The first one stands."""
        self._database.insert_many(
            "INSERT INTO subject_source (subject, source) VALUES (?, ?) ON CONFLICT DO NOTHING", list(sources.items())
        )

    def first_source(self, subject: str) -> str | None:
        """The source that spoke of the subject first, by an event or by a consent; None when none did."""
        found: str | None = self._database.value("SELECT source FROM subject_source WHERE subject = ?", (subject,))
        return found


def fingerprint(key: bytes, data: bytes) -> str:
    """The fingerprint of `data` under a subject's key that is at hand."""
    return "sha256:" + hmac.digest(key, b"event:" + data, "sha256").hex()


def salt_of(key: bytes, example_digest: str) -> bytes:
    """16 bytes that only the holder of the subject's key can derive again."""
    return hmac.digest(key, b"salt:" + example_digest.encode("ascii"), "sha256")[:16]
