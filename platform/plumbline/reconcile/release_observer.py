"""What the ledger says about releases, and the one thing that the operator writes into them: answers to requests.

Built like `ledger_observer`: a ledger that cannot be read is a fact to report, and it is opened anew for each look.
Answers are written under the fencing token, as approvals are: an operator that was paused while another took over
moves nothing when it wakes up.
"""

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.reconcile.release import Move, ReleaseObservation
from plumbline.reconcile.resources import moment, stamp
from plumbline.records.release_resources import PassingDecisionsSpec, PassingPolicy, ReleaseStanding
from plumbline.records.resource_base import NAME_PATTERN
from plumbline.stores import Lease, Ledger
from plumbline.stores.release_requests import Answer, Decided, ReleaseRequest
from plumbline.stores.releases import MAX_AGE

MOST_POLICIES, MOST_RELEASES, MOST_MOVES = 50, 64, 10  # all of them together are an object that etcd takes
TROUBLE = (PlumblineError, OSError, ValueError)  # ValueError: a record of a version that is not known here


class ReleaseObserver:
    """`max_age` is how old a gate decision and a shadow verdict may be that a promotion rests on."""

    def __init__(self, ledger: Path | str, *, max_age: timedelta = MAX_AGE) -> None:
        self.ledger = ledger
        self.max_age = max_age

    def _open(self) -> Ledger:
        return Ledger(self.ledger, must_exist=True)

    def look(self, asked: ReleaseRequest) -> ReleaseObservation:
        """Everything that decides about one request, but admission."""
        try:
            with self._open() as ledger:
                releases = ledger.releases
                moves = tuple(
                    Move(one.sequence, one.action, one.policy, one.decision, one.shadow, one.recorded_at)
                    for one in reversed(releases.release_audit(asked.release))
                )
                seen = ReleaseObservation(
                    readable=True,
                    decided=ledger.release_requests.decided(asked.request),
                    moves=moves,
                    before=any(one.policy == asked.policy for one in releases.earlier(asked.release)),
                )
                try:
                    releases.grounds(asked.release, asked.policy, max_age=self.max_age)
                except PlumblineError as error:
                    return replace(seen, missing=error.fact)
                return seen
        except TROUBLE:
            return ReleaseObservation(readable=False)

    def answer(self, asked: ReleaseRequest, answer: Answer, why: str, lease: Lease) -> Decided:
        """Write an answer. StaleLease when somebody took over since `lease` was handed out; another PlumblineError when
        the ledger does not allow it any more."""
        with self._open() as ledger, ledger.database.transaction():
            ledger.runs.check_lease(lease)
            return ledger.release_requests.answer(asked, answer, why=why, max_age=self.max_age)

    def passing(self) -> PassingDecisionsSpec:
        """Whereto each release may move. Nothing at all while the ledger cannot be read.

        Emptied rather than left as it was: what was listed may have been taken back since (a later REGRESSED, a
        rollback), and nobody could tell. It costs nothing: while the ledger is away no pointer moves anyhow, backward
        neither, and whoever asks is told so at once and not by an object that stays Pending.
        """
        try:
            with self._open() as ledger:
                names = [name for name in ledger.releases.names() if re.fullmatch(NAME_PATTERN, name)]
                standing = [self._standing(ledger, name) for name in names[:MOST_RELEASES]]
        except TROUBLE:
            return PassingDecisionsSpec(readable=False, releases=())
        return PassingDecisionsSpec(readable=True, releases=tuple(standing))

    def _standing(self, ledger: Ledger, name: str) -> ReleaseStanding:
        releases = ledger.releases
        current = releases.current_release(name)
        assert current is not None  # it has a name because it has an entry
        compared = [one.aligned for one in reversed(releases.decisions()) if one.reference == current.policy]
        passed = []
        for policy in dict.fromkeys(compared):
            try:
                decision, shadow = releases.grounds(name, policy, max_age=self.max_age)
            except PlumblineError:
                continue
            older = min(moment(releases.recorded_at(decision)), moment(releases.recorded_at(shadow)))
            until = stamp(older + self.max_age)
            passed.append(PassingPolicy(policy=policy, decision=decision, shadow=shadow, until=until))
        before = dict.fromkeys(one.policy for one in releases.earlier(name))
        return ReleaseStanding(
            name=name,
            serving=current.policy,
            passed=tuple(passed[:MOST_POLICIES]),
            before=tuple(before)[:MOST_POLICIES],
        )
