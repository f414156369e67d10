"""A shadow pair: reference and aligned answers to the same request under the same decoder settings and seed."""

from typing import Literal

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.conversation import Message
from plumbline.records.decoding import DecoderSettings

Finish = Literal["stop", "length", "client_abort", "error"]


class Answer(Record):
    schema_id = "plumbline.dev/answer/v1"

    text: str
    finish: Finish
    latency_ms: float = Field(ge=0)
    tokens: int = Field(default=0, ge=0)
    policy: str = ""


class SpoolRecord(Record):
    """What the router keeps of a request it served: enough to ask the aligned policy the very same thing.

    `consent` is the decision at collection time for the purpose `evaluation`; it is checked again at pairing.
    """

    schema_id = "plumbline.dev/spool-record/v1"

    request: str
    experiment: str
    session: str
    subject: str
    slice: str = "unlabelled"
    messages: tuple[Message, ...]
    decoder: DecoderSettings
    reference: Answer
    consent: bool = True


class Pair(Record):
    schema_id = "plumbline.dev/pair/v1"

    spooled: SpoolRecord
    aligned: Answer


class ShadowCounts(Record):
    """The accounting of a shadow experiment: spooled == paired + pending + the sum of shed, always."""

    schema_id = "plumbline.dev/shadow-counts/v1"

    experiment: str
    spooled: int
    paired: int
    pending: int = 0
    shed: dict[str, int] = Field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        return self.spooled == self.paired + self.pending + sum(self.shed.values())


class ShadowSummary(Record):
    """Refusal and agreement on paired live traffic, per slice.

    `refusal_shift` is aligned minus reference per slice: (mean, low, high) of a 95 % confidence sequence over sessions.
    """

    schema_id = "plumbline.dev/shadow-summary/v1"

    counts: ShadowCounts
    pairs: Digest
    refusal_reference: dict[str, float]
    refusal_aligned: dict[str, float]
    refusal_shift: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    sessions: int
    latency_ms: dict[str, float]
