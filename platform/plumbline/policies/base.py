"""What a policy can be asked, whatever runs it: generate, and say how likely an answer is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from plumbline.errors import PlumblineError
from plumbline.records import Conversation, DecoderSettings, Finish, PolicyManifest


@dataclass(frozen=True)
class Completion:
    """An answer without its end-of-turn token. `finish` is `stop` or `length`; `tokens` counts generated ones."""

    text: str
    finish: Finish
    tokens: int


@dataclass(frozen=True)
class LogLikelihood:
    """log pi(continuation | prompt) in nats, summed over `tokens` tokens (`bytes` in UTF-8)."""

    total: float
    tokens: int
    bytes: int


class NoLikelihood(PlumblineError):
    """The policy cannot say how likely a given answer is; it may still generate."""


class Interrupted(PlumblineError):
    """The policy was lost half-way. `done` holds, in the order asked, what it had answered, and None for the rest."""

    done: Sequence[Completion | LogLikelihood | None] = ()


@runtime_checkable
class Policy(Protocol):
    """Answers come back in the order asked; batching never changes an answer or a score."""

    @property
    def manifest(self) -> PolicyManifest: ...

    def generate(self, prompts: Sequence[Conversation], decoder: DecoderSettings) -> list[Completion]: ...

    def log_likelihood(self, pairs: Sequence[tuple[Conversation, str]]) -> list[LogLikelihood]: ...
