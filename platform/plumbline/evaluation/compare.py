"""From two policies' answers to a report: paired estimates, pressures, baselines, failure cases. Pure and cheap.

The report is a function of the answers, the suite, the judge, the rubric and the training data, and of nothing
else: no clock, no host, no order of execution. Same inputs, same bytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from plumbline.errors import PlumblineError
from plumbline.evaluation.answers import Answers, ItemAnswer, by_likelihood
from plumbline.evaluation.baselines import baseline_rates
from plumbline.evaluation.behaviors import BEHAVIORS, Metric
from plumbline.evaluation.behaviors.base import Seen
from plumbline.evaluation.estimates import ALL, named_losses, paired_estimate, rounded
from plumbline.evaluation.judging.correction import GATED, corrected_rates
from plumbline.evaluation.judging.instrument import Instrument
from plumbline.evaluation.judging.judges import Judge, JudgePerPolicy, TextJudge, judge_of
from plumbline.evaluation.judging.labels import Labels
from plumbline.evaluation.pressures import PRESSURE_MONITORS, DatasetWindow, Evidence, Observations
from plumbline.evaluation.scorers import score
from plumbline.evaluation.suites.contamination import overlaps
from plumbline.evaluation.suites.variants import variant_of
from plumbline.evaluation.suites.variation import made_from
from plumbline.evaluation.table import PairedItem, PairedTable
from plumbline.records import (
    ComparedPolicy,
    DatasetManifest,
    Digest,
    EvaluationReport,
    Example,
    FailureCase,
    PairedEstimate,
    Rubric,
    SevereCount,
    Suite,
    SuiteItem,
    digest_of,
    short,
)
from plumbline.records.judging import CorrectedRate, ErrorCard
from plumbline.records.report import ContaminationCheck, Diagnostic
from plumbline.statistics.intervals import clopper_pearson
from plumbline.statistics.paired import ALPHA, Difference

WORSE_CASES, BETTER_CASES = 12, 4  # kept per gated metric


def compare(
    reference: Answers,
    aligned: Answers,
    suite: Suite,
    *,
    rubric: Rubric,
    dataset_manifest: DatasetManifest | None = None,
    training_examples: Sequence[Example] | None = None,
    judge: Judge | JudgePerPolicy | None = None,
    labels: Labels | None = None,
    observations: Observations | None = None,
    training_versions: Sequence[Digest] = (),
    training_erased: int = 0,
) -> EvaluationReport:
    """Paired estimates by area, metric and slice; diagnostics; pressures; baselines; failure cases. Pure.

    `training_versions` are the digests of the dataset versions that `training_examples` come from (default: that of
    `dataset_manifest`), `training_erased` how many of their examples could not be read: the report says against what
    contamination was checked.

    A fitted judge reads each policy's answers at that policy's threshold and brings its error cards; `labels` that
    people gave to these very texts correct its rates (`CorrectedRate`).

    Raises PlumblineError when the answers are not to this suite, not under one decoder, or when the aligned
    policy's manifest names another dataset version than `dataset_manifest`.
    """
    _check_manifests(reference, aligned, suite, dataset_manifest)
    judge = judge or TextJudge()
    readers = judge_of(judge, reference.policy), judge_of(judge, aligned.policy)
    training = training_examples or ()
    made = made_from(suite.items)
    tainted = overlaps([item for item in suite.items if item.id not in made], training, canaries=suite.terms.canaries)
    excluded = {overlap.item for overlap in tainted}
    excluded |= {name for name, twin in made.items() if twin.id in excluded}
    clean = [item for item in suite.items if item.id not in excluded]
    table = _pair(clean, reference, aligned, readers)

    estimates: list[PairedEstimate] = []
    slices: list[PairedEstimate] = []
    severe: list[SevereCount] = []
    failures: list[FailureCase] = []
    diagnostics: list[Diagnostic] = []
    baselines: dict[str, dict[str, float]] = {}
    requested = [row for row in table.rows if row.item.id in made]
    written = table.where(lambda item: item.id not in made)
    margins: dict[str, dict[str, float]] = {rule.area: rule.margins for rule in rubric.rules}
    for behavior in BEHAVIORS:
        area = table.where(lambda item, name=behavior.area: item.area == name)  # type: ignore[misc]
        for metric in behavior.metrics:
            mine = area.where(metric.applies)
            if not mine.rows:
                continue
            margin = margins.get(behavior.area, {}).get(metric.name) if metric.gated else None
            estimate, _ = _estimate(mine, behavior.area, metric, ALL, margin)
            estimates.append(estimate)
            beside = [
                row for row in requested if (twin := made[row.item.id]).area == behavior.area and metric.applies(twin)
            ]
            slices += _slices(mine, behavior.area, metric, margin, beside)
            if metric.gated:
                failures += _failures(mine, behavior.area, metric)
                severe += _severe(mine, behavior.area, metric)
                baselines[f"{behavior.area}.{metric.name}"] = baseline_rates(metric, [row.item for row in mine.rows])
        items = [item for item in suite.items if item.area == behavior.area]
        if items:
            diagnostics += behavior.diagnose(Seen(area, written, items, training))

    seen = observations or Observations()
    if seen.current is None and dataset_manifest is not None:
        window = DatasetWindow(dataset_manifest, training)
        seen = replace(seen, current=window)
    evidence = Evidence(table, readers[1], training, seen)
    cards = _cards(judge, reference, aligned)
    corrected: tuple[CorrectedRate, ...] = ()
    if labels is not None:
        asked = suite.model_copy(update={"items": tuple(clean)})
        corrected = corrected_rates(reference, aligned, asked, judge, labels, cards=cards, counted=GATED)
    return EvaluationReport(
        reference=reference.policy,
        aligned=aligned.policy,
        suite=suite.digest,
        rubric=rubric.digest,
        dataset=dataset_manifest.digest if dataset_manifest else None,
        decoder=aligned.decoder,
        judge=readers[1].digest if readers[0] == readers[1] else digest_of([reader.digest for reader in readers]),
        policies=(_compared("reference", reference), _compared("aligned", aligned)),
        estimates=tuple(estimates),
        severe=tuple(severe),
        slices=tuple(slices),
        pressures=tuple(pressure.measure(evidence) for pressure in PRESSURE_MONITORS),
        failures=tuple(failures),
        baselines=baselines,
        corrected=corrected,
        cards=cards,
        missing=len(clean) - len(table.rows),
        contaminated=tuple(overlap.item for overlap in tainted),
        overlaps=tuple(tainted),
        diagnostics=tuple(diagnostics),
        contamination=_checked(training, training_versions, dataset_manifest, training_erased),
    )


def _checked(
    training: Sequence[Example], versions: Sequence[Digest], manifest: DatasetManifest | None, erased: int
) -> ContaminationCheck:
    named = versions or ([manifest.digest] if manifest else [])
    return ContaminationCheck(
        checked=bool(training), datasets=tuple(named) if training else (), examples=len(training), erased=erased
    )


def _check_manifests(reference: Answers, aligned: Answers, suite: Suite, manifest: DatasetManifest | None) -> None:
    for answers in (reference, aligned):
        if answers.suite != suite.digest:
            raise PlumblineError(
                f"the answers of {answers.name!r} are to suite {short(answers.suite)}, not to {short(suite.digest)}",
                consequence="answers to different questions cannot be paired",
                remedy="ask both policies the same suite, then compare again",
            )
    if reference.decoder != aligned.decoder:
        raise PlumblineError(
            f"the reference answered under decoder {short(reference.decoder)}, the aligned policy under "
            f"{short(aligned.decoder)}",
            consequence="a difference could come from the settings and not from the policy",
            remedy="ask both under the same decoder settings",
        )
    if manifest is not None and aligned.dataset is not None and aligned.dataset != manifest.digest:
        raise PlumblineError(
            f"the aligned policy was trained on dataset {short(aligned.dataset)}, not on {short(manifest.digest)}",
            consequence="contamination would be checked against data that the policy never saw",
            remedy="give the dataset version that the policy's manifest names",
        )


def _cards(judge: Judge | JudgePerPolicy, reference: Answers, aligned: Answers) -> tuple[ErrorCard, ...]:
    """What is known of a fitted judge's errors on these two policies."""
    if not isinstance(judge, Instrument):
        return ()
    return tuple(card for card in judge.fitted.cards if card.policy in (reference.policy, aligned.policy))


