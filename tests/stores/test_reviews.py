"""What people said of an answer: the first word stands, history is kept, and the words in it can be erased."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from backends import Backend, backend  # noqa: F401  (a fixture)

from plumbline.errors import PlumblineError
from plumbline.records import Label, Rubric, RubricRevision, Rule, digest_of, policy_text_digest
from plumbline.stores import Ledger
from plumbline.stores.reviews import NewItem, Reviews, Settlement

ANA, BEN, CARL = (f"s-{number:032x}" for number in (1, 2, 3))


def rubric(version: str = "1", honesty: str = "say when you do not know", margin: float = 0.02) -> Rubric:
    rules = (
        Rule(area="helpfulness", text="answer what was asked", margins={"helpful": margin}),
        Rule(area="honesty", text=honesty, margins={"calibrated": margin}),
    )
    return Rubric(id="support", version=version, owner="data-owner", purpose="tests", rules=rules)


def text(number: int) -> str:
    return digest_of(["text", number])


def word(number: int = 1, verdict: str = "approve", **more: object) -> Label:
    severity = "major" if verdict == "reject" else "none"
    return Label(text=text(number), verdict=verdict, rules=("honesty",), severity=severity, **more)  # type: ignore[arg-type]


@dataclass
class Office:
    ledger: Ledger
    reviews: Reviews
    backend: Backend

    def open(self, count: int = 2, of: Rubric | None = None, subject: str = ANA) -> list[int]:
        items = [NewItem(number, subject, "rating", text(number)) for number in range(1, count + 1)]
        batch = self.reviews.open_batch(of or rubric(), 1, count, items, reviewers=2).batch
        return [item.item for item in self.reviews.items() if item.batch == batch]


@pytest.fixture
def office(backend: Backend) -> Iterator[Office]:  # noqa: F811
    ledger = Ledger(backend.ledger, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), secret=b"reproducible")
    yield Office(ledger, Reviews(ledger.database), backend)
    ledger.close()


def test_a_batch_remembers_its_rubric_whole_and_the_range_it_looked_at(office):
    assert office.reviews.latest_rubric() is None and office.reviews.last_considered() == 0
    first, second = office.open()
    (batch,) = office.reviews.batches().values()
    assert (batch.first_sequence, batch.last_sequence, batch.reviewers) == (1, 2, 2)
    assert office.reviews.last_considered() == 2
    assert office.reviews.latest_rubric() == rubric()
    assert office.reviews.item(second).text == text(2)
    assert [item.item for item in office.reviews.items(policy_text_digest(rubric()))] == [first, second]
    assert office.reviews.items(policy_text_digest(rubric(honesty="never guess"))) == []
    with pytest.raises(PlumblineError, match="no review item 99"):
        office.reviews.item(99)


def test_the_same_event_and_text_is_put_to_people_once_under_the_same_rules(office):
    office.open(1)
    with pytest.raises(PlumblineError):
        office.open(1, rubric("2", margin=0.05))
    assert len(office.reviews.items()) == 1 and len(office.reviews.batches()) == 1, "all or nothing"
    office.open(1, rubric("2", honesty="never guess"))
    assert len(office.reviews.items_of(1)) == 2


def test_the_first_word_stands_and_a_correction_keeps_the_history(office):
    item, other = office.open()
    first = office.reviews.add_label(item, BEN, word())
    with pytest.raises(PlumblineError, match="has judged review item"):
        office.reviews.add_label(item, BEN, word(verdict="reject"))
    with pytest.raises(PlumblineError, match="not judged"):
        office.reviews.add_label(item, CARL, word(), correct=True)
    second = office.reviews.add_label(item, BEN, word(verdict="reject"), correct=True)
    third = office.reviews.add_label(item, BEN, word(verdict="unsure"), correct=True)
    office.reviews.add_label(other, BEN, word(2))
    (standing,) = office.reviews.labels([item])[item]
    assert (standing.sequence, standing.label.verdict, standing.supersedes) == (third, "unsure", second)
    assert [(g.sequence, g.superseded) for g in office.reviews.history([item])[item]] == [
        (first, True), (second, True), (third, False),
    ]  # fmt: skip
    assert set(office.reviews.labels()) == {item, other}


def test_one_person_has_one_part_in_an_item(office):
    (item,) = office.open(1)
    office.reviews.add_label(item, BEN, word())
    with pytest.raises(PlumblineError, match="was reviewer"):
        office.reviews.add_label(item, BEN, word(), role="adjudicator", correct=True)


def test_a_settled_item_takes_no_more_words(office):
    (item,) = office.open(1)
    labels = tuple(office.reviews.add_label(item, who, word()) for who in (BEN, CARL))
    office.reviews.settle(Settlement(item, "approved", "unanimous", labels, (BEN, CARL)))
    for correct in (False, True):
        with pytest.raises(PlumblineError, match="is settled"):
            office.reviews.add_label(item, BEN, word(), correct=correct)
    assert office.reviews.settlements([item])[item].approved_by == (BEN, CARL)
    with pytest.raises(PlumblineError):
        office.reviews.settle(Settlement(item, "rejected", "adjudicated", labels, ()))


def test_a_release_names_its_reviewers_and_its_rubric(office):
    item, other = office.open()
    office.reviews.settle(Settlement(item, "approved", "unanimous", (1, 2), (BEN, CARL)))
    assert office.reviews.reviewers_of(1) == () and office.reviews.rubric_of(1) is None
    office.reviews.record_release(1, item, 7)
    assert office.reviews.reviewers_of(1) == (BEN, CARL)
    assert office.reviews.rubric_of(1) == rubric().digest
    assert office.reviews.released() == {1: item}
    with pytest.raises(PlumblineError):
        office.reviews.record_release(1, other, 8)


def test_a_revision_is_opened_once_and_closed_by_a_rubric(office):
    office.open(1)
    asked = RubricRevision(
        rubric=rubric().digest,
        policy_text=policy_text_digest(rubric()),
        batch=1,
        alpha=0.4,
        low=0.2,
        high=0.6,
        items=30,
        rules=(("honesty", 0.3), ("helpfulness", None)),
        examples=(text(1),),
    )
    batch = next(iter(office.reviews.batches()))
    asked = asked.model_copy(update={"batch": batch})
    assert office.reviews.open_revision(asked) and not office.reviews.open_revision(asked)
    assert office.reviews.revisions() == [asked] and asked.state == "open"
    better = rubric("2", honesty="never guess")
    office.reviews.close_revision(batch, better)
    (closed,) = office.reviews.revisions()
    assert closed.state == "closed" and closed.closed_by == better.digest
    assert office.reviews.rubric(better.digest) == better


def test_erasing_takes_the_words_and_leaves_the_verdicts(office):
    """What was said about a person, and what a person said as a reviewer, go; other people's reasons stay."""
    (mine,) = office.open(1, subject=ANA)
    theirs = office.reviews.open_batch(rubric(), 2, 2, [NewItem(9, CARL, "report", text(9))], reviewers=2).batch
    (theirs,) = [item.item for item in office.reviews.items() if item.batch == theirs]
    office.reviews.add_label(mine, BEN, word(reason="she quotes her letter"))
    office.reviews.add_label(mine, BEN, word(reason="she quotes it twice"), correct=True)
    office.reviews.add_label(theirs, ANA, word(9, reason="as in my own case"))
    office.reviews.add_label(theirs, BEN, word(9, reason="fine"))
    assert office.reviews.erase(ANA) == 3
    assert office.reviews.erase(ANA) == 0
    kept = office.reviews.history()
    assert [given.label.reason for given in kept[mine]] == ["", ""]
    assert [given.label.reason for given in kept[theirs]] == ["", "fine"]
    assert [given.label.verdict for given in kept[mine]] == ["approve", "approve"]
    assert [given.label.text for given in kept[mine]] == [text(1)] * 2


