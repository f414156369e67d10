"""A guardrail at work: pure, quick, and impossible to load without a card that holds for the policy it guards.

    score = probability of violation, by the classifier         refuse   score >= the card's threshold
                                                                flag     score >= the card's lower threshold
                                                                allow    otherwise

There is no other way to a threshold: it stands in the card, beside the FPR and FNR that were measured at it, and a
card is only valid as a whole. Texts come from strangers: any str is safe to check, and is folded first (`plain`), so
that full-width letters, stacked accents and hidden characters change nothing. Long texts are read in windows to their
end. Not done here: a conversation is judged by its last user message, not by what it adds up to.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from plumbline.errors import PlumblineError, first_fault
from plumbline.evaluation.judging.instrument import sealed
from plumbline.evaluation.judging.ngrams import Ngrams
from plumbline.guardrail.examples import GuardrailExample, halves, set_digest
from plumbline.policies.files import write_durably
from plumbline.records import Message, last_user_text, short
from plumbline.records.judging import GuardrailFile, GuardrailSide, Side


class Action(StrEnum):
    ALLOW = "allow"
    FLAG = "flag"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Decision:
    """What to do with a text: `score` is its probability of violation, `threshold` the one that refuses."""

    action: Action
    score: float
    threshold: float


@dataclass(frozen=True)
class Guardrail:
    """Made by `load`, which checks that its card holds. `check` keeps no state and may be called from any thread."""

    file: GuardrailFile

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def digest(self) -> str:
        return self.file.digest

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(side.card.side for side in self.file.sides)

    @cached_property
    def _by_side(self) -> dict[Side, tuple[GuardrailSide, Ngrams]]:
        return {side.card.side: (side, Ngrams(side.model).ready()) for side in self.file.sides}

    def check(self, messages: Sequence[Message], answer: str | None = None) -> Decision:
        """The decision on what the last user message asks or, given an `answer`, on that answer.

        Raises PlumblineError when this guardrail has no classifier for that side: see `sides`.
        """
        side: Side = "input" if answer is None else "output"
        text = last_user_text(tuple(messages)) if answer is None else answer
        if side not in self._by_side:
            raise PlumblineError(
                f"the guardrail {self.name!r} checks {' and '.join(self.sides)} only",
                consequence=f"this {side} was not checked",
                remedy="fit a guardrail on examples of that side, or ask only for the sides it has",
            )
        fitted, model = self._by_side[side]
        score = probability(model.log_odds(text))
        card = fitted.card
        if score >= card.refuse.threshold:
            action = Action.REFUSE
        elif card.flag is not None and score >= card.flag.threshold:
            action = Action.FLAG
        else:
            action = Action.ALLOW
        return Decision(action, score, card.refuse.threshold)


def probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, log_odds))))


def load(
    path: Path,
    *,
    policy: str,
    now: datetime | None = None,
    calibration: Sequence[GuardrailExample] | None = None,
) -> Guardrail:
    """The guardrail at `path`, for the policy of this digest, at this time (by default the clock's).

    Raises PlumblineError when the file is none, has no card or was changed after it was measured; when the card has
    expired or is not in force yet; when it was calibrated for other policies; or when `calibration`, if given, is not
    the set that it was measured on (nor the one that was halved for it).
    """
    file = read_guardrail(path)
    at = now or datetime.now(UTC)
    for side in file.sides:
        card = side.card
        if not card.made <= at < card.expires:
            word = "expired" if at >= card.expires else "is not in force before"
            when = card.expires if at >= card.expires else card.made
            raise PlumblineError(
                f"the {card.side} card of the guardrail {path} {word} {when:%Y-%m-%d %H:%M} UTC",
                consequence="it was not loaded: requests and answers may have moved since it was measured",
                remedy="label a recent calibration set, then `plumb guardrail fit` again",
            )
        if policy not in card.policies:
            raise PlumblineError(
                f"the {card.side} card of the guardrail {path} is for {_names(card.policies)}, not for {short(policy)}",
                consequence="it was not loaded: a threshold does not carry over from one policy to another",
                remedy=f"calibrate it for this policy: `plumb guardrail fit --policy {policy}`",
            )
        mine = None if calibration is None else [e for e in calibration if e.side == card.side]
        if mine is not None and card.calibration not in (set_digest(mine), set_digest(halves(mine).calibration)):
            raise PlumblineError(
                f"the {card.side} card of the guardrail {path} was measured on the calibration set "
                f"{short(card.calibration)}, not on {short(set_digest(mine))}",
                consequence="it was not loaded: its FPR and FNR are those of other texts",
                remedy="give the set it was measured on, or fit it again on this one",
            )
    return Guardrail(file)


def _names(policies: Sequence[str]) -> str:
    return ", ".join(short(policy) for policy in policies)


def save_guardrail(file: GuardrailFile, path: Path) -> None:
    """Written durably, with its digest beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, sealed(file))


def read_guardrail(path: Path) -> GuardrailFile:
    """A guardrail's file, whole and unchanged; whether its card still holds is for `load` to say."""
    try:
        held = json.loads(path.read_text("utf-8"))
        if not isinstance(held, dict) or not isinstance(held.get("content"), dict):
            raise ValueError("it holds no guardrail")
        sides = held["content"].get("sides")
        if isinstance(sides, list) and any(isinstance(s, dict) and not s.get("card") for s in sides):
            raise ValueError("it has no card: its FPR and FNR were not measured")
        file = GuardrailFile.model_validate(held["content"])
        for side in file.sides:
            Ngrams(side.model).ready()
    except (OSError, ValueError, RecursionError) as error:
        raise PlumblineError(
            f"{path} is not a guardrail: {first_fault(error)}",
            consequence="nothing is guarded by it, and it was not loaded",
            remedy="give the file that `plumb guardrail fit` wrote",
        ) from error
    if held.get("digest") != file.digest:
        raise PlumblineError(
            f"{path} was changed after it was measured: its content is {short(file.digest)}",
            consequence="it was not loaded: its card says nothing about what it holds now",
            remedy="restore the file, or fit it again",
        )
    return file
