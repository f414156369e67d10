"""What the operator reads and writes in a real ledger: it fails closed, makes no empty one, obeys its token."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import Ingestion, Pseudonyms
from plumbline.feedback.erase import erase
from plumbline.reconcile.cluster_observer import ClusterObserver
from plumbline.reconcile.dataset_line import LineSpec
from plumbline.records import FeedbackData, FeedbackEvent, digest_bytes, digest_of, say
from plumbline.records.resources import IngestionRunSpec
from plumbline.stores import Approval, Ledger, LocalBlobs, StaleLease
from plumbline.stores.projections import find_subject, resolve_subject

NAMES = Pseudonyms(b"the tenant key of these tests")
RUBRIC = digest_of("rubric")
WORDS = ["green", "blue", "amber", "violet", "copper", "silver", "scarlet", "olive"]


class Desk:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.sqlite"
        self.blobs = LocalBlobs(folder / "blobs")
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        with self.ledger() as ledger:
            ledger.consent.register_notice("training", "1", "we train on what you write")
        self.observer = ClusterObserver(self.path, folder / "blobs", names=lambda: NAMES, prefix="oidc:")

    def ledger(self) -> Ledger:
        return Ledger(self.path, clock=lambda: self.now)

    def consent(self, who: str, action: str = "given") -> None:
        with self.ledger() as ledger:
            notice = ledger.consent.find_notice("training", "1")
            ledger.consent.append(NAMES.of(who), action, ["training"], notice)  # type: ignore[arg-type]

    def rewrite(self, who: str, number: int) -> None:
        data = FeedbackData(
            subject=NAMES.of(who),
            messages=(say("user", f"what does {who} keep in the {WORDS[number]} box number {number}?"),),
            answer="I cannot help with that.",
            slice="benign",
            text=f"In the {WORDS[number]} box {who} keeps {number + 2} {WORDS[-number - 1]} buttons and a key.",
        )
        event = FeedbackEvent(id=f"e{number}", source="test", type="dev.plumbline.feedback.rewrite", data=data)
        with self.ledger() as ledger:
            ledger.inbox.append([event])

    def candidate(self) -> tuple[str, str]:
        with self.ledger() as ledger:
            result = Ingestion(ledger, self.blobs).run("support", RUBRIC)
        assert result.candidate is not None
        return result.run_key, result.candidate.digest


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    for number, who in enumerate(("ada", "ben")):
        made.consent(who)
        made.rewrite(who, number)
    return made


SPEC = LineSpec(dataset="support", rubric=RUBRIC)


def run_spec(key: str) -> IngestionRunSpec:
    return IngestionRunSpec(line="support", dataset="support", run_key=key, kind="ingestion")


def test_an_operator_that_was_overtaken_writes_nothing(desk: Desk) -> None:
    """The fencing token alone: no clock, no Lease of Kubernetes."""
    _, candidate = desk.candidate()
    old = desk.observer.fence("demo", "a", -1)
    new = desk.observer.fence("demo", "b", 60)
    assert new.token == old.token + 1
    word = Approval("olga", True, "ReadTheDiff")
    with pytest.raises(StaleLease):
        desk.observer.record(candidate, word, old)
    with desk.ledger() as ledger:
        assert ledger.runs.approvals(candidate) == []
    desk.observer.record(candidate, word, new)
    desk.observer.record(candidate, Approval("olga", False, "SecondThought"), new)
    with desk.ledger() as ledger:
        assert ledger.runs.approvals(candidate) == [word]


def test_while_one_holds_the_fence_another_gets_none(desk: Desk) -> None:
    desk.observer.fence("demo", "a", 60)
    with pytest.raises(PlumblineError):
        desk.observer.fence("demo", "b", 60)
    desk.observer.fence("other", "b", 60)


def test_an_author_is_known_behind_the_name_that_admission_sees(desk: Desk) -> None:
    _, candidate = desk.candidate()
    for name in ("oidc:ada", "ada", NAMES.of("ben")):
        seen = desk.observer.approval(candidate, name)
        assert seen.waiting and seen.authors is not None and seen.approver in seen.authors
    other = desk.observer.approval(candidate, "oidc:olga")
    assert other.authors is not None and other.approver not in other.authors
    blind = ClusterObserver(desk.path, desk.path.parent / "blobs", names=lambda: None)
    assert blind.approval(candidate, "olga").approver is None


def test_words_of_authors_do_not_count_whoever_let_them_in(desk: Desk) -> None:
    key, candidate = desk.candidate()
    with desk.ledger() as ledger:
        for name in ("ada", NAMES.of("ben"), "olga"):
            ledger.runs.approve(candidate, Approval(name, True, "agreed"))
    look = desk.observer.look(SPEC, [run_spec(key)], 5)
    assert look.reading.pending is not None and look.reading.pending.approvals == 1
    assert look.runs[key].approvals == 1 and look.runs[key].accepted == 2


def test_a_version_is_tainted_until_its_withdrawn_people_are_erased_and_redacted_then(desk: Desk) -> None:
    key, candidate = desk.candidate()
    with desk.ledger() as ledger:
        ledger.runs.approve(candidate, Approval("olga", True, "agreed"))
        Ingestion(ledger, desk.blobs).run("support", RUBRIC, run_key=key)

    def states() -> dict[int, str]:
        return {one.version: one.state for one in desk.observer.look(SPEC, [], 5).versions}

    def head() -> tuple[int | None, dict[str, int]]:
        newest = desk.observer.look(SPEC, [], 5).versions[0]
        return newest.examples, dict(newest.splits)

    assert states() == {1: "Active"}
    examples, splits = head()
    assert examples == 2 == sum(splits.values())
    digest = digest_bytes(NAMES.of("ada").encode())
    before = desk.observer.erasure(digest)
    assert before.known and before.consent_holds and (before.heads, before.left, before.erased) == (1, 2, None)

    desk.now += timedelta(hours=1)
    desk.consent("ada", "withdrawn")
    assert states() == {1: "Tainted"}
    assert not desk.observer.erasure(digest).consent_holds
    with desk.ledger() as ledger:
        erase(ledger, desk.blobs, NAMES.of("ada"))
    assert states() == {1: "Redacted", 2: "Active"}
    after = desk.observer.erasure(digest)
    assert (after.heads, after.left) == (0, 0) and after.erased is not None
    assert (after.erased.payloads, after.erased.events) == (1, 1)
    assert after.erased.completed_at == desk.now

    desk.consent("cleo")
    desk.rewrite("cleo", 3)
    assert desk.observer.erasure(digest).erased == after.erased, "the proof does not move with the world"


def test_a_person_is_found_by_digest_and_a_stranger_is_refused(desk: Desk) -> None:
    with desk.ledger() as ledger:
        digest = digest_bytes(NAMES.of("ada").encode())
        assert find_subject(ledger, digest) == resolve_subject(ledger, digest) == NAMES.of("ada")
        assert resolve_subject(ledger, "ada@example.org") == "ada@example.org"
        with pytest.raises(PlumblineError):
            resolve_subject(ledger, digest_of("nobody"))


def test_a_ledger_in_trouble_is_a_fact_and_never_made_anew(desk: Desk, tmp_path: Path) -> None:
    key, candidate = desk.candidate()
    kept = desk.path.read_bytes()
    desk.path.unlink()
    for beside in ("-wal", "-shm"):
        Path(f"{desk.path}{beside}").unlink(missing_ok=True)
    look = desk.observer.look(SPEC, [run_spec(key)], 5)
    assert look.reading.verifies is None and not look.runs[key].readable
    assert desk.observer.erasure(digest_of("x")).ledger_verifies is None
    assert desk.observer.approval(candidate, "olga").ledger_verifies is None
    with pytest.raises(PlumblineError):
        desk.observer.fence("demo", "a", 60)
    assert not desk.path.exists()
    desk.path.write_bytes(kept)
    assert desk.observer.look(SPEC, [run_spec(key)], 5).reading.verifies is True
