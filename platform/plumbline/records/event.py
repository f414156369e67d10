"""A feedback event: what a person did to an answer, in a CloudEvents 1.0 envelope.

The envelope follows https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md; `type` is one of ours.
A consent flag inside an event would be no evidence (DESIGN: default deny against the ledger), so there is none.
"""

from typing import Literal

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.conversation import Message

FeedbackKind = Literal["rating", "rewrite", "comparison", "report", "comment"]
TYPE_PREFIX = "dev.plumbline.feedback."
LABEL = r"^[A-Za-z0-9_.:-]{1,64}$"  # labels reach manifests that outlive erasure: no room for prose in them


class FeedbackData(Record):
    """What was done to which answer, and whose conversation it is: `subject`, already a keyed pseudonym. Their consent
    carries everything in the event. `author` is who wrote `text` when that is somebody else (a reviewer), likewise a
    pseudonym.

    rating: `score` in -1..1. rewrite: `text` is the answer that should have been given. comparison: `preferred`
    names the better leg and `text`/`rejected` hold both answers. report and comment: `text` says what was wrong.
    """

    schema_id = "plumbline.dev/feedback-data/v1"

    subject: str = Field(min_length=1, max_length=200)
    author: str | None = Field(default=None, max_length=200)
    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str
    slice: str = Field(default="unlabelled", pattern=LABEL)
    language: str = Field(default="en", pattern=LABEL)
    phrasing: str = Field(default="canonical", pattern=LABEL)
    conversation: str = Field(default="", max_length=200)
    policy: str = Field(default="", max_length=200)
    rubric: str = Field(default="", max_length=200)
    score: float | None = Field(default=None, ge=-1, le=1)
    text: str | None = None
    rejected: str | None = None
    preferred: Literal["reference", "aligned", "tie"] | None = None


class FeedbackEvent(Record):
    """CloudEvents 1.0 envelope around `FeedbackData`; its key is (source, id, type)."""

    schema_id = "plumbline.dev/feedback-event/v1"

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=200)
    source: str = Field(min_length=1, max_length=200)
    type: str = Field(pattern=r"^dev\.plumbline\.feedback\.(rating|rewrite|comparison|report|comment)$")
    time: str | None = None
    subject: str | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    data: FeedbackData

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "FeedbackEvent":
        needs = {
            "rating": self.data.score is not None,
            "rewrite": bool(self.data.text and self.data.text.strip()),
            "comparison": self.data.preferred is not None and self.data.rejected is not None,
            "report": self.data.text is not None,
            "comment": self.data.text is not None,
        }
        if not needs[self.kind]:
            raise ValueError(f"a {self.kind} event lacks what it is about")
        return self

    @property
    def kind(self) -> FeedbackKind:
        return self.type.removeprefix(TYPE_PREFIX)  # type: ignore[return-value]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.source, self.id, self.type)
