"""Seed versions, golden digests, differences and verification."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import (
    diff,
    load_version,
    members_of,
    publish_removal,
    publish_seed_version,
    verify,
    withdraw_and_erase,
)
from plumbline.records import ConsentTerms, digest_bytes, digest_of, say
from plumbline.stores import ConsentLost

_spec = importlib.util.spec_from_file_location("feedback_conftest", Path(__file__).parents[1] / "conftest.py")
assert _spec is not None and _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def seed(house: Any, examples: Any = None, **options: Any) -> Any:
    examples = house.seeds() if examples is None else examples
    return publish_seed_version(house.ledger, house.blobs, "assistant", examples, rubric=make.RUBRIC, **options)


def test_the_same_seeds_are_the_same_version_in_every_house(house: Any) -> None:
    """Golden: manifests published by earlier versions of this code must keep their digests."""
    house.consent("demonstrator")
    made = seed(house, code=make.CODE)
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    assert manifest.root == "sha256:122335ab21beac0a4f18da7539e286a4e9c731ca8426ed7dc11505b96b848dea"
    assert made.digest == manifest.digest == "sha256:144b4454c718bfcba3f60d4d616c3b59014fb89faf0948e0c49bae6856a8d517"


def test_a_version_is_read_back_as_it_was_written_in_address_order(house: Any) -> None:
    house.publish_seeds(splits=["train", "held_out"] * 6)
    version = load_version(house.ledger, house.blobs, "assistant", 1)
    assert (len(version.train), len(version.held_out)) == (6, 6)
    assert {example.digest for example in version.train + version.held_out} == {e.digest for e in house.seeds()}
    addresses = [member.address for member, _ in version.examples]
    assert addresses == sorted(addresses)
    assert load_version(house.ledger, house.blobs, "assistant", version.digest).manifest == version.manifest


def test_publishing_the_same_seeds_again_returns_the_version(house: Any) -> None:
    first = house.publish_seeds()
    again = seed(house)
    assert again.replayed and again.digest == first.digest


def held(house: Any, dataset: str = "assistant") -> dict[str, str]:
    """The head's examples with the side that each is on."""
    version = load_version(house.ledger, house.blobs, dataset)
    assert verify(house.ledger, house.blobs, version.manifest).problems == ()
    return {example.messages[0].content: member.split for member, example in version.examples}


def two_authors(house: Any) -> list[Any]:
    """Ana's and Ben's seeds, two and two of a cluster."""
    return [one for pair in zip(house.seeds(20, author="ana"), seeds_of_ben(house), strict=True) for one in pair]


def seeds_of_ben(house: Any) -> list[Any]:
    return [
        one.model_copy(update={"messages": (say("user", f"ben asks {number}"), say("assistant", f"answer {number}"))})
        for number, one in enumerate(house.seeds(20, author="ben"))
    ]


@pytest.mark.parametrize("removal", ["published", "not yet", "erased"])
def test_seeds_of_whoever_left_and_consents_again_count_again_on_the_sides_they_had(house: Any, removal: str) -> None:
    house.consent("ana", "ben")
    first = seed(house, two_authors(house), held_out_share=0.5)
    before = held(house)
    house.desk.withdraw("ana")
    with pytest.raises(ConsentLost):
        seed(house, two_authors(house), held_out_share=0.5)
    if removal == "published":
        publish_removal(house.ledger, house.blobs, "assistant")
    elif removal == "erased":
        withdraw_and_erase(house.ledger, house.blobs, house.desk, "ana")
    if removal != "not yet":
        assert len(held(house)) == 20
    house.consent("ana")
    again = seed(house, two_authors(house), held_out_share=0.5)
    assert (again.replayed, again.version) == (False, 3), "the removal is a version of its own"
    assert held(house) == before and len(set(before.values())) == 2
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    assert (manifest.accepted, manifest.rejected) == (20, {"duplicate": 20})
    once_more = seed(house, two_authors(house), held_out_share=0.5)
    assert once_more.replayed and once_more.digest == again.digest != first.digest


def test_they_count_again_as_often_as_their_author_comes_back(house: Any) -> None:
    house.publish_seeds()
    made = []
    for _ in range(3):
        house.desk.withdraw("demonstrator")
        publish_removal(house.ledger, house.blobs, "assistant")
        house.consent("demonstrator")
        made.append(seed(house).version)
    assert made == [3, 5, 7] and len(held(house)) == 12


