"""What an erasure does next: one pure function of what was asked, what was seen, and the time.

    withdrawal in the ledger  ->  versions without the person  ->  payloads and words erased  ->  proof

Level-based like `dataset_line`, and as narrow: the one action is to start the work, which is one command that may be
killed anywhere and started again. The order of the questions is the policy of this module:

1. Can the ledger be read, and does it verify? If not, nothing starts (fail closed); the withdrawal is not lost.
2. Is it done? Then it stays done, whatever else is so: what is erased cannot be asked about again.
3. Is the person known? A digest that nobody in the ledger has is a mistake to say, not an erasure to claim.
4. Does their consent still hold? Then nothing is erased. An object that somebody made is not a person's withdrawal;
   theirs is one call to the ledger, and the next look goes on by itself.
5. Is somebody at it? Wait. Have the tries run out? Say so. Otherwise start.

The deadline changes nothing about what is done, only what is said: a condition, and an Event.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from plumbline.reconcile.dataset_line import Condition, Wait
from plumbline.records.resources import ErasurePhase

PATIENCE = timedelta(hours=24)  # where the request names no deadline
MOST_ATTEMPTS = 5


@dataclass(frozen=True)
class ErasureSpec:
    """Who (by the digest of their pseudonym), until when, and what is recorded for policies trained on them."""

    subject: str
    deadline: datetime
    remediation: str = "retrain"
    max_attempts: int = MOST_ATTEMPTS


@dataclass(frozen=True)
class Erased:
    """What the ledger recorded of a finished erasure: counts, and a digest of the content-free facts."""

    payloads: int
    events: int
    policies: int
    proof: str
    completed_at: datetime


@dataclass(frozen=True)
class ErasureObservation:
    """One look. `ledger_verifies` as in `LineObservation`; `heads` counts datasets whose head holds the person.

    `left` counts what there still is of them: payloads, and events with words. `erased` is None until the ledger has
    a record of it; `told` once the request's own status said that it is done.
    """

    ledger_verifies: bool | None
    known: bool = False
    consent_holds: bool = False
    heads: int = 0
    left: int = 0
    erased: Erased | None = None
    told: bool = False
    job: bool = False
    attempts: int = 0


@dataclass(frozen=True)
class StartErasure:
    """Run the erasure; `attempt` counts from 1. What an earlier attempt did is found done."""

    attempt: int


ErasureAction = StartErasure | Wait


@dataclass(frozen=True)
class ErasureDecision:
    action: ErasureAction
    phase: ErasurePhase
    conditions: tuple[Condition, ...]


def reconcile_erasure(spec: ErasureSpec, seen: ErasureObservation, now: datetime) -> ErasureDecision:
    """The one next action of an erasure, with the conditions that tell people why."""
    action, phase = _next(spec, seen)
    conditions = (
        _withdrawn(seen),
        _removed(seen),
        _erased(seen),
        _deadline(spec, seen, now),
        _degraded(spec, seen, phase),
    )
    return ErasureDecision(action, phase, conditions)


def complete(seen: ErasureObservation) -> bool:
    """Recorded as erased, in no head, and nothing left: all three, or it is not done. Once it was, it stays done: a
    person may come back, agree anew, and is no leftover of an old request."""
    return seen.erased is not None and (seen.told or (seen.heads == 0 and seen.left == 0))


def _next(spec: ErasureSpec, seen: ErasureObservation) -> tuple[ErasureAction, ErasurePhase]:
    if seen.ledger_verifies is None:
        return Wait("LedgerUnreachable"), "Blocked"
    if not seen.ledger_verifies:
        return Wait("LedgerBroken"), "Blocked"
    if complete(seen):
        return Wait("Erased"), "Erased"
    if not seen.known:
        return Wait("UnknownSubject"), "UnknownSubject"
    if seen.consent_holds:
        return Wait("AwaitingWithdrawal"), "AwaitingWithdrawal"
    working: ErasurePhase = "Removing" if seen.heads else "Erasing"
    if seen.job:
        return Wait("InProgress"), working
    if seen.attempts >= spec.max_attempts:
        return Wait("ErasureFailed"), "Failed"
    return StartErasure(seen.attempts + 1), working


def _withdrawn(seen: ErasureObservation) -> Condition:
    if not seen.ledger_verifies:
        return Condition("Withdrawn", "Unknown", "LedgerUnreadable", "the consent ledger cannot be relied on")
    if not seen.known:
        text = "nobody in the ledger has a pseudonym with this digest; is it the SHA-256 of s-..., without a newline?"
        return Condition("Withdrawn", "Unknown", "UnknownSubject", text)
    if seen.consent_holds and not complete(seen):
        return Condition("Withdrawn", "False", "ConsentHolds", "the person's own withdrawal is not in the ledger")
    return Condition("Withdrawn", "True", "WithdrawalRecorded", "no consent to training holds")


def _removed(seen: ErasureObservation) -> Condition:
    if not (seen.ledger_verifies and seen.known):
        return Condition("Removed", "Unknown", "NotAsked", "what the heads hold was not looked at")
    if seen.heads:
        text = f"{seen.heads} datasets have a head that holds the person"
        return Condition("Removed", "False", "InHead", text)
    return Condition("Removed", "True", "InNoHead", "no dataset's head holds the person")


def _erased(seen: ErasureObservation) -> Condition:
    if not (seen.ledger_verifies and seen.known):
        return Condition("Erased", "Unknown", "NotAsked", "what is left was not looked at")
    if complete(seen) and seen.erased is not None:
        text = f"{seen.erased.payloads} payloads and {seen.erased.events} events are erased from every version"
        return Condition("Erased", "True", "Erased", text)
    return Condition("Erased", "False", "NotYet", f"{seen.left} payloads and events are left")


def _deadline(spec: ErasureSpec, seen: ErasureObservation, now: datetime) -> Condition:
    said = f"{spec.deadline:%Y-%m-%dT%H:%M:%SZ}"
    if seen.ledger_verifies and complete(seen) and seen.erased is not None:
        if seen.erased.completed_at <= spec.deadline:
            return Condition("DeadlineMet", "True", "DoneInTime", f"done before {said}")
        return Condition("DeadlineMet", "False", "DoneLate", f"done, but after {said}")
    if now > spec.deadline:
        return Condition("DeadlineMet", "False", "DeadlinePassed", f"not done by {said}")
    return Condition("DeadlineMet", "Unknown", "Pending", f"to be done by {said}")


def _degraded(spec: ErasureSpec, seen: ErasureObservation, phase: ErasurePhase) -> Condition:
    if phase == "Blocked":
        reason = "LedgerUnreachable" if seen.ledger_verifies is None else "LedgerBroken"
        return Condition("Degraded", "True", reason, "nothing is erased until the consent ledger verifies again")
    if phase == "UnknownSubject":
        return Condition("Degraded", "True", "UnknownSubject", "there is nobody to erase under this digest")
    if phase == "Failed":
        text = (
            f"it failed {spec.max_attempts} times; read the last Job's log, then delete this object and make it again"
        )
        return Condition("Degraded", "True", "ErasureFailed", text)
    return Condition("Degraded", "False", "AsExpected", "nothing needs a person's attention")
