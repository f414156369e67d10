"""A suite: held-out items with slices and clusters, versioned, and private where its owner says so."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from plumbline.records.base import Record
from plumbline.records.conversation import Message

Severity = Literal["minor", "major", "severe"]
Sign = Literal["canary", "exact", "near", "ngram"]


def _absent(value: Any) -> bool:
    return value is None


class SuiteItem(Record):
    """One held-out request with what its scorer needs.

    `messages` ends with the user. `references` are accepted answers (for a wrong-assertion scorer the true value, for
    an instruction scorer what is to be checked); `choices` are continuations compared by log-likelihood. The true ones
    are those that `references` repeats; where it repeats none, the first. `cluster` is what the gate's intervals
    respect: items that share one are not independent. `variant_of` names the canonical item of which this one is
    another phrasing or language; an item without it has the digest that it had before the field existed.
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
    variant_of: str | None = Field(default=None, min_length=1, exclude_if=_absent)

    @property
    def true_choices(self) -> tuple[int, ...]:
        """Positions of the true choices; empty for an item without choices."""
        listed = tuple(place for place, choice in enumerate(self.choices) if choice in self.references)
        return listed or ((0,) if self.choices else ())


class SuiteTerms(Record):
    """What a suite's owner lays down beside its items. It is no part of the suite's digest: the same questions stay
    the same questions when their budget is raised.

    `canaries` are GUIDs that stand in the file and nowhere else, so that training data which holds one has swallowed
    the file. `query_budget` is how many readings a private suite allows, None for any number.
    """

    schema_id = "plumbline.dev/suite-terms/v1"

    private: bool = False
    canaries: tuple[str, ...] = ()
    licence: str = ""
    owner: str = ""
    query_budget: int | None = Field(default=None, ge=1)

    @field_validator("canaries")
    @classmethod
    def _canaries_are_telling(cls, canaries: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(canary.strip()) < 16 for canary in canaries):
            raise ValueError("a canary needs 16 characters or more, or it would be found by chance")
        return canaries

    @model_validator(mode="after")
    def _a_budget_needs_a_log(self) -> "SuiteTerms":
        if self.query_budget is not None and not self.private:
            raise ValueError("only a private suite has a query_budget: readings of a public one are not logged")
        return self


class Suite(Record):
    schema_id = "plumbline.dev/suite/v1"

    name: str
    version: str
    items: tuple[SuiteItem, ...] = Field(min_length=1)
    terms: SuiteTerms = Field(default=SuiteTerms(), exclude=True)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "Suite":
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise ValueError(f"suite item id {item.id!r} appears twice")
            seen.add(item.id)
        return self


class Overlap(Record):
    """A held-out item that training data holds. `share` (0 to 1): 1 for a canary or an exact copy, the Jaccard
    similarity of a near one, the share of the item's n-grams that occur in training. `example` is the address of an
    example that shows it, where addresses are known."""

    schema_id = "plumbline.dev/overlap/v1"

    item: str
    sign: Sign
    share: float = Field(ge=0, le=1)
    example: str | None = Field(default=None, exclude_if=_absent)
