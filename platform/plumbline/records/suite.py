"""A suite: held-out items with slices and clusters, private and versioned."""

from typing import Literal

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.conversation import Message

Severity = Literal["minor", "major", "severe"]


class SuiteItem(Record):
    """One held-out request with what its scorer needs.

    `messages` ends with the user. `references` are accepted answers (or, for a wrong-assertion scorer, the true
    value); `choices` are continuations compared by log-likelihood, the true one first. `cluster` is what the
    gate's intervals respect: items that share one are not independent.
    """

    schema_id = "plumbline.dev/suite-item/v1"

    id: str = Field(min_length=1)
    area: str = Field(min_length=1)
    slice: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    messages: tuple[Message, ...] = Field(min_length=1)
    scorer: str
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    language: str = "en"
    phrasing: str = "canonical"
    severity: Severity = "major"


class Suite(Record):
    schema_id = "plumbline.dev/suite/v1"

    name: str
    version: str
    items: tuple[SuiteItem, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "Suite":
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise ValueError(f"suite item id {item.id!r} appears twice")
            seen.add(item.id)
        return self