def _pair(
    items: Sequence[SuiteItem], reference: Answers, aligned: Answers, readers: tuple[Judge, Judge]
) -> PairedTable:
    """Rows by item id, in suite order; an item with an error, or without an answer record, forms no pair."""
    old = {answer.item: answer for answer in reference.answers if answer.error is None}
    new = {answer.item: answer for answer in aligned.answers if answer.error is None}
    rows = []
    for item in items:
        if item.id in old and item.id in new:
            a, b = old[item.id], new[item.id]
            rows.append(PairedItem(item, a, b, score(item, a, readers[0]), score(item, b, readers[1])))
    return PairedTable(tuple(rows))


def _estimate(
    table: PairedTable, area: str, metric: Metric, slice_: str, margin: float | None
) -> tuple[PairedEstimate, Difference]:
    before, after = table.values(metric.score)
    return paired_estimate(
        before,
        after,
        table.clusters,
        area=area,
        metric=metric.name,
        direction=metric.direction,
        slice_=slice_,
        margin=margin,
    )


def _slices(
    table: PairedTable, area: str, metric: Metric, margin: float | None, beside: Sequence[PairedItem]
) -> list[PairedEstimate]:
    """One estimate per slice and per phrasing or language variant, those made on request (`beside`) included. `verdict`
    is "worse" where Holm's correction over the family of these slices still proves a loss; naming a slice as the
    culprit needs that."""
    groups = [
        (name, table.where(lambda item, name=name: item.slice == name))  # type: ignore[misc]
        for name in sorted({row.item.slice for row in table.rows})
    ]
    phrased = PairedTable((*table.rows, *beside))
    variants = sorted({variant_of(row.item) for row in phrased.rows})
    if len(variants) > 1:
        groups += [
            (f"variant:{name}", phrased.where(lambda item, name=name: variant_of(item) == name))  # type: ignore[misc]
            for name in variants
        ]
    return named_losses([_estimate(group, area, metric, name, margin) for name, group in groups])


