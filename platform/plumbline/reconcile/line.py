"""The micro-world's dataset line: seed versions, and feedback into the next one, driven by `dataset_line`.

`ingest` asks the reconcile core what is next, does it, and looks again until there is nothing left to do: the same
decisions that the operator takes on a cluster, where each action is a Job instead of a call.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from plumbline.evaluation import DatasetWindow, Observations, Preference, ReviewLabel
from plumbline.feedback import (
    AbsenceProof,
    DatasetVersionData,
    Ingestion,
    diff,
    load_candidate,
    load_version,
    prove_absent,
    publish_removal,
    publish_seed_version,
    redact,
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
from plumbline.records import (
    ConsentReference,
    DatasetDiff,
    DatasetManifest,
    Example,
    Rubric,
    policy_text_digest,
    short,
)
from plumbline.stores import Approval, BlobStore, Ledger

DATASET, REPLAY = "microworld", "microworld-replay"
OWNER = "data-owner"
HELD_OUT_SHARE = 0.05
Told = Callable[[float, float, str], None]


@dataclass
class DataLine:
    """The line `microworld` and its replay pool, in one ledger."""

    ledger: Ledger
    blobs: BlobStore
    world: World
    rubric: Rubric
    seed: int
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
            policy_text=policy_text_digest(self.rubric),
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
            policy_text=policy_text_digest(self.rubric),
            splits=["train"] * len(pool),
            licence="CC0-1.0",
            reason="replay",
        )
        return load_version(self.ledger, self.blobs, DATASET, 1)

    def ingest(self, told: Told) -> DatasetVersionData:
        """Do what the core says until it says Wait; the head that results. The data owner approves what balances.

        Killed anywhere and called again it goes on, also when the version was published and nobody was told.
        """
        stages: list[str] = []

        def on_stage(stage: str) -> None:
            stages.append(stage)
            told(len(stages), 10, stage)

        ingestion = Ingestion(self.ledger, self.blobs, on_stage=on_stage)
        spec, text = LineSpec(dataset=DATASET, rubric=self.rubric.digest), policy_text_digest(self.rubric)
        observer = LedgerObserver(self.ledger.database.location, self.blobs.location)
        while True:
            action = reconcile(spec, observer.read(spec).observation()).actions[0]
            self.actions.append(type(action).__name__)
            match action:
                case StartIngestion(run_key, _, to_seq):
                    ingestion.run(DATASET, spec.rubric, approver=OWNER, up_to=to_seq, run_key=run_key, policy_text=text)
                case RequestApproval(_, candidate, _):
                    found = load_candidate(self.blobs, candidate)
                    balanced = found.accepted + sum(found.rejected.values()) == found.sealed
                    word = Approval(OWNER, balanced, "read the diff, the refusals by reason and the redactions")
                    self.ledger.runs.approve(candidate, word)
                case Publish(run_key) | Reject(run_key):
                    ingestion.run(DATASET, spec.rubric, approver=OWNER, run_key=run_key, policy_text=text)
                case StartRemoval(run_key):
                    publish_removal(self.ledger, self.blobs, DATASET, run_key=run_key)
                case Cancel() | Wait():
                    return load_version(self.ledger, self.blobs, DATASET)

    def redacted(self, most: int = 5) -> tuple[str, ...]:
        """A few texts from the inbox as redaction leaves them, to show what it does."""
        events = (queued.event for queued in self.ledger.inbox.read(1, self.ledger.inbox.last_sequence()))
        found = (redact(event.data.text) for event in events if event is not None and event.data.text)
        return tuple(sorted({one.text for one in found if one.counts})[:most])

    def version(self, number: int) -> DatasetVersionData:
        return load_version(self.ledger, self.blobs, DATASET, number)

    def difference(self, older: int, newer: int) -> DatasetDiff:
        return diff(self.ledger, DATASET, older, newer)

    def absent(self, subject: str, version: int | None = None) -> AbsenceProof:
        """Proof that a subject is in no member of a version (default: the head), and no payload of theirs is left."""
        return prove_absent(self.ledger, self.blobs, subject, DATASET, version)

    def observations(
        self, data: DatasetVersionData, labels: list[ReviewLabel], preferences: list[Preference]
    ) -> Observations:
        """What the pressures' monitors need beside the answers: the data before and now, and reviewers' labels."""
        before = [self.version(number) for number in range(1, data.manifest.version)]
        windows = [DatasetWindow(one.manifest, one.train) for one in before]
        return Observations(
            preferences=preferences,
            reviews=labels,
            previous=windows[-1] if windows else None,
            history=windows[:-1],
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


def summary(manifest: DatasetManifest, difference: DatasetDiff) -> str:
    return (
        f"version {manifest.version} ({short(manifest.digest)}): {manifest.accepted} of {manifest.sealed} events "
        f"accepted, +{len(difference.added)} -{len(difference.removed)} examples"
    )
