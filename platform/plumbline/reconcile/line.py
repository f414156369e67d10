"""The micro-world's dataset line: seed versions, and feedback into the next one, driven by `dataset_line`.

`ingest` asks the reconcile core what is next, does it, and looks again until there is nothing left to do: the same
decisions that the operator takes on a cluster, where each action is a Job instead of a call.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from plumbline.evaluation import DatasetWindow, Observations, Preference, ReviewLabel
from plumbline.feedback import (
    AbsenceProof,
    Candidate,
    DatasetVersionData,
    Ingestion,
    IngestionResult,
    diff,
    load_version,
    prove_absent,
    publish_removal,
    publish_seed_version,
)
from plumbline.microworld.demonstrations import replay_demonstrations, seed_demonstrations
from plumbline.microworld.recipe import SECOND
from plumbline.microworld.world import World
from plumbline.reconcile.dataset_line import (
    Cancel,
    LineSpec,
    Publish,
    Reject,
    RequestApproval,
    StartIngestion,
    StartRemoval,
    Wait,
    reconcile,
)
from plumbline.reconcile.ledger_observer import LedgerObserver
from plumbline.records import ConsentReference, DatasetDiff, DatasetManifest, Example, FeedbackEvent, Rubric, short
from plumbline.stores import Approval, Ledger, LocalBlobs, Review

DATASET, REPLAY = "microworld", "microworld-replay"
OWNER = "data-owner"
HELD_OUT_SHARE = 0.05
Told = Callable[[float, float, str], None]


@dataclass
class DataLine:
    """The line `microworld` and its replay pool, in one ledger."""

    ledger: Ledger
    blobs: LocalBlobs
    world: World
    rubric: Rubric
    seed: int
    redaction_samples: tuple[str, ...] = ()
    actions: list[str] = field(default_factory=list)

    def publish_seeds(self, pseudonym: Callable[[str], str]) -> DatasetVersionData:
        """Version 1 from the seed authors' demonstrations, each under its author's consent; and the replay pool."""
        seeds = [self._consented(example, pseudonym) for example in seed_demonstrations(self.world, self.seed)]
        publish_seed_version(
            self.ledger,
            self.blobs,
            DATASET,
            seeds,
            rubric=self.rubric.digest,
            held_out_share=HELD_OUT_SHARE,
            licence="CC0-1.0",
        )
        pool = replay_demonstrations(self.world, self.seed, SECOND.replay_pool)
        publish_seed_version(
            self.ledger,
            self.blobs,
            REPLAY,
            [example.model_copy(update={"provenance": _imported(example)}) for example in pool],
            rubric=self.rubric.digest,
            splits=["train"] * len(pool),
            licence="CC0-1.0",
            reason="replay",
        )
        return load_version(self.ledger, self.blobs, DATASET, 1)

    def ingest(self, review: Callable[[FeedbackEvent], Review | None], told: Told) -> IngestionResult:
        """Do what the core says until it says Wait. The data owner approves what it was asked to look at."""
        stages: list[str] = []

        def on_stage(stage: str) -> None:
            stages.append(stage)
            told(len(stages), 10, stage)

        ingestion = Ingestion(self.ledger, self.blobs, on_stage=on_stage)
        spec = LineSpec(dataset=DATASET, rubric=self.rubric.digest)
        observer = LedgerObserver(self.ledger.database.path, self.blobs.root)
        result: IngestionResult | None = None
        while True:
            action = reconcile(spec, observer.read(spec).observation()).actions[0]
            self.actions.append(type(action).__name__)
            match action:
                case StartIngestion(run_key, _, to_seq):
                    result = ingestion.run(
                        DATASET, spec.rubric, approver=OWNER, review=review, up_to=to_seq, run_key=run_key
                    )
                case RequestApproval(_, candidate, _):
                    assert result is None or result.candidate is None or _acceptable(result.candidate)
                    word = Approval(OWNER, True, "read the diff, the refusals by reason and the redactions")
                    self.ledger.runs.approve(candidate, word)
                case Publish(run_key) | Reject(run_key):
                    result = ingestion.run(DATASET, spec.rubric, approver=OWNER, review=review, run_key=run_key)
                case StartRemoval(run_key):
                    publish_removal(self.ledger, self.blobs, DATASET, run_key=run_key)
                case Cancel() | Wait():
                    break
        assert result is not None
        return result

    def version(self, number: int) -> DatasetVersionData:
        return load_version(self.ledger, self.blobs, DATASET, number)

    def difference(self, older: int, newer: int) -> DatasetDiff:
        return diff(self.version(older).manifest, self.version(newer).manifest)

    def absent(self, subject: str, version: int) -> AbsenceProof:
        """Proof that a subject is in no member of a version and that no payload of theirs is stored."""
        return prove_absent(self.ledger, self.blobs, subject, DATASET, version)

    def observations(
        self, data: DatasetVersionData, labels: list[ReviewLabel], preferences: list[Preference]
    ) -> Observations:
        """What the pressures' monitors need beside the answers: the data before and now, and reviewers' labels."""
        before = self.version(data.manifest.version - 1) if data.manifest.version > 1 else None
        return Observations(
            preferences=preferences,
            reviews=labels,
            previous=DatasetWindow(before.manifest, before.train) if before else None,
            current=DatasetWindow(data.manifest, data.train),
        )

    def _consented(self, example: Example, pseudonym: Callable[[str], str]) -> Example:
        subject = pseudonym(example.provenance.author)
        at = self.ledger.consent.head().sequence
        covered = self.ledger.consent.covers(subject, "training", at, self.ledger.database.clock())
        return example.model_copy(
            update={
                "provenance": example.provenance.model_copy(
                    update={"author": subject, "filtered_by": ("seed review",), "approved_by": (OWNER,)}
                ),
                "consent": ConsentReference(subject=subject, sequence=covered.sequence),
            }
        )


def _imported(example: Example) -> object:
    """Replay is public text of the world under its licence: nobody's consent carries it, a named licence does."""
    return example.provenance.model_copy(update={"origin": "import", "approved_by": (OWNER,)})


def _acceptable(candidate: Candidate) -> bool:
    """What the owner checks before a yes: every event is accounted for."""
    return candidate.accepted + sum(candidate.rejected.values()) == candidate.sealed


def refusals(manifest: DatasetManifest) -> str:
    """Rejections by reason in words, most frequent first."""
    return ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in Counter(manifest.rejected).most_common())


def summary(manifest: DatasetManifest, difference: DatasetDiff) -> str:
    return (
        f"version {manifest.version} ({short(manifest.digest)}): {manifest.accepted} of {manifest.sealed} events "
        f"accepted, +{len(difference.added)} -{len(difference.removed)} examples"
    )
