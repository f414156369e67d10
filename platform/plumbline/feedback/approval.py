"""Approval of a candidate: one named person's word, for one digest, kept only while nothing is added.

If consent of somebody in an approved candidate ends while it waits, the run is built again without them; a candidate
that only takes away from an approved one keeps the approval, any other needs a new one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumbline.errors import PlumblineError
from plumbline.feedback.candidate import Candidate, load_candidate
from plumbline.records import Example, short
from plumbline.stores import Approval, BlobStore, Ledger, Run

Approve = Callable[[Candidate, Sequence[Example]], Approval]


@dataclass(frozen=True)
class Approvals:
    """Whose word counts (`approver`), and how it is asked for when none is stored (`approve`)."""

    ledger: Ledger
    blobs: BlobStore
    approver: str
    approve: Approve | None

    def carry(self, run: Run, candidate: Candidate) -> None:
        """An approval of a candidate that this one only takes away from stands for this one too."""
        latest = self.ledger.runs.run(run.run_key)
        if latest is None or latest.candidate in (None, candidate.digest):
            return
        before = load_candidate(self.blobs, str(latest.candidate))
        if not candidate.only_removes_from(before):
            return
        for approval in self.ledger.runs.approvals(before.digest):
            if approval.approved:
                note = f"kept from candidate {short(before.digest)}: this one only removes"
                self.ledger.runs.approve(candidate.digest, Approval(approval.approver, True, note))

    def decision(self, candidate: Candidate, examples: Sequence[Example]) -> Approval | None:
        """The named approver's stored word, or the one given now. Nobody else's counts."""
        if self.stored(candidate) is None and self.approve is not None:
            decision = self.approve(candidate, examples)
            if decision.approver != self.approver:
                raise PlumblineError(
                    f"candidate {short(candidate.digest)} was decided by {decision.approver!r}",
                    consequence="the decision does not count and the run still waits",
                    remedy=f"have {self.approver!r} decide, or start the run with another approver",
                )
            self.ledger.runs.approve(candidate.digest, decision)
        return self.stored(candidate)

    def stored(self, candidate: Candidate) -> Approval | None:
        found = self.ledger.runs.approvals(candidate.digest)
        return next((approval for approval in found if approval.approver == self.approver), None)
