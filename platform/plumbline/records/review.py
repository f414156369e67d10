"""A review: what people are asked about an answer, and their word on it, bound to the very text they read.

A thumb is not a judgement. It selects an answer, and people then judge that answer by the rubric. So that a judgement
can never be carried over to other words or other rules in silence, every label names the digest of the text that was
on the screen and the areas of the rubric that it rests on.
"""

from typing import Literal, get_args

from pydantic import Field, model_validator

from plumbline.records.base import Record
from plumbline.records.canonical import Digest, digest_of
from plumbline.records.conversation import Message
from plumbline.records.rubric import Area, Rubric

Selected = Literal["rating", "report", "comment", "contradiction", "demonstration"]
LabelVerdict = Literal["approve", "reject", "unsure"]
LabelSeverity = Literal["none", "minor", "major", "severe"]
LABEL_VERDICTS: tuple[str, ...] = get_args(LabelVerdict)
LABEL_SEVERITIES: tuple[str, ...] = get_args(LabelSeverity)  # in order: agreement on them is ordinal
LONGEST_REASON = 1000


class JudgedText(Record):
    """What a reviewer reads, after redaction: the conversation, the answer to judge, and what a reporter said of it.

    Its digest in the ledger is keyed by the subject's key (`SubjectKeys.fingerprint`): a plain hash of a short answer
    could be guessed, and would outlive the answer's erasure.
    """

    schema_id = "plumbline.dev/judged-text/v1"

    messages: tuple[Message, ...] = Field(min_length=1)
    answer: str
    note: str = ""


class Label(Record):
    """One person's word: may a policy learn this answer under the rubric? `rules` are the areas that it rests on.

    `severity` is how bad the breach is: `none` for an approval, and never `none` for a rejection. `reason` is free
    text, the only words of a label, and erased with the subject's.
    """

    schema_id = "plumbline.dev/review-label/v1"

    text: Digest
    verdict: LabelVerdict
    rules: tuple[Area, ...] = Field(min_length=1)
    severity: LabelSeverity = "none"
    reason: str = Field(default="", max_length=LONGEST_REASON)

    @model_validator(mode="after")
    def _severity_fits_the_verdict(self) -> "Label":
        if len(set(self.rules)) != len(self.rules):
            raise ValueError("a rule is named twice")
        if self.verdict == "approve" and self.severity != "none":
            raise ValueError("an approved answer breaks no rule: its severity is none")
        if self.verdict == "reject" and self.severity == "none":
            raise ValueError("a rejected answer breaks a rule: say how badly (minor, major or severe)")
        return self


class RubricRevision(Record):
    """Reviewers of a batch agreed too little for their labels to count: the rubric, not a reviewer, needs work.

    `rules` are alpha by area, lowest first (None where it is undefined); `examples` the disputed texts, by digest.
    Closed by the digest of a rubric that changes a named rule.
    """

    schema_id = "plumbline.dev/rubric-revision/v1"

    rubric: Digest
    policy_text: Digest
    batch: int
    alpha: float
    low: float | None = None
    high: float | None = None
    items: int
    rules: tuple[tuple[Area, float | None], ...]
    examples: tuple[Digest, ...] = ()
    closed_by: Digest | None = None

    @property
    def state(self) -> Literal["open", "closed"]:
        return "open" if self.closed_by is None else "closed"


def rule_texts(rubric: Rubric) -> dict[str, str]:
    """What a reviewer applies: the text of each area's rule. Margins belong to the gate, not to people."""
    return {rule.area: rule.text for rule in rubric.rules}


def policy_text_digest(rubric: Rubric) -> str:
    """Digest of the rule texts alone: a rubric whose margins moved asks reviewers for the same judgement."""
    return digest_of({"rules": rule_texts(rubric)})


def changed_rules(older: Rubric, newer: Rubric) -> frozenset[str]:
    """Areas whose rule reads otherwise in the newer rubric, or is gone. A new area changes no old judgement."""
    said, says = rule_texts(older), rule_texts(newer)
    return frozenset(area for area, text in said.items() if says.get(area) != text)