def test_two_processes_that_say_the_same_persons_word_at_once_record_one(office):
    """Two connections, as two processes have them, race for twenty items."""
    items = office.open(20)
    others = [Ledger(office.backend.ledger) for _ in range(2)]
    start, refused = threading.Barrier(2), []

    def say(ledger: Ledger, verdict: str) -> None:
        reviews = Reviews(ledger.database)
        start.wait()
        for number, item in enumerate(items, start=1):
            try:
                reviews.add_label(item, BEN, word(number, verdict))
            except PlumblineError:
                refused.append(item)

    threads = [threading.Thread(target=say, args=pair) for pair in zip(others, ("approve", "reject"), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert sorted(refused) == items
    assert all(len(office.reviews.history([item])[item]) == 1 for item in items)


TABLES = {
    "review_rubric": "rubric", "review_batch": "batch", "review_item": "item", "review_label": "label",
    "review_settlement": "item", "review_release": "item", "review_revision": "revision",
    "review_revision_closed": "revision",
}  # fmt: skip


def test_no_row_is_ever_changed_or_removed_from_outside(office):
    (item,) = office.open(1)
    office.reviews.add_label(item, BEN, word(reason="clear"))
    office.reviews.settle(Settlement(item, "approved", "unanimous", (1,), (BEN,)))
    office.reviews.record_release(1, item, 5)
    batch = next(iter(office.reviews.batches()))
    asked = {"rubric": rubric().digest, "policy_text": policy_text_digest(rubric()), "batch": batch}
    office.reviews.open_revision(RubricRevision(**asked, alpha=0.1, items=10, rules=()))
    office.reviews.close_revision(batch, rubric("2", honesty="never guess"))
    outsider = office.backend.outsider()
    for table, column in TABLES.items():
        assert outsider.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0], table
        for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            with pytest.raises(outsider.refusal):
                outsider.execute(change)
    with pytest.raises(outsider.refusal):
        outsider.execute("UPDATE review_reason SET reason = 'another'")
    outsider.close()


def test_tables_hold_no_words_but_reasons(office):
    """Every column that could hold text is a digest, a pseudonym, a name from a list or the rubric itself."""
    (item,) = office.open(1)
    office.reviews.add_label(item, BEN, word(reason="zanzibar"))
    office.reviews.erase(ANA)
    outsider = office.backend.outsider()
    for table in (*TABLES, "review_reason"):
        assert "zanzibar" not in str(outsider.execute(f"SELECT * FROM {table}").fetchall())
    outsider.close()


def test_an_erased_reason_is_in_no_file(tmp_path):
    """Freed pages are overwritten and the log is emptied: a byte scan finds nothing."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    office = Office(ledger, Reviews(ledger.database), Backend("sqlite+local", tmp_path / "ledger.sqlite", tmp_path))
    items = office.open(50)
    for number, item in enumerate(items, start=1):
        office.reviews.add_label(item, BEN, word(number, reason=f"zanzibar {number} " + "x" * 200))

    def held() -> int:
        return sum(file.read_bytes().count(b"zanzibar") for file in tmp_path.rglob("*") if file.is_file())

    assert held() >= 50
    assert office.reviews.erase(ANA) == 50
    ledger.database.truncate_log()
    assert held() == 0
    ledger.close()


@pytest.mark.parametrize(
    "wrong",
    [{"verdict": "approve", "severity": "minor"}, {"verdict": "reject", "severity": "none"}, {"rules": ()},
     {"rules": ("honesty", "honesty")}, {"rules": ("kindness",)}, {"reason": "x" * 1001}, {"text": "sha256:12"}],
)  # fmt: skip
def test_a_label_that_contradicts_itself_is_none(wrong):
    fields = {"text": text(1), "verdict": "approve", "rules": ("honesty",), "severity": "none", **wrong}
    with pytest.raises(ValueError):
        Label(**fields)
