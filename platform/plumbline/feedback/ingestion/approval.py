"""Approval of a candidate: people's word for one digest, kept only while nothing is added.

If consent of somebody in an approved candidate ends while it waits, the run is built again without them; a candidate
that only takes away from an approved one keeps its approvals, any other needs new ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from plumbline.errors import PlumblineError
from plumbline.feedback.ingestion.candidate import Candidate, load_candidate
from plumbline.records import Example, short
from plumbline.stores import Approval, BlobStore, Ledger, Run

Examples = Callable[[], Sequence[Example]]
Approve = Callable[[Candidate, Examples], Approval]  # examples are read from disk when asked for


@dataclass(frozen=True)
class Decision:
    """Enough approvals, or one refusal. `approvers` are those who agreed."""

    approved: bool
    approvers: tuple[str, ...]


@dataclass(frozen=True)
class Approvals:
    """How many must agree (`required`), whose word alone counts if anybody's does (`approver`), and how a word is asked
    for when too few are stored (`approve`)."""

    ledger: Ledger
    blobs: BlobStore
    approver: str | None
    required: int
    approve: Approve | None
    pseudonym: Callable[[str], str] = str  # as which author an approver would be known

    def carry(self, run: Run, candidate: Candidate) -> None:
        """Approvals of a candidate that this one only takes away from stand for this one too."""
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

    def decision(self, candidate: Candidate, authors: set[str], examples: Examples) -> Decision | None:
        """What the stored words come to, asking for one where they do not suffice; None: still waiting. Those who wrote
        what is to be approved have no word in it."""
        stored = self._stored(candidate, authors)
        if stored is None and self.approve is not None:
            word = self.approve(candidate, examples)
            if self.approver not in (None, word.approver) or self._wrote(word.approver, authors):
                raise PlumblineError(
                    f"candidate {short(candidate.digest)} was decided by {word.approver!r}",
                    consequence="the decision does not count and the run still waits",
                    remedy=f"have {self.approver or 'somebody who wrote none of it'!r} decide",
                )
            self.ledger.runs.approve(candidate.digest, word)
            stored = self._stored(candidate, authors)
        return stored

    def _stored(self, candidate: Candidate, authors: set[str]) -> Decision | None:
        counts = [
            word
            for word in self.ledger.runs.approvals(candidate.digest)
            if not self._wrote(word.approver, authors) and self.approver in (None, word.approver)
        ]
        if any(not word.approved for word in counts):
            return Decision(False, ())
        agreed = tuple(sorted(word.approver for word in counts))
        return Decision(True, agreed) if len(agreed) >= self.required else None

    def _wrote(self, approver: str, authors: set[str]) -> bool:
        return approver in authors or self.pseudonym(approver) in authors
