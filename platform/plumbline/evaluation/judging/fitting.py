"""Fitting a judge to people's labels, and measuring it: weights, then one threshold and three cards per policy."""

from collections.abc import Mapping, Sequence

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.evaluation.judging.acts import LabelledAnswer, text_digest
from plumbline.evaluation.judging.cards import (
    FEWEST_OF_A_KIND,
    FOLDS,
    Choose,
    Measured,
    at_false_positive,
    cross_fitted,
    folds_of,
    labels_digest,
    measure,
    youden,
)
from plumbline.evaluation.judging.instrument import ASKED_PREFIXES, COMPLIANCE_PREFIXES, Instrument
from plumbline.evaluation.judging.judges import ABSTENTION_PREFIXES, MORE_REFUSAL_PREFIXES, REFUSAL_PREFIXES
from plumbline.evaluation.judging.ngrams import Ngrams, fit_ngrams
from plumbline.policies import Policy
from plumbline.records import digest_of
from plumbline.records.judging import ErrorCard, FittedJudge, JudgeKind, NgramModel, Threshold

SHAPE = NgramModel(words=(1, 3), bits=15, first=400)


def fit_judge(
    kind: JudgeKind,
    rows: Sequence[LabelledAnswer],
    *,
    name: str = "",
    refusals: Sequence[str] = (),
    others: Sequence[str] = (),
    target_false_positive: float | None = None,
    asked: Mapping[str, Policy] | None = None,
) -> FittedJudge:
    """A judge with a threshold and cards for every policy in `rows`. `refusals` and `others` are prefixes in place of
    the usual ones. A function of the set of rows and not of their order.

    Raises PlumblineError with too few labels of a kind, or where a likelihood judge has nobody to ask.
    """
    rows = sorted(rows, key=lambda row: (row.policy, row.item, text_digest(row.text)))
    name = name or kind
    if kind == "learned":
        fitted = _learn(name, rows)
    elif kind == "text":
        listed = tuple(refusals) or REFUSAL_PREFIXES + MORE_REFUSAL_PREFIXES
        fitted = FittedJudge(name=name, kind=kind, refusals=listed, others=tuple(others) or ABSTENTION_PREFIXES)
    else:
        fitted = FittedJudge(
            name=name,
            kind=kind,
            refusals=tuple(refusals) or ASKED_PREFIXES,
            others=tuple(others) or COMPLIANCE_PREFIXES,
        )
    return with_cards(fitted, rows, target_false_positive=target_false_positive, asked=asked)


def _learn(name: str, rows: Sequence[LabelledAnswer]) -> FittedJudge:
    texts, refused = [row.text for row in rows], np.array([row.refused for row in rows])
    if min(int(refused.sum()), int((~refused).sum())) < 2 * FEWEST_OF_A_KIND:
        raise PlumblineError(
            f"of {len(rows)} labelled answers {int(refused.sum())} are refusals",
            consequence="there is too little of one kind to learn from",
            remedy="label more answers, or fit a text judge, which learns nothing",
        )
    items = [row.item for row in rows]
    folds = folds_of(items, refused)
    scores: dict[str, float] = {}
    for fold in range(FOLDS):
        rest, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = Ngrams(fit_ngrams([texts[i] for i in rest], [bool(refused[i]) for i in rest], SHAPE))
        for i in mine:
            # the same text under two items is scored twice; the one that sounds less sure of itself stays
            score, digest = round(model.log_odds(texts[i]), 10), text_digest(texts[i])
            scores[digest] = min((score, scores.get(digest, score)), key=lambda s: (abs(s), s))
    return FittedJudge(
        name=name,
        kind="learned",
        model=fit_ngrams(texts, [bool(r) for r in refused], SHAPE),
        training=labels_digest(rows),
        cross_fitted=scores,
    )


def with_cards(
    fitted: FittedJudge,
    rows: Sequence[LabelledAnswer],
    *,
    target_false_positive: float | None = None,
    asked: Mapping[str, Policy] | None = None,
) -> FittedJudge:
    """The judge with a threshold and cards for every policy in `rows`, in place of what it had for them."""
    instrument = Instrument(fitted, asked or {})
    thresholds = {threshold.policy: threshold for threshold in fitted.thresholds}
    cards: dict[str, list[ErrorCard]] = {}
    for card in fitted.cards:
        cards.setdefault(card.policy, []).append(card)
    for policy in sorted({row.policy for row in rows}):
        mine = sorted((r for r in rows if r.policy == policy), key=lambda r: (r.item, text_digest(r.text)))
        threshold, made = _measured(instrument, mine, target_false_positive)
        thresholds[policy], cards[policy] = threshold, made
    return FittedJudge.model_validate(
        {
            **dict(fitted),
            "thresholds": tuple(thresholds[policy] for policy in sorted(thresholds)),
            "cards": tuple(card for policy in sorted(cards) for card in cards[policy]),
        }
    )


def _measured(
    instrument: Instrument, rows: Sequence[LabelledAnswer], target: float | None
) -> tuple[Threshold, list[ErrorCard]]:
    """One policy's threshold and its cards, whose rates come from thresholds chosen on other labels."""
    policy = rows[0].policy
    scores = instrument.scores(rows, unseen=True)
    truth = np.array([row.refused for row in rows])
    folds: tuple[float, ...] = ()
    unseen: dict[str, bool] = {}
    if instrument.fitted.kind == "text":
        value, rule = 0.5, "fixed: a prefix matches or not"
        said = scores >= value
    else:
        choose: Choose = youden if target is None else at_false_positive(target)
        rule = "most TPR - FPR" if target is None else f"FPR at most {target:g}"
        rule += f", chosen on {FOLDS - 1} of {FOLDS} folds and measured on the other"
        chosen = cross_fitted(scores, truth, [row.item for row in rows], choose, what=f"the policy {policy}")
        said, folds, value = chosen.said, chosen.folds, round(chosen.threshold, 10)
        unseen = {text_digest(row.text): bool(yes) for row, yes in zip(rows, said, strict=True)}
    chances = instrument.probabilities(scores)
    seen = [
        Measured(
            row,
            instrument.act(row.text, 1.0 if yes else 0.0, 0.5),
            instrument.act(row.text, float(score), value),
            float(score),
            float(chance),
        )
        for row, yes, score, chance in zip(rows, said, scores, chances, strict=True)
    ]
    cards = measure(instrument.reads, seen, threshold=value, rule=rule)
    labels = digest_of(sorted([row.item, text_digest(row.text), row.human.value] for row in rows))
    threshold = Threshold(
        policy=policy, score=value, rule=rule, labels=labels, n=len(rows), folds=folds, unseen=unseen
    )  # fmt: skip
    return threshold, cards
