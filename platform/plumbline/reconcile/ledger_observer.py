"""What the ledger database says about a dataset line: the half of an observation that Kubernetes does not hold.

Reading is all that happens here. A ledger that is not there, cannot be opened or cannot be read is not an error
to raise but a fact to report (`ledger_verifies` None): the decision then fails closed. It is opened for each
reading and closed again: a handle kept open would go on answering for a file that has been replaced.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from plumbline.errors import PlumblineError
from plumbline.reconcile.dataset_line import Head, LineObservation, LineSpec, PendingRun, Stage
from plumbline.records import Record
from plumbline.stores import Ledger
from plumbline.stores.blobs import open_blobs
from plumbline.stores.runs import Run

Kept = TypeVar("Kept", bound=Record)
STAGES: dict[str, Stage] = {"awaiting_approval": "awaiting_approval", "publishing": "publishing"}


@dataclass(frozen=True)
class Reading:
    """One look at the ledger. Everything but `verifies` keeps its default when nothing could be read.

    `examples` counts the head's members by split.
    """

    verifies: bool | None = None
    problem: str = ""
    head: Head | None = None
    consent_sequence: int = 0
    inbox_sequence: int = 0
    sealed_sequence: int = 0
    withdrawn_subjects: int = 0
    pending: PendingRun | None = None
    examples: dict[str, int] = field(default_factory=dict)

    def observation(self) -> LineObservation:
        """This reading as a whole observation, where nobody but the caller works on the line (no jobs, no failures)."""
        return LineObservation(
            head=self.head,
            ledger_verifies=self.verifies,
            consent_sequence=self.consent_sequence,
            inbox_sequence=self.inbox_sequence,
            sealed_sequence=self.sealed_sequence,
            withdrawn_subjects=self.withdrawn_subjects,
            pending=self.pending,
        )


class LineObserver(Protocol):
    """Whoever can say how a dataset line stands. `read` may block; it never raises for a ledger in trouble."""

    def read(self, spec: LineSpec) -> Reading: ...


class LedgerObserver:
    """Reads a ledger and its blobs: a file and a directory, or a URL and s3://."""

    def __init__(self, ledger: Path | str, blobs: Path | str) -> None:
        self.ledger = ledger
        self.blobs = blobs

    def read(self, spec: LineSpec) -> Reading:
        try:
            with Ledger(self.ledger, must_exist=True) as ledger:  # a new one would verify, and hide the mistake
                check = ledger.consent.verify()
                if not check.valid:
                    return Reading(verifies=False, problem=check.problem or "", consent_sequence=check.head.sequence)
                return self._read(ledger, spec)
        except (PlumblineError, OSError) as error:
            return Reading(problem=str(error))

    def _read(self, ledger: Ledger, spec: LineSpec) -> Reading:
        head = ledger.publications.head(spec.dataset)
        examples = {split: n for split, n in ledger.publications.sizes(spec.dataset).items() if n}
        run = ledger.runs.open_run(spec.dataset)
        return Reading(
            verifies=True,
            head=Head(head.version, head.digest, head.consent_sequence) if head is not None else None,
            consent_sequence=ledger.consent.head().sequence,
            inbox_sequence=ledger.inbox.last_sequence(),
            sealed_sequence=ledger.runs.sealed_sequence(spec.dataset),
            withdrawn_subjects=len(ledger.publications.uncovered(spec.dataset)),
            pending=_pending(ledger, run) if run is not None else None,
            examples=examples,
        )

    def _blob(self, kind: type[Kept], digest: str) -> Kept | None:
        return kept_blob(self.blobs, kind, digest)


def kept_blob(blobs: Path | str, kind: type[Kept], digest: str) -> Kept | None:
    """A record kept as its canonical bytes under its digest; None when it is not kept there."""
    if "://" not in str(blobs) and not Path(blobs).is_dir():
        return None
    store = open_blobs(blobs)
    if not store.has(digest):
        return None
    return kind.from_canonical(store.get(digest))


def _pending(ledger: Ledger, run: Run) -> PendingRun:
    approvals = ledger.runs.approvals(run.candidate) if run.candidate is not None else []
    return PendingRun(
        run_key=run.run_key,
        stage=STAGES.get(run.stage, "sealed"),
        from_seq=run.from_sequence,
        to_seq=run.to_sequence,
        parent=run.parent,
        rubric=run.rubric,
        candidate=run.candidate,
        approvals=sum(approval.approved for approval in approvals),
        rejections=sum(not approval.approved for approval in approvals),
    )