def test_seeds_that_left_for_another_reason_do_not_come_back_and_that_is_no_error(house: Any) -> None:
    """Somebody holds the same prompt out meanwhile: importing the file again changes nothing."""
    house.consent("ana")
    one = house.seeds(1, author="ana")
    first = seed(house, one, splits=["train"])
    house.desk.withdraw("ana")
    publish_removal(house.ledger, house.blobs, "assistant")
    house.publish_seeds(count=1, splits=["held_out"])
    house.consent("ana")
    again = seed(house, one, splits=["train"])
    assert again.digest == first.digest
    assert held(house) == {"seed question 0": "held_out"}


def test_equal_seeds_count_once_and_a_held_out_prompt_is_not_trained_on(house: Any) -> None:
    house.consent("demonstrator")
    one, two = house.seeds(2)
    same_prompt = two.model_copy(update={"messages": (two.messages[0], one.messages[1])})
    seed(house, [one, one, two, same_prompt], splits=["train", "train", "held_out", "train"])
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    assert (manifest.sealed, manifest.accepted) == (4, 2)
    assert manifest.rejected == {"duplicate": 1, "in_held_out": 1}


def test_a_derived_split_keeps_clusters_and_prompts_whole(house: Any) -> None:
    house.publish_seeds(count=60, held_out_share=0.3)
    version = load_version(house.ledger, house.blobs, "assistant")
    sides: dict[str, set[str]] = {}
    for member, _ in version.examples:
        sides.setdefault(member.cluster, set()).add(member.split)
    assert all(len(found) == 1 for found in sides.values())
    assert 0 < len(version.held_out) < 60


def test_seeds_without_consent_are_not_published(house: Any) -> None:
    with pytest.raises(ConsentLost):
        seed(house)
    bare = [example.model_copy(update={"consent": None}) for example in house.seeds()]
    with pytest.raises(PlumblineError, match="'no_consent': 12"):
        seed(house, bare)
    assert house.ledger.publications.head("assistant") is None


def test_splits_that_do_not_fit_are_refused(house: Any) -> None:
    with pytest.raises(PlumblineError, match="1 splits were given for 12"):
        seed(house, splits=["train"])


def test_the_difference_of_two_versions_is_by_example_and_slice(house: Any) -> None:
    house.publish_seeds(count=4)
    before = load_version(house.ledger, house.blobs, "assistant").manifest
    house.consent("ana")
    house.post(house.rewrite("ana", "what is a lamp", "it shines"), house.rewrite("ana", "a boat", "it floats"))
    house.ingest()
    after = load_version(house.ledger, house.blobs, "assistant").manifest
    change = diff(house.ledger, "assistant", before.version, after.version)
    assert (len(change.added), change.removed, change.added_by_slice) == (2, (), {"benign": 2})
    back = diff(house.ledger, "assistant", after.version, before.version)
    assert (back.removed, back.removed_by_slice) == (change.added, {"benign": 2})


def test_a_damaged_or_missing_payload_is_found(house: Any) -> None:
    house.publish_seeds()
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    assert verify(house.ledger, house.blobs, manifest).valid
    (pack,) = [
        path for path in (house.root / "blobs" / "packs").rglob("*") if path.is_file() and b"seed" in path.read_bytes()
    ]
    whole = pack.read_bytes()
    pack.write_bytes(whole.replace(b"seed answer 3", b"sea answer 33"))
    check = verify(house.ledger, house.blobs, manifest)
    assert not check.valid and check.erased == 0
    with pytest.raises(PlumblineError, match="does not have the bytes"):
        load_version(house.ledger, house.blobs, "assistant")
    pack.unlink()
    with pytest.raises(PlumblineError):
        load_version(house.ledger, house.blobs, "assistant")


def test_rows_that_are_not_what_the_version_says_do_not_verify(house: Any) -> None:
    house.publish_seeds()
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    for change in (
        "UPDATE example SET removed_in = 1 WHERE id = 3",
        "UPDATE example SET split = 'held_out', removed_in = NULL WHERE id = 3",
        "UPDATE example SET split = 'train', subject = 's-eve' WHERE id = 3",
    ):
        house.ledger.database.execute(change)
        assert not verify(house.ledger, house.blobs, manifest).valid, change


def test_a_forged_manifest_does_not_verify(house: Any) -> None:
    house.publish_seeds()
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    for name, value in (("root", digest_of("x")), ("accepted", 0), ("sizes", {"train": 1}), ("subjects", 7)):
        assert not verify(house.ledger, house.blobs, manifest.model_copy(update={name: value})).valid, name


