"""After erasure nothing of a person is left on disk, and everything that was published still verifies."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import (
    ConsentDesk,
    IngestionConfig,
    erase,
    load_version,
    members_of,
    prove_absent,
    verify,
    withdraw_and_erase,
)
from plumbline.feedback.datasets.publish import signer
from plumbline.feedback.erase import finish_erasures
from plumbline.records import PolicyManifest, digest_of
from plumbline.stores import KeyIndex, Ledger
from plumbline.stores.erasures import ErasureRequests
from plumbline.stores.projections import erasure_record

CANARY = "zanzibarquux"
TRAIN_ALL = IngestionConfig(held_out_share=0.0)
STEPS = ["requested", "removed from assistant", "flagged", "signatures erased", "payloads erased", "recorded"]


class Killed(BaseException):
    pass


def kill_at(step: str) -> Callable[[str], None]:
    def failpoint(reached: str) -> None:
        if reached == step:
            raise Killed

    return failpoint


def open_with_drawn_keys(house: Any) -> None:
    """As in production: a subject's key is drawn, so an erased one never comes back."""
    house.ledger.close()
    house.ledger = Ledger(house.root / "ledger.db", clock=house.clock)
    house.desk = ConsentDesk(house.ledger, house.names)


def with_canary(house: Any) -> Any:
    """Two versions with a person whose every text carries the canary, and a policy trained on the second."""
    house.publish_seeds()
    house.consent("ana", "canary person")
    house.post(
        house.rewrite("ana", "what is a lamp", "it shines"),
        house.rewrite("canary person", f"what is {CANARY}", f"{CANARY} is a word"),
        house.event("canary person", "comment", f"about {CANARY}", text=f"{CANARY} again"),
    )
    done = house.ingest(config=TRAIN_ALL)
    assert done.accepted == 2
    conflicting = house.rewrite("canary person", f"what is {CANARY}", f"{CANARY} is a word")
    data = conflicting.data.model_copy(update={"answer": CANARY})
    assert house.post(conflicting.model_copy(update={"data": data})) == ["conflict"]
    house.post(house.rewrite("canary person", f"and {CANARY}", f"waiting {CANARY}"))
    house.ingest(config=TRAIN_ALL, approve=None)  # a candidate that waits for approval holds the canary too
    policy = PolicyManifest(
        name="aligned-1", role="aligned", weights=digest_of("w"), tokenizer=digest_of("t"), template=digest_of("c"),
        dataset=done.version.digest,
    )  # fmt: skip
    house.ledger.releases.record_policy(policy)
    return done, policy


def bytes_with(house: Any, needle: str) -> list[Path]:
    return [path for path in house.root.rglob("*") if path.is_file() and needle.encode() in path.read_bytes()]


def test_a_byte_scan_of_everything_on_disk_finds_nothing_of_an_erased_person(house: Any) -> None:
    with_canary(house)
    stray = house.blobs.root / "tmp" / "of-a-killed-writer"
    stray.write_text(CANARY)
    assert len(bytes_with(house, CANARY)) >= 3
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    assert bytes_with(house, CANARY) == []


def test_old_versions_still_verify_and_say_what_is_missing(house: Any) -> None:
    done, _ = with_canary(house)
    before = load_version(house.ledger, house.blobs, "assistant", 2)
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    after = load_version(house.ledger, house.blobs, "assistant", 2)
    assert after.digest == before.digest
    assert len(after.erased) == 1 and len(after.examples) == len(before.examples) - 1
    check = verify(house.ledger, house.blobs, done.manifest)
    assert (check.problems, check.erased) == ((), 1)


def test_the_removal_needs_no_approval_and_takes_nobody_else(house: Any) -> None:
    with_canary(house)
    result = withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    (removal,) = result.versions
    assert (removal.version, removal.reason) == (3, "withdrawal")
    left = {member.subject for member in members_of(house.ledger, "assistant")}
    assert left == {house.names.of("ana"), house.names.of("demonstrator")}
    assert prove_absent(house.ledger, house.blobs, result.subject, "assistant").version == 3
    with pytest.raises(PlumblineError, match="cannot be shown"):
        prove_absent(house.ledger, house.blobs, result.subject, "assistant", 2)


