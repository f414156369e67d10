"""Chat templates, rendered for training and for serving by the same code.

The training mask is derived from the text, not from `{% generation %}` markers, which most stock templates lack:
render the conversation up to each assistant turn with the generation prompt, and up to the turn's end; what lies
between is what the policy must say: the answer and its end-of-turn token.

    text        <|user|> who ? <|assistant|> ana . <|end|> \\n
    supervised  0        0     0             1   1  1      0
    content     0        0     0             1   1  0      0
    stop        0        0     0             0   0  1      0

A template may trim the answer (Gemma, Llama 3), begin it with white space (Mistral) or with an empty thinking block
(Qwen 3): that is supervised too. One that rewrites history (Qwen 3 takes old thoughts out) gives one row per answer,
each in the context in which the policy gives it when it serves. Whatever else cannot be masked is refused by name
rather than trained wrongly (huggingface/trl#4879, trl#6361, QwenLM/Qwen3#1522).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2 import TemplateSyntaxError

from plumbline.errors import PlumblineError
from plumbline.policies.families import family, family_of, family_tokens
from plumbline.records import Conversation, Message, as_dicts, digest_bytes, say

PROBE = (say("user", "one two"), say("assistant", "three"), say("user", "four"), say("assistant", "five six"))
TOOL_PROBE = (say("user", "one"), say("assistant", "two"), say("tool", "three"), say("assistant", "four"))
THINK, THOUGHT = "<think>", "</think>"

Span = tuple[int, int]
Tokens = dict[str, tuple[list[int], list[Span]]]  # by text: its ids, and the characters that each id stands for


@dataclass(frozen=True)
class Encoded:
    """One row to train on. Of token i, `supervised[i]` says whether it is a target, `content[i]` whether it belongs to
    a supervised answer's own text, `stop[i]` whether it is a supervised answer's end-of-turn token. `ignored` counts
    the tokens that the conversation's other answers would have as targets (with `turns="last"`; else 0)."""

    ids: list[int]
    supervised: list[bool]
    content: list[bool]
    stop: list[bool]
    ignored: int = 0


@dataclass(frozen=True)
class Turn:
    """An assistant turn in the text rendered up to its end: `text[:start]` is the prompt that it answers,
    `text[start:stop[1]]` what the policy must say; `content` and `stop` are the answer and its end-of-turn token."""

    text: str
    start: int
    content: Span
    stop: Span

    @property
    def prompt(self) -> str:
        return self.text[: self.start]


@dataclass(frozen=True)
class Row:
    """A text, and the assistant turns that are masked in it."""

    text: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Run:
    """The tokens of one answer in a row: from `start` to the end-of-turn token `stop`, the answer's own between
    `content[0]` and `content[1]` (not included)."""

    start: int
    content: Span
    stop: int


