"""What becomes of a request for a release, question by question, and the status that people read of it."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from evidence import gate, shadow
from plumbline.errors import PlumblineError
from plumbline.reconcile.release import Move, ReleaseObservation, reconcile_release
from plumbline.reconcile.release_objects import release_request, release_status
from plumbline.reconcile.release_observer import ReleaseObserver
from plumbline.records import Verdict, digest_of
from plumbline.stores import Ledger, StaleLease
from plumbline.stores.release_requests import Decided, Outcome

REFERENCE, ALIGNED, NEXT = digest_of("reference"), digest_of("aligned"), digest_of("next")
FIRST = Move(1, "promote", REFERENCE, None, None, "2026-01-01T00:00:00Z")
SECOND = Move(2, "promote", ALIGNED, digest_of("decision"), digest_of("shadow"), "2026-01-02T00:00:00Z")
SEEN = ReleaseObservation(readable=True, moves=(FIRST,), missing="no gate decision compares it")
NOW = "2026-01-03T00:00:00Z"


def decided(outcome: Outcome, why: str = "", sequence: int | None = 2) -> Decided:
    return Decided(outcome, why, sequence, NOW)


@pytest.mark.parametrize(
    ("seen", "answer", "phase", "reason"),
    [
        (SEEN, "refuse", "Refused", "NotPassing"),
        (replace(SEEN, missing=""), "promote", "Pending", "GateAndShadowPassed"),
        (replace(SEEN, before=True), "roll-back", "Pending", "ReleasedBefore"),
        (replace(SEEN, missing="", before=True), "promote", "Pending", "GateAndShadowPassed"),
        (replace(SEEN, moves=(SECOND, FIRST)), "keep", "Pending", "AlreadyServing"),
        (replace(SEEN, moves=()), "refuse", "Refused", "NoSuchRelease"),
        (ReleaseObservation(readable=False), None, "Pending", "LedgerUnreadable"),
        (replace(SEEN, missing="", guarded="the binding does not deny"), None, "Pending", "NotGuarded"),
        (replace(SEEN, decided=decided("refused", "NotPassing: it regressed")), None, "Refused", "NotPassing"),
        # Decided before: whatever is so by now, nothing is answered again.
        (replace(SEEN, missing="", decided=decided("promoted")), None, "Superseded", "GateAndShadowPassed"),
        (replace(SEEN, before=True, decided=decided("kept")), None, "Superseded", "AlreadyServing"),
        (replace(SEEN, moves=(SECOND, FIRST), decided=decided("promoted")), None, "Released", "GateAndShadowPassed"),
        (replace(SEEN, moves=(SECOND,), decided=decided("rolled-back")), None, "Released", "ReleasedBefore"),
    ],
)
def test_what_becomes_of_a_request(seen: ReleaseObservation, answer: str | None, phase: str, reason: str) -> None:
    found = reconcile_release(ALIGNED, seen)
    passed, released = found.conditions
    assert (found.answer, found.phase, passed.type, passed.reason) == (answer, phase, "Passed", reason)
    assert released.type == "Released"
    assert (released.status == "True") == (phase == "Released")
    if phase == "Refused":
        assert "users keep what they have" in passed.message and "spec.reason" in passed.message


def test_a_refusal_reads_the_same_whether_it_is_being_made_or_was_made() -> None:
    making = reconcile_release(ALIGNED, SEEN)
    made = reconcile_release(ALIGNED, replace(SEEN, decided=decided("refused", making.why, None)))
    assert made.conditions == making.conditions and made.answer is None


def release(policy: str = ALIGNED, **status: Any) -> dict[str, Any]:
    return {
        "kind": "Release",
        "metadata": {"name": "default", "namespace": "demo", "uid": "u", "generation": 3},
        "spec": {"policy": policy, "requestedBy": "olga@example.org", "reason": "ReadTheReport"},
        "status": status,
    }


def test_the_status_tells_the_moves_without_names_and_stands_while_the_ledger_is_away() -> None:
    seen = replace(SEEN, moves=(SECOND, FIRST), decided=decided("promoted"))
    status = release_status(release(), seen, reconcile_release(ALIGNED, seen), now=NOW)
    assert (status["phase"], status["serving"], status["sequence"]) == ("Released", ALIGNED, 2)
    assert [(move["sequence"], move["action"]) for move in status["moves"]] == [(2, "promote"), (1, "promote")]
    assert "olga" not in str(status)
    away = ReleaseObservation(readable=False)
    assert release_status(release(**status), away, reconcile_release(ALIGNED, away), now=NOW) == status
    older = release(**{**status, "observedGeneration": 2})
    waiting = release_status(older, away, reconcile_release(ALIGNED, away), now=NOW)
    assert waiting["phase"] == "Pending", "what was said was about another request"
    assert waiting["serving"] == ALIGNED


def test_each_change_of_the_spec_is_another_request() -> None:
    asked = release_request(release())
    assert asked.request == "u/3" and (asked.release, asked.requested_by) == ("default", "olga@example.org")


# --- the ledger's half ----------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.releases.promote("default", REFERENCE, reason="first", actor="owner")
    found.releases.promote("Not An Object's Name", REFERENCE, reason="first", actor="owner")
    return found


def test_the_list_holds_what_passes_now_and_what_users_had_and_nothing_once_the_ledger_is_away(
    ledger: Ledger, tmp_path: Path
) -> None:
    observer = ReleaseObserver(tmp_path / "ledger.sqlite", max_age=timedelta(days=7))
    (standing,) = observer.passing().releases
    assert (standing.name, standing.serving, standing.passed, standing.before) == ("default", REFERENCE, (), ())
    for policy in (ALIGNED, NEXT):
        ledger.releases.record_decision(gate(REFERENCE, policy))
    ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED))
    (standing,) = observer.passing().releases
    (passed,) = standing.passed
    assert passed.policy == ALIGNED and passed.decision == gate(REFERENCE, ALIGNED).digest
    assert passed.shadow == shadow(REFERENCE, ALIGNED).digest and passed.until > NOW
    ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED, Verdict.REGRESSED, experiment="again"))
    assert observer.passing().releases[0].passed == (), "a later regression takes it away"
    assert ReleaseObserver(tmp_path / "ledger.sqlite", max_age=timedelta(0)).passing().releases[0].passed == ()
    ledger.close()
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 100)
    assert not observer.passing().readable and observer.passing().releases == ()
    assert not observer.look(release_request(release())).readable


def test_a_record_of_a_version_that_is_not_known_here_empties_the_list_and_moves_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    observer = ReleaseObserver(tmp_path / "ledger.sqlite")
    ledger.releases.record_decision(gate(REFERENCE, ALIGNED))
    ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED))
    assert observer.passing().releases[0].passed
    ledger.database.execute(
        "INSERT INTO decision VALUES (?, ?, ?, 'PASS', ?, '2999-01-01T00:00:00.000000Z')",
        (NEXT, REFERENCE, ALIGNED, '{"schema_id": "plumbline.dev/gate-decision/v99"}'),
    )
    assert not observer.passing().readable and observer.passing().releases == ()
    assert not observer.look(release_request(release())).readable


def test_an_answer_is_written_under_the_newest_fencing_token_or_not_at_all(ledger: Ledger, tmp_path: Path) -> None:
    observer = ReleaseObserver(tmp_path / "ledger.sqlite")
    ledger.releases.record_decision(gate(REFERENCE, ALIGNED))
    ledger.releases.record_shadow(shadow(REFERENCE, ALIGNED))
    asked = release_request(release())
    assert (
        observer.look(asked).missing == ""
        and "no gate decision" in observer.look(release_request(release(NEXT))).missing
    )
    old = ledger.runs.acquire_lease("operator/demo", "one", seconds=0)
    new = ledger.runs.acquire_lease("operator/demo", "two", seconds=60)
    with pytest.raises(StaleLease):
        observer.answer(asked, "promote", "", old)
    assert observer.look(asked).decided is None and observer.look(asked).serving == REFERENCE
    with pytest.raises(PlumblineError, match="did not name"):
        observer.answer(asked, "roll-back", "", new)
    done = observer.answer(asked, "promote", "", new)
    seen = observer.look(asked)
    assert seen.decided == done and seen.serving == ALIGNED and seen.moves[0].shadow is not None
    assert observer.answer(asked, "refuse", "too late", new) == done
