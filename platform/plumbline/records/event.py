"""A feedback event: what a person did to an answer, in a CloudEvents 1.0 envelope.

The envelope follows https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md; `type` is one of ours, or
one of the two that KServe's payload logger sends. A consent flag inside an event would be no evidence (DESIGN:
default deny against the ledger), so there is none.

    rating, rewrite, comparison, report, comment    feedback
    request, response                               logged traffic: context, never a target by itself
    approved                                        an answer that reviewers approved; made inside, refused from outside
"""

from typing import Literal

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.conversation import Message

FeedbackKind = Literal["rating", "rewrite", "comparison", "report", "comment", "request", "response", "approved"]
EventType = Literal[
    "dev.plumbline.feedback.rating",
    "dev.plumbline.feedback.rewrite",
    "dev.plumbline.feedback.comparison",
    "dev.plumbline.feedback.report",
    "dev.plumbline.feedback.comment",
    "org.kubeflow.serving.inference.request",
    "org.kubeflow.serving.inference.response",
    "dev.plumbline.review.approved",
]
TYPE_PREFIX = "dev.plumbline.feedback."
LOGGED_PREFIX = "org.kubeflow.serving.inference."
APPROVED_TYPE: EventType = "dev.plumbline.review.approved"
CONTEXT_KINDS: frozenset[str] = frozenset({"request", "response"})
LABEL = r"^[A-Za-z0-9_.:-]{1,64}$"  # labels reach manifests that outlive erasure: no room for prose in them
PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"  # CloudEvents allows no control characters; PostgreSQL's text holds no NUL


class FeedbackData(Record):
    """What was done to which answer, and whose conversation it is: `subject`, already a keyed pseudonym. Their consent
    carries everything in the event. `author` is who wrote `text` when that is somebody else (a reviewer), likewise a
    pseudonym.

    rating: `score` in -1..1. rewrite: `text` is the answer that should have been given. comparison: `preferred`
    names the better leg and `text`/`rejected` hold both answers. report and comment: `text` says what was wrong.
    request: `messages` are what was asked, and there is no answer yet. response: `answer` is what was said, and
    `messages` hold it alone, since the logger does not repeat the question (the same `id` does).
    approved: `answer`, or its rewrite in `text`, as `approved_by` agreed on it; `original` is the inbox sequence of
    the event that it was said in.
    """

    schema_id = "plumbline.dev/feedback-data/v2"

    subject: str = Field(min_length=1, max_length=200, pattern=PLAIN)
    author: str | None = Field(default=None, max_length=200)
    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str
    slice: str = Field(default="unlabelled", pattern=LABEL)
    language: str = Field(default="en", pattern=LABEL)
    phrasing: str = Field(default="canonical", pattern=LABEL)
    conversation: str = Field(default="", max_length=200, pattern=PLAIN)
    policy: str = Field(default="", max_length=200, pattern=PLAIN)
    rubric: str = Field(default="", max_length=200, pattern=PLAIN)
    score: float | None = Field(default=None, ge=-1, le=1)
    text: str | None = None
    rejected: str | None = None
    preferred: Literal["reference", "aligned", "tie"] | None = None
    original: int | None = Field(default=None, ge=1)
    approved_by: tuple[str, ...] = ()


class FeedbackEvent(Record):
    """CloudEvents 1.0 envelope around `FeedbackData`; its key is (source, id, type)."""

    schema_id = "plumbline.dev/feedback-event/v2"

    specversion: Literal["1.0"] = "1.0"
    id: str = Field(min_length=1, max_length=200, pattern=PLAIN)
    source: str = Field(min_length=1, max_length=200, pattern=PLAIN)
    type: EventType
    time: str | None = Field(default=None, max_length=64)
    subject: str | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    data: FeedbackData

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "FeedbackEvent":
        data, kind = self.data, self.kind
        if (
            kind in CONTEXT_KINDS
            or (kind == "rewrite" and data.text and not data.text.isspace())
            or (kind == "rating" and data.score is not None)
            or (kind in ("report", "comment") and data.text is not None)
            or (kind == "comparison" and data.preferred is not None and data.rejected is not None)
            or (kind == "approved" and data.original is not None and data.approved_by)
        ):
            if kind == "approved" or (data.original is None and not data.approved_by):
                return self
            raise ValueError(f"a {kind} event cannot say that it was approved")
        raise ValueError(f"a {kind} event lacks what it is about")

    @property
    def kind(self) -> FeedbackKind:
        return self.type.rpartition(".")[2]  # type: ignore[return-value]

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.source, self.id, self.type)