def test_a_version_that_does_not_exist_is_named_with_those_that_do(house: Any) -> None:
    with pytest.raises(PlumblineError, match="publish or import"):
        load_version(house.ledger, house.blobs, "assistant")
    house.publish_seeds()
    with pytest.raises(PlumblineError, match="use one of 1"):
        load_version(house.ledger, house.blobs, "assistant", 7)


def test_the_salt_hides_a_short_text_from_guessing(house: Any) -> None:
    house.publish_seeds()
    version = load_version(house.ledger, house.blobs, "assistant")
    member, example = version.examples[0]
    assert member.address != example.digest != digest_of(example.target)
    (row,) = house.ledger.publications.find_address(member.address)
    payload = house.ledger.payloads.read(house.blobs, [row])[row.id]
    assert digest_bytes(payload) == member.address and payload[16:] == example.canonical_bytes()


def test_whoever_withdrew_is_left_out_by_the_next_seeds_too(house: Any) -> None:
    house.publish_seeds()
    house.consent("ana", "ben")
    house.post(house.rewrite("ana", "what is a lamp", "it shines"), house.rewrite("ben", "a boat", "it floats"))
    house.ingest()
    house.desk.withdraw("ana")
    seed(house, house.seeds(20)[12:])
    members = {member.subject for member in members_of(house.ledger, "assistant")}
    assert house.names.of("ana") not in members and house.names.of("ben") in members
    assert verify(house.ledger, house.blobs, load_version(house.ledger, house.blobs, "assistant").manifest).valid


def test_a_withdrawal_between_the_look_and_the_removal_is_not_forgotten(house: Any, monkeypatch: Any) -> None:
    house.publish_seeds()
    house.consent("ana", "ben")
    house.post(house.rewrite("ana", "what is a lamp", "it shines"), house.rewrite("ben", "a boat", "it floats"))
    house.ingest()
    house.desk.withdraw("ana")
    uncovered = house.ledger.publications.uncovered

    def meanwhile(dataset: str) -> set[str]:
        found: set[str] = uncovered(dataset)
        if house.desk.covers("ben", "training").covered:
            house.desk.withdraw("ben")
        return found

    monkeypatch.setattr(house.ledger.publications, "uncovered", meanwhile)
    with pytest.raises(ConsentLost):
        publish_removal(house.ledger, house.blobs, "assistant")
    publish_removal(house.ledger, house.blobs, "assistant")
    assert {member.subject for member in members_of(house.ledger, "assistant")} == {house.names.of("demonstrator")}


def test_consent_that_covers_nothing_any_more_is_an_ending(house: Any) -> None:
    house.publish_seeds()
    house.consent("ana")
    house.post(house.rewrite("ana", "what is a lamp", "it shines"))
    house.ingest()
    house.desk.give("ana", ["training"], house.notice, terms=ConsentTerms(age_band="minor"))
    assert house.ledger.publications.uncovered("assistant") == {house.names.of("ana")}


def test_seeds_never_stand_on_both_sides(house: Any) -> None:
    house.publish_seeds(splits=["train"] * 12)
    words = " ".join(f"word{number}" for number in range(60))
    subject = house.names.of("demonstrator")
    one = house.seeds(1)[0].model_copy(update={"messages": (say("user", f"{words} a"), say("assistant", "yes"))})
    two = one.model_copy(update={"messages": (say("user", f"{words} b"), say("assistant", "yes")), "cluster": "x"})
    again = house.seeds(1)[0].model_copy(update={"messages": (house.seeds(1)[0].messages[0], say("assistant", "new"))})
    seed(house, [one, two, again], splits=["held_out", "train", "held_out"])
    manifest = load_version(house.ledger, house.blobs, "assistant").manifest
    assert manifest.rejected == {"in_held_out": 1, "in_train": 1} and subject
    assert verify(house.ledger, house.blobs, manifest).valid


def test_what_was_refused_is_not_kept(house: Any) -> None:
    house.publish_seeds()
    withdraw_and_erase(house.ledger, house.blobs, house.desk, "demonstrator")
    with pytest.raises(ConsentLost):
        seed(house, house.seeds(30))
    assert house.ledger.database.value("SELECT COUNT(*) FROM pack WHERE published = 0") == 0
    assert house.ledger.subjects.known([house.names.of("demonstrator")]) == {}
    assert not any(b"seed answer" in path.read_bytes() for path in (house.root / "blobs").rglob("*") if path.is_file())
