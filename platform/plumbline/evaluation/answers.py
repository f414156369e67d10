"""Asking one policy a whole suite, once: answers by item, kept on disk under a key that holds everything.

One policy's answers are computed alone and reused in every comparison; comparing is then pure and cheap. Finished
batches are appended to the cache (`asking.cache`), so a run killed half-way continues where it stopped. Failures are
never cached: the next run asks those items again.
"""

from collections.abc import Callable
from pathlib import Path

from plumbline.evaluation.asking.answered import Asker, Here, by_likelihood, deal
from plumbline.evaluation.asking.cache import AnswerCache, answers_key
from plumbline.evaluation.asking.records import Answers, ChoiceLikelihood, ItemAnswer
from plumbline.policies import Policy
from plumbline.records import DecoderSettings, Suite

__all__ = ["AnswerCache", "Answers", "ChoiceLikelihood", "ItemAnswer", "Progress", "answer_suite", "by_likelihood"]

Progress = Callable[[str, int, int], None]


def answer_suite(
    policy: Policy | Asker,
    suite: Suite,
    decoder: DecoderSettings,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
    *,
    fresh: bool = False,
) -> Answers:
    """Ask `policy` every item. Items with a `choice_loglik` scorer are compared by likelihood, others answered.

    A likelihood that is not finite becomes the item's `error` (the pair is then missing, and the gate says ERROR).
    A policy that raises half-way leaves the finished work in the cache; the exception goes to the caller. `fresh` sets
    aside what the cache holds. Who asks (`Asker`) and how items are dealt never changes the result.
    """
    asker = policy if isinstance(policy, Asker) else Here(policy)
    manifest = asker.manifest
    key = answers_key(manifest.digest, manifest.template, decoder.digest, asker.place)
    cache = AnswerCache(cache_dir, key) if cache_dir is not None else None
    if cache and fresh:
        cache.set_aside()
    known = cache.load() if cache else {}
    digests = {item.id: item.digest for item in suite.items}
    found = {item.id: known[digests[item.id]] for item in suite.items if digests[item.id] in known}
    if on_progress and found:
        on_progress(manifest.name, len(found), len(suite.items))
    for answered in asker.ask(deal([item for item in suite.items if item.id not in found]), decoder):
        finished = [(digests[answer.item], answer) for answer in answered.answers if not answer.failed]
        if cache and finished:
            cache.append(finished)
        found.update((answer.item, answer) for answer in answered.answers)
        if on_progress:
            on_progress(manifest.name, len(found), len(suite.items))
        if answered.fault is not None:
            raise answered.fault
    return Answers(
        policy=manifest.digest,
        name=manifest.name,
        template=manifest.template,
        dataset=manifest.dataset,
        suite=suite.digest,
        decoder=decoder.digest,
        answers=tuple(found[item.id].model_copy(update={"item": item.id}) for item in suite.items),
        verified=asker.verified,
    )
