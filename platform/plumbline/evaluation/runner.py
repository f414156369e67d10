"""From two policies and a suite to a report. Asking is slow and cached (`answers`); comparing is pure (`compare`).

    reference --answer_suite--> Answers --\
                                           compare --> EvaluationReport --decide--> GateDecision
    aligned ----answer_suite--> Answers --/
"""

from collections.abc import Sequence
from pathlib import Path

from plumbline.evaluation.answers import Progress, answer_suite
from plumbline.evaluation.compare import compare
from plumbline.evaluation.judging.judges import Judge
from plumbline.evaluation.pressures import Observations
from plumbline.policies import Policy
from plumbline.records import DatasetManifest, DecoderSettings, EvaluationReport, Example, Rubric, Suite


def evaluate(
    reference: Policy,
    aligned: Policy,
    suite: Suite,
    *,
    rubric: Rubric,
    decoder: DecoderSettings,
    dataset_manifest: DatasetManifest | None = None,
    training_examples: Sequence[Example] | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    judge: Judge | None = None,
    observations: Observations | None = None,
) -> EvaluationReport:
    """Ask both policies the suite under the same decoder settings, and compare. Resumable with a `cache_dir`."""
    return compare(
        answer_suite(reference, suite, decoder, cache_dir, on_progress),
        answer_suite(aligned, suite, decoder, cache_dir, on_progress),
        suite,
        rubric=rubric,
        dataset_manifest=dataset_manifest,
        training_examples=training_examples,
        judge=judge,
        observations=observations,
    )
