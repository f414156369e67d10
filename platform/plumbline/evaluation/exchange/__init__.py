"""Exchange: our suites as tasks of other harnesses, and the paired gate on the logs that they wrote."""

from plumbline.evaluation.exchange.foreign import ForeignRun, ForeignSample, paired_report
from plumbline.evaluation.exchange.inspect_log import read_inspect_log
from plumbline.evaluation.exchange.lm_eval import read_lm_eval_samples
from plumbline.evaluation.exchange.tasks import Exported, export_inspect, export_lm_eval

__all__ = [
    "Exported",
    "ForeignRun",
    "ForeignSample",
    "export_inspect",
    "export_lm_eval",
    "paired_report",
    "read_inspect_log",
    "read_lm_eval_samples",
]
