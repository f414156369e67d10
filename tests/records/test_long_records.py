"""Records of thousands of members are written another way, to the same bytes, and remember their digest."""

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pytest import raises

from plumbline.records import DatasetChanges, Member, digest_bytes
from plumbline.records.canonical import plain_bytes
from plumbline.records.dataset import members_from

addresses = st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
members = st.builds(
    Member,
    address=addresses,
    split=st.sampled_from(["train", "held_out"]),
    slice=text,
    cluster=text,
    subject=st.none() | text,
    licence=text,
)


@given(st.lists(members, max_size=4), st.lists(addresses, max_size=3))
def test_changes_have_the_bytes_of_any_record(added: list[Member], removed: list[str]) -> None:
    changes = DatasetChanges(added=tuple(added), removed=tuple(removed))
    written = plain_bytes({"schema": DatasetChanges.schema_id, "content": changes.model_dump(mode="json")})
    assert changes.canonical_bytes() == written
    assert changes.digest == changes.digest == digest_bytes(written)
    assert DatasetChanges.from_canonical(written) == changes


@given(st.lists(members, max_size=4))
def test_members_made_together_are_those_made_alone_each_validated(made: list[Member]) -> None:
    assert members_from([dict(member) for member in made]) == tuple(made)
    with raises(ValidationError):
        members_from([*(dict(member) for member in made), {"address": "x", "split": "train", "slice": "a"}])


def test_a_copy_with_other_content_has_another_digest() -> None:
    changes = DatasetChanges(removed=("sha256:" + "a" * 64,))
    before = changes.digest
    copy = changes.model_copy(update={"removed": ()})
    assert copy.digest == DatasetChanges().digest != before
    assert changes.model_copy().digest == before
