"""One secret key per subject: what makes salts and fingerprints repeatable until the subject is erased.

A crash and a restart must give the same digests, so the salt of an example cannot be drawn afresh each time. It
is therefore derived: HMAC(subject's key, digest of the example). Yet after erasure nobody may recompute it, not
even with the whole store in hand: so the key is random, belongs to one subject, and is erased with everything
else. What remains (an address, a run key) is then a commitment that says nothing about the text.

With a `secret`, keys are derived from it instead of drawn, so that a demonstration or a test on a fresh store
gives the same digests again. Whoever keeps that secret could recompute erased salts: leave it out in production.
"""

import hashlib
import hmac
import secrets

from plumbline.stores.database import Database

HOUSE = ""  # the key of examples that are about nobody (imported public data)


class SubjectKeys:
    def __init__(self, database: Database, secret: bytes | None = None) -> None:
        self._database = database
        self._secret = secret

    def key(self, subject: str) -> bytes:
        """The subject's 32-byte key, made on first use."""
        found = self._database.value("SELECT key FROM subject_key WHERE subject = ?", (subject,))
        if found is not None:
            return bytes(found)
        with self._database.transaction():
            found = self._database.value("SELECT key FROM subject_key WHERE subject = ?", (subject,))
            if found is not None:
                return bytes(found)
            if self._secret is None:
                key = secrets.token_bytes(32)
            else:
                key = hmac.digest(self._secret, subject.encode(), "sha256")
            self._database.insert("subject_key", subject=subject, key=key)
            return key

    def salt(self, subject: str, example_digest: str) -> bytes:
        """16 bytes that only the holder of the subject's key can derive again."""
        return hmac.digest(self.key(subject), b"salt:" + example_digest.encode("ascii"), "sha256")[:16]

    def fingerprint(self, subject: str, data: bytes) -> str:
        """A keyed digest, written like any other: equal data of one subject have equal fingerprints."""
        return "sha256:" + hmac.new(self.key(subject), b"event:" + data, hashlib.sha256).hexdigest()

    def erase(self, subject: str) -> None:
        self._database.execute("DELETE FROM subject_key WHERE subject = ?", (subject,))
