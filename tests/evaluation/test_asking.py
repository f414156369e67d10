"""Who asks never changes an answer: this process or Ray actors, one of which is killed; alone or in company."""

import os
import signal

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation import answer_suite
from plumbline.evaluation.asking import Answered, Here, invariance
from plumbline.evaluation.asking.answered import Asker
from plumbline.evaluation.asking.crew import RayCrew
from plumbline.policies import Completion, LogLikelihood
from plumbline.policies.local import LocalPolicy, identify
from plumbline.records import DecoderSettings, Suite, SuiteItem, say

DECODER = DecoderSettings(max_tokens=6)


def small_suite(n):
    def item(i, scorer, **more):
        question = (say("user", "who is ana ? " * (1 + i % 7) + str(i)),)
        return SuiteItem(
            id=f"{scorer}{i}", area="honesty", slice="s", cluster=f"c{i}", messages=question, scorer=scorer, **more
        )

    compared = [item(i, "choice_loglik", choices=("a baker .", "a", "ana is .")) for i in range(n)]
    return Suite(name="s", version="1", items=(*compared, *[item(i, "exact", references=("x",)) for i in range(n)]))


def test_a_policy_is_asked_through_an_asker(written):
    assert isinstance(Here(written()), Asker) and not isinstance(written(), Asker)


def test_a_sample_alone_together_and_turned_answers_alike_to_the_last_bit(tiny_policy):
    found = invariance(LocalPolicy.load(tiny_policy), small_suite(10).items, DECODER)
    assert found.exact and found.items == 20


def test_a_policy_whose_answers_depend_on_company_is_found_out(written):
    class Sociable(written):
        def generate(self, prompts, decoder):
            return [Completion(f"we are {len(prompts)}", "stop", 3) for _ in prompts]

        def log_likelihood(self, pairs):
            return [LogLikelihood(-len(pairs) / 8, 1, 1) for _ in pairs]

    found = invariance(Sociable(), small_suite(4).items, DECODER)
    assert not found.exact and found.texts == 8 and found.nats == pytest.approx((12 - 3) / 8)


@pytest.mark.slow
def test_actors_answer_as_one_process_does_and_a_killed_ones_batch_is_asked_again(tiny_policy, monkeypatch):
    import ray

    from plumbline.evaluation import answers as module
    from plumbline.evaluation.asking import answered
    from plumbline.training.runners import ray_session

    monkeypatch.setattr(module, "deal", lambda items: answered.deal(items, 8))
    suite, killed = small_suite(24), []
    here = answer_suite(LocalPolicy.load(tiny_policy), suite, DECODER)
    path, manifest = identify(tiny_policy)

    class Murdered(RayCrew):
        def ask(self, batches, decoder):
            for found in super().ask(batches, decoder):
                assert isinstance(found, Answered)
                if not killed:
                    killed.append(ray.get(self.actors[0].process.remote()))
                    os.kill(killed[0], signal.SIGKILL)
                yield found

    with ray_session():
        with Murdered(path, manifest, workers=2) as crew:
            assert answer_suite(crew, suite, DECODER) == here
            assert len(killed) == 1 and killed[0] not in [ray.get(actor.process.remote()) for actor in crew.actors]
        stranger = RayCrew(path, manifest.model_copy(update={"name": "other"}), workers=1)
        with stranger, pytest.raises(PlumblineError, match="another policy at the same path"):
            answer_suite(stranger, suite, DECODER)


def test_without_ray_nobody_is_hired(tiny_policy):
    with pytest.raises(PlumblineError, match="Ray is not connected"):
        RayCrew(tiny_policy, LocalPolicy.load(tiny_policy).manifest, workers=2)
