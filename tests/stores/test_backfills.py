"""How far a back-fill is, in SQLite and in PostgreSQL: the mark moves with what landed, and never past a gap."""

from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent, say
from plumbline.stores.inbox import Landed


def events(*numbers: int) -> list[Landed]:
    made = []
    for number in numbers:
        data = FeedbackData(subject=f"s-{number}", messages=(say("user", "who"),), answer="no", text="ana")
        made.append(Landed.of(FeedbackEvent(id=str(number), source="app", type=TYPE_PREFIX + "rewrite", data=data)))
    return made


def test_a_part_lands_once_with_its_refusals_and_the_mark_behind_it(desk: Any) -> None:
    ledger = desk.ledger
    begun = ledger.backfills.begin("run", "app", 2)
    assert (begun.task, begun.part, begun.done) == (0, 0, False)
    ledger.backfills.land("run", 0, 0, 4, events(1, 2, 1), {"not_json": 1})
    for place in ((0, 0), (0, 2), (1, 0)):
        with pytest.raises(PlumblineError, match="another writer"):
            ledger.backfills.land("run", *place, 1, events(9), {})
    assert ledger.inbox.last_sequence() == 2 and ledger.inbox.refused() == {("app", "not_json"): 1}
    ledger.backfills.land("run", 0, 1, 1, events(2), {})
    with pytest.raises(PlumblineError, match="another writer"):
        ledger.backfills.finish_task("run", 0, 1)
    ledger.backfills.finish_task("run", 0, 2)
    done = ledger.backfills.finish_task("run", 1, 0)
    assert done.done and done == ledger.backfills.begin("run", "app", 2)
    assert (done.lines, done.counts, done.reasons) == (5, {"accepted": 2, "duplicate": 2}, {"not_json": 1})


def test_what_fails_to_land_leaves_no_mark_and_no_events(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = desk.ledger
    ledger.backfills.begin("run", "app", 1)

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(ledger.inbox, "count_refused", full)
        with pytest.raises(OSError, match="no space"):
            ledger.backfills.land("run", 0, 0, 2, events(1), {"not_json": 1})
    assert ledger.inbox.last_sequence() == 0
    assert ledger.backfills.land("run", 0, 0, 2, events(1), {"not_json": 1}).counts == {"accepted": 1}


def test_a_run_belongs_to_one_source(desk: Any) -> None:
    desk.ledger.backfills.begin("run", "app", 2)
    with pytest.raises(PlumblineError, match="was begun for app"):
        desk.ledger.backfills.begin("run", "other", 2)
