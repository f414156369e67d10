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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from plumbline.feedback import stages
from plumbline.feedback.approval import Approvals, Approve
from plumbline.feedback.candidate import Candidate, IngestionConfig, IngestionResult, preference
from plumbline.feedback.publish import (
    code_digest,
    load_manifest,
    publish_manifest,
    read_example,
    signer,
    store_examples,
)
from plumbline.records import (
    ConsentReference,
    DatasetManifest,
    Example,
    FeedbackEvent,
    Member,
    Message,
    Provenance,
    digest_of,
    merkle_root,
    short,
)
from plumbline.stores import (
    BlobStore,
    ConsentHead,
    ConsentLost,
    HeadMoved,
    Lease,
    Ledger,
    MemberDetail,
    Queued,
    Review,
    Run,
)

STAGES = (
    "sealed", "verified", "deduplicated", "consent_checked", "redacted", "guarded", "split",
    "awaiting_approval", "publishing", "published",
)  # fmt: skip
_ATTEMPTS = 8  # rebuilds after a moved head or a lost consent before a person should look

Reviewer = Callable[[FeedbackEvent], Review | None]


class Ingestion:
    """Runs ingestions of one ledger. `on_stage` is called after each stage is durable (progress, and failpoints)."""

    def __init__(
        self,
        ledger: Ledger,
        blobs: BlobStore,
        config: IngestionConfig | None = None,
        *,
        holder: str = "local",
        on_stage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ledger = ledger
        self.blobs = blobs
        self.config = config or IngestionConfig()
        self.holder = holder
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
        approver: str = "data-owner",
        approve: Approve | None = None,
        review: Reviewer | None = None,
        up_to: int | None = None,
        run_key: str | None = None,
    ) -> IngestionResult:
        """Seal what is new (or carry on with the open run) and bring it as far as it gets.

        `approver` must agree; `approve` is asked when no decision is stored, and without it the run stops at
        `awaiting_approval`. `review` is asked about highly rated answers that no reviewer has judged. `up_to` is
        the last inbox sequence to seal. `run_key` names the run from outside (a reconciler's job); by default it is
        derived from parent, events, rubric and code. Errors: PlumblineError when the consent ledger does not
        verify (nothing is published, nothing lost) or somebody else holds the line.
        """
        lease = self.ledger.runs.acquire_lease(f"dataset-line/{dataset}", self.holder)
        try:
            for attempt in range(_ATTEMPTS):
                line = _Line(self, dataset, rubric, lease, approver, approve, review)
                try:
                    return line.run(up_to, run_key)
                except (ConsentLost, HeadMoved):
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
    lease: Lease
    approver: str
    approve: Approve | None
    review: Reviewer | None
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = time.monotonic()

    def _finished(self, stage: str) -> None:
        """Note that a stage is durable, and how long it took since the one before."""
        now = time.monotonic()
        self.seconds[stage], self._since = now - self._since, now
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
        consent = self.ledger.consent.require_valid()
        if run_key is not None and (done := self.ledger.publications.by_run(run_key)) is not None:
            manifest = load_manifest(self.ledger, self.owner.blobs, self.dataset, done.version)
            return IngestionResult("published", self.dataset, run_key, done, manifest, **_counts(manifest))
        lost = self.ledger.publications.uncovered(self.dataset)
        run = self._seal(up_to, run_key, removal=bool(lost))
        if run is None:
            head = self.ledger.publications.head(self.dataset)
            return IngestionResult("no_change", self.dataset, "", head, self.parent)
        events = self.ledger.inbox.read(run.from_sequence, run.to_sequence)
        return self._decide(run, events, consent, lost)

    # --- sealed -----------------------------------------------------------------------------------------------

    def _seal(self, up_to: int | None, run_key: str | None, *, removal: bool) -> Run | None:
        """The open run if it is still about this head, rubric and code; else a new one over what is not consumed."""
        runs, head = self.ledger.runs, self.ledger.publications.head(self.dataset)
        parent = None if head is None else head.digest
        current = runs.open_run(self.dataset)
        if current is not None:
            same = (current.parent, current.rubric, current.code) == (parent, self.rubric, self.owner.code)
            if same and run_key in (None, current.run_key):
                return current
        first = runs.sealed_sequence(self.dataset) + 1
        last = min(up_to or 2**62, self.ledger.inbox.last_sequence())
        if current is not None:
            last = max(last, current.to_sequence)
        if last < first and not removal:
            return None
        events = self.ledger.inbox.read(first, last)
        facts = {
            "run": "ingestion",
            "dataset": self.dataset,
            "parent": parent,
            "events": merkle_root(event.fingerprint for event in events if event.fingerprint is not None),
            "rubric": self.rubric,
            "code": self.owner.code,
        }
        with self.ledger.database.transaction():
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
        return run

    # --- verified ... split -----------------------------------------------------------------------------------

    def _decide(self, run: Run, events: list[Queued], consent: ConsentHead, lost: set[str]) -> IngestionResult:
        left = events
        reasons: Counter[str] = Counter()
        rating, near = self.config.approved_rating, self.config.near_duplicate
        signing = signer(self.ledger)
        signatures = self.ledger.payloads.signatures(self.dataset)
        members = {member.address: member for member in self.ledger.publications.current_members(self.dataset)}
        key = digest_of({"run": run.run_key, "range": [run.from_sequence, run.to_sequence]})

        def through(stage: str, compute: Callable[[], stages.Rejections], extra: Any = None) -> None:
            nonlocal left, key
            key, verdict = self._stage(run, stage, key, extra, lambda: {"rejected": _keys_to_text(compute())})
            rejected = {int(sequence): reason for sequence, reason in verdict["rejected"].items()}
            reasons.update(rejected.values())
            left = [event for event in left if event.sequence not in rejected]

        erased = [event.sequence for event in events if event.event is None]
        through("verified", lambda: stages.verified(left), extra=erased)
        through("deduplicated", lambda: stages.deduplicated(left, signing, near, rating))
        now = self.ledger.database.clock()
        refused = stages.consent_checked(left, self.ledger.consent, consent.sequence, now)
        through("consent_checked", lambda: refused, extra={"head": consent.digest, "verdict": _keys_to_text(refused)})

        preferences = tuple(one for event in left if (one := preference(event)) is not None)
        reviews = self._reviews(left)
        words = {
            str(sequence): [[word.reviewer, word.approved] for word in found] for sequence, found in reviews.items()
        }
        signals = stages.routed(left, rating, reviews)
        clean = {
            event.sequence: stages.redacted(found)
            for event in left
            if event.sequence not in signals and (found := stages.demonstration(event, rating)) is not None
        }
        # What people will read is cleaned like what a policy will: a comment is no target, but reviewers see it.
        shown = stages.redacted_signals(event for event in left if event.sequence in signals)
        redactions: Counter[str] = Counter()
        for counts in [*(item.counts for item in clean.values()), *(one.counts for one in shown)]:
            redactions.update(counts)
        through("redacted", lambda: signals, extra=words)

        published = {signature.text_key for signature in signatures.values()}

        def cleaned() -> list[stages.Clean]:
            return [clean[event.sequence] for event in left]

        through("guarded", lambda: stages.guarded(cleaned(), signing, published, self.config.guards))
        neighbours = stages.Neighbours(members, signatures, lambda address: read_example(self.owner.blobs, address))
        placement = stages.split(cleaned(), signing, neighbours, near, self.config.held_out_share)
        through("split", lambda: placement.dropped)

        chosen = cleaned()
        examples = [self._example(item, placement.clusters[item.source.sequence], reviews, consent) for item in chosen]
        addresses = store_examples(self.ledger, self.owner.blobs, self.dataset, examples)
        added, details = [], {}
        for item, example, address in zip(chosen, examples, addresses, strict=True):
            sequence = item.source.sequence
            signature = signing.sign(item.messages, item.target, item.source.conversation).signature
            details[address] = MemberDetail(example.provenance.origin, signature, sequence)
            added.append(
                Member(
                    address=address,
                    split=placement.splits[sequence],
                    slice=example.slice,
                    cluster=example.cluster,
                    subject=item.source.queued.subject,
                )
            )
        candidate = Candidate(
            dataset=self.dataset,
            parent=run.parent,
            rubric=self.rubric,
            code=self.owner.code,
            events=run.run_key,
            added=tuple(sorted(added, key=lambda member: member.address)),
            removed=tuple(sorted(address for address, member in members.items() if member.subject in lost)),
            sealed=len(events),
            accepted=len(added),
            rejected=dict(sorted(reasons.items())),
            redactions=dict(sorted(redactions.items())),
        )
        result = IngestionResult(
            state="awaiting_approval",
            dataset=self.dataset,
            run_key=run.run_key,
            candidate=candidate,
            redacted_samples=stages.samples(clean.values(), shown),
            preferences=preferences,
            seconds=self.seconds,
            **_counts(candidate),
        )
        return self._conclude(run, candidate, examples, details, consent, result)

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

    def _reviews(self, events: Sequence[Queued]) -> dict[int, list[Review]]:
        """Stored words on highly rated answers; a reviewer is asked about those that have none."""
        rated = [
            event
            for event in events
            if (found := stages.demonstration(event, self.config.approved_rating)) and found.origin == "approved_answer"
        ]
        reviews = self.ledger.inbox.reviews(event.sequence for event in rated)
        if self.review is not None:
            for event in rated:
                if event.sequence not in reviews and event.event and (word := self.review(event.event)) is not None:
                    self.ledger.inbox.review(event.sequence, word)
            reviews = self.ledger.inbox.reviews(event.sequence for event in rated)
        return reviews

    def _example(
        self, item: stages.Clean, cluster: str, reviews: dict[int, list[Review]], consent: ConsentHead
    ) -> Example:
        source, data = item.source, item.source.event.data
        covered = self.ledger.consent.covers(
            source.queued.subject, "training", consent.sequence, self.ledger.database.clock()
        )
        reviewers = [word.reviewer for word in reviews.get(source.sequence, ())]
        return Example(
            messages=(*item.messages, Message(role="assistant", content=item.target)),
            slice=data.slice,
            language=data.language,
            phrasing=data.phrasing,
            cluster=cluster,
            provenance=Provenance(
                origin="rewrite" if source.origin == "rewrite" else "approved_answer",
                author=(data.author or source.queued.subject)
                if source.origin == "rewrite"
                else f"policy:{data.policy or 'unknown'}",
                source=source.event.source,
                event=source.event.digest,
                filtered_by=(f"ingest@{short(self.owner.code)}",),
                approved_by=(*reviewers, self.approver),
                licence=self.config.licence,
            ),
            consent=ConsentReference(subject=source.queued.subject, sequence=covered.sequence),
        )

    # --- awaiting_approval, publishing ------------------------------------------------------------------------

    def _conclude(
        self,
        run: Run,
        candidate: Candidate,
        examples: list[Example],
        details: dict[str, MemberDetail],
        consent: ConsentHead,
        result: IngestionResult,
    ) -> IngestionResult:
        runs = self.ledger.runs
        if not candidate.added and not candidate.removed:
            runs.advance_run(run.run_key, "split", state="no_change")
            self._drop_leftovers(keep=set())
            head = self.ledger.publications.head(self.dataset)
            return _with(result, state="no_change", version=head, manifest=self.parent)
        digest = self.owner.blobs.put(candidate.canonical_bytes())
        approvals = Approvals(self.ledger, self.owner.blobs, self.approver, self.approve)
        approvals.carry(run, candidate)
        runs.advance_run(run.run_key, "awaiting_approval", candidate=digest)
        self._drop_leftovers(keep={member.address for member in candidate.added})
        self._finished("awaiting_approval")
        decision = approvals.decision(candidate, examples)
        if decision is None:
            return result
        if not decision.approved:
            runs.advance_run(run.run_key, "awaiting_approval", state="rejected")
            self._drop_leftovers(keep=set())
            return _with(result, state="rejected")
        runs.advance_run(run.run_key, "publishing")
        self._finished("publishing")
        manifest = self._manifest(run, candidate, consent)
        published = publish_manifest(self.ledger, self.owner.blobs, manifest, details, lease=self.lease)
        self._finished("published")
        return _with(result, state="published", version=published, manifest=manifest)

    def _manifest(self, run: Run, candidate: Candidate, consent: ConsentHead) -> DatasetManifest:
        removed = set(candidate.removed)
        kept = [member for member in self.parent.members if member.address not in removed] if self.parent else []
        members = tuple(sorted([*kept, *candidate.added], key=lambda member: member.address))
        return DatasetManifest(
            dataset=self.dataset,
            version=self.parent.version + 1 if self.parent else 1,
            parent=run.parent,
            run_key=run.run_key,
            root=merkle_root(member.address for member in members),
            members=members,
            rubric=self.rubric,
            code=self.owner.code,
            consent_sequence=consent.sequence,
            consent_head=consent.digest,
            licence=self.config.licence,
            redactions=candidate.redactions,
            **{name: getattr(candidate, name) for name in ("sealed", "accepted", "rejected")},
        )

    def _drop_leftovers(self, keep: set[str]) -> None:
        """Erase payloads of earlier candidates of this line that no version will ever name."""
        gone = [address for address in self.ledger.payloads.unpublished(self.dataset) if address not in keep]
        for address in gone:
            self.owner.blobs.delete(address)
        self.ledger.payloads.forget(gone)


def _keys_to_text(rejected: stages.Rejections) -> dict[str, str]:
    return {str(sequence): reason for sequence, reason in sorted(rejected.items())}


def _counts(source: Candidate | DatasetManifest) -> dict[str, Any]:
    return {name: getattr(source, name) for name in ("sealed", "accepted", "rejected", "redactions")}


def _with(result: IngestionResult, **changes: Any) -> IngestionResult:
    return IngestionResult(**{**vars(result), **changes})
