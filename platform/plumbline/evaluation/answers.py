"""Asking one policy a whole suite, once: answers by item, cached on disk under a key that holds everything.

One policy's answers are computed alone and reused in every comparison; comparing is then pure and cheap. A cache
whose key forgets the model, the template or the sampling settings has spoilt published results in every large
harness, so the key here is the digest of all of them and of the whole item. The cache is a file of JSON lines to
which finished batches are appended: a run killed half-way continues where it stopped, and a torn last line (the
crash itself) is read as not yet asked. Failures are never cached: the next run asks those items again.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from plumbline.errors import PlumblineError
from plumbline.policies import Completion, LogLikelihood, Policy
from plumbline.records import DecoderSettings, Digest, Finish, Record, Suite, SuiteItem, digest_of, short

Progress = Callable[[str, int, int], None]
BATCH = 128


class ChoiceLikelihood(Record):
    """log pi(choice | item) in nats, with the tokens and UTF-8 bytes it sums over."""

    schema_id = "plumbline.dev/choice-likelihood/v1"

    total: float
    tokens: int
    bytes: int


class ItemAnswer(Record):
    """A policy's answer to one item: text, or a likelihood per choice, or the error that left it without either."""

    schema_id = "plumbline.dev/item-answer/v1"

    item: str
    text: str | None = None
    finish: Finish | None = None
    choices: tuple[ChoiceLikelihood, ...] = ()
    error: str | None = None


class Answers(Record):
    """All answers of one policy to one suite under one decoder, in the suite's order."""

    schema_id = "plumbline.dev/answers/v1"

    policy: Digest
    name: str
    template: Digest
    dataset: Digest | None
    suite: Digest
    decoder: Digest
    answers: tuple[ItemAnswer, ...]


def answer_suite(
    policy: Policy,
    suite: Suite,
    decoder: DecoderSettings,
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> Answers:
    """Ask `policy` every item. Items with a `choice_loglik` scorer are compared by likelihood, others answered.

    A likelihood that is not finite becomes the item's `error` (the pair is then missing, and the gate says ERROR).
    A policy that raises half-way leaves the finished batches in the cache; the exception goes to the caller.
    """
    manifest = policy.manifest
    key = digest_of([manifest.digest, manifest.template, decoder.digest])
    cache = AnswerCache(cache_dir / f"answers-{short(key)}.jsonl", key) if cache_dir is not None else None
    known = cache.load() if cache else {}
    digests = {item.id: item.digest for item in suite.items}
    found = {item.id: known[digests[item.id]] for item in suite.items if digests[item.id] in known}
    waiting = [item for item in suite.items if item.id not in found]
    for batch in _batches(waiting):
        answered = _ask(policy, batch, decoder)
        if cache:
            cache.append([(digests[a.item], a) for a in answered if a.finish != "error" and a.error is None])
        found.update((answer.item, answer) for answer in answered)
        if on_progress:
            on_progress(manifest.name, len(found), len(suite.items))
    return Answers(
        policy=manifest.digest,
        name=manifest.name,
        template=manifest.template,
        dataset=manifest.dataset,
        suite=suite.digest,
        decoder=decoder.digest,
        answers=tuple(found[item.id].model_copy(update={"item": item.id}) for item in suite.items),
    )


class AnswerCache:
    """One append-only file per (policy, template, decoder); each line is one item's digest with its answer."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def load(self) -> dict[str, ItemAnswer]:
        """Answers by item digest. Lines that are torn, or belong to another key, count as not yet asked."""
        if not self.path.exists():
            return {}
        known: dict[str, ItemAnswer] = {}
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                entry = json.loads(line)
                if entry["key"] == self.key:
                    known[entry["item"]] = ItemAnswer.model_validate(entry["answer"])
            except (ValueError, KeyError, TypeError, ValidationError):
                continue
        return known

    def append(self, entries: Sequence[tuple[str, ItemAnswer]]) -> None:
        """Written and flushed batch by batch. It starts on a new line, so that a torn line spoils only itself."""
        lines = [
            json.dumps({"key": self.key, "item": digest, "answer": answer.model_dump(mode="json")}, ensure_ascii=False)
            for digest, answer in entries
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n" + "\n".join(lines) + "\n")
        except OSError as error:
            raise PlumblineError(
                f"the answer cache {self.path} cannot be written ({error.strerror})",
                consequence="the evaluation stops; answers already on disk are kept",
                remedy="free some space or give another cache directory, then run the same command again",
            ) from error


def by_likelihood(item: SuiteItem) -> bool:
    return item.scorer.startswith("choice_loglik")


def _batches(items: Sequence[SuiteItem]) -> Iterator[list[SuiteItem]]:
    """Likelihood items first, then generated ones, each in batches of BATCH. Batching never changes an answer."""
    for kind in ([i for i in items if by_likelihood(i)], [i for i in items if not by_likelihood(i)]):
        for start in range(0, len(kind), BATCH):
            yield kind[start : start + BATCH]


def _ask(policy: Policy, items: Sequence[SuiteItem], decoder: DecoderSettings) -> list[ItemAnswer]:
    if not by_likelihood(items[0]):
        completions = policy.generate([item.messages for item in items], decoder)
        return [_generated(item, answer) for item, answer in zip(items, completions, strict=True)]
    asked = [(item.messages, choice) for item in items for choice in item.choices]
    values = iter(policy.log_likelihood(asked))
    return [_compared(item, [next(values) for _ in item.choices]) for item in items]


def _generated(item: SuiteItem, completion: Completion) -> ItemAnswer:
    return ItemAnswer(item=item.id, text=completion.text, finish=completion.finish)


def _compared(item: SuiteItem, values: list[LogLikelihood]) -> ItemAnswer:
    if not all(math.isfinite(value.total) for value in values):
        return ItemAnswer(item=item.id, error="a log-likelihood is not a finite number")
    return ItemAnswer(
        item=item.id,
        choices=tuple(ChoiceLikelihood(total=v.total, tokens=v.tokens, bytes=v.bytes) for v in values),
    )
