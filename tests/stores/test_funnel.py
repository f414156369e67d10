"""Where everything stands, as counts: on both databases, and about nobody."""

import importlib.util
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plumbline.records import digest_of
from plumbline.stores.erasures import ErasureRequests
from plumbline.stores.funnel import newest_decision, read_funnel
from plumbline.stores.runs import Run

_spec = importlib.util.spec_from_file_location("stores_conftest", Path(__file__).with_name("conftest.py"))
assert _spec is not None and _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def run(name: str, last: int) -> Run:
    return Run(
        digest_of(name), "assistant", None, 1, last, digest_of("rubric"), digest_of("code"), "sealed", None, "open"
    )


def test_an_empty_ledger_has_nothing_to_say(desk: Any) -> None:
    seen = read_funnel(desk.ledger)
    assert seen.inbox == seen.erasures == seen.erasure_age_s == 0 and seen.people == {}
    assert not (seen.waiting or seen.approvals or seen.withdrawn or seen.flagged_policies or seen.flagged_releases)
    assert newest_decision(desk.ledger) is None


def test_a_persons_last_word_counts_and_is_read_when_somebody_spoke(desk: Any) -> None:
    for subject in ("s-ana", "s-bo", "s-cleo"):
        desk.give(subject)
    desk.withdraw("s-bo")
    seen = read_funnel(desk.ledger)
    assert seen.people == {"given": 2, "withdrawn": 1}
    assert read_funnel(desk.ledger, known=seen.consent_sequence).people is None
    desk.give("s-bo")
    assert read_funnel(desk.ledger, known=seen.consent_sequence).people == {"given": 3}


def test_whoever_withdrew_is_counted_until_a_version_without_them(desk: Any) -> None:
    for subject in ("s-ana", "s-bo"):
        desk.give(subject)
    one = desk.candidate("s-ana", "s-bo").publish()
    assert read_funnel(desk.ledger).withdrawn == {"assistant": 0}
    desk.withdraw("s-bo")
    assert read_funnel(desk.ledger).withdrawn == {"assistant": 1}
    desk.candidate("s-ana", version=2, parent=one.digest, run="removal").publish()
    assert read_funnel(desk.ledger).withdrawn == {"assistant": 0}


def test_a_candidate_waits_for_people_until_its_run_moves_on(desk: Any) -> None:
    runs = desk.ledger.runs
    runs.start_run(run("first", 4))
    assert read_funnel(desk.ledger).approvals == {"assistant": 0}
    runs.advance_run(digest_of("first"), "awaiting_approval", candidate=digest_of("candidate"))
    assert read_funnel(desk.ledger).approvals == {"assistant": 1}
    runs.advance_run(digest_of("first"), "rejected", state="rejected")
    seen = read_funnel(desk.ledger)
    assert seen.approvals == {"assistant": 0} and seen.waiting == {"assistant": 0}, "no event came since"


def test_an_erasure_ages_until_it_is_done(desk: Any) -> None:
    requests = ErasureRequests(desk.ledger.database)
    desk.give("s-ana")
    asked = requests.ask("s-ana", events=0, labels=0, remediation="retrain", reason="asked", actor="desk")
    desk.now += timedelta(hours=25)
    seen = read_funnel(desk.ledger)
    assert (seen.erasures, seen.erasure_age_s) == (1, 25 * 3600)
    requests.complete(asked)
    seen = read_funnel(desk.ledger)
    assert (seen.erasures, seen.erasure_age_s) == (0, 0.0)


@pytest.mark.parametrize(("remediation", "flagged"), [("retrain", True), ("no-action", False)])
def test_a_release_is_flagged_while_it_serves_somebody_elses_words(desk: Any, remediation: Any, flagged: bool) -> None:
    releases, serving = desk.ledger.releases, make.policy("serving").digest
    releases.record_policy(make.policy("serving"))
    releases.move_release("assistant", serving, None, "what users have", "owner")
    assert read_funnel(desk.ledger).flagged_releases == {"assistant": False}
    releases.flag(serving, "s-ana", remediation, reason="withdrew", actor="desk")
    seen = read_funnel(desk.ledger)
    assert seen.flagged_policies == {remediation: 1} and seen.flagged_releases == {"assistant": flagged}


def test_the_newest_decision_is_the_one_recorded_last(desk: Any) -> None:
    for name in ("one", "two"):
        desk.now += timedelta(days=1)
        digest = desk.ledger.releases.record_decision(make.decision(digest_of(name)))
    assert newest_decision(desk.ledger) == (digest, desk.now)


def test_of_decisions_of_one_moment_the_one_that_a_release_rests_on_is_the_newest(desk: Any) -> None:
    releases = desk.ledger.releases
    decisions = [make.decision(digest_of(f"policy {number}")) for number in range(4)]
    for one in decisions:
        releases.record_decision(one)
    rests = min(decisions, key=lambda one: one.digest)  # the last by digest
    releases.promote("assistant", rests.reference, reason="what users have", actor="owner")
    releases.promote("assistant", rests.aligned, reason="it passed", actor="owner", without_shadow="a test")
    assert newest_decision(desk.ledger) == (rests.digest, desk.now)
