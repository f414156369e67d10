"""Keyed pseudonyms: the only name a person has inside Plumbline.

HMAC-SHA256(tenant key, identity), shortened to 128 bits: the same person is the same subject in every event and
ledger entry of a tenant, other tenants' pseudonyms cannot be joined to them, and nobody without the key can test a
guess. The key lies outside the ledger and outside the blobs; losing it means that a returning person is new.
"""

import contextlib
import hmac
import os
import re
import secrets
from pathlib import Path

from plumbline.errors import PlumblineError

PSEUDONYM = re.compile(r"s-[0-9a-f]{32}\Z")


class Pseudonyms:
    def __init__(self, key: bytes) -> None:
        if len(key) < 16:
            raise PlumblineError(
                f"the tenant key has {len(key)} bytes",
                consequence="pseudonyms made with it could be guessed",
                remedy="use at least 16 random bytes",
            )
        self._key = key

    @classmethod
    def load_or_create(cls, path: Path) -> "Pseudonyms":
        """The key in a file that only its owner may read; drawn at random when there is none yet."""
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
        return cls(path.read_bytes())

    def of(self, identity: str) -> str:
        """`s-` and 32 hexadecimal digits. A text that already is a pseudonym stays what it is."""
        if PSEUDONYM.match(identity):
            return identity
        return "s-" + hmac.digest(self._key, identity.encode("utf-8"), "sha256").hex()[:32]