class ChatTemplate:
    """A tokenizer's chat template (or `text` in its place) with its digest: `render` for people, `encode` for training,
    `prompt_ids` to ask, `check` before training. The tokenizer carries `text` from then on: what is saved is what was
    used. Line ends are `\\n`, to which jinja turns them anyway: a file would not keep others.
    """

    def __init__(self, tokenizer: Any, name: str = "policy", text: str | None = None) -> None:
        self.tokenizer = tokenizer
        self.name = name
        own = tokenizer.chat_template
        if isinstance(own, dict):  # several by name: the one that apply_chat_template takes without tools
            own = own.get("default")
        self.text = re.sub(r"\r\n?", "\n", text or own or family("plain"))
        self.digest = digest_bytes(self.text.encode("utf-8"))
        tokenizer.chat_template = self.text

    def render(self, messages: Conversation, *, ask: bool) -> str:
        """The text of a conversation; `ask` appends the generation prompt. Raises PlumblineError where the template
        has a syntax error or refuses the conversation."""
        try:
            return self._render(messages, ask)
        except TemplateSyntaxError as error:
            raise PlumblineError(
                f"the chat template of {self.name!r} has a syntax error in line {error.lineno}: {error.message}",
                consequence="it cannot render anything, so nothing was trained or asked with it",
                remedy="correct that line of the template",
            ) from error
        except Exception as error:  # jinja raises its own and arbitrary `raise_exception` errors
            raise self._refusal(messages, ask, error) from error

    def prompt_ids(self, prompts: Sequence[Conversation]) -> list[list[int]]:
        """Token ids of prompts, each ending with the generation prompt. One BOS at most: the template writes it."""
        texts = [self.render(prompt, ask=True) for prompt in prompts]
        if not texts:
            return []
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]

    def encode(
        self, conversations: Sequence[Conversation], turns: Literal["all", "last"] = "all"
    ) -> list[list[Encoded]]:
        """Rows to train on, a list per conversation: token ids with their masks, up to the last answer's end.

        Normally one row. One per answer where the ids of an answer's prompt, as serving makes them, are not how the
        row begins: the template rewrites history, or a token would hold both the prompt's end and the answer's
        beginning. `turns="last"`: one row, with the last answer alone supervised. A conversation without an answer:
        one row, nothing supervised. Raises PlumblineError where an answer cannot be masked or has no end-of-turn token.
        """
        plans = [self._rows(messages) for messages in conversations]
        tokens = self._read({}, (text for rows in plans for row in rows for text in (row.text, *_prompts(row))))
        plans = [[exact for row in rows for exact in _exact(row, tokens)] for rows in plans]
        tokens = self._read(tokens, (row.text for rows in plans for row in rows))
        tokens = self._read(tokens, (text for rows in plans for row in rows for text in self._cut(row, tokens)))
        encoded: list[list[Encoded]] = []
        for rows in plans:
            masked = [self._masked(row, tokens) for row in rows]
            if turns == "last":
                ids, runs = masked[-1]
                ignored = sum(_length(run) for _, others in masked for run in others) - sum(map(_length, runs[-1:]))
                encoded.append([_encoded(ids, runs[-1:], ignored)])
            else:
                encoded.append([_encoded(ids, runs) for ids, runs in masked])
        return encoded

    def check(self) -> None:
        """Raise PlumblineError, naming the template, where it cannot be trained on with this tokenizer: an answer that
        cannot be masked, an end of turn that is not one supervised token, a special token that would be split, a
        second BOS, a mask that does not decode to what was said. To be called before training."""
        self._require_tokens()
        if "strftime_now" in self.text:
            raise self._unmaskable("it writes the day's date", "write a fixed date, or name a family (llama-3)")
        probes = [PROBE, *([TOOL_PROBE] if self._accepts(TOOL_PROBE) else [])]
        for messages, rows in zip(probes, self.encode(probes), strict=True):
            self._require_one_bos(rows)
            self._require_what_was_said(messages, rows)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of the end-of-turn tokens that the template writes after an answer: what generation must stop at."""
        [rows] = self.encode([PROBE])
        return tuple(dict.fromkeys(i for row in rows for i, stop in zip(row.ids, row.stop, strict=True) if stop))

    # From messages to turns in a text

    def _render(self, messages: Conversation, ask: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                as_dicts(messages), chat_template=self.text, tokenize=False, add_generation_prompt=ask
            )
        )

    def _rows(self, messages: Conversation) -> list[Row]:
        turns = [self._turn(messages, i) for i, message in enumerate(messages) if message.role == "assistant"]
        if not turns:
            return [Row(self.render(messages, ask=False), ())]
        text = turns[-1].text
        if all(text.startswith(turn.text[: turn.stop[1]]) for turn in turns):
            return [Row(text, tuple(turns))]
        return [Row(turn.text, (turn,)) for turn in turns]

    def _turn(self, messages: Conversation, index: int) -> Turn:
        if index == 0:
            raise PlumblineError(
                "a conversation begins with an assistant turn",
                consequence="there is no prompt that the answer is to be learnt for",
                remedy="put a user turn before it, or leave the example out",
            )
        content = messages[index].content
        prompt = self.render(messages[:index], ask=True)
        text = self.render(messages[: index + 1], ask=False)
        if not text.startswith(prompt):
            raise self._unmaskable(
                f"its generation prompt ({prompt[-40:]!r}) is not how the finished turn begins",
                "let it write a prompt with its generation prompt, and the same prompt with an answer, alike",
            )
        places = list(_places(text, len(prompt), content))
        for place in places:
            if stop := self._stop_after(text, place[1]):
                return Turn(text, len(prompt), place, stop)
        if places:
            raise self._no_stop(text[places[0][1] :].strip())
        said = text[len(prompt) :]
        if content.strip() in said:
            raise self._unmaskable(
                f"it writes {said[:40]!r} between its generation prompt and the answer",
                "let the generation prompt (add_generation_prompt) hold all that comes before an answer",
            )
        raise self._unmaskable(f"it changes the assistant's text: {content[:40]!r} is written as {said[:40]!r}")

    @cached_property
    def _special(self) -> dict[str, int]:
        """The tokenizer's special tokens, with their ids. Read once: tokens are added before the template is made."""
        added = {token.content: index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return added | dict(zip(self.tokenizer.all_special_tokens, self.tokenizer.all_special_ids, strict=True))

    @cached_property
    def _special_lengths(self) -> list[int]:
        return sorted({len(token) for token in self._special}, reverse=True)

    def _stop_after(self, text: str, end: int) -> Span | None:
        """The special token that follows at `end`, white space aside."""
        start = _past_space(text, end)
        found = (n for n in self._special_lengths if text[start : start + n] in self._special)
        return next(((start, start + n) for n in found), None)

    # From turns in a text to tokens

    @cached_property
    def _opener(self) -> str:
        """A special token to put before an answer that is tokenised apart, so that it is not taken for a text's
        beginning, where SentencePiece-like tokenizers write a space of their own."""
        added = self.tokenizer.added_tokens_decoder.values()
        return next((token.content for token in added if token.special and not token.rstrip), "")

    def _read(self, known: Tokens, texts: Iterable[str]) -> Tokens:
        """`known`, with the ids and character spans of the other texts, as serving tokenises them."""
        wanted = [text for text in dict.fromkeys(texts) if text not in known]
        if not wanted:
            return known
        read = self.tokenizer(wanted, add_special_tokens=False, return_offsets_mapping=True)
        return known | dict(zip(wanted, zip(read["input_ids"], read["offset_mapping"], strict=True), strict=True))

    def _cut(self, row: Row, tokens: Tokens) -> list[str]:
        """The answer to be tokenised apart from its prompt: of a row that even alone does not begin as served."""
        return [] if _begins_as_served(row, tokens) else [self._opener + row.text[row.turns[0].start :]]

    def _masked(self, row: Row, tokens: Tokens) -> tuple[list[int], list[Run]]:
        ids, spans = tokens[row.text]
        for answer in self._cut(row, tokens):
            [turn] = row.turns
            shift = turn.start - len(self._opener)
            apart = [(i, (a + shift, b + shift)) for i, (a, b) in zip(*tokens[answer], strict=True)]
            prompt_ids, prompt_spans = tokens[turn.prompt]
            apart = apart[1 if self._opener else 0 :]
            ids = [*prompt_ids, *(i for i, _ in apart)]
            spans = [*prompt_spans, *(span for _, span in apart)]
        return ids, [self._run(turn, len(tokens[turn.prompt][0]), ids, spans) for turn in row.turns]

    def _run(self, turn: Turn, start: int, ids: list[int], spans: list[Span]) -> Run:
        """The turn's tokens. A token counts as content when any of its characters does; tokenizers that trim spans
        give white space an empty one, which is read as reaching back to the token before it."""
        first, last = turn.content
        mark = self._special[turn.text[turn.stop[0] : turn.stop[1]]]
        content: list[int] = []
        reached = turn.start
        for index in range(start, len(ids)):
            begin, end = spans[index]
            if ids[index] == mark and begin < turn.stop[1] and end > turn.stop[0]:
                return Run(start, (content[0], content[-1] + 1) if content else (index, index), index)
            if min(begin, reached) < last and (end > first or first == turn.start):
                content.append(index)
            reached = max(reached, end)
        raise self._unmaskable(f"its end of turn {turn.text[slice(*turn.stop)]!r} is not one token of its own")

    # What is refused, and in which words

    def _accepts(self, messages: Conversation) -> bool:
        """Whether the template renders the conversation, and each answer's prompt on the way."""
        try:
            for index, message in enumerate(messages):
                if message.role == "assistant":
                    self._render(messages[:index], True)
            self._render(messages, messages[-1].role != "assistant")
        except Exception:
            return False
        return True

    def _require_tokens(self) -> None:
        """A special token that the tokenizer does not know is split into pieces, without a word. The tokens that a
        family needs are known; elsewhere, those that look alike are all special tokens or none is (Zephyr)."""
        known = family_of(self.text)
        named = {
            *re.findall(r"<\|[^<>|\s]+\|>", self.render(PROBE, ask=True)),
            *(family_tokens(known) if known else ()),
        }
        missing = sorted(named - self._special.keys())
        if missing and (known or len(missing) < len(named)):
            raise PlumblineError(
                f"the chat template of {self.name!r} writes {', '.join(missing)}, unknown to the tokenizer",
                consequence="each would be split into ordinary pieces that anybody can type, so nothing was trained",
                remedy="name them in added_tokens, so that each is one special token",
            )

    def _require_one_bos(self, rows: list[Encoded]) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is None or bos == self.tokenizer.eos_token_id:
            return
        most = max(row.ids.count(bos) for row in rows)
        if most > 1:
            raise PlumblineError(
                f"the chat template of {self.name!r} writes {self.tokenizer.bos_token!r} {most} times in one text",
                consequence="the policy would be trained in another form than its base was, so nothing was trained",
                remedy="let the template write bos_token once, before the first turn",
            )

    def _require_what_was_said(self, messages: Conversation, rows: list[Encoded]) -> None:
        said = [i for row in rows for i, wanted in zip(row.ids, row.supervised, strict=True) if wanted]
        stops = [i for row in rows for i, stop in zip(row.ids, row.stop, strict=True) if stop]
        answers = [message.content for message in messages if message.role == "assistant"]
        # Through the tokenizer as well, which need not know all of the probe's letters.
        expected = [self.tokenizer.decode(i) for i in self.tokenizer(answers, add_special_tokens=False)["input_ids"]]
        ends = [self.tokenizer.decode([stop]) for stop in stops]
        if len(ends) != len(answers) or _bare(self.tokenizer.decode(said)) != _bare(
            "".join(answer + end for answer, end in zip(expected, ends, strict=True))
        ):
            raise self._unmaskable(f"its mask reads {self.tokenizer.decode(said)!r} where {answers} was said")

    def _refusal(self, messages: Conversation, ask: bool, error: Exception) -> PlumblineError:
        """Says which role the template refuses, if it is one that not every template has."""
        roles = {message.role for message in messages}
        if "system" in roles and self._accepts(tuple(m for m in messages if m.role != "system")):
            refused, remedy = "a system turn", "put the system text into the first user turn"
        elif "tool" in roles and self._accepts(messages[: [m.role for m in messages].index("tool")]):
            refused, remedy = "a tool turn", "leave such examples out"
        else:
            refused, remedy = "a conversation", "correct the template or the order of the conversation's turns"
        return PlumblineError(
            f"the chat template of {self.name!r} cannot render {refused}: {error}",
            consequence="nothing was trained or asked with it",
            remedy=remedy + ("" if refused == "a conversation" else ", or use a template that has this role"),
        )

    def _no_stop(self, rest: str) -> PlumblineError:
        written = rest.split(maxsplit=1)[0][:40] if rest else ""
        return PlumblineError(
            f"the template of {self.name!r} writes no end-of-turn token after an answer"
            + (f": {written!r} is no special token of the tokenizer" if written else ""),
            consequence="the policy would never learn to stop, so nothing was trained",
            remedy=(f"if it is meant as a token, name it in added_tokens: [{written!r}]; if not, " if written else "")
            + "end assistant turns with the tokenizer's eos_token in the chat template",
        )

    def _unmaskable(self, why: str, remedy: str = "use a template that writes answers as they are") -> PlumblineError:
        return PlumblineError(
            f"the chat template of {self.name!r} cannot be masked: {why}",
            consequence="training on it would supervise the wrong tokens, so nothing was trained",
            remedy=remedy,
        )


def with_answer(prompt: Conversation, answer: str) -> tuple[Message, ...]:
    """The prompt with an assistant turn appended."""
    return (*prompt, say("assistant", answer))


def _places(text: str, start: int, content: str) -> Iterator[Span]:
    """Where an answer may stand in `text` after the prompt that ends at `start`: as it is or trimmed, after white space
    or an empty thinking block; or, if it holds a thought of its own, with other white space around its parts."""
    opened = text[:start].rstrip().endswith(THINK)
    own_thought = THOUGHT in content
    empty_thought = _walk(text, start, [THOUGHT] if opened else [THINK, THOUGHT])
    starts = [start] if own_thought or not opened else []  # a thought that the prompt began must come to an end
    starts += [] if own_thought or empty_thought is None else [empty_thought]
    for begin in starts:
        for said in dict.fromkeys((content, content.strip())):
            place = text.find(said, begin)
            if place >= 0 and not text[begin:place].strip():
                yield place, place + len(said)
    if content.count(THOUGHT) == 1:
        thought, answer = content.split(THOUGHT)
        before, _, thought = thought.rpartition(THINK)
        if not before.strip():
            end = _walk(text, start, [*([] if opened else [THINK]), thought.strip(), THOUGHT, answer.strip()])
            if end is not None:
                yield _past_space(text, start), end


def _walk(text: str, start: int, parts: list[str]) -> int | None:
    """Where `parts`, with nothing but white space before each, end in `text`; None if they are not there."""
    for part in parts:
        start = _past_space(text, start)
        if not text.startswith(part, start):
            return None
        start += len(part)
    return start


def _past_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _prompts(row: Row) -> list[str]:
    return [turn.prompt for turn in row.turns]


def _begins_as_served(row: Row, tokens: Tokens) -> bool:
    """Whether the row's ids begin with the ids of each answer's prompt: the policy then sees in training, token for
    token, what it is asked with."""
    ids = tokens[row.text][0]
    served = [tokens[prompt][0] for prompt in _prompts(row)]
    return all(ids[: len(prompt)] == prompt for prompt in served)


def _exact(row: Row, tokens: Tokens) -> list[Row]:
    """The row, or one for each of its answers where it does not begin as served."""
    return [row] if _begins_as_served(row, tokens) else [Row(turn.text, (turn,)) for turn in row.turns]


def _length(run: Run) -> int:
    return run.stop + 1 - run.start


def _encoded(ids: list[int], runs: list[Run], ignored: int = 0) -> Encoded:
    supervised, content, stop = ([False] * len(ids) for _ in range(3))
    for run in runs:
        supervised[run.start : run.stop + 1] = [True] * _length(run)
        content[run.content[0] : run.content[1]] = [True] * (run.content[1] - run.content[0])
        stop[run.stop] = True
    return Encoded(list(ids), supervised, content, stop, ignored)


def _bare(text: str) -> str:
    """Without white space and without an empty thinking block, which a template may add of itself."""
    return "".join(text.split()).replace(THINK + THOUGHT, "").replace(THOUGHT, "")
