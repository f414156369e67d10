"""Who is in an experiment, and what both legs are asked with."""

from hypothesis import given
from hypothesis import strategies as st

from plumbline.records import DecoderSettings
from plumbline.shadow import Experiment, sampled, session_pseudonym
from plumbline.shadow.sampling import pinned

SHARES = st.floats(0, 1)
GOLDEN_SAMPLE = "bdeij"
GOLDEN_PSEUDONYM = "76e9f7652c19b5d608c8c86c6afbe6d0"
GOLDEN_DIGEST = "sha256:757fdf9488fb36449ebfb637e2e817706307e7980c7d522124523f1b891def47"
TEXT = st.text(min_size=1, max_size=20)


@given(salt=TEXT, session=TEXT, small=SHARES, large=SHARES)
def test_a_session_in_a_smaller_sample_is_in_every_larger_one(
    salt: str, session: str, small: float, large: float
) -> None:
    small, large = sorted((small, large))
    assert sampled(salt, session, small) <= sampled(salt, session, large)
    assert sampled(salt, session, 1.0) and not sampled(salt, session, 0.0)


def test_the_share_is_what_it_says_and_salts_draw_different_samples() -> None:
    sessions = [f"session-{i}" for i in range(20_000)]
    one = {s for s in sessions if sampled("one", s, 0.3)}
    two = {s for s in sessions if sampled("two", s, 0.3)}
    # Binomial standard deviations: 0.0032 of 20,000; the overlap of independent samples is 0.09.
    assert abs(len(one) / 20_000 - 0.3) < 0.015
    assert abs(len(one & two) / 20_000 - 0.09) < 0.01


def test_golden_samples_and_pseudonyms_do_not_move_between_versions() -> None:
    assert [s for s in "abcdefghij" if sampled("grain", s, 0.5)] == list(GOLDEN_SAMPLE)
    assert session_pseudonym("grain", "s1") == GOLDEN_PSEUDONYM
    assert Experiment(name="e", salt="grain").digest == GOLDEN_DIGEST


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0.1, 1),
            "seed": st.integers(0, 9),
            "max_tokens": st.integers(1, 99),
            "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2),
        },
    ),
    st.text("abc123", min_size=1, max_size=8),
)
def test_every_setting_is_decided_and_is_the_users_where_they_named_it(body: dict[str, object], request: str) -> None:
    default = DecoderSettings(max_tokens=50)
    decoder = pinned(body, default, request)
    assert decoder is not None
    for name in ("temperature", "top_p", "seed", "max_tokens"):
        if name in body:
            assert getattr(decoder, name) == body[name]
    assert decoder == pinned(body, default, request)
    if decoder.greedy and "seed" not in body:
        assert decoder.seed == 0


def test_requests_that_sample_without_a_seed_get_different_ones() -> None:
    seeds = {pinned({"temperature": 1.0}, DecoderSettings(), f"r{i}") for i in range(50)}
    assert len(seeds) == 50


def test_settings_that_are_not_valid_are_left_for_the_reference_to_refuse() -> None:
    for body in ({"temperature": 99}, {"max_tokens": -1}, {"stop": 3}, {"top_p": "x"}, {"seed": [1]}):
        assert pinned(body, DecoderSettings(), "r") is None
