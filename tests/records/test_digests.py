"""A digest is the identity of a record: the same content anywhere, never the same for different content."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from plumbline.records import (
    GENESIS,
    Example,
    FeedbackData,
    FeedbackEvent,
    Member,
    Message,
    Objective,
    Optimiser,
    Provenance,
    Rubric,
    Rule,
    Suite,
    SuiteItem,
    Verdict,
    canonical_bytes,
    digest_of,
    example_address,
    merkle_root,
    say,
    short,
)

TEXT = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTIVE = Objective(
    dataset=GENESIS, base_policy=GENESIS, template=GENESIS, rubric=GENESIS, optimiser=Optimiser(learning_rate=1e-3)
)
EXAMPLE = Example(
    messages=(say("user", "who is ana ?"), say("assistant", "a baker .")),
    slice="facts",
    provenance=Provenance(origin="seed", author="writers", source="tests"),
)


def test_golden_digests_never_change_silently() -> None:
    assert digest_of({"b": 1, "a": [True, None, "é"]}) == (
        "sha256:17c8c6f7f948ee1c9b93b1bc35f6edc29cbaf3022bff7d076d1c4831dd8a44a2"
    )
    assert say("user", "hello").digest == "sha256:c647660c42206158d997e94ac769a7b84a4ce83c30631e2471999779d862ef2e"
    assert OBJECTIVE.digest == "sha256:7382ad4e684f4a8655acf0bf023fba9ecd7ad4c8e1498b0628fa8338184e1d1a"
    assert EXAMPLE.digest == "sha256:ef3c9a5cf1251a7352121e81176aa05bb3edef11b3d193abf4fce5393de40434"
    assert (
        example_address(b"\x00" * 16, EXAMPLE)
        == "sha256:2a38acb5a848e0bbe3c1bfff663224d071b500d727c443792fa86de59ac58430"
    )
    assert (
        merkle_root(["sha256:" + c * 64 for c in "abc"])
        == "sha256:803e0247114aeaf661a3b93673a77ed58c8b51289f07a56a6b6c5f7e13fc0371"
    )


@given(JSON)
def test_canonical_bytes_survive_a_round_trip(value: object) -> None:
    assert canonical_bytes(json.loads(canonical_bytes(value))) == canonical_bytes(value)


@given(st.dictionaries(TEXT, st.integers(), max_size=6), st.randoms())
def test_the_order_of_keys_does_not_matter(value: dict[str, int], random: object) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


@given(TEXT, TEXT)
def test_different_text_is_a_different_digest(one: str, two: str) -> None:
    assert (say("user", one).digest == say("user", two).digest) == (one == two)


def test_nan_and_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_bytes(float("nan"))
    with pytest.raises(UnicodeEncodeError):
        canonical_bytes("\ud800")


@given(st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), max_size=9, unique=True), st.randoms())
def test_a_merkle_root_is_a_function_of_the_set(leaves: list[str], random: object) -> None:
    assert merkle_root(leaves) == merkle_root(reversed(leaves))
    assert merkle_root(leaves) != merkle_root([*leaves, "sha256:new"])


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_an_address_depends_on_its_salt(one: bytes, two: bytes) -> None:
    assert (example_address(one, EXAMPLE) == example_address(two, EXAMPLE)) == (one == two)


def test_records_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        OBJECTIVE.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Message.model_validate({"role": "user", "content": "x", "consent": True})


def test_every_field_of_the_objective_changes_its_id() -> None:
    changes = {
        "epochs": 2.0,
        "slice_weights": {"facts": 2.0},
        "frozen": ("model.embed_tokens",),
        "seed": 1,
        "batch_examples": 16,
        "max_steps": 5,
        "precision": "bfloat16",
    }
    ids = {OBJECTIVE.model_copy(update={key: value}).digest for key, value in changes.items()}
    assert len(ids | {OBJECTIVE.digest}) == len(changes) + 1


def test_records_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValidationError, match="must be the assistant's"):
        Example(messages=(say("user", "a"), say("user", "b")), slice="s", provenance=EXAMPLE.provenance)
    with pytest.raises(ValidationError, match="go together"):
        Objective(**{**OBJECTIVE.model_dump(), "replay_share": 0.2})
    item = SuiteItem(id="1", area="honesty", slice="s", cluster="c", messages=(say("user", "a"),), scorer="exact")
    with pytest.raises(ValidationError, match="appears twice"):
        Suite(name="s", version="1", items=(item, item))
    rule = Rule(area="honesty", text="say so", margins={"truthful_choice": 0.03})
    with pytest.raises(ValidationError, match="an area appears twice"):
        Rubric(id="r", version="1", owner="o", purpose="p", rules=(rule, rule))
    data = FeedbackData(subject="s-1", messages=(say("user", "a"),), answer="b")
    with pytest.raises(ValidationError, match="lacks what it is about"):
        FeedbackEvent(id="1", source="app", type="dev.plumbline.feedback.rewrite", data=data)


def test_verdicts_carry_their_exit_codes() -> None:
    assert {v.value: v.exit_code for v in Verdict} == {"PASS": 0, "REGRESSED": 1, "ERROR": 2, "INCONCLUSIVE": 3}


def test_a_short_digest_is_twelve_characters() -> None:
    assert short("sha256:" + "ab" * 32) == "abababababab"
    assert Member(address=GENESIS, split="train", slice="s").subject is None
