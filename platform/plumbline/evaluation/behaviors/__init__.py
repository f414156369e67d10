"""The ten behaviour areas, one file each. An eleventh is a file, a line in BEHAVIORS and its name in `records.Area`."""

from plumbline.evaluation.behaviors import (
    catastrophic_forgetting,
    distribution_mismatch,
    hallucination,
    harmlessness,
    helpfulness,
    honesty,
    imitation_ceiling,
    over_refusal,
    style_control,
    sycophancy,
)
from plumbline.evaluation.behaviors.base import Behavior, Metric

BEHAVIORS: tuple[Behavior, ...] = (
    helpfulness.BEHAVIOR,
    honesty.BEHAVIOR,
    harmlessness.BEHAVIOR,
    style_control.BEHAVIOR,
    sycophancy.BEHAVIOR,
    imitation_ceiling.BEHAVIOR,
    hallucination.BEHAVIOR,
    over_refusal.BEHAVIOR,
    catastrophic_forgetting.BEHAVIOR,
    distribution_mismatch.BEHAVIOR,
)


def behavior(area: str) -> Behavior | None:
    return next((known for known in BEHAVIORS if known.area == area), None)


__all__ = ["BEHAVIORS", "Behavior", "Metric", "behavior"]
