"""Publication is one transaction: everything it promises holds, or nothing happened."""

import subprocess
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import digest_of
from plumbline.stores import ConsentLost, HeadMoved, Ledger, StaleLease


def test_a_version_exists_with_its_members_and_becomes_the_head(desk: Any) -> None:
    desk.give("s-ana")
    manifest = desk.candidate("s-ana")
    made = manifest.publish()
    assert (made.version, made.digest, made.replayed) == (1, manifest.digest, False)
    assert desk.ledger.publications.head("assistant").digest == manifest.digest
    assert [member.subject for member in desk.ledger.publications.members("assistant")] == ["s-ana"]


def test_publishing_a_run_again_returns_the_version_it_made(desk: Any) -> None:
    desk.give("s-ana")
    manifest = desk.candidate("s-ana")
    first = manifest.publish()
    again = manifest.publish()
    assert again.replayed
    assert (again.version, again.digest) == (first.version, first.digest)
    assert len(desk.ledger.publications.versions("assistant")) == 1


def test_a_candidate_built_on_an_old_head_is_refused(desk: Any) -> None:
    desk.give("s-ana")
    desk.candidate("s-ana").publish()
    with pytest.raises(HeadMoved):
        desk.candidate("s-ana", run="another run").publish()
    with pytest.raises(HeadMoved):
        desk.candidate("s-ana", version=2, parent=digest_of("elsewhere"), run="a third").publish()


@pytest.mark.parametrize("returns", [False, True])
def test_nobody_who_withdrew_since_the_candidate_was_built_is_published(desk: Any, returns: bool) -> None:
    desk.give("s-ana")
    desk.give("s-ben")
    manifest = desk.candidate("s-ana", "s-ben")
    desk.withdraw("s-ben")
    if returns:
        desk.give("s-ben")
    with pytest.raises(ConsentLost, match="1 subject"):
        manifest.publish()
    assert desk.ledger.publications.head("assistant") is None
    assert desk.ledger.publications.memberships("1 = 1", ()) == []


def test_nobody_whose_consent_expired_or_never_was_is_published(desk: Any) -> None:
    desk.give("s-ana", valid_until=desk.now + timedelta(hours=1))
    manifest = desk.candidate("s-ana")
    desk.now += timedelta(hours=2)
    with pytest.raises(ConsentLost):
        manifest.publish()
    with pytest.raises(ConsentLost):
        desk.candidate("s-stranger").publish()


def test_a_withdrawal_by_somebody_else_does_not_matter(desk: Any) -> None:
    desk.give("s-ana")
    desk.give("s-ben")
    manifest = desk.candidate("s-ana")
    desk.withdraw("s-ben")
    assert manifest.publish().version == 1


def test_a_manifest_that_does_not_balance_cannot_be_published(desk: Any) -> None:
    desk.give("s-ana")
    manifest = desk.candidate("s-ana").changed(sealed=2)
    with pytest.raises(PlumblineError, match="1 accepted and 0 rejected"):
        manifest.publish()


def test_a_manifest_whose_root_is_not_its_members_cannot_be_published(desk: Any) -> None:
    desk.give("s-ana")
    with pytest.raises(PlumblineError, match="root is not that"):
        desk.candidate("s-ana").changed(root=digest_of("other")).publish()


def test_a_worker_whose_lease_was_taken_over_cannot_publish(desk: Any) -> None:
    desk.give("s-ana")
    old = desk.ledger.runs.acquire_lease("line", "worker 1", seconds=60)
    with pytest.raises(PlumblineError, match="being worked on by worker 1"):
        desk.ledger.runs.acquire_lease("line", "worker 2")
    desk.now += timedelta(seconds=61)  # worker 1 sleeps past its lease
    new = desk.ledger.runs.acquire_lease("line", "worker 2")
    assert new.token > old.token
    with pytest.raises(StaleLease):
        desk.candidate("s-ana").publish(old)
    assert desk.candidate("s-ana").publish(new).version == 1


def test_a_fencing_token_never_goes_back(desk: Any) -> None:
    lease = desk.ledger.runs.acquire_lease("line", "worker 1")
    desk.ledger.runs.release_lease(lease)
    assert desk.ledger.runs.acquire_lease("line", "worker 2").token == lease.token + 1
    raw = desk.raw()
    with pytest.raises(raw.refusal, match="never goes back"):
        raw.execute("UPDATE lease SET token = 0")


@pytest.mark.parametrize("table", ["publication", "release", "decision"])
def test_history_cannot_be_rewritten(desk: Any, table: str) -> None:
    desk.give("s-ana")
    desk.candidate("s-ana").publish()
    raw = desk.raw()
    assert {f"{table}_no_update", f"{table}_no_delete"} <= raw.triggers().keys()
    if table == "publication":
        with pytest.raises(raw.refusal, match="append-only"):
            raw.execute("UPDATE publication SET version = 7")
        with pytest.raises(raw.refusal, match="append-only"):
            raw.execute("DELETE FROM publication")


def test_opening_a_ledger_again_changes_nothing(desk: Any) -> None:
    before = desk.raw().schema()
    Ledger(desk.path).close()
    assert desk.raw().schema() == before


def test_many_may_open_a_new_ledger_at_once(backend: Any) -> None:
    faults: list[Exception] = []

    def start() -> None:
        try:
            Ledger(backend.ledger).close()
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_ledger_of_a_newer_version_is_left_alone(desk: Any) -> None:
    desk.raw().set_schema_version(9999)
    with pytest.raises(PlumblineError, match="newer"):
        Ledger(desk.path)


def test_a_process_killed_inside_the_transaction_leaves_no_trace(desk: Any) -> None:
    desk.give("s-ana")
    program = (
        "import os, sys; from plumbline.stores import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "with ledger.database.transaction():\n"
        "    ledger.database.insert('erasure', subject='s-ana', consent_sequence=1, payloads=1, events=1,"
        " completed_at='now')\n"
        "    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(desk.path)], check=False)
    assert done.returncode == 9
    assert desk.ledger.payloads.erased_subjects() == set()
    assert desk.candidate("s-ana").publish().version == 1
