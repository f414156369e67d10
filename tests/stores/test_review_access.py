"""Access to the review page: a link is good once and for a while, in any number of processes, and is nowhere kept."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from plumbline.stores import Ledger

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RITA, ROLF = "s-" + "1" * 32, "s-" + "2" * 32


def test_a_link_lets_in_once_also_after_a_restart_and_in_another_process(desk: Any) -> None:
    link = desk.ledger.review_access.invite(RITA, "adjudicator", valid=HOUR)
    with Ledger(desk.path, clock=lambda: desk.now) as other:
        found = other.review_access.invited(link)
        assert found is not None and (found.person, found.role) == (RITA, "adjudicator")
        session = other.review_access.enter(link, lasting=DAY)
        assert session is not None and session != link
    access = desk.ledger.review_access
    assert access.invited(link) is None and access.enter(link, lasting=DAY) is None
    assert access.present(session) == found and access.present(link) is None, "a link is no cookie"


def test_of_many_who_use_one_link_at_once_one_gets_in(desk: Any) -> None:
    link = desk.ledger.review_access.invite(RITA, valid=HOUR)
    ledgers = [Ledger(desk.path, clock=lambda: desk.now) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda one: one.review_access.enter(link, lasting=DAY), ledgers))
    for one in ledgers:
        one.close()
    assert sum(session is not None for session in sessions) == 1


def test_a_wrong_link_is_refused_while_somebody_writes_and_makes_nobody_wait(desk: Any) -> None:
    used = desk.ledger.review_access.invite(RITA, valid=HOUR)
    session = desk.ledger.review_access.enter(used, lasting=DAY)
    with Ledger(desk.path, clock=lambda: desk.now) as other, desk.ledger.database.transaction():
        assert other.review_access.enter("A" * 43, lasting=DAY) is None
        assert other.review_access.enter(used, lasting=DAY) is None
        assert other.review_access.present(session) is not None


def test_a_link_and_a_session_end_when_their_time_is_over(desk: Any) -> None:
    access = desk.ledger.review_access
    early, late = access.invite(RITA, valid=HOUR), access.invite(RITA, valid=HOUR)
    session = access.enter(early, lasting=DAY)
    desk.now += HOUR
    assert access.invited(late) is None and access.enter(late, lasting=DAY) is None
    desk.now += DAY - HOUR - timedelta(seconds=1)
    assert access.present(session) is not None
    desk.now += timedelta(seconds=1)
    assert access.present(session) is None


def test_whoever_leaves_or_is_dismissed_is_out_and_their_links_are_dead(desk: Any) -> None:
    access = desk.ledger.review_access
    left = access.enter(access.invite(RITA, valid=HOUR), lasting=DAY)
    access.leave(left)
    access.leave(left)
    access.leave("no session of ours")
    assert access.present(left) is None
    link, session = access.invite(RITA, valid=HOUR), access.enter(access.invite(RITA, valid=HOUR), lasting=DAY)
    others = access.enter(access.invite(ROLF, valid=HOUR), lasting=DAY)
    found = {(one.guest.person, one.entered_at is not None) for one in access.open()}
    assert found == {(RITA, False), (RITA, True), (ROLF, True)}
    assert access.dismiss(RITA) == 2 and access.dismiss(RITA) == 0, "one session and one link; who left is out already"
    assert access.invited(link) is None and access.present(session) is None and access.present(others) is not None
    assert [one.guest.person for one in access.open()] == [ROLF]
    desk.now += DAY
    assert access.open() == []


def test_what_is_no_secret_of_ours_lets_nobody_in(desk: Any) -> None:
    access = desk.ledger.review_access
    link = access.invite(RITA, valid=HOUR)
    for forged in ("", "A" * 43, link[:-1], link + "\n", link.swapcase(), "é" * 43, "\x00" * 43, "' OR 1=1 --"):
        assert access.invited(forged) is None and access.enter(forged, lasting=DAY) is None
        assert access.present(forged) is None


def test_secrets_are_not_in_the_ledger_and_its_rows_stay(desk: Any) -> None:
    access = desk.ledger.review_access
    link = access.invite(RITA, valid=HOUR)
    session = access.enter(link, lasting=DAY)
    access.leave(session)
    raw = desk.backend.outsider()
    for table in ("review_invitation", "review_entry", "review_exit"):
        (row,) = raw.execute(f"SELECT * FROM {table}").fetchall()
        assert not {link, session} & set(row)
        for statement in (f"UPDATE {table} SET recorded_at = ''", f"DELETE FROM {table}"):
            with pytest.raises(raw.refusal, match="append-only"):
                raw.execute(statement)
    raw.close()
