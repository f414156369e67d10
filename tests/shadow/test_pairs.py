"""What the pairs say."""

import random

import pytest

from plumbline.records import Answer, DecoderSettings, Pair, ShadowCounts, SpoolRecord, say
from plumbline.shadow import summarise


def judge(text: str) -> str:
    return "refuse" if text.startswith("i can not") else "comply"


def pair(i: int, reference: bool, aligned: bool, slice_: str = "benign", session: str | None = None) -> Pair:
    def answer(refuses: bool, ms: float) -> Answer:
        return Answer(text="i can not" if refuses else "sure", finish="stop", latency_ms=ms, tokens=2)

    record = SpoolRecord(
        request=f"r{i}",
        experiment="e",
        session=session or f"s{i}",
        subject="ana",
        slice=slice_,
        messages=(say("user", "?"),),
        decoder=DecoderSettings(),
        answer=answer(reference, float(i)),
    )
    return Pair(spooled=record, replayed=answer(aligned, 2.0 * i))


def counts(n: int) -> ShadowCounts:
    return ShadowCounts(experiment="e", spooled=n, paired=n)


def test_refusals_are_counted_by_leg_and_slice() -> None:
    pairs = [pair(i, False, i % 2 == 0) for i in range(10)] + [pair(i, True, True, "harmful") for i in range(10, 14)]
    summary = summarise(pairs, judge, counts(14))
    assert summary.refusal_reference == {"all": 4 / 14, "benign": 0.0, "harmful": 1.0}
    assert summary.refusal_aligned == {"all": 9 / 14, "benign": 0.5, "harmful": 1.0}
    assert summary.refusal_shift["benign"][0] == 0.5
    assert summary.sessions == 14
    assert summary.latency_ms["reference_p50"] == 6.0 and summary.latency_ms["aligned_p99"] == 26.0


def test_the_summary_does_not_depend_on_the_order_of_arrival() -> None:
    pairs = [pair(i, i % 3 == 0, i % 4 == 0, "ab"[i % 2], f"s{i % 30}") for i in range(120)]
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert summarise(pairs, judge, counts(120)).digest == summarise(shuffled, judge, counts(120)).digest


def test_turns_of_one_session_count_once() -> None:
    one = [pair(i, False, True, session="same") for i in range(50)]
    assert summarise(one, judge, counts(50)).refusal_shift["all"] == (1.0, -1.0, 1.0)


def test_no_pairs_is_a_summary_too() -> None:
    summary = summarise([], judge, ShadowCounts(experiment="e", spooled=2, paired=0, shed={"no_consent": 2}))
    assert summary.refusal_aligned == {} and summary.sessions == 0


def test_accounting_that_does_not_balance_is_refused() -> None:
    with pytest.raises(ValueError, match="balance"):
        summarise([], judge, ShadowCounts(experiment="e", spooled=2, paired=0))
