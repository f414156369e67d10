"""The release as a resource, and what admission asks about it.

A Release names the policy that serves users, and who asks for it. Admission cannot read a ledger; so the operator keeps
one PassingDecisions per namespace, which lists whereto each release may move, and admission reads that.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from plumbline.records.resource_base import Count, Moment, ObjectName, Part, Sha256, Status

ReleasePhase = Literal["Pending", "Refused", "Released", "Superseded"]


class ReleaseSpec(Part):
    """Which policy is to serve users, who asks for it, and why. The one spec here that is meant to change."""

    policy: Sha256 = Field(
        description="Digest of the policy: one with a passing, fresh gate decision and shadow verdict against what"
        " users have now, or one that users had before (a rollback, which needs neither)."
    )
    requested_by: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="Who asks: your own user name, as `kubectl auth whoami` shows it."
    )
    reason: Annotated[str, StringConstraints(pattern="^[A-Z][A-Za-z0-9]*$", max_length=64)] = Field(
        description="Why, in one CamelCase word: ReadTheReport. No prose. Another word asks anew after a refusal."
    )


class ReleaseMove(Part):
    """One move of the pointer. Who asked for it is in the ledger."""

    sequence: int = Field(ge=1, description="Number of the move.")
    action: Literal["promote", "rollback", "move"] = Field(description="Forward, back, or moved without a shadow.")
    policy: Sha256 = Field(description="Digest of the policy that users had from then on.")
    decision: Sha256 | None = Field(default=None, description="Gate decision that it rested on.")
    shadow: Sha256 | None = Field(default=None, description="Shadow verdict that it rested on.")
    recorded_at: Moment = Field(description="When it was recorded.")


class ReleaseStatus(Status):
    """What became of the request, and what users have; a projection of the ledger database."""

    phase: ReleasePhase | None = Field(
        default=None,
        description="Pending: it cannot be decided yet. Superseded: it was carried out, and users have another now.",
    )
    serving: Sha256 | None = Field(default=None, description="Digest of the policy that users have.")
    sequence: Count | None = Field(default=None, description="The move that this request made, or found made.")
    moves: Annotated[tuple[ReleaseMove, ...], Field(max_length=10)] = Field(
        default=(), description="The newest ten moves, newest first. The ledger keeps all."
    )


class PassingPolicy(Part):
    """A policy that may be promoted, and on what."""

    policy: Sha256 = Field(description="Digest of the policy.")
    decision: Sha256 = Field(description="Gate decision that says PASS about it.")
    shadow: Sha256 = Field(description="Shadow verdict that says PASS about it.")
    until: Moment = Field(description="When the older of the two is no longer fresh.")


class ReleaseStanding(Part):
    """One release, and whereto it may move."""

    name: ObjectName = Field(description="Name of the release, and of its Release object.")
    serving: Sha256 = Field(description="Digest of the policy that users have.")
    passed: Annotated[tuple[PassingPolicy, ...], Field(max_length=50)] = Field(
        description="Policies that passed against it, newest first (the first fifty)."
    )
    before: Annotated[tuple[Sha256, ...], Field(max_length=50)] = Field(
        description="Policies that users had before it, the last first: rollbacks (the first fifty)."
    )


class PassingDecisionsSpec(Part):
    """What admission compares a Release with. Written by the operator alone, from the ledger."""

    readable: bool = Field(description="Whether the ledger could be read. While it cannot, nothing is listed below.")
    releases: Annotated[tuple[ReleaseStanding, ...], Field(max_length=64)] = Field(
        description="Every release of the ledger that names a policy."
    )


class PassingDecisionsStatus(Status):
    """Whether the list is what the ledger says."""
