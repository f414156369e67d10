"""Asking: items are dealt in a fixed order to whoever answers (this process, or Ray actors), and kept as they come."""

from plumbline.evaluation.asking.answered import Answered, Asker, Here, by_likelihood
from plumbline.evaluation.asking.invariance import Invariance, invariance
from plumbline.evaluation.asking.records import Answers, ChoiceLikelihood, ItemAnswer

__all__ = [
    "Answered",
    "Answers",
    "Asker",
    "ChoiceLikelihood",
    "Here",
    "Invariance",
    "ItemAnswer",
    "by_likelihood",
    "invariance",
]
