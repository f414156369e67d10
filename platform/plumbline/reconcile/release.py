"""What becomes of a Release object: one pure function of what it asks for and what the ledger says.

Admission has refused what the operator's own list (PassingDecisions) did not hold, and has made sure that whoever is
named asked. That list is a projection, minutes old at worst and as old as its operator's last look while that is down;
so what counts is asked here again, and a third time in the transaction that moves the pointer.

    asked -> Pending (cannot be decided yet) -> Released -> Superseded (users have another now)
                                             \\-> Refused

The order of the questions is the policy of this module:

1. Was this very request decided before? Then it stays decided. An object stays where a command is gone, so without this
   a release that somebody rolled back by hand would be moved forward again by the object that asked for it earlier.
2. Can the ledger be read? If not, nothing moves (fail closed). Nothing is lost: the object is still there.
3. Is admission in force, and not weaker? If not, nothing says who asked, and nothing moves.
4. Does the ledger name a release of this name? Its first policy is a person's word about what users have, with nothing
   to compare it with: `plumb release promote` says it, never an object.
5. Do users have that policy already? Then that is recorded, and no more.
6. Does it rest on a gate decision and a shadow verdict, passing and fresh? It is promoted. This comes before the next
   question because evidence, where there is some, belongs into the audit trail.
7. Did users have it before? It is a rollback, which needs neither: whoever is woken at night has no time to measure.
8. Otherwise it is refused, for good; asking again takes another request (`spec.reason`, or a new object), so that no
   forgotten object moves users weeks later, when its policy happens to pass.
"""

from dataclasses import dataclass
from typing import Literal

from plumbline.reconcile.dataset_line import Condition
from plumbline.records.canonical import short
from plumbline.records.release_resources import ReleasePhase
from plumbline.stores.release_requests import Answer, Decided

ConditionStatus = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Move:
    """One move of a release, as the ledger has it."""

    sequence: int
    action: Literal["promote", "rollback", "move"]
    policy: str
    decision: str | None
    shadow: str | None
    recorded_at: str


@dataclass(frozen=True)
class ReleaseObservation:
    """One look. `moves` newest first. `missing` is what a promotion lacks, empty if nothing; `before` whether users had
    the policy earlier. `guarded` is what is wrong with admission, empty if nothing."""

    readable: bool
    guarded: str = ""
    decided: Decided | None = None
    moves: tuple[Move, ...] = ()
    missing: str = ""
    before: bool = False

    @property
    def serving(self) -> str | None:
        return self.moves[0].policy if self.moves else None


@dataclass(frozen=True)
class ReleaseDecision:
    """`answer` is what is to be written into the ledger, if anything is; `why` goes with a refusal."""

    answer: Answer | None
    why: str
    phase: ReleasePhase
    conditions: tuple[Condition, ...]


def reconcile_release(policy: str, seen: ReleaseObservation) -> ReleaseDecision:
    """What becomes of a request for `policy`, with the conditions that tell people why."""
    if seen.decided is not None:
        return _decided(policy, seen, seen.decided)
    if not seen.readable:
        return _pending("LedgerUnreadable", "the ledger cannot be read; nothing moves until it can")
    if seen.guarded:
        return _pending("NotGuarded", f"nothing says that who is named asked for it: {seen.guarded}")
    if seen.serving is None:
        why = "the ledger names no such release yet; say what users have now with `plumb release promote --name`"
        return _refused("NoSuchRelease", why)
    if seen.serving == policy:
        return _will("keep", "AlreadyServing", "users have it already")
    if not seen.missing:
        return _will("promote", "GateAndShadowPassed", _rests_on(policy, seen.serving))
    if seen.before:
        return _will("roll-back", "ReleasedBefore", "users had it before; going back needs no verdict")
    return _refused("NotPassing", seen.missing)


def _decided(policy: str, seen: ReleaseObservation, found: Decided) -> ReleaseDecision:
    if found.outcome == "refused":
        reason, _, why = found.why.partition(": ")
        return _refused(reason, why, answer=None)
    words = {
        "promoted": ("GateAndShadowPassed", "a gate decision and a shadow verdict said PASS about it when it moved"),
        "rolled-back": ("ReleasedBefore", "users had had it before; going back needs no verdict"),
        "kept": ("AlreadyServing", "users had it already when it was asked for"),
    }
    passed = Condition("Passed", "True", *words[found.outcome])
    if seen.serving in (None, policy):  # None: the ledger cannot be read now, and nothing says otherwise
        return ReleaseDecision(None, "", "Released", (passed, _released("True", "Serving", "users have it")))
    newest = seen.moves[0]
    text = f"users have {short(newest.policy)} since move {newest.sequence} ({newest.action}); it takes a new request"
    return ReleaseDecision(None, "", "Superseded", (passed, _released("False", "MovedOn", text)))


def _will(answer: Answer, reason: str, text: str) -> ReleaseDecision:
    conditions = (
        Condition("Passed", "True", reason, text),
        _released("Unknown", "Moving", "the pointer is being moved"),
    )
    return ReleaseDecision(answer, "", "Pending", conditions)


def _pending(reason: str, text: str) -> ReleaseDecision:
    conditions = (Condition("Passed", "Unknown", reason, text), _released("Unknown", reason, "nothing moved"))
    return ReleaseDecision(None, "", "Pending", conditions)


def _refused(reason: str, why: str, *, answer: Answer | None = "refuse") -> ReleaseDecision:
    text = f"{why}; users keep what they have; when that is put right, ask anew with another spec.reason"
    conditions = (Condition("Passed", "False", reason, text[:1024]), _released("False", "Refused", "nothing moved"))
    return ReleaseDecision(answer, f"{reason}: {why}", "Refused", conditions)


def _rests_on(policy: str, serving: str) -> str:
    return f"a gate decision and a shadow verdict say PASS about {short(policy)} against {short(serving)}"


def _released(status: ConditionStatus, reason: str, text: str) -> Condition:
    return Condition("Released", status, reason, text)
