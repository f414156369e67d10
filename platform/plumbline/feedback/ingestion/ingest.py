"""Ingestion: from sealed events to the next dataset version, as a state machine that may be killed anywhere.

    sealed -> verified -> deduplicated -> consent_checked -> redacted -> guarded -> split
           -> awaiting_approval -> publishing -> published        (or no_change | rejected)

*Sealing* fixes a range of the inbox; later events wait for the next run. Each stage then writes one blob: its
verdict on every event that was still in, keyed by (stage, the verdict before, code and configuration). A run that
is started again finds the blobs of finished stages and goes on; since stages are pure, and salts and orders are
derived instead of drawn, it ends in the same digests. Stage blobs hold sequences, reasons and counts, never text:
what a person wrote is in the inbox and in payloads, and nowhere else to be forgotten.

*Approval* (approval.py) is for a candidate digest.

*Publication* is one transaction (stores/publications.py). Nothing is lost when it refuses.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from plumbline.feedback.datasets.history import History, example_in
from plumbline.feedback.datasets.publish import (
    Addition,
    code_digest,
    compose,
    publish_version,
    require_consent,
    salted,
    signer,
    store,
)
from plumbline.feedback.datasets.reading import load_manifest
from plumbline.feedback.datasets.split import Placement
from plumbline.feedback.ingestion import stages
from plumbline.feedback.ingestion.approval import Approvals, Approve, Decision
from plumbline.feedback.ingestion.candidate import Candidate, IngestionConfig, IngestionResult, preference
from plumbline.feedback.ingestion.examples import author_of, draft
from plumbline.feedback.ingestion.sealing import ended_without_version, require_whole, verified_consent
from plumbline.records import (
    DatasetManifest,
    Example,
    digest_bytes,
    digest_of,
    short,
)
from plumbline.stores import (
    BlobStore,
    ConsentHead,
    ConsentLost,
    HeadMoved,
    Lease,
    Ledger,
    PackGone,
    Run,
    SealedEvent,
    Standing,
    read_sealed,
    undisturbed,
)
from plumbline.stores.key_index import StagedRunGone
from plumbline.stores.runs import this_worker

STAGES = (
    "sealed", "verified", "deduplicated", "consent_checked", "redacted", "guarded", "split",
    "awaiting_approval", "publishing", "published",
)  # fmt: skip
_ATTEMPTS = 8  # rebuilds after a moved head or a lost consent before a person should look


class Ingestion:
    """Runs ingestions of one ledger. `on_stage` is called after each stage is durable (progress, and failpoints)."""

    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        config: IngestionConfig | None = None,
        *,
        holder: str = "",
        on_stage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ledger = ledger
        self.blobs = blobs
        self.config = config or IngestionConfig()
        self.holder = holder or this_worker()
        self.on_stage = on_stage

    @property
    def code(self) -> str:
        """Digest of the code and configuration that this object runs."""
        return digest_of({"code": code_digest(), "config": self.config.digest})

    def run(
        self,
        dataset: str,
        rubric: str,
        *,
        approver: str | None = None,
        approvals_required: int = 1,
        approve: Approve | None = None,
        up_to: int | None = None,
        run_key: str | None = None,
        policy_text: str | None = None,
        pseudonym: Callable[[str], str] = str,
    ) -> IngestionResult:
        """Seal what is new (or carry on with the open run) and bring it as far as it gets.

        `approvals_required` people must agree (of whom nobody wrote what they approve); with an `approver` only that
        person's word counts. `pseudonym` says which author somebody would be. `approve` is asked when too few decisions
        are stored, and without it the run stops at `awaiting_approval`. `up_to` is the last inbox sequence to seal.
        `run_key` names the run from outside (a reconciler's job); by default it is derived from parent, events, rubric
        and code. Errors: PlumblineError when the consent ledger does not verify (nothing is published, nothing lost),
        somebody else holds the line, or the run key was used for something else.
        """
        lease = self.ledger.runs.acquire_lease(f"dataset-line/{dataset}", self.holder)
        try:
            for attempt in range(_ATTEMPTS):
                line = _Line(
                    self, dataset, rubric, policy_text, lease, approver, approvals_required, approve, pseudonym
                )
                try:
                    return line.run(up_to, run_key)
                except (ConsentLost, HeadMoved, PackGone, StagedRunGone):
                    if attempt == _ATTEMPTS - 1:
                        raise
            raise AssertionError("unreachable")
        finally:
            self.ledger.runs.release_lease(lease)


@dataclass
class _Line:
    """One attempt at one run: the stages in order, each found again or computed."""

    owner: Ingestion
    dataset: str
    rubric: str
    policy_text: str | None
    lease: Lease
    approver: str | None
    approvals_required: int
    approve: Approve | None
    pseudonym: Callable[[str], str]
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = time.monotonic()

    def _finished(self, stage: str) -> None:
        """Note that a stage is durable, and how long it took since the one before."""
        now = time.monotonic()
        self.seconds[stage], self._since = now - self._since, now
        if stage != "published":
            self.ledger.runs.renew_lease(self.lease)
        self.owner.on_stage(stage)

    @property
    def ledger(self) -> Ledger:
        return self.owner.ledger

    @property
    def config(self) -> IngestionConfig:
        return self.owner.config

    @cached_property
    def parent(self) -> DatasetManifest | None:
        head = self.ledger.publications.head(self.dataset)
        return None if head is None else load_manifest(self.ledger, self.owner.blobs, self.dataset)

    def run(self, up_to: int | None, run_key: str | None) -> IngestionResult:
        consent = verified_consent(self.ledger)
        if run_key is not None and (state := ended_without_version(self.ledger, self.dataset, run_key)) is not None:
            return IngestionResult(
                state, self.dataset, run_key, self.ledger.publications.head(self.dataset), self.parent
            )
        if run_key is not None and (done := self.ledger.publications.by_run(run_key)) is not None:
            manifest = load_manifest(self.ledger, self.owner.blobs, self.dataset, done.version)
            return IngestionResult("published", self.dataset, run_key, done, manifest, **_counts(manifest))
        lost = self.ledger.publications.uncovered(self.dataset)
        sealed = self._seal(up_to, run_key, removal=bool(lost))
        if sealed is None:
            self._drop_leftovers()
            head = self.ledger.publications.head(self.dataset)
            return IngestionResult("no_change", self.dataset, "", head, self.parent)
        with undisturbed():
            return self._decide(*sealed, consent, lost)

    # --- sealed -----------------------------------------------------------------------------------------------

    def _seal(self, up_to: int | None, run_key: str | None, *, removal: bool) -> tuple[Run, list[SealedEvent]] | None:
        """The open run if it is still about this head, rubric and code; else a new one over what is not consumed."""
        runs, head = self.ledger.runs, self.ledger.publications.head(self.dataset)
        parent = None if head is None else head.digest
        current = runs.open_run(self.dataset)
        if current is not None:
            same = (current.parent, current.rubric, current.code) == (parent, self.rubric, self.owner.code)
            if same and run_key in (None, current.run_key):
                return current, read_sealed(self.ledger.database, current.from_sequence, current.to_sequence)
        first = runs.sealed_sequence(self.dataset) + 1
        last = min(
            2**62 if up_to is None else up_to, self.ledger.inbox.last_sequence(), first + self.config.most_events - 1
        )
        if current is not None:
            last = max(last, current.to_sequence)
        if last < first and not removal:
            return None
        events = read_sealed(self.ledger.database, first, last)
        facts = {
            "run": "ingestion",
            "dataset": self.dataset,
            "parent": parent,
            "events": digest_bytes("".join(sorted(event.fingerprint or "" for event in events)).encode()),
            "range": [first, last],
            "rubric": self.rubric,
            "code": self.owner.code,
        }
        with self.ledger.database.transaction():
            runs.check_lease(self.lease)  # since `current` was read, somebody may have taken the line over and sealed
            if current is not None:
                runs.advance_run(current.run_key, current.stage, state="superseded")
            run = runs.start_run(
                Run(
                    run_key=run_key or digest_of(facts),
                    dataset=self.dataset,
                    parent=parent,
                    from_sequence=first,
                    to_sequence=max(last, first - 1),
                    rubric=self.rubric,
                    code=self.owner.code,
                    stage="sealed",
                    candidate=None,
                    state="open",
                )
            )
        self._finished("sealed")
        return run, events

    # --- verified ... split -----------------------------------------------------------------------------------

    def _decide(self, run: Run, events: list[SealedEvent], consent: ConsentHead, lost: set[str]) -> IngestionResult:
        require_whole(self.ledger, events)
        left = events
        reasons: Counter[str] = Counter()
        near = self.config.near_duplicate
        signing = signer(self.ledger)
        leaving = self.ledger.publications.of_subjects(self.dataset, sorted(lost))
        gone = [member.id for member in leaving]
        history = History(self.ledger, self.owner.blobs, self.dataset, signing, gone)
        history.sweep()
        said = digest_bytes("".join(event.fingerprint or "-" for event in events).encode())
        key = digest_of({"run": run.run_key, "range": [run.from_sequence, run.to_sequence], "events": said})

        def through(stage: str, compute: Callable[[], stages.Rejections], extra: Any = None) -> None:
            nonlocal left, key
            key, verdict = self._stage(run, stage, key, extra, lambda: {"rejected": _keys_to_text(compute())})
            rejected = {int(sequence): reason for sequence, reason in verdict["rejected"].items()}
            reasons.update(rejected.values())
            left = [event for event in left if event.sequence not in rejected]

        erased = [event.sequence for event in events if event.data is None]
        through("verified", lambda: stages.verified(left), extra=erased)
        found = stages.batch(left, signing)
        through("deduplicated", lambda: stages.deduplicated(left, found, near))
        now = self.ledger.database.clock()
        standings = self.ledger.consent.standings(sorted({event.subject for event in left}), "training")
        refused = stages.consent_checked(left, standings, consent.sequence, now)
        through("consent_checked", lambda: refused, extra={"head": consent.digest, "verdict": _keys_to_text(refused)})

        preferences = tuple(one for event in left if (one := preference(event)) is not None)
        signals = stages.routed(left, found)
        # What people will read is cleaned like what a policy will: a comment is no target, but reviewers see it.
        shown = stages.redacted_signals(event for event in left if event.sequence in signals)
        through("redacted", lambda: signals)
        redactions: Counter[str] = Counter()
        for counts in [*(found.rows[row].counts for row in found.among(left)), *(one.counts for one in shown)]:
            redactions.update(counts)
        samples = stages.samples((found.rows[row] for row in found.among(left)), shown)

        limits = self.config.guards
        through("guarded", lambda: stages.guarded(found, found.among(left), history, limits, near))
        rows = found.among(left)
        subjects = sorted({found.rows[row].subject for row in rows})
        anchors = [
            anchor for anchor in self.ledger.publications.anchors(self.dataset, subjects) if anchor.subject not in lost
        ]
        placement = stages.split(found, rows, history, anchors, self.config.held_out_share)
        through("split", lambda: placement.dropped)

        rows = found.among(left)
        added = self._store(found, rows, placement, standings, consent)
        candidate = Candidate(
            dataset=self.dataset,
            parent=run.parent,
            rubric=self.rubric,
            code=self.owner.code,
            events=run.run_key,
            added=added.members,
            removed=tuple(sorted(member.address for member in leaving)),
            sealed=len(events),
            accepted=len(added.members),
            rejected=dict(sorted(reasons.items())),
            redactions=dict(sorted(redactions.items())),
        )
        result = IngestionResult(
            state="awaiting_approval",
            dataset=self.dataset,
            run_key=run.run_key,
            candidate=candidate,
            redacted_samples=samples,
            preferences=preferences,
            seconds=self.seconds,
            **_counts(candidate),
        )
        authors = {str(author_of(found.rows[row])) for row in rows}
        return self._conclude(run, candidate, added, authors, consent, result)

    def _stage(
        self, run: Run, stage: str, key: str, extra: Any, compute: Callable[[], dict[str, Any]]
    ) -> tuple[str, dict[str, Any]]:
        """Find a stage's blob by what went into it, or make it. Returns the key for the next stage and the verdict."""
        address = digest_of({"stage": stage, "input": key, "code": run.code, "extra": extra})
        if not self.owner.blobs.has(address):
            text = json.dumps(compute(), sort_keys=True, separators=(",", ":"))
            self.owner.blobs.put_at(address, text.encode())
        verdict: dict[str, Any] = json.loads(self.owner.blobs.get(address))
        self.ledger.runs.advance_run(run.run_key, stage)
        self._finished(stage)
        return digest_of({"after": address, "verdict": verdict}), verdict

    def _store(
        self,
        found: stages.Batch,
        rows: Sequence[int],
        placement: Placement,
        standings: Mapping[str, Standing],
        consent: ConsentHead,
    ) -> Addition:
        """The chosen demonstrations as examples, durable and not yet in any version."""
        now = self.ledger.database.clock()
        covered = {subject: standing.covers(consent.sequence, now) for subject, standing in standings.items()}
        filtered = (f"ingest@{short(self.owner.code)}",)
        chosen = [found.rows[row] for row in rows]
        drafts = [
            draft(one, placement.clusters[one.sequence], covered[one.subject].sequence, filtered, self.config.licence)
            for one in chosen
        ]
        with self.ledger.database.transaction():
            require_consent(self.ledger, {one.subject for one in chosen}, consent.sequence, (consent, standings))
            return store(
                self.ledger,
                self.owner.blobs,
                self.dataset,
                drafts,
                salted(self.ledger, drafts),
                [placement.splits[one.sequence] for one in chosen],
                found.keys.take(rows),
                [one.sequence for one in chosen],
                range(len(drafts)),
            )

    # --- awaiting_approval, publishing ------------------------------------------------------------------------

    def _conclude(
        self,
        run: Run,
        candidate: Candidate,
        added: Addition,
        authors: set[str],
        consent: ConsentHead,
        result: IngestionResult,
    ) -> IngestionResult:
        runs = self.ledger.runs
        if not candidate.added and not candidate.removed:
            runs.advance_run(run.run_key, "split", state="no_change")
            self._drop_leftovers()
            head = self.ledger.publications.head(self.dataset)
            return _with(result, state="no_change", version=head, manifest=self.parent)
        digest = self.owner.blobs.put(candidate.canonical_bytes())
        approvals = Approvals(
            self.ledger, self.owner.blobs, self.approver, self.approvals_required, self.approve, self.pseudonym
        )
        approvals.carry(run, candidate)
        runs.advance_run(run.run_key, "awaiting_approval", candidate=digest)
        self._drop_leftovers(keep=added.pack.name)
        self._finished("awaiting_approval")
        removal = not candidate.added  # leaving needs nobody's permission
        decision = (
            Decision(True, ()) if removal else approvals.decision(candidate, authors, lambda: self._examples(added))
        )
        if decision is None:
            return result
        if not decision.approved:
            runs.advance_run(run.run_key, "awaiting_approval", state="rejected")
            self._drop_leftovers()
            return _with(result, state="rejected")
        runs.advance_run(run.run_key, "publishing")
        self._finished("publishing")
        version = compose(
            self.ledger,
            self.dataset,
            self.parent,
            added if added.members else None,
            self.ledger.publications.by_address(self.dataset, candidate.removed),
            run_key=run.run_key,
            rubric=self.rubric,
            policy_text=self.policy_text,
            code=self.owner.code,
            consent=consent,
            reason="ingest",
            approved_by=decision.approvers,
            licence=self.config.licence,
            sealed=candidate.sealed,
            accepted=candidate.accepted,
            rejected=candidate.rejected,
            redactions=candidate.redactions,
        )
        published = publish_version(self.ledger, self.owner.blobs, version, lease=self.lease)
        self._finished("published")
        return _with(result, state="published", version=published, manifest=version.manifest)

    def _examples(self, added: Addition) -> list[Example]:
        """What an approver is asked about, read back from the pack."""
        view = self.owner.blobs.view_pack(added.pack.name) if added.members else memoryview(b"")
        return [example_in(bytes(view[new.place : new.place + new.length])) for new in added.new]

    def _drop_leftovers(self, keep: str | None = None) -> None:
        """Erase payloads of earlier candidates of this line that no version will ever name."""
        self.ledger.payloads.drop_unpublished(self.owner.blobs, self.dataset, keep=keep)


def _keys_to_text(rejected: stages.Rejections) -> dict[str, str]:
    return {str(sequence): reason for sequence, reason in sorted(rejected.items())}


def _counts(source: Candidate | DatasetManifest) -> dict[str, Any]:
    return {name: getattr(source, name) for name in ("sealed", "accepted", "rejected", "redactions")}


def _with(result: IngestionResult, **changes: Any) -> IngestionResult:
    return IngestionResult(**{**vars(result), **changes})
