"""Asking once: the cache's key holds everything, a killed run resumes, a failure is asked again."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import answer_suite
from plumbline.evaluation.answers import AnswerCache, ItemAnswer, by_likelihood
from plumbline.evaluation.asking.answered import deal
from plumbline.policies import Completion, Interrupted, NoLikelihood, Policy
from plumbline.records import DecoderSettings, digest_of


def test_the_written_policy_is_a_policy(written):
    assert isinstance(written(), Policy)


def test_a_second_run_asks_nothing_and_answers_the_same(written, make_suite, decoder, tmp_path):
    suite, policy = make_suite(20), written()
    first = answer_suite(policy, suite, decoder, tmp_path)
    asked = sum(policy.questions)
    second = answer_suite(policy, suite, decoder, tmp_path)
    assert sum(policy.questions) == asked > 0
    assert first == second == answer_suite(policy, suite, decoder), "cached and uncached answers are the same record"


@pytest.mark.parametrize("changed", ["policy", "decoder", "item"])
def test_whatever_could_change_an_answer_changes_the_key(written, make_suite, decoder, tmp_path, changed):
    suite, policy = make_suite(5), written()
    answer_suite(policy, suite, decoder, tmp_path)
    other = written("yields") if changed == "policy" else written()
    if changed == "decoder":
        decoder = DecoderSettings(max_tokens=7)
    if changed == "item":
        first = suite.items[0].model_copy(update={"references": ("something else",)})
        suite = suite.model_copy(update={"items": (first, *suite.items[1:])})
    answer_suite(other, suite, decoder, tmp_path)
    assert sum(other.questions) == (1 if changed == "item" else sum(policy.questions))


def test_a_run_that_is_killed_half_way_resumes_where_it_stopped(written, make_suite, decoder, tmp_path):
    suite = make_suite(60)

    class Killed(written):
        def generate(self, prompts, decoder):
            if len(self.questions) >= 3:
                raise KeyboardInterrupt
            return super().generate(prompts, decoder)

    killed, fresh = Killed(), written()
    with pytest.raises(KeyboardInterrupt):
        answer_suite(killed, suite, decoder, tmp_path)
    answers = answer_suite(fresh, suite, decoder, tmp_path)
    asked_by_one_run = written()
    assert answers == answer_suite(asked_by_one_run, suite, decoder)
    assert sum(killed.questions) + sum(fresh.questions) == sum(asked_by_one_run.questions)


def test_a_torn_line_is_asked_again_and_spoils_no_other(written, make_suite, decoder, tmp_path):
    suite, policy = make_suite(10), written()
    whole = answer_suite(policy, suite, decoder, tmp_path)
    (file,) = tmp_path.glob("answers-*.jsonl")
    text = file.read_text()
    file.write_text(text[: len(text) - 40])
    again = written()
    assert answer_suite(again, suite, decoder, tmp_path) == whole
    assert sum(again.questions) == 1
    assert sum(policy.questions) > 100
    third = written()
    answer_suite(third, suite, decoder, tmp_path)
    assert third.questions == []


def test_a_failed_answer_is_kept_out_of_the_cache(written, make_suite, decoder, tmp_path):
    class Flaky(written):
        def generate(self, prompts, decoder):
            return [Completion("", "error", 0), *super().generate(prompts, decoder)[1:]]

    suite = make_suite(5)
    answer_suite(Flaky(), suite, decoder, tmp_path)
    repaired = written()
    answers = answer_suite(repaired, suite, decoder, tmp_path)
    assert sum(repaired.questions) == 1
    assert all(answer.text or answer.choices for answer in answers.answers)


def test_progress_counts_up_to_all_items(written, make_suite, decoder):
    seen = []
    suite = make_suite(30)
    answer_suite(written(name="me"), suite, decoder, on_progress=lambda *step: seen.append(step))
    assert seen[-1] == ("me", len(suite.items), len(suite.items))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_cache_that_cannot_be_written_says_so(written, make_suite, decoder, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(PlumblineError, match="cannot be written"):
        answer_suite(written(), make_suite(3), decoder, blocked / "cache")


def test_a_line_torn_within_a_character_spoils_no_other(written, make_suite, decoder, tmp_path):
    suite = make_suite(3)
    whole = answer_suite(written(), suite, decoder, tmp_path)
    (file,) = tmp_path.glob("answers-*.jsonl")
    file.write_bytes(file.read_bytes() + '\n{"key": "é'.encode()[:-1])
    again = written()
    assert answer_suite(again, suite, decoder, tmp_path) == whole and again.questions == []


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    answers = [ItemAnswer(item=f"i{i}", text="é" * 5000, finish="stop") for i in range(60)]

    def write(part):
        cache = AnswerCache(tmp_path, digest_of("key"))
        for answer in answers[part::6]:
            cache.append([(digest_of(answer.item), answer)])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert AnswerCache(tmp_path, digest_of("key")).load() == {digest_of(a.item): a for a in answers}


def test_fresh_asks_again_and_sets_the_old_answers_aside(written, make_suite, decoder, tmp_path):
    suite = make_suite(3)
    answer_suite(written(), suite, decoder, tmp_path)
    (old,) = tmp_path.glob("answers-*.jsonl")
    before, again = old.read_bytes(), written()
    answer_suite(again, suite, decoder, tmp_path, fresh=True)
    assert sum(again.questions) > 0 and old.read_bytes() == before
    assert old.with_name(f"{old.stem}.1.jsonl").read_bytes() == before


def test_another_place_is_another_key(written, make_suite, decoder, tmp_path):
    class Elsewhere(written):
        place = "cuda"

    answer_suite(written(), make_suite(3), decoder, tmp_path)
    elsewhere = Elsewhere()
    answer_suite(elsewhere, make_suite(3), decoder, tmp_path)
    assert sum(elsewhere.questions) > 0


@pytest.mark.parametrize("kind", ["generate", "log_likelihood"])
def test_a_policy_lost_half_way_leaves_what_it_had_answered(written, make_suite, decoder, tmp_path, kind):
    class Lost(written):
        def _half(self, answers):
            fault = Interrupted("gone", consequence="c", remedy="r")
            fault.done = [*answers[: len(answers) // 2], *[None] * (len(answers) - len(answers) // 2)]
            raise fault

    def half(self, asked, *more):
        return self._half(getattr(written, kind)(self, asked, *more))

    setattr(Lost, kind, half)
    suite, lost, fresh = make_suite(7), Lost(), written()
    with pytest.raises(Interrupted, match="gone"):
        answer_suite(lost, suite, decoder, tmp_path)
    kept = sum(len(AnswerCache(tmp_path, _key(file)).load()) for file in tmp_path.iterdir())
    assert 0 < kept < len(suite.items)
    answer_suite(fresh, suite, decoder, tmp_path)
    compared = sum(by_likelihood(item) for item in suite.items)  # with two choices each
    again = kept if kind == "log_likelihood" else 0
    assert sum(fresh.questions) == len(suite.items) - kept + (compared - again if kind == "log_likelihood" else 0)


def test_items_that_a_policy_cannot_score_are_errors_by_name_and_no_others(written, make_suite, decoder, tmp_path):
    class Talks(written):
        def log_likelihood(self, pairs):
            raise NoLikelihood("it only talks", consequence="c", remedy="r")

    suite = make_suite(4)
    answers = answer_suite(Talks(), suite, decoder, tmp_path).answers
    failed = {answer.item for answer in answers if answer.failed}
    assert failed == {item.id for item in suite.items if by_likelihood(item)}
    assert {answer.error for answer in answers} == {None, "it only talks"}


def test_dealing_is_by_kind_and_length_and_the_same_for_any_order(make_suite):
    items = make_suite(30).items
    dealt = deal(items, 16)
    assert dealt == deal(items[::-1], 16) and sorted(i.id for batch in dealt for i in batch) == sorted(
        i.id for i in items
    )
    assert all(len({by_likelihood(item) for item in batch}) == 1 and len(batch) <= 16 for batch in dealt)


def _key(file):
    return next(json.loads(line)["key"] for line in file.read_text().splitlines() if line)
