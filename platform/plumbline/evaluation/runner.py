"""From two policies and a suite to a report. Asking is slow and cached (`answers`); comparing is pure (`compare`).

    reference --answer_suite--> Answers --\
                                           compare --> EvaluationReport --decide--> GateDecision
    aligned ----answer_suite--> Answers --/
"""

from collections.abc import Sequence
from pathlib import Path

from plumbline.evaluation.answers import Progress, answer_suite
from plumbline.evaluation.asking.answered import Asker
from plumbline.evaluation.compare import compare
from plumbline.evaluation.judging.judges import Judge, JudgePerPolicy
from plumbline.evaluation.judging.labels import Labels
from plumbline.evaluation.pressures import Observations
from plumbline.policies import Policy
from plumbline.records import DatasetManifest, DecoderSettings, EvaluationReport, Example, Rubric, Suite


def evaluate(
    reference: Policy | Asker,
    aligned: Policy | Asker,
    suite: Suite,
    *,
    rubric: Rubric,
    decoder: DecoderSettings,
    dataset_manifest: DatasetManifest | None = None,
    training_examples: Sequence[Example] | None = None,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    judge: Judge | JudgePerPolicy | None = None,
    labels: Labels | None = None,
    observations: Observations | None = None,
    fresh: bool = False,
) -> EvaluationReport:
    """Ask both policies the suite under the same decoder settings, and compare. Resumable with a `cache_dir`, whose
    answers `fresh` sets aside."""
    same = reference.manifest == aligned.manifest  # an A/A comparison: what one leg has just answered is fresh
    return compare(
        answer_suite(reference, suite, decoder, cache_dir, on_progress, fresh=fresh),
        answer_suite(aligned, suite, decoder, cache_dir, on_progress, fresh=fresh and not same),
        suite,
        rubric=rubric,
        dataset_manifest=dataset_manifest,
        training_examples=training_examples,
        judge=judge,
        labels=labels,
        observations=observations,
    )
