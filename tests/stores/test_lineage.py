"""Lineage both ways, departures with their reasons, the register of copies: on both databases, after erasure too."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import (
    TYPE_PREFIX,
    DatasetManifest,
    FeedbackData,
    FeedbackEvent,
    Label,
    PolicyManifest,
    Rubric,
    Rule,
    digest_of,
    say,
)
from plumbline.records.merkle import raw
from plumbline.stores import Approval, Ledger
from plumbline.stores.departures import departures
from plumbline.stores.exports import Exports
from plumbline.stores.reviews import NewItem, Settlement
from plumbline.stores.runs import Run


@dataclass
class Skeleton:
    """What the ledger keeps, written row by row: versions of one dataset, and who was in them from when until when."""

    ledger: Ledger
    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    manifests: dict[int, DatasetManifest] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.ledger.database.clock = lambda: self.moment
        self.notice = self.ledger.consent.register_notice("training", "1", "we train on what you write")

    def give(self, subject: str, **options: Any) -> None:
        self.ledger.consent.append(subject, "given", ["training"], self.notice, **options)

    def withdraw(self, subject: str) -> None:
        self.ledger.consent.append(subject, "withdrawn", ["training"], self.notice)

    def version(self, number: int, *, dataset: str = "assistant", reason: str = "ingest") -> str:
        head = self.ledger.consent.head()
        self.manifests[number] = manifest = DatasetManifest(
            dataset=dataset, version=number, run_key=digest_of(["run", dataset, number]),
            root=digest_of(["root", number]), changes=digest_of(["changes", number]), sizes={"train": 1},
            slices={"facts": 1}, subjects=1, rubric=digest_of("rubric"), code=digest_of("code"),
            consent_sequence=head.sequence, consent_head=head.digest, sealed=0, accepted=0, reason=reason,
        )  # fmt: skip
        self.ledger.database.insert(
            "publication", dataset=dataset, version=number, digest=manifest.digest, parent=None,
            run_key=manifest.run_key, root=manifest.root, reason=reason, consent_sequence=head.sequence,
            consent_head=head.digest, fencing_token=0, published_at=self.ledger.database.now(),
        )  # fmt: skip
        return manifest.digest

    def example(
        self, subject: str | None, added: int, removed: int | None = None, *, name: str = "", **more: Any
    ) -> str:
        address = digest_of([subject, name])
        row = {"dataset": "assistant", "split": "train", "event_sequence": None, **more}
        self.ledger.database.insert(
            "example", id=next(self.ids), address=raw(address), subject=subject,
            origin="rewrite", slice="facts", cluster="c-1", licence="consent",
            added_in=added, removed_in=removed, **row,
        )  # fmt: skip
        return address

    def policy(self, name: str, dataset: str | None = None, base: str | None = None) -> str:
        return self.ledger.releases.record_policy(
            PolicyManifest(
                name=name,
                role="aligned",
                weights=digest_of(name),
                tokenizer=digest_of("t"),
                template=digest_of("t"),
                base_policy=base,
                dataset=dataset,
            )
        )

    def event(self, subject: str, id: str, kind: str = "rewrite") -> int:
        data = FeedbackData(subject=subject, messages=(say("user", "q ?"),), answer="no", text="better", score=0.9)
        made = FeedbackEvent(id=id, source="app/web", type=TYPE_PREFIX + kind, data=data)
        return self.ledger.inbox.append([made])[0].sequence


@pytest.fixture
def made(ledger: Ledger) -> Skeleton:
    return Skeleton(ledger)


def names(policies: Any) -> list[tuple[str, bool]]:
    return [(one.name, one.direct) for one in policies]


def test_a_policy_counts_when_its_version_lies_inside_a_persons_time(made: Skeleton) -> None:
    digests = [made.version(number) for number in range(1, 7)]
    made.example("s-ana", 2, 4)
    made.example("s-ana", 5, 6, name="again")
    made.example("s-ben", 1)
    for number, digest in enumerate(digests, 1):
        made.policy(f"p{number}", digest)
    assert names(made.ledger.lineage.policies_of("s-ana")) == [("p2", True), ("p3", True), ("p5", True)]
    assert len(made.ledger.lineage.policies_of("s-ben")) == 6
    assert made.ledger.lineage.policies_of("s-nobody") == ()
    assert [version.version for version in made.ledger.lineage.of_subject("s-ana").versions] == [2, 3, 5]


def test_the_quick_answer_is_the_long_one(made: Skeleton) -> None:
    first, second = made.version(1), made.version(2)
    made.example("s-ana", 1, 2)
    made.example("s-ana", 2, name="held", split="held_out")
    saw = made.policy("saw", first)
    made.policy("through", second, base=saw)
    made.policy("further", None, base=made.policy("through", second, base=saw))
    made.policy("clean", second)
    quick = made.ledger.lineage.policies_of("s-ana")
    assert quick == made.ledger.lineage.of_subject("s-ana").policies
    assert names(quick) == [("further", False), ("saw", True), ("through", False)]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 6), st.none() | st.integers(1, 3), st.booleans()), max_size=12
    )
)
@settings(max_examples=60, deadline=None)
def test_the_quick_answer_is_the_long_one_whenever_examples_came_and_went(
    lived: list[tuple[str, int, int | None, bool]],
) -> None:
    with TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.sqlite") as ledger:
        made = Skeleton(ledger)
        for dataset in "ab":
            for number in range(1, 8):
                made.policy(f"{dataset}{number}", made.version(number, dataset=dataset))
        for at, (dataset, added, stays, held) in enumerate(lived):
            removed = None if stays is None else added + stays
            made.example("s-ana", added, removed, name=str(at), dataset=dataset, split="held_out" if held else "train")
        in_training = {
            f"{dataset}{number}"
            for dataset, added, stays, held in lived
            for number in range(added, 8 if stays is None else min(added + stays, 8))
            if not held
        }
        quick = ledger.lineage.policies_of("s-ana")
        assert {one.name for one in quick} == in_training
        assert quick == ledger.lineage.of_subject("s-ana").policies


def test_a_circle_of_bases_ends(made: Skeleton) -> None:
    digest = made.version(1)
    made.example("s-ana", 1)
    first = made.policy("a", digest)
    second = made.policy("b", None, base=first)
    made.ledger.database.execute("UPDATE policy SET base_policy = ? WHERE policy = ?", (second, first))
    assert names(made.ledger.lineage.policies_of("s-ana")) == [("a", True), ("b", False)]
    found = made.ledger.lineage.of_policy(first)
    assert found is not None and found.ancestors == (second, first)


def test_an_event_leads_to_its_examples_versions_policies_and_releases(made: Skeleton) -> None:
    digest = made.version(1)
    sequence = made.event("s-ana", "7", "rating")
    made.event("s-ana", "7", "report")
    address = made.example("s-ana", 1, event_sequence=sequence)
    judged = NewItem(sequence, "s-ana", "rating", digest_of("text"))
    rule = Rule(area="honesty", text="t", margins={"m": 0.1})
    rubric = Rubric(id="r", version="1", owner="o", purpose="p", rules=(rule,))
    made.ledger.reviews.open_batch(rubric, sequence, sequence, [judged], reviewers=2)
    for name, verdict, severity in (("rita", "approve", "none"), ("ruth", "reject", "minor")):
        word = Label(text=judged.text, verdict=verdict, rules=("honesty",), severity=severity)
        made.ledger.reviews.add_label(1, name, word)
    made.ledger.reviews.settle(Settlement(1, "approved", "adjudicated", (1, 2), ("rita",)))
    made.ledger.reviews.record_release(sequence, 1, sequence + 1)
    trained = made.policy("p", digest)
    made.ledger.releases.move_release("assistant", trained, None, "first", "owner")
    rating, report = made.ledger.lineage.events(source="app/web", id="7")
    assert (rating.event.sequence, rating.event.source, rating.event.erased) == (sequence, "app/web", False)
    assert [one.address for one in rating.memberships] == [address] and report.memberships == ()
    assert names(rating.policies) == [("p", True)] and rating.releases == (("assistant", 1, trained),)
    assert made.ledger.reviews.reviewers_of(sequence) == ("rita",), "a no is no approval"
    assert made.ledger.lineage.events(99) == []


def test_a_version_names_its_run_and_who_agreed(made: Skeleton) -> None:
    candidate = digest_of("candidate")
    made.version(1, reason="seed")
    made.version(2)
    run_key = made.manifests[2].run_key
    made.ledger.runs.start_run(
        Run(run_key, "assistant", None, 1, 9, digest_of("rubric"), digest_of("code"), "published", candidate, "open")
    )
    made.ledger.runs.approve(candidate, Approval("data-owner", True, "read"))
    published = made.ledger.publications.find("assistant", 2)
    assert published is not None
    found = made.ledger.lineage.dataset(published)
    assert (found.run.from_sequence, found.run.to_sequence) == (1, 9)
    assert [(one.approver, one.approved) for one in found.run.approvals] == [("data-owner", True)]
    assert [one.version for one in found.ancestors] == [1]
    assert made.ledger.lineage.run(made.manifests[1].run_key).approvals == (), "a seed has no run of events"


def test_erasure_changes_no_answer(made: Skeleton) -> None:
    digest = made.version(1)
    sequence = made.event("s-ana", "1")
    made.example("s-ana", 1, event_sequence=sequence)
    made.policy("p", digest)
    before = made.ledger.lineage.of_subject("s-ana")
    made.ledger.inbox.erase("s-ana")
    made.ledger.payloads.record_erasure("s-ana", 0, payloads=1, events=1)
    after = made.ledger.lineage.of_subject("s-ana")
    assert after.erased_at is not None and after.erased_at.startswith("2026-01-01")
    assert (after.events, after.versions, after.policies) == (before.events, before.versions, before.policies)
    (event,) = made.ledger.lineage.events(sequence)
    assert event.event.erased and names(event.policies) == [("p", True)]


def test_why_an_example_left_follows_from_consent(made: Skeleton) -> None:
    made.give("s-ana")
    made.give("s-eve", valid_until=made.moment + timedelta(days=1))
    made.give("s-ben")
    made.version(1)
    withdrawn = made.example("s-ana", 1, 2)
    moved = made.example("s-ben", 1, 2, name="moved")
    made.example("s-ben", 2, name="moved", split="held_out")
    dropped = made.example("s-ben", 1, 2, name="dropped")
    public = made.example(None, 1, 3)
    expired = made.example("s-eve", 1, 3)
    made.withdraw("s-ana")
    made.version(2)
    made.give("s-ana")
    made.moment += timedelta(days=2)
    made.version(3)
    made.ledger.payloads.record_erasure("s-ana", 0, payloads=1, events=0)
    found = departures(made.ledger.database, made.ledger.consent, "assistant", 1, 3)
    assert {address: (one.version, one.why) for address, one in found.items()} == {
        withdrawn: (2, "withdrawn"),
        moved: (2, "moved"),
        dropped: (2, "dropped"),
        public: (3, "dropped"),
        expired: (3, "expired"),
    }
    assert found[withdrawn].erased_at and not found[moved].erased_at
    later = departures(made.ledger.database, made.ledger.consent, "assistant", 2, 3)
    assert set(later) == {public, expired}


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_holds_whom_its_version_held_until_it_is_replaced_or_gone(made: Skeleton) -> None:
    exports = Exports(made.ledger.database, made.ledger.consent)
    made.give("s-ana")
    made.give("s-ben")
    made.version(1)
    made.example("s-ana", 1, 2)
    made.example("s-ben", 1, name="ben")
    copy = exports.begin(made.manifests[1], "parquet", "/data/one")
    assert copy.digest is None
    assert exports.holding("s-ana") == [copy], "a killed export is on the list too"
    exports.complete(copy, digest_of("copy"), examples=2, left_out=0)
    other = exports.complete(
        exports.begin(made.manifests[1], "messages", "/data/two"), digest_of("m"), examples=2, left_out=0
    )
    made.withdraw("s-ana")
    made.version(2)
    assert [one.location for one in exports.holding("s-ana")] == ["/data/one", "/data/two"]
    again = exports.complete(
        exports.begin(made.manifests[1], "parquet", "/data/one"), digest_of("b"), examples=1, left_out=1
    )
    assert exports.holding("s-ana") == [other], "the newer copy was made after the withdrawal and left her out"
    assert [one.sequence for one in exports.holding("s-ben")] == [other.sequence, again.sequence]
    (ended,) = exports.end("/data/two", "deleted")
    assert ended.ended_because == "deleted" and exports.holding("s-ana") == []
    with pytest.raises(PlumblineError, match="/data/one"):
        exports.end("/data/two", "deleted")
    assert len(exports.of_version("assistant", 1)) == 3, "the history stays"


def test_a_copy_made_after_a_new_consent_still_leaves_out_the_old_words(made: Skeleton) -> None:
    exports = Exports(made.ledger.database, made.ledger.consent)
    made.give("s-ana")
    made.version(1)
    made.example("s-ana", 1)
    made.withdraw("s-ana")
    made.give("s-ana")
    copy = exports.begin(made.manifests[1], "parquet", "/data/one")
    assert exports.withheld(["s-ana"], copy) == {"s-ana"} and exports.holding("s-ana") == []


def test_a_failed_export_is_off_the_list(made: Skeleton) -> None:
    exports = Exports(made.ledger.database, made.ledger.consent)
    made.version(1)
    exports.abandon(exports.begin(made.manifests[1], "parquet", "/data/one"))
    assert exports.standing() == [] and exports.of_version("assistant", 1)[0].ended_because == "not finished"
