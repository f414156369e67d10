"""Continuous batching: whoever joins or leaves, an answer's tokens, text and log probabilities stay the same bytes."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline.policies import decoding, engine
from plumbline.policies.engine import Answer, Engine
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say

REPOSITORY = Path(__file__).resolve().parents[2]
Said = tuple[list[int], list[Any], str, str | None]


@pytest.fixture(scope="module")
def policy(tiny_policy: Path) -> LocalPolicy:
    found = LocalPolicy.load(tiny_policy)
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in found.model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return found


def some_answers(policy: LocalPolicy, seed: int, n: int, *, mixed: bool = True) -> list[Answer]:
    """Prompts of 8 to 140 tokens, each with decoder settings of its own."""
    draw = random.Random(seed)
    found = []
    for i in range(n):
        text = "ana is a baker . who ? " * draw.randint(1, 6) + str(i)
        decoder = DecoderSettings(
            max_tokens=draw.randint(1, 24),
            temperature=draw.choice([0.0, 0.7, 1.5]) if mixed else 0.0,
            top_p=draw.choice([1.0, 0.8]),
            seed=draw.randint(0, 9),
            stop=draw.choice([(), ("a",), ("who", "er ")]),
        )
        top = draw.choice([None, 0, 3])
        found.append(Answer(policy.template.prompt_ids([(say("user", text),)])[0], decoder, top, draw.random() < 0.5))
    return found


def said(answer: Answer) -> Said:
    return answer.tokens, answer.logprobs, answer.text or "", answer.finish


def alone(policy: LocalPolicy, answer: Answer) -> Said:
    again = Answer(answer.ids, answer.decoder, answer.top, answer.aloud)
    own = policy.engine()
    own.ask(again)
    own.run()
    return said(again)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), reads=st.sampled_from([None, 64, 512]), slotted=st.booleans())
def test_an_answer_is_the_same_bytes_alone_and_among_31_that_come_and_go(
    policy: LocalPolicy, seed: int, reads: int | None, slotted: bool
) -> None:
    draw = random.Random(seed)
    answers = some_answers(policy, seed, 32)
    many = policy.engine()
    if not slotted:
        many.shapes = None
    coming, dropped = list(answers), set()
    while coming or many.waiting or many.busy:
        for _ in range(draw.randint(0, 12)):
            if coming:
                many.ask(coming.pop())
        for answer in many.step(reads):
            if not answer.ended and draw.random() < 0.02:
                many.drop(answer)
                dropped.add(answer)
    assert len(dropped) < 32 and all(answer.ended for answer in answers)
    for answer in answers:
        if answer in dropped:
            assert answer.finish == "client_abort"
        elif slotted:
            assert said(answer) == alone(policy, answer)
        else:
            one = policy.engine()
            one.shapes = None
            again = Answer(answer.ids, answer.decoder, answer.top, answer.aloud)
            one.ask(again)
            one.run()
            assert said(answer) == said(again)


def test_pieces_joined_are_the_text_and_never_show_the_beginning_of_a_stop_text(policy: LocalPolicy) -> None:
    answers = some_answers(policy, 3, 24)
    for answer in answers:
        answer.aloud = True
    pieces: dict[Answer, list[str]] = {answer: [] for answer in answers}
    many = policy.engine()
    for answer in answers:
        many.ask(answer)
    while many.waiting or many.busy:
        for answer in many.step():
            pieces[answer].append(answer.piece())
    for answer, parts in pieces.items():
        assert "".join(parts) == answer.text == alone(policy, answer)[2]
        assert not any(stop in "".join(parts) for stop in answer.decoder.stop)


def test_who_comes_later_is_admitted_while_others_speak_and_who_leaves_makes_room(policy: LocalPolicy) -> None:
    own = policy.engine()
    own.stop_ids = frozenset()
    ids = policy.template.prompt_ids([(say("user", "who is ana ?"),)])[0]
    long, late = (Answer(ids, DecoderSettings(max_tokens=n)) for n in (60, 3))
    own.ask(long)
    own.step()
    own.ask(late)
    while not late.ended:
        own.step()
    assert not long.ended and own.busy == 1
    own.drop(long)
    assert own.busy == 0 and long.finish == "client_abort"
    assert own.step() == []


def test_a_crowd_is_read_in_portions_so_that_those_who_speak_go_on(policy: LocalPolicy) -> None:
    own = policy.engine()
    own.stop_ids = frozenset()
    first, *crowd = (Answer(a.ids, DecoderSettings(max_tokens=30)) for a in some_answers(policy, 1, 40))
    own.ask(first)
    own.step()
    for answer in crowd:
        own.ask(answer)
    before = len(first.tokens)
    own.step(64)
    assert len(first.tokens) == before + 1 and 0 < len(own.waiting) < 39
    waiting = list(own.waiting)
    own.step(64)
    assert waiting[0] not in own.waiting, "the oldest goes first"


def test_the_cache_keeps_to_its_bytes_and_a_lone_prompt_is_always_asked(
    policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = some_answers(policy, 5, 40, mixed=False)
    expected = [alone(policy, answer) for answer in answers]
    monkeypatch.setattr(engine, "CACHE_BYTES", 1)
    own = policy.engine()
    for answer in answers:
        own.ask(answer)
    most = 0
    while own.waiting or own.busy:
        own.step()
        most = max(most, own._cache.slots if own._cache else 0)
    assert [said(answer) for answer in answers] == expected
    assert most < policy.engine().places


def test_logits_that_are_no_numbers_end_their_own_answer_in_an_error(policy: LocalPolicy) -> None:
    logits = torch.zeros(2, 8)
    logits[0, 3] = torch.nan
    bad, good = (Answer([1, 2], DecoderSettings(max_tokens=2, temperature=t)) for t in (1.0, 0.0))
    policy.engine()._choose([bad, good], logits)
    assert (bad.finish, bad.completion.text) == ("error", "") and good.tokens == [0]


def test_the_coldest_and_narrowest_settings_are_greedy_and_harm_no_neighbour(policy: LocalPolicy) -> None:
    ids = policy.template.prompt_ids([(say("user", "who is ana ?"),)])[0]
    settings_ = [(t, p) for t in (0.0, 5e-324, 1e-12, 1.0) for p in (1.0, 5e-324)]
    answers = [Answer(ids, DecoderSettings(max_tokens=12, temperature=t, top_p=p)) for t, p in settings_]
    own = policy.engine()
    for answer in answers:
        own.ask(answer)
    own.run()
    greedy = answers[0].tokens
    assert [a.tokens == greedy for a, s in zip(answers, settings_, strict=True) if s != (1.0, 1.0)] == [True] * 7


def test_log_probabilities_are_the_models_own_whatever_the_temperature(policy: LocalPolicy) -> None:
    ids = policy.template.prompt_ids([(say("user", "who is ana ?"),)])[0]
    for temperature in (0.0, 1.3):
        answer = Answer(ids, DecoderSettings(max_tokens=8, temperature=temperature, seed=2), top=4)
        own = policy.engine()
        own.ask(answer)
        own.run()
        with torch.no_grad():
            logp = policy.model(torch.tensor([ids + answer.tokens])).logits[0].log_softmax(-1)
        for place, (token, noted) in enumerate(zip(answer.tokens, answer.logprobs, strict=False), start=len(ids) - 1):
            assert noted.token == token
            assert noted.logprob == pytest.approx(float(logp[place, token]), abs=1e-4)
            assert [value for _, value in noted.top] == pytest.approx(logp[place].topk(4).values.tolist(), abs=1e-4)


def test_shapes_that_disagree_are_found_by_trying(policy: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 32 rows, and prompts read together, are made to differ in the last bit."""
    assert 16 in decoding.try_out(policy.model, False).rows  # type: ignore[union-attr]
    real_step, real_read = decoding.step, decoding.read_prompts

    def step(model: Any, cache: Any, last: list[int], longest: int) -> torch.Tensor:
        return real_step(model, cache, last, longest) * (1 + 2**-22 * (len(last) == 32))

    def read(model: Any, prompts: list[list[int]], treated: bool) -> Any:
        logits, cache = real_read(model, prompts, treated)
        return logits * (1 + 2**-22 * (len(prompts) > 2)), cache

    monkeypatch.setattr(decoding, "step", step)
    monkeypatch.setattr(decoding, "read_prompts", read)
    found = decoding.try_out(policy.model, False)
    assert found is not None and 32 not in found.rows and 16 in found.rows and not found.together


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="names x86 instruction sets")
def test_on_the_kernels_of_older_processors_too_neighbours_change_nothing(tmp_path: Path) -> None:
    """With AVX2 a product of 64 rows sums in another order than one of 16."""
    code = f"""
import sys; sys.path[:0] = [{str(REPOSITORY / "tests")!r}]
from pathlib import Path
from tiny import make_tiny_policy
from plumbline.policies.engine import Answer
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, say
policy = LocalPolicy.load(make_tiny_policy(Path({str(tmp_path)!r}) / "tiny"))
ids = policy.template.prompt_ids([(say("user", "who is ana ? " * (1 + i % 5)),) for i in range(24)])
def ask(some):
    engine, answers = policy.engine(), [Answer(i, DecoderSettings(max_tokens=6), top=2) for i in some]
    for answer in answers: engine.ask(answer)
    engine.run()
    return [(a.tokens, a.logprobs) for a in answers]
print(policy._shapes)
assert ask(ids) == [ask([one])[0] for one in ids]
"""
    older = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | older, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_engine_that_was_cleared_says_who_was_lost_and_starts_afresh(policy: LocalPolicy) -> None:
    own: Engine = policy.engine()
    answers = some_answers(policy, 8, 20)
    expected = alone(policy, answers[0])
    for answer in answers:
        own.ask(answer)
    own.step(64)
    lost = own.clear()
    assert {*lost} == {answer for answer in answers if not answer.ended}
    assert own.busy == 0 and not own.waiting
    again = Answer(answers[0].ids, answers[0].decoder, answers[0].top, answers[0].aloud)
    own.ask(again)
    own.run()
    assert said(again) == expected
