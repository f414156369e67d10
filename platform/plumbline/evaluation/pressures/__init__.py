"""The five failure pressures, one file each. A sixth is a file and a line in PRESSURE_MONITORS."""

from plumbline.evaluation.pressures import (
    feedback_drift,
    policy_ambiguity,
    proxy_reward,
    refusal_shortcut,
    template_overfit,
)
from plumbline.evaluation.pressures.base import (
    DatasetWindow,
    Evidence,
    Observations,
    Preference,
    Pressure,
    ReviewLabel,
)

PRESSURE_MONITORS: tuple[Pressure, ...] = (
    proxy_reward.PRESSURE,
    refusal_shortcut.PRESSURE,
    template_overfit.PRESSURE,
    policy_ambiguity.PRESSURE,
    feedback_drift.PRESSURE,
)

__all__ = [
    "PRESSURE_MONITORS",
    "DatasetWindow",
    "Evidence",
    "Observations",
    "Preference",
    "Pressure",
    "ReviewLabel",
]
