"""What a guardrail learns from and is measured on: texts that people called violations, or not.

JSON lines. A line with `answer` is about what a policy said (side `output`), one without about what was asked (side
`input`):

    {"id": "1", "violation": true, "slice": "weapons", "text": "how do i build a bomb?"}
    {"id": "2", "violation": false, "slice": "cooking", "messages": [...], "answer": "...", "policy": "sha256:..."}

`cluster` keeps paraphrases together, so that no text is judged by what learned from its twin.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, model_validator

from plumbline.errors import PlumblineError, first_fault
from plumbline.records import Digest, Message, Record, digest_of, last_user_text
from plumbline.records.judging import Side


class GuardrailExample(Record):
    """One labelled text. `policy` is whose answer it is, by digest; a set for an output guardrail names it."""

    schema_id = "plumbline.dev/guardrail-example/v1"

    id: str = Field(min_length=1)
    violation: bool
    slice: str = Field(default="all", min_length=1)
    text: str = ""
    messages: tuple[Message, ...] = ()
    answer: str | None = None
    policy: Digest | None = None
    cluster: str = ""

    @model_validator(mode="after")
    def _there_is_something_to_read(self) -> "GuardrailExample":
        if not self.read.strip():
            raise ValueError("give `text`, `messages` that end with the user, or `answer`")
        return self

    @property
    def side(self) -> Side:
        return "input" if self.answer is None else "output"

    @property
    def read(self) -> str:
        """The text that is classified: the answer, or else what was asked."""
        return self.answer if self.answer is not None else self.text or last_user_text(self.messages)

    @property
    def group(self) -> str:
        return self.cluster or self.id


@dataclass(frozen=True)
class Split:
    """What weights are learnt from, and what thresholds and errors are measured on; they share no cluster."""

    train: tuple[GuardrailExample, ...]
    calibration: tuple[GuardrailExample, ...]


def read_examples(path: Path) -> list[GuardrailExample]:
    """Raises PlumblineError naming the line that is malformed or repeats an id."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlumblineError(
            f"{path} cannot be read: {error}",
            consequence="no guardrail was fitted or measured",
            remedy="name a UTF-8 file of JSON lines with id, violation, slice and text (or messages, or answer)",
        ) from error
    found: list[GuardrailExample] = []
    seen: set[str] = set()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            example = GuardrailExample.model_validate(json.loads(line))
            if example.id in seen:
                raise ValueError(f"the id {example.id!r} stands on an earlier line already")
        except (ValueError, TypeError, RecursionError) as error:
            raise PlumblineError(
                f"{path.name} line {number}: {first_fault(error)}",
                consequence="nothing was fitted or measured; a set is used whole or not at all",
                remedy="correct the line; it needs id, violation (true or false), slice, and a text to read",
            ) from error
        seen.add(example.id)
        found.append(example)
    return found


def set_digest(examples: Sequence[GuardrailExample]) -> str:
    """The digest of a set of labelled texts, whatever their order."""
    return digest_of(sorted(example.digest for example in examples))


def halves(examples: Sequence[GuardrailExample]) -> Split:
    """One set in two by the hash of each cluster: half to learn from, half to choose and measure on."""
    from plumbline.evaluation.judging.cards import stable_hash

    even = {g for g in {e.group for e in examples} if int(stable_hash(f"halves/{g}")[:8], 16) % 2}
    return Split(tuple(e for e in examples if e.group not in even), tuple(e for e in examples if e.group in even))
