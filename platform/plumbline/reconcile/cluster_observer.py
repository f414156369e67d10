"""What the ledger says about the objects beside a line, and what the operator writes into it: approvals here, answers
to requests for a release in `release_observer`.

Built like `ledger_observer`: a ledger that cannot be read is a fact to report, never an error to raise, and it is
opened anew for each look. Writing is another matter. An operator that was paused may wake up and go on where it was,
long after another took over; so a word is recorded in a transaction that checks the fencing token first, and a token
that is not the newest is refused (`StaleLease`). Whoever held a Lease in Kubernetes at that moment counts for nothing.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.feedback.ingestion.candidate import Candidate
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.reconcile.approval import ApprovalObservation
from plumbline.reconcile.dataset_line import LineSpec
from plumbline.reconcile.erasure_request import Erased, ErasureObservation
from plumbline.reconcile.ingestion_run import RunObservation
from plumbline.reconcile.ledger_observer import LedgerObserver, Reading
from plumbline.reconcile.release_observer import ReleaseObserver
from plumbline.reconcile.resources import VersionLook, moment
from plumbline.records import DatasetManifest
from plumbline.records.resources import IngestionRunSpec
from plumbline.stores import Approval, Lease, Ledger
from plumbline.stores.projections import authors_of, erasure_record, find_subject, heads_with, left_of, standings
from plumbline.stores.releases import MAX_AGE
from plumbline.stores.runs import Run

FENCE = "operator/{}"


@dataclass(frozen=True)
class LineLook:
    """One look at a line and at the objects below it. `runs` by run key; `versions` newest first."""

    reading: Reading
    runs: dict[str, RunObservation] = field(default_factory=dict)
    versions: tuple[VersionLook, ...] = ()


class ClusterObserver(LedgerObserver):
    """Reads the ledger and the blobs for the operator. `names` gives what makes pseudonyms of approvers' user names,
    after `prefix` (an identity provider's) is taken off; while it gives nothing, nobody can be told from an author, and
    none counts. It is asked until it does: the collector, which draws the key, may start after the operator.
    `max_age` is how old what a release rests on may be."""

    def __init__(
        self,
        ledger: Path | str,
        blobs: Path | str,
        *,
        names: Callable[[], Pseudonyms | None],
        prefix: str = "",
        max_age: timedelta = MAX_AGE,
    ) -> None:
        super().__init__(ledger, blobs)
        self.releases = ReleaseObserver(ledger, max_age=max_age)
        self._ask_names, self._names = names, names()
        self.prefix = prefix
        self._authors: dict[str, frozenset[str]] = {}  # by candidate, which never changes

    def _open(self) -> Ledger:
        """The ledger, never a new one: an empty ledger verifies, and would hide the mistake."""
        return Ledger(self.ledger, must_exist=True)

    # --- lines, runs, versions --------------------------------------------------------------------------------

    def look(self, spec: LineSpec, runs: Collection[IngestionRunSpec], history: int) -> LineLook:
        """The line, its runs that have objects, and its newest `history` versions."""
        reading = self.read(spec)
        if not reading.verifies:
            return LineLook(reading, {run.run_key: RunObservation(readable=False) for run in runs})
        try:
            with self._open() as ledger:
                if reading.pending is not None and reading.pending.candidate is not None:
                    words = self._words(ledger, reading.pending.candidate)
                    reading = replace(
                        reading,
                        pending=replace(
                            reading.pending,
                            approvals=sum(words.values()),
                            rejections=sum(not word for word in words.values()),
                        ),
                    )
                found = {run.run_key: self._run(ledger, run) for run in runs}
                return LineLook(reading, found, self._versions(ledger, spec.dataset, history))
        except (PlumblineError, OSError) as error:
            return LineLook(replace(Reading(), problem=str(error)))

    def _run(self, ledger: Ledger, spec: IngestionRunSpec) -> RunObservation:
        run, published = ledger.runs.run(spec.run_key), ledger.publications.by_run(spec.run_key)
        manifest = self._blob(DatasetManifest, published.digest) if published is not None else None
        seen = RunObservation()
        if published is not None:
            seen = RunObservation(
                stage="published", state="published", version=published.version, version_digest=published.digest
            )
        elif run is not None:
            seen = RunObservation(stage=run.stage, state=run.state)
        elif spec.kind == "removal":
            head = ledger.publications.head(spec.dataset)
            if head is None or head.digest != spec.parent:
                seen = RunObservation(state="superseded")
        if run is not None and run.candidate is not None:
            words = self._words(ledger, run.candidate)
            seen = replace(
                seen,
                candidate=run.candidate,
                approvals=sum(words.values()),
                rejections=sum(not word for word in words.values()),
            )
        counts = manifest or (self._blob(Candidate, run.candidate) if run is not None and run.candidate else None)
        if counts is None:
            return seen
        return replace(seen, sealed=counts.sealed, accepted=counts.accepted, rejected=dict(counts.rejected))

    def _versions(self, ledger: Ledger, dataset: str, history: int) -> tuple[VersionLook, ...]:
        newest = list(reversed(ledger.publications.versions(dataset)))[:history]
        states = standings(ledger, dataset, newest)
        looks = []
        for one in newest:
            manifest = self._blob(DatasetManifest, one.digest)
            sizes = dict(getattr(manifest, "sizes", None) or {})
            looks.append(
                VersionLook(
                    version=one.version,
                    digest=one.digest,
                    parent=one.parent,
                    run_key=one.run_key,
                    consent_sequence=one.consent_sequence,
                    reason=one.reason,
                    root=manifest.root if manifest else None,
                    rubric=manifest.rubric if manifest else None,
                    policy_text=getattr(manifest, "policy_text", None),
                    code=manifest.code if manifest else None,
                    state=states[one.version],
                    examples=sum(sizes.values()) if sizes else None,
                    splits=sizes,
                    policies=tuple(sorted(policy.policy for policy in ledger.lineage.of_dataset(one.digest))),
                )
            )
        return tuple(looks)

    # --- approvals --------------------------------------------------------------------------------------------

    def _words(self, ledger: Ledger, candidate: str) -> dict[str, bool]:
        """Who said what on a candidate, without those who wrote some of it (whoever let their word in)."""
        words = {one.approver: one.approved for one in ledger.runs.approvals(candidate)}
        authors = self._wrote(ledger, candidate) or frozenset() if words else frozenset()
        return {who: word for who, word in words.items() if not {who, self._pseudonym(who)} & authors}

    def _pseudonym(self, username: str) -> str | None:
        self._names = self._names or self._ask_names()
        return self._names.of(username.removeprefix(self.prefix)) if self._names is not None else None

    def approval(self, candidate: str, approver: str) -> ApprovalObservation:
        """What the ledger knows about one approver's word on one candidate."""
        try:
            with self._open() as ledger:
                if not ledger.consent.verify().valid:
                    return ApprovalObservation(ledger_verifies=False)
                stored = {one.approver: one.approved for one in ledger.runs.approvals(candidate)}
                run = _run_with(ledger, candidate)
                return ApprovalObservation(
                    waiting=run is not None and run.state == "open" and run.stage == "awaiting_approval",
                    authors=self._wrote(ledger, candidate),
                    approver=self._pseudonym(approver),
                    stored=stored.get(approver),
                )
        except (PlumblineError, OSError):
            return ApprovalObservation(ledger_verifies=None)

    def _wrote(self, ledger: Ledger, candidate: str) -> frozenset[str] | None:
        """Authors of a candidate; None where no run has it. Read once: what a candidate is made of never changes."""
        if candidate not in self._authors and (run := _run_with(ledger, candidate)) is not None:
            self._authors[candidate] = authors_of(ledger, run)
        return self._authors.get(candidate)

    def fence(self, namespace: str, holder: str, seconds: float) -> Lease:
        """The ledger's own lease on what the operator of a namespace writes, with the next fencing token."""
        with self._open() as ledger:
            return ledger.runs.acquire_lease(FENCE.format(namespace), holder, seconds=seconds)

    def record(self, candidate: str, word: Approval, lease: Lease) -> None:
        """Write a word into the ledger. StaleLease when somebody took over since `lease` was handed out."""
        with self._open() as ledger, ledger.database.transaction():
            ledger.runs.check_lease(lease)
            ledger.runs.approve(candidate, word)

    # --- erasures ---------------------------------------------------------------------------------------------

    def erasure(self, subject_digest: str) -> ErasureObservation:
        """How far the erasure of the person with this digest is."""
        try:
            with self._open() as ledger:
                check = ledger.consent.verify()
                if not check.valid:
                    return ErasureObservation(ledger_verifies=False)
                subject = find_subject(ledger, subject_digest)
                if subject is None:
                    return ErasureObservation(ledger_verifies=True)
                now = ledger.database.clock()
                covered = ledger.consent.covers(subject, "training", ledger.consent.head().sequence, now).covered
                record = erasure_record(ledger, subject)
                done = None
                if record is not None:
                    when = moment(record.completed_at)
                    done = Erased(record.payloads, record.events, record.policies, record.proof, when)
                return ErasureObservation(
                    ledger_verifies=True,
                    known=True,
                    consent_holds=covered,
                    heads=heads_with(ledger, subject),
                    left=left_of(ledger, subject),
                    erased=done,
                )
        except (PlumblineError, OSError):
            return ErasureObservation(ledger_verifies=None)


def _run_with(ledger: Ledger, candidate: str) -> Run | None:
    row = ledger.database.row("SELECT run_key FROM run WHERE candidate = ? ORDER BY state = 'open' DESC", (candidate,))
    return ledger.runs.run(row["run_key"]) if row is not None else None
