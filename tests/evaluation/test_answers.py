"""Asking once: the cache's key holds everything, a killed run resumes, a failure is asked again."""

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import answer_suite
from plumbline.policies import Completion, Policy
from plumbline.records import DecoderSettings


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
