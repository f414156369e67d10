"""What a policy answered: one record per item, and all of a suite's."""

from plumbline.records import Digest, Finish, Record


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

    @property
    def failed(self) -> bool:
        """Whether there is no answer: such an item is asked again by the next run."""
        return self.error is not None or self.finish == "error"


class Answers(Record):
    """All answers of one policy to one suite under one decoder, in the suite's order. `verified` is False for a policy
    behind an endpoint of which only its URL and name are known."""

    schema_id = "plumbline.dev/answers/v1"

    policy: Digest
    name: str
    template: Digest
    dataset: Digest | None
    suite: Digest
    decoder: Digest
    answers: tuple[ItemAnswer, ...]
    verified: bool = True
