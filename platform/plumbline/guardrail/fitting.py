"""Fitting a guardrail: weights on one set, thresholds and errors on another, and no threshold without its errors."""

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.evaluation.judging.cards import (
    at_false_positive,
    calibrated,
    cross_fitted,
    error_rate,
    ranked,
)
from plumbline.evaluation.judging.ngrams import Ngrams, fit_ngrams
from plumbline.guardrail.examples import GuardrailExample, set_digest
from plumbline.guardrail.guarding import probability
from plumbline.records.judging import (
    GuardrailCard,
    GuardrailFile,
    GuardrailSide,
    NgramModel,
    Operating,
    Side,
    SliceErrors,
)
from plumbline.statistics.paired import Floats

SHAPE = NgramModel(words=(1, 2), characters=(3, 5), bits=16, window=400)
FEWEST = 20  # of each kind in a calibration set: 0 of 20 still leaves an upper bound of 16 %


def fit_guardrail(
    train: Sequence[GuardrailExample],
    calibration: Sequence[GuardrailExample],
    *,
    name: str,
    policies: Sequence[str],
    target_false_positive: float,
    flag_false_positive: float | None = None,
    made: datetime,
    expires: datetime,
) -> GuardrailFile:
    """A guardrail for the sides that the examples are about, with a card per side.

    The refusing threshold catches the most with an FPR of at most the target on the calibration set. The card's rates
    come from thresholds chosen on four fifths of that set and measured on the other.

    Raises PlumblineError when a side has too few texts of a kind, when the two sets share a cluster, or when a policy
    named has no answer in the calibration set of an output side.
    """
    shared = {e.group for e in train} & {e.group for e in calibration}
    if shared:
        raise PlumblineError(
            f"{len(shared)} clusters are in the training and in the calibration set, for example {min(shared)!r}",
            consequence="nothing was fitted: the card would be measured on what the classifier learned from",
            remedy="keep every cluster (or id) in one of the two files, or give one file and let it be split",
        )
    sides: tuple[Side, ...] = ("input", "output")
    present = [side for side in sides if any(e.side == side for e in (*train, *calibration))]
    return GuardrailFile(
        name=name,
        sides=tuple(
            _fit_side(
                side,
                sorted((e for e in train if e.side == side), key=lambda e: e.id),
                sorted((e for e in calibration if e.side == side), key=lambda e: e.id),
                tuple(sorted(set(policies))),
                (target_false_positive, flag_false_positive),
                (made, expires),
            )
            for side in present
        ),
    )


def _fit_side(
    side: Side,
    train: list[GuardrailExample],
    calibration: list[GuardrailExample],
    policies: tuple[str, ...],
    targets: tuple[float, float | None],
    validity: tuple[datetime, datetime],
) -> GuardrailSide:
    for what, examples in (("to learn from", train), ("to calibrate on", calibration)):
        bad = sum(e.violation for e in examples)
        if min(bad, len(examples) - bad) < FEWEST:
            raise PlumblineError(
                f"{side}: {bad} violations and {len(examples) - bad} other texts {what}",
                consequence="no guardrail was fitted: a threshold without measured FPR and FNR is not shipped",
                remedy=f"give at least {FEWEST} of each; a hundred of each make the intervals useful",
            )
    if side == "output":
        _check_policies(calibration, policies)
    model = fit_ngrams([e.read for e in train], [e.violation for e in train], SHAPE)
    fitted = Ngrams(model)
    scores = np.array([probability(fitted.log_odds(e.read)) for e in calibration])
    truth = np.array([e.violation for e in calibration])
    groups = [e.group for e in calibration]
    refuse, stopped = _operating(scores, truth, groups, targets[0], side)
    flag = None if targets[1] is None else _operating(scores, truth, groups, targets[1], side)[0]
    in_force = scores >= refuse.threshold
    digest = set_digest(calibration)
    slices = sorted({e.slice for e in calibration})
    places = {name: np.array([e.slice == name for e in calibration]) for name in slices}
    card = GuardrailCard(
        side=side,
        classifier=model.digest,
        calibration=digest,
        policies=policies,
        made=validity[0],
        expires=validity[1],
        refuse=refuse,
        flag=flag,
        slices=tuple(
            SliceErrors(
                slice=name,
                false_positive=error_rate(stopped[here & ~truth], in_force[here & ~truth]),
                false_negative=error_rate(~stopped[here & truth], ~in_force[here & truth]),
            )
            for name, here in places.items()
        ),
        **ranked(scores, truth),
        **calibrated(scores, truth),
    )
    return GuardrailSide(model=model, training=set_digest(train), calibration=digest, card=card)


def _operating(
    scores: Floats, truth: "np.ndarray[tuple[int], np.dtype[np.bool_]]", groups: list[str], target: float, side: Side
) -> tuple[Operating, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]:
    chosen = cross_fitted(scores, truth, groups, at_false_positive(target), what=f"the {side} set")
    in_force = scores >= chosen.threshold
    made = Operating(
        threshold=round(chosen.threshold, 10),
        target_false_positive=target,
        false_positive=error_rate(chosen.said[~truth], in_force[~truth]),
        false_negative=error_rate(~chosen.said[truth], ~in_force[truth]),
    )
    return made, chosen.said


def _check_policies(calibration: list[GuardrailExample], policies: tuple[str, ...]) -> None:
    seen = {e.policy for e in calibration}
    for policy in policies:
        if policy not in seen:
            raise PlumblineError(
                f"no answer of the calibration set is by the policy {policy}",
                consequence="no guardrail was fitted: its errors on that policy's answers would be unknown",
                remedy="label answers of that policy and name it in each line as `policy`",
            )
