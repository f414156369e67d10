"""What every custom resource is made of: digests and names with bounds, conditions, and the face of a status."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from plumbline.records.canonical import DIGEST_PATTERN

Sha256 = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN, max_length=71)]
DatasetName = Annotated[str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)]
NAME_PATTERN = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ObjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, min_length=1, max_length=253)]
Word = Annotated[str, StringConstraints(pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=64)]
Moment = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date-time"})]
Count = Annotated[int, Field(ge=0)]
Counts = Annotated[dict[str, Count], Field(max_length=64)]


def fixed(what: str) -> dict[str, Any]:
    """The rule that a value, once there, stays; `what` is said to whoever tries."""
    return {"x-kubernetes-validations": [{"rule": "self == oldSelf", "message": what}]}


class Part(BaseModel):
    """A piece of a resource: frozen, closed to unknown keys, camelCase outside and snake_case here."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def json_value(self) -> dict[str, Any]:
        """As the API server stores it: camelCase, and nothing where nothing is known."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ResourceCondition(Part):
    """One statement about an object. `reason` is stable and for machines, `message` for people."""

    type: Annotated[str, StringConstraints(pattern="^[A-Za-z]+$", max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Word
    message: str = Field(max_length=1024)
    observed_generation: Count | None = Field(default=None, description="Generation of the spec that was looked at.")
    last_transition_time: Moment = Field(description="When `status` last changed.")


Conditions = Annotated[
    tuple[ResourceCondition, ...],
    Field(
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


class Status(Part):
    """What every status has."""

    observed_generation: Count | None = Field(default=None, description="Generation of the spec that this answers.")
    conditions: Conditions = Field(default=(), description="Statements with stable reasons, one of each type.")
