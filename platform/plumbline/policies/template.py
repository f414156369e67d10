"""Chat templates, rendered for training and for serving by the same code.

The training mask is derived from the text, not from `{% generation %}` markers, which most stock templates lack:
render the conversation up to each assistant turn with the generation prompt, and up to the turn's end; what lies
between is the answer and its end-of-turn mark.

    text      <|user|> who ? <|assistant|> ana . <|end|>
    span                                  |content|turn|
    mask      0        0     0             1   1  1

A template that rewrites history, or whose generation prompt is not a prefix of the finished turn, cannot be masked
this way and is refused by name rather than trained wrongly (huggingface/trl#4879, QwenLM/Qwen3#1522).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.records import Conversation, Message, as_dicts, digest_bytes, say

# For a policy that brings no template: roles in words, the end-of-text token after every assistant turn.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}{{ 'assistant: ' + message.content + eos_token + '\n' }}"
    "{% else %}{{ message.role + ': ' + message.content + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@dataclass(frozen=True)
class Span:
    """Characters of one assistant turn in the rendered text: the content, then the end-of-turn mark."""

    start: int
    content_end: int
    turn_end: int


@dataclass(frozen=True)
class Encoded:
    """Token ids of a rendered conversation; `supervised[i]` says whether token i is a training target, and
    `content[i]` whether it belongs to an answer's text (the end-of-turn token is supervised but not content)."""

    ids: list[int]
    supervised: list[bool]
    content: list[bool]

    @property
    def stop_supervised(self) -> bool:
        return bool(self.supervised) and any(s and not c for s, c in zip(self.supervised, self.content, strict=True))


class ChatTemplate:
    """A tokenizer's chat template with its digest. `render` for people, `encode` for training, `prompt_ids` to ask."""

    def __init__(self, tokenizer: Any, name: str = "policy") -> None:
        self.tokenizer = tokenizer
        self.name = name
        if not tokenizer.chat_template:
            tokenizer.chat_template = PLAIN_TEMPLATE
        self.digest = digest_bytes(str(tokenizer.chat_template).encode("utf-8"))

    def render(self, messages: Conversation, *, ask: bool) -> str:
        """The text of a conversation; `ask` appends the generation prompt."""
        try:
            text = self.tokenizer.apply_chat_template(as_dicts(messages), tokenize=False, add_generation_prompt=ask)
        except Exception as error:  # jinja raises its own and arbitrary `raise_exception` errors
            raise PlumblineError(
                f"the chat template of {self.name!r} cannot render a conversation: {error}",
                consequence="nothing was trained or asked with it",
                remedy="correct the template's syntax, or the roles that the conversation uses",
            ) from error
        return str(text)

    def prompt_ids(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of prompts, each ending with the generation prompt. One BOS at most: the template writes it."""
        texts = [self.render(prompt, ask=True) for prompt in prompts]
        if not texts:
            return []
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def encode(self, conversations: Sequence[Conversation]) -> list[Encoded]:
        """Token ids with the training mask, for every assistant turn of every conversation."""
        rendered = [self._spans(messages) for messages in conversations]
        pieces = [piece for text, spans in rendered for piece in _pieces(text, spans)]
        if not pieces:
            return []
        tokens = self.tokenizer([text for text, _ in pieces], add_special_tokens=False, return_offsets_mapping=True)
        masked = iter(
            _mask(ids, offsets, span)
            for ids, offsets, (_, span) in zip(tokens["input_ids"], tokens["offset_mapping"], pieces, strict=True)
        )
        return [_joined([next(masked) for _ in range(len(spans) + 1)]) for _, spans in rendered]

    def _spans(self, messages: Conversation) -> tuple[str, list[Span]]:
        whole = self.render(messages, ask=False)
        spans: list[Span] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:index], ask=True)
            after = whole if index == len(messages) - 1 else self.render(messages[: index + 1], ask=False)
            if not (after.startswith(before) and whole.startswith(after)):
                raise self._unmaskable("it rewrites earlier turns or its generation prompt is not a prefix of the turn")
            start = len(before)
            content_end = start + len(message.content)
            if after[start:content_end] != message.content:
                raise self._unmaskable("it changes the assistant's text (trims or rewrites it)")
            turn_end = _first_token_end(self.tokenizer, after, content_end)
            spans.append(Span(start, content_end, turn_end))
        return whole, spans

    def _unmaskable(self, why: str) -> PlumblineError:
        return PlumblineError(
            f"the chat template of {self.name!r} cannot be masked: {why}",
            consequence="training on it would supervise the wrong tokens, so nothing was trained",
            remedy="use a template that appends turns without rewriting, or one row per turn",
        )


def _pieces(text: str, spans: list[Span]) -> list[tuple[str, Span | None]]:
    """The text cut where each answer begins: pieces are tokenised apart, because at serving the prompt is tokenised
    alone. So no token ever holds both the prompt's end and the answer's beginning, and training sees the ids that
    serving sees. Each piece but the first comes with its answer's span, counted from the piece's start."""
    cuts = [0, *(span.start for span in spans), len(text)]
    whole = [text[a:b] for a, b in pairwise(cuts)]
    relative = [Span(0, span.content_end - span.start, span.turn_end - span.start) for span in spans]
    return list(zip(whole, [None, *relative], strict=True))


def _mask(ids: list[int], offsets: list[tuple[int, int]], span: Span | None) -> Encoded:
    if span is None:
        return Encoded(list(ids), [False] * len(ids), [False] * len(ids))
    return Encoded(
        list(ids),
        [start < span.turn_end for start, _ in offsets],
        [start < span.content_end for start, _ in offsets],
    )


def _joined(parts: list[Encoded]) -> Encoded:
    return Encoded(
        [i for part in parts for i in part.ids],
        [s for part in parts for s in part.supervised],
        [c for part in parts for c in part.content],
    )


def _first_token_end(tokenizer: Any, text: str, content_end: int) -> int:
    """End of the end-of-turn mark: the first special token right after the content (white space may precede it),
    or the content's end when the template writes none."""
    rest = text[content_end:]
    marks = sorted(set(tokenizer.all_special_tokens), key=len, reverse=True)
    stripped = rest.lstrip()
    for mark in marks:
        if mark and stripped.startswith(mark):
            return content_end + (len(rest) - len(stripped)) + len(mark)
    return content_end


def with_answer(prompt: Conversation, answer: str) -> tuple[Message, ...]:
    """The prompt with an assistant turn appended."""
    return (*prompt, say("assistant", answer))
