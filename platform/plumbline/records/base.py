"""The base of every record: frozen, closed to unknown keys, identified by a digest of its own content."""

import json
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from plumbline.records.canonical import canonical_bytes, digest_bytes, plain_bytes


class Record(BaseModel):
    """A typed, frozen record. Two records with the same kind and content have the same digest, everywhere.

    `schema_id` names the kind and its version, and is part of the digest, so that a renamed or reshaped kind
    can never collide with an old one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    schema_id: ClassVar[str] = ""
    has_floats: ClassVar[bool] = True  # records without any may be long, and are written faster (to the same bytes)

    def canonical(self) -> dict[str, Any]:
        """The JSON value that is digested: the content under the record's `schema_id`."""
        return {"schema": self.schema_id or type(self).__name__, "content": self.model_dump(mode="json")}

    def canonical_bytes(self) -> bytes:
        return canonical_bytes(self.canonical()) if self.has_floats else plain_bytes(self.canonical())

    @classmethod
    def from_canonical(cls, data: bytes) -> Self:
        """The record that these canonical bytes hold. Raises ValueError for bytes that hold none of this kind."""
        return cls.model_validate(json.loads(data)["content"])

    @property
    def digest(self) -> str:
        return digest_bytes(self.canonical_bytes())
