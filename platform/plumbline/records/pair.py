"""A shadow pair: reference and aligned answers to the same request under the same decoder settings and seed.

One of the two is what the user got, the other was asked for afterwards. Properties name them by leg.
"""

from typing import Literal

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.conversation import Message
from plumbline.records.decoding import DecoderSettings

Finish = Literal["stop", "length", "client_abort", "error"]
Leg = Literal["reference", "aligned"]


class Answer(Record):
    """What a policy said to a request. Calls of tools are text: a JSON array, which nobody executes.

    `latency_ms` runs to the last byte, `first_ms` to the first piece of a streamed answer (None where it did not come
    as a stream). `policy` is the digest that the answer's header named, empty where it named none.
    """

    schema_id = "plumbline.dev/answer/v2"

    text: str
    finish: Finish
    latency_ms: float = Field(ge=0)
    first_ms: float | None = Field(default=None, ge=0)
    tokens: int = Field(default=0, ge=0)
    policy: str = ""


class SpoolRecord(Record):
    """What the router keeps of a request it served: enough to ask the other policy the very same thing.

    `answer` is what the user got, from the leg `served` (always the reference, except where an A/B experiment assigned
    the session to the aligned policy). `tools` holds the request's tool definitions and choice, as JSON; empty when it
    had none. `consent` is the decision at collection time for the purpose `evaluation`; it is checked again at pairing.
    """

    schema_id = "plumbline.dev/spool-record/v2"

    request: str
    experiment: str
    session: str
    subject: str
    slice: str = "unlabelled"
    messages: tuple[Message, ...]
    decoder: DecoderSettings
    tools: str = ""
    streamed: bool = False
    served: Leg = "reference"
    answer: Answer
    consent: bool = True


class Pair(Record):
    """Both answers to one request; `replayed` is what the leg that did not serve the user said.

    In an A/A experiment both are the reference's, and `aligned` is its second answer.
    """

    schema_id = "plumbline.dev/pair/v2"

    spooled: SpoolRecord
    replayed: Answer

    @property
    def reference(self) -> Answer:
        return self.spooled.answer if self.spooled.served == "reference" else self.replayed

    @property
    def aligned(self) -> Answer:
        return self.spooled.answer if self.spooled.served == "aligned" else self.replayed


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
