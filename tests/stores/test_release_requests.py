"""Requests to move a release: decided once, in the transaction that moves the pointer, and found decided ever after."""

from datetime import timedelta
from typing import Any

import pytest

from evidence import gate, shadow
from plumbline.errors import PlumblineError
from plumbline.records import Verdict, digest_of
from plumbline.stores.release_requests import ReleaseRequest, ReleaseRequests

REFERENCE, ALIGNED, NEXT = digest_of("reference"), digest_of("aligned"), digest_of("next")
NAME = "assistant"


def ask(request: str, policy: str) -> ReleaseRequest:
    return ReleaseRequest(request, NAME, policy, requested_by="olga@example.org", reason="ReadTheReport")


@pytest.fixture
def requests(desk: Any) -> ReleaseRequests:
    """A release that names the reference, and all that a promotion of `ALIGNED` takes."""
    releases = desk.ledger.releases
    releases.promote(NAME, REFERENCE, reason="first", actor="owner")
    releases.record_decision(gate(REFERENCE, ALIGNED))
    releases.record_shadow(shadow(REFERENCE, ALIGNED))
    return desk.ledger.release_requests


def moves(desk: Any) -> list[tuple[str, str]]:
    return [(entry.action, entry.policy) for entry in desk.ledger.releases.release_audit(NAME)]


def test_a_request_is_carried_out_once_and_keeps_what_it_was(desk: Any, requests: ReleaseRequests) -> None:
    done = requests.answer(ask("uid/1", ALIGNED), "promote")
    assert (done.outcome, done.sequence) == ("promoted", 2)
    entry = desk.ledger.releases.release_audit(NAME)[-1]
    assert (entry.actor, entry.reason, entry.decision) == (
        "olga@example.org",
        "ReadTheReport",
        gate(REFERENCE, ALIGNED).digest,
    )
    assert entry.shadow == shadow(REFERENCE, ALIGNED).digest
    # Somebody rolls back by hand. The request that is still there does not move it forward again, whatever it is told.
    desk.ledger.releases.rollback(NAME, reason="users complain", actor="on call")
    assert requests.answer(ask("uid/1", ALIGNED), "promote") == requests.decided("uid/1") == done
    assert moves(desk) == [("promote", REFERENCE), ("promote", ALIGNED), ("rollback", REFERENCE)]


def test_a_refusal_is_kept_and_what_the_ledger_no_longer_allows_leaves_no_trace(
    desk: Any, requests: ReleaseRequests
) -> None:
    with pytest.raises(PlumblineError, match="no gate decision compares it"):
        requests.answer(ask("uid/1", NEXT), "promote")
    with pytest.raises(PlumblineError, match="did not name policy"):
        requests.answer(ask("uid/1", NEXT), "roll-back")
    with pytest.raises(PlumblineError, match="moved meanwhile"):
        requests.answer(ask("uid/1", NEXT), "keep")
    assert requests.decided("uid/1") is None
    refused = requests.answer(ask("uid/1", NEXT), "refuse", why="no gate decision compares it")
    assert (refused.outcome, refused.sequence) == ("refused", None)
    (kept,) = requests.refused(NAME)
    assert (kept.policy, kept.requested_by, kept.why) == (NEXT, "olga@example.org", "no gate decision compares it")
    assert requests.refused("another") == []
    desk.ledger.releases.record_decision(gate(REFERENCE, NEXT))
    desk.ledger.releases.record_shadow(shadow(REFERENCE, NEXT))
    assert requests.answer(ask("uid/1", NEXT), "promote").outcome == "refused", "it takes a new request"
    assert requests.answer(ask("uid/2", NEXT), "promote").outcome == "promoted"
    assert moves(desk) == [("promote", REFERENCE), ("promote", NEXT)]


def test_a_rollback_goes_back_any_number_of_steps_in_one_move(desk: Any, requests: ReleaseRequests) -> None:
    releases = desk.ledger.releases
    requests.answer(ask("uid/1", ALIGNED), "promote")
    releases.record_decision(gate(ALIGNED, NEXT))
    releases.record_shadow(shadow(ALIGNED, NEXT))
    requests.answer(ask("uid/2", NEXT), "promote")
    assert [entry.policy for entry in releases.earlier(NAME)] == [ALIGNED, REFERENCE]
    assert requests.answer(ask("uid/3", REFERENCE), "roll-back").outcome == "rolled-back"
    assert releases.current_release(NAME).policy == REFERENCE and releases.earlier(NAME) == []
    # What was left by way of a rollback needs a shadow verdict from after it.
    desk.now += timedelta(hours=1)
    releases.record_decision(gate(REFERENCE, NEXT))
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS"):
        releases.grounds(NAME, NEXT)
    releases.record_shadow(shadow(REFERENCE, NEXT))
    assert releases.grounds(NAME, NEXT)


def test_grounds_are_what_passes_is_fresh_and_is_about_what_users_have(desk: Any, requests: ReleaseRequests) -> None:
    releases = desk.ledger.releases
    assert releases.names() == [NAME]
    evidence = releases.grounds(NAME, ALIGNED)
    assert evidence == (gate(REFERENCE, ALIGNED).digest, shadow(REFERENCE, ALIGNED).digest)
    with pytest.raises(PlumblineError, match="names no policy yet"):
        releases.grounds("another", ALIGNED)
    with pytest.raises(PlumblineError, match="no gate decision compares it"):
        releases.grounds(NAME, NEXT)
    desk.now += timedelta(days=31)
    releases.record_shadow(shadow(REFERENCE, ALIGNED, experiment="again"))
    with pytest.raises(PlumblineError, match="is older than 30 days"):
        releases.grounds(NAME, ALIGNED)
    releases.record_decision(gate(REFERENCE, ALIGNED, report="later"))
    assert releases.grounds(NAME, ALIGNED)[0] == gate(REFERENCE, ALIGNED, report="later").digest
    desk.now += timedelta(hours=1)
    releases.record_decision(gate(REFERENCE, ALIGNED, Verdict.REGRESSED, report="latest"))
    with pytest.raises(PlumblineError, match="is REGRESSED"):
        releases.grounds(NAME, ALIGNED)
