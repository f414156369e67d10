"""Ten behaviour areas, five pressures, judges with error cards, paired clustered statistics, and the gate."""

from plumbline.evaluation.answers import Answers, ItemAnswer, answer_suite
from plumbline.evaluation.behaviors import BEHAVIORS, Behavior, Metric
from plumbline.evaluation.compare import compare
from plumbline.evaluation.contracts import Contract, contract
from plumbline.evaluation.gate import decide
from plumbline.evaluation.gauges import export_gauges
from plumbline.evaluation.judging.judges import (
    Act,
    ClosedFormJudge,
    ErrorCard,
    Judge,
    LabelledAnswer,
    TextJudge,
    error_cards,
)
from plumbline.evaluation.pressures import (
    PRESSURE_MONITORS,
    DatasetWindow,
    Observations,
    Preference,
    Pressure,
    ReviewLabel,
)
from plumbline.evaluation.runner import evaluate
from plumbline.evaluation.suites import join_suites, load_suite, open_suite, read_suite, save_suite

__all__ = [
    "BEHAVIORS",
    "PRESSURE_MONITORS",
    "Act",
    "Answers",
    "Behavior",
    "ClosedFormJudge",
    "Contract",
    "DatasetWindow",
    "ErrorCard",
    "ItemAnswer",
    "Judge",
    "LabelledAnswer",
    "Metric",
    "Observations",
    "Preference",
    "Pressure",
    "ReviewLabel",
    "TextJudge",
    "answer_suite",
    "compare",
    "contract",
    "decide",
    "error_cards",
    "evaluate",
    "export_gauges",
    "join_suites",
    "load_suite",
    "open_suite",
    "read_suite",
    "save_suite",
]