def test_policies_are_flagged_and_lineage_still_answers(house: Any) -> None:
    _, policy = with_canary(house)
    subject = house.names.of("canary person")
    before = house.ledger.lineage.of_subject(subject)
    result = withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person", remediation="retire")
    assert result.policies == (policy.digest,)
    assert house.ledger.releases.flags(policy.digest) == [(subject, "retire", "the subject withdrew consent")]
    after = house.ledger.lineage.of_subject(subject)
    assert after.erased and not before.erased
    assert (after.events, after.versions, after.policies) == (before.events, before.versions, before.policies)


def test_a_late_copy_of_an_erased_event_does_not_bring_it_back(house: Any) -> None:
    with_canary(house)
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    again = house.rewrite("canary person", f"what is {CANARY}", f"{CANARY} is a word")
    assert house.post(again) == ["duplicate"]
    house.ingest(approve=None)
    house.ledger.database.truncate_log()
    assert bytes_with(house, CANARY) == []


def test_salt_and_key_are_gone_with_the_payload(house: Any) -> None:
    with_canary(house)
    subject = house.names.of("canary person")
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    database = house.ledger.database
    assert database.value("SELECT COUNT(*) FROM subject_key WHERE subject = ?", (subject,)) == 0
    theirs = house.ledger.publications.memberships("subject = ?", (subject,))
    assert theirs and all((one.pack, one.place, one.length) == (None, None, None) for one in theirs)


def test_nearly_the_words_of_an_erased_person_are_new_words(house: Any) -> None:
    """The signature is derived from the words: as long as it is there, somebody can ask whether they were."""
    with_canary(house)
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    house.post(house.rewrite("ana", "what is zanzibar", "it is a word"))
    house.ingest(config=TRAIN_ALL)
    index = KeyIndex(house.ledger.database, house.blobs, "assistant", "signature")
    subject = house.names.of("canary person")
    ids = [one.id for one in house.ledger.publications.memberships("subject = ?", (subject,))]
    keys = [signer(house.ledger).keys("prompt", [f"user: what is {CANARY}"])]
    assert ids and len(index.find(keys[0])[1]) == 0


@pytest.mark.parametrize("step", STEPS)
def test_an_erasure_killed_at_any_step_is_finished_by_calling_again(house: Any, step: str) -> None:
    _, policy = with_canary(house)
    house.desk.withdraw("canary person")
    subject = house.names.of("canary person")
    with pytest.raises(Killed):
        erase(house.ledger, house.blobs, subject, on_step=kill_at(step))
    house.ledger.close()
    house.open()
    load_version(house.ledger, house.blobs, "assistant", 2)  # readable meanwhile
    done = erase(house.ledger, house.blobs, subject)
    assert bytes_with(house, CANARY) == []
    figures = (done.events, done.payloads)
    assert figures == ((0, 0) if step == "recorded" else (3, 1)), "a kill takes nothing off what is recorded"
    record = erasure_record(house.ledger, subject)
    assert record is not None and (record.events, record.payloads) == (3, 1)
    assert prove_absent(house.ledger, house.blobs, subject, "assistant").version == 3
    assert house.ledger.releases.flags(policy.digest) == [(subject, "retrain", "the subject withdrew consent")]


@pytest.mark.parametrize("step", STEPS)
def test_whoever_consents_again_after_a_kill_is_erased_up_to_what_they_asked_and_keeps_their_new_words(
    house: Any, step: str
) -> None:
    open_with_drawn_keys(house)
    _, policy = with_canary(house)
    with pytest.raises(Killed):
        withdraw_and_erase(
            house.ledger, house.blobs, house.desk, "canary person", remediation="retire", on_step=kill_at(step)
        )
    open_with_drawn_keys(house)
    house.consent("canary person")
    house.post(house.rewrite("canary person", "what is a cup", "a cup holds tea"))
    runs = [house.ingest(config=TRAIN_ALL) for _ in range(2)]  # what waited is published without them first
    assert sum(run.accepted for run in runs) == 1
    subject = house.names.of("canary person")

    (done,), waiting = finish_erasures(house.ledger, house.blobs)
    assert (done.subject, done.events, waiting) == (subject, 3, [])
    assert bytes_with(house, CANARY) == []
    head = load_version(house.ledger, house.blobs, "assistant")
    assert [example.target for _, example in head.examples if "cup" in example.target] == ["a cup holds tea"]
    assert head.erased == ()
    for version in house.ledger.publications.versions("assistant"):
        manifest = load_version(house.ledger, house.blobs, "assistant", version.version).manifest
        assert verify(house.ledger, house.blobs, manifest).problems == ()
    assert house.ledger.releases.flags(policy.digest) == [(subject, "retire", "the subject withdrew consent")]
    assert finish_erasures(house.ledger, house.blobs) == ([], [])
    house.post(house.rewrite("canary person", "what is a lid", "a lid shuts a pot"))
    assert house.ingest(config=TRAIN_ALL).accepted == 1, "the new words are whole under their new key"