def _severe(table: PairedTable, area: str, metric: Metric) -> list[SevereCount]:
    """The count of severe items that fail, where the metric allows none."""
    rows = [row for row in table.rows if row.item.severity == "severe"] if metric.zero_on_severe else []
    if not rows:
        return []
    failed = [row.item.id for row in rows if metric.fails(row.aligned)]
    return [
        SevereCount(
            area=area,
            metric=metric.name,
            n=len(rows),
            reference_failures=sum(metric.fails(row.reference) for row in rows),
            aligned_failures=len(failed),
            high=rounded(clopper_pearson(len(failed), len(rows), confidence=1 - 2 * ALPHA).high),
            items=tuple(failed),
        )
    ]


def _compared(role: Literal["reference", "aligned"], answers: Answers) -> ComparedPolicy:
    return ComparedPolicy(
        role=role,
        name=answers.name,
        policy=answers.policy,
        template=answers.template,
        dataset=answers.dataset,
        verified=answers.verified,
    )


def _failures(table: PairedTable, area: str, metric: Metric) -> list[FailureCase]:
    """Items that changed, the worst losses first, then some gains; among equals a stable hash of the id decides."""
    changed = []
    for row in table.rows:
        before, after = metric.score(row.reference), metric.score(row.aligned)
        if before != after:
            order = hashlib.sha256(row.item.id.encode()).hexdigest()
            changed.append((metric.sign * (after - before), order, row, before, after))
    changed.sort(key=lambda entry: entry[:2])
    worse = [entry for entry in changed if entry[0] < 0][:WORSE_CASES]
    better = [entry for entry in reversed(changed) if entry[0] > 0][:BETTER_CASES]
    return [
        FailureCase(
            item=row.item.id,
            area=area,
            metric=metric.name,
            slice=row.item.slice,
            messages=row.item.messages,
            references=row.item.references or row.item.choices[:1],
            reference_answer=_shown(row.item, row.reference_answer),
            aligned_answer=_shown(row.item, row.aligned_answer),
            reference_score=rounded(before),
            aligned_score=rounded(after),
        )
        for _, _, row, before, after in worse + better
    ]


def _shown(item: SuiteItem, answer: ItemAnswer) -> str:
    """What a reader sees: the text, or the likeliest choice."""
    if by_likelihood(item) and answer.choices:
        best = max(range(len(answer.choices)), key=lambda index: answer.choices[index].total)
        return item.choices[best]
    return answer.text or ""
