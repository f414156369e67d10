"""The rubric: the policy text people can be held to, with the margin each behaviour area is gated by."""

from typing import Literal, get_args

from pydantic import Field, model_validator

from plumbline.records.base import Record

Area = Literal[
    "helpfulness",
    "honesty",
    "harmlessness",
    "style_control",
    "sycophancy",
    "imitation_ceiling",
    "hallucination",
    "over_refusal",
    "catastrophic_forgetting",
    "distribution_mismatch",
]
AREAS: tuple[str, ...] = get_args(Area)
PRESSURES = ("proxy_reward", "refusal_shortcut", "template_overfit", "policy_ambiguity", "feedback_drift")


class Rule(Record):
    """One rule. `margins` maps each gated metric of the area to its non-inferiority margin (0.02 is 2 points)."""

    schema_id = "plumbline.dev/rule/v1"

    area: Area
    text: str
    severity: Literal["minor", "major", "severe"] = "major"
    margins: dict[str, float] = Field(min_length=1)


class Rubric(Record):
    schema_id = "plumbline.dev/rubric/v1"

    id: str
    version: str
    owner: str
    purpose: str
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _one_rule_per_area(self) -> "Rubric":
        areas = [rule.area for rule in self.rules]
        if sorted(areas) != sorted(set(areas)):
            raise ValueError("each behaviour area has one rule; an area appears twice")
        return self

    def margins_of(self, area: str) -> dict[str, float]:
        """Margins of an area by metric; KeyError when the rubric has no rule for it."""
        return dict(next(rule.margins for rule in self.rules if rule.area == area))