def test_an_erasure_that_was_asked_for_while_consent_had_run_out_ends_in_the_head_too(house: Any) -> None:
    house.desk.give("canary person", ["training"], house.notice, valid_until=house.now + timedelta(days=1))
    house.post(house.rewrite("canary person", f"what is {CANARY}", "a word"))
    house.publish_seeds()
    house.ingest(config=TRAIN_ALL)
    house.wait(days=2)
    subject = house.names.of("canary person")
    with pytest.raises(Killed):
        erase(house.ledger, house.blobs, subject, on_step=kill_at("requested"))
    house.consent("canary person")
    assert house.ledger.publications.uncovered("assistant") == set()
    finish_erasures(house.ledger, house.blobs)
    assert bytes_with(house, CANARY) == []
    assert prove_absent(house.ledger, house.blobs, subject, "assistant").version == 3


def test_withdrawal_and_request_are_one_commit(house: Any, monkeypatch: Any) -> None:
    with_canary(house)

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ErasureRequests, "ask", killed)
        withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    assert house.desk.covers("canary person", "training").covered
    assert finish_erasures(house.ledger, house.blobs) == ([], [])
    assert bytes_with(house, CANARY)


def test_an_erasure_that_another_worker_carries_out_is_left_to_it(house: Any) -> None:
    with_canary(house)
    with pytest.raises(Killed):
        withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person", on_step=kill_at("requested"))
    (request,) = ErasureRequests(house.ledger.database).open()
    house.ledger.runs.acquire_lease(f"erasure/{request.sequence}", "elsewhere/1")
    done, ((subject, error),) = finish_erasures(house.ledger, house.blobs)
    assert (done, subject) == ([], house.names.of("canary person")) and "worked on by elsewhere" in error.fact
    house.wait(minutes=2)
    assert [one.subject for one in finish_erasures(house.ledger, house.blobs)[0]] == [subject]


def test_nobody_is_erased_whose_consent_still_holds(house: Any) -> None:
    with_canary(house)
    with pytest.raises(PlumblineError, match="still holds"):
        erase(house.ledger, house.blobs, house.names.of("ana"))


def test_the_waiting_run_goes_on_without_the_erased_person(house: Any) -> None:
    with_canary(house)
    house.post(house.rewrite("ana", "what is a cup", "it holds"))
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "canary person")
    done = house.ingest()
    assert done.state == "published"
    assert done.rejected == {"erased": 1}
    assert prove_absent(house.ledger, house.blobs, house.names.of("canary person"), "assistant").version == 4


def test_somebody_who_never_consented_has_nothing_to_withdraw_but_can_be_erased(house: Any) -> None:
    house.post(house.rewrite("stranger", f"what is {CANARY}", "no idea"))
    with pytest.raises(PlumblineError, match="no consent is recorded"):
        withdraw_and_erase(house.ledger, house.blobs, house.desk, "stranger")
    assert erase(house.ledger, house.blobs, house.names.of("stranger")).events == 1
    assert bytes_with(house, CANARY) == []


def test_an_erased_person_is_off_the_review_page_and_may_be_invited_again(house: Any) -> None:
    access, ana, others = house.ledger.review_access, house.names.of("ana"), house.names.of("rita")
    hour = timedelta(hours=1)
    link, session = access.invite(ana, valid=hour), access.enter(access.invite(ana, valid=hour), lasting=hour)
    rita = access.enter(access.invite(others, valid=hour), lasting=hour)
    erase(house.ledger, house.blobs, ana)
    assert access.invited(link) is None and access.present(session) is None and access.present(rita) is not None
    assert access.invited(access.invite(ana, valid=hour)) is not None
