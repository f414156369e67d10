"""After erasure nothing of a person is left on disk, and everything that was published still verifies."""

from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import (
    IngestionConfig,
    erase,
    load_version,
    members_of,
    prove_absent,
    verify,
    withdraw_and_erase,
)
from plumbline.feedback.datasets.publish import signer
from plumbline.records import PolicyManifest, digest_of
from plumbline.stores import KeyIndex

CANARY = "zanzibarquux"
TRAIN_ALL = IngestionConfig(held_out_share=0.0)


class Killed(BaseException):
    pass


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


@pytest.mark.parametrize(
    "step", ["removed from assistant", "flagged", "events erased", "signatures erased", "payloads erased"]
)
def test_an_erasure_killed_at_any_step_is_finished_by_calling_again(house: Any, step: str) -> None:
    _, policy = with_canary(house)
    house.desk.withdraw("canary person")
    subject = house.names.of("canary person")

    def failpoint(reached: str) -> None:
        if reached == step:
            raise Killed

    with pytest.raises(Killed):
        erase(house.ledger, house.blobs, subject, on_step=failpoint)
    house.ledger.close()
    house.open()
    load_version(house.ledger, house.blobs, "assistant", 2)  # readable meanwhile
    erase(house.ledger, house.blobs, subject)
    assert bytes_with(house, CANARY) == []
    assert prove_absent(house.ledger, house.blobs, subject, "assistant").version == 3
    assert house.ledger.releases.flags(policy.digest) == [(subject, "retrain", "the subject withdrew consent")]


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
