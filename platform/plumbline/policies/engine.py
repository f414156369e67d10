"""Continuous batching: prompts are admitted at any step, each with decoder settings of its own, and tell their pieces
as they come. Whole answers, streams and batches of an evaluation are all made here, so they say the same.

    ask ->  waiting  c d e        step:  1. read those that wait, oldest first, into free slots
            slots    a b . .             2. one more token in every slot
                                         3. answers that ended leave; so do those that were dropped

What an answer says does not depend on its neighbours: see `decoding`. Architectures with other caches than one key per
token have no slots: prompts of equal length that wait together are a group, and groups take turns.

Limits: a prompt is read in one pass, so a long one holds up its neighbours for as long as that takes.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from plumbline.policies import decoding
from plumbline.policies.base import Completion
from plumbline.policies.decoding import COLDEST, READ, ROWS, SLOTS, Shapes, SlotCache, up_to
from plumbline.policies.lean import Lean, Pair
from plumbline.policies.scoring import bucket
from plumbline.records import DecoderSettings, Finish

CACHE_BYTES = 2 << 30  # beyond it prompts wait, unless they are alone
GROUPS = 8

Read = Callable[[list[int]], str]


@dataclass(frozen=True)
class TokenLogprob:
    """A generated token's log probability in nats as the model gave it, before temperature and top_p; `top` are the
    likeliest tokens in its place, with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(eq=False)
class Answer:
    """One answer as it grows. `top`: how many of the likeliest tokens are noted beside each; None notes nothing.
    `aloud`: whether `piece` will be asked, which costs reading the text at every step."""

    ids: list[int]
    decoder: DecoderSettings
    top: int | None = None
    aloud: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text: str | None = None
    finish: Finish | None = None
    generator: torch.Generator | None = None
    _said: int = 0
    _told: int = 0
    _starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.decoder.greedy:
            self.generator = torch.Generator().manual_seed(self.decoder.seed)

    @property
    def ended(self) -> bool:
        return self.finish is not None

    @property
    def drawn(self) -> bool:
        """Whether tokens are drawn; otherwise each is the likeliest."""
        return self.decoder.temperature >= COLDEST

    @property
    def room(self) -> int:
        return len(self.ids) + self.decoder.max_tokens

    def take(self, token: int, logits: torch.Tensor | None, stop_ids: frozenset[int], read: Read) -> None:
        """Add a token; `logits` [vocabulary], from which it was chosen, are needed where something is noted."""
        if token in stop_ids:
            return self._end("stop", read)
        self.tokens.append(token)
        if self.top is not None and logits is not None:
            self.logprobs.append(_noted(token, logits, self.top))
            self._starts.append(len(self.text or ""))
        if self.aloud or self.decoder.stop:
            self.text = read(self.tokens)
            if (cut := stop_at(self.text, self.decoder.stop)) is not None:
                self.text, self.finish = self.text[:cut], "stop"
                self.logprobs = self.logprobs[: sum(start < cut for start in self._starts)]
                return None
        if len(self.tokens) >= self.decoder.max_tokens:
            self._end("length", read)
        return None

    def _end(self, finish: Finish, read: Read) -> None:
        self.text, self.finish = read(self.tokens), finish

    def piece(self) -> str:
        """What can be said since the last call. Text is held back while it could still become a stop text, or while
        its last character is incomplete; joined, the pieces are the answer."""
        text = self.text or ""
        safe = len(text)
        if not self.ended:
            safe = len(text.rstrip("\N{REPLACEMENT CHARACTER}")) - _held_back(text, self.decoder.stop)
        said, self._said = self._said, max(self._said, safe)
        return text[said : self._said]

    def told(self) -> tuple[TokenLogprob, ...]:
        """Log probabilities since the last call, of the tokens that the pieces so far begin with."""
        far = len(self.logprobs) if self.ended else sum(start < self._said for start in self._starts)
        told, self._told = self._told, max(self._told, far)
        return tuple(self.logprobs[told : self._told])

    @property
    def completion(self) -> Completion:
        """Of an answer that has ended; `error` without a text where the policy's logits were no numbers."""
        assert self.finish is not None
        return Completion(self.text or "", self.finish, len(self.tokens))


class Engine:
    """Asks one model. Not thread-safe: one caller at a time. `read` gives the text of token ids. Where there are slots,
    `lean` makes the passes if it is given."""

    def __init__(
        self,
        model: Any,
        stop_ids: frozenset[int],
        read: Read,
        *,
        treated: bool,
        shapes: Shapes | None,
        lean: Lean | None = None,
    ) -> None:
        self.model = model
        self._passes: Any = lean or model
        self.stop_ids = stop_ids
        self.read = read
        self.treated = treated
        self.shapes = shapes
        self.waiting: deque[Answer] = deque()
        self._held: list[Answer | None] = []
        self._last: list[int] = []
        self._cache: SlotCache | None = None
        self._groups: list[_Group] = []

    @property
    def busy(self) -> int:
        """Answers that are being made."""
        return sum(a is not None for a in self._held) + sum(not a.ended for g in self._groups for a in g.answers)

    @property
    def places(self) -> int:
        """Answers that can be made at once."""
        return GROUPS * ROWS if self.shapes is None else self._most

    def ask(self, answer: Answer) -> None:
        self.waiting.append(answer)

    def drop(self, answer: Answer) -> None:
        """Its place is free at once. Safe for one that has ended."""
        answer.finish = answer.finish or "client_abort"
        if answer in self.waiting:
            self.waiting.remove(answer)
        self._leave()

    def clear(self) -> list[Answer]:
        """Drop everything: after an error nobody knows what a cache holds. Returns what was dropped."""
        dropped = [
            *self.waiting,
            *filter(None, self._held),
            *(a for g in self._groups for a in g.answers if not a.ended),
        ]
        self.waiting.clear()
        self._groups, self._held, self._last, self._cache = [], [], [], None
        return dropped

    def admit(self, reads: int | None = None) -> list[Answer]:
        """Read prompts that wait, as far as there are places, and choose the first token of each. `reads` bounds the
        prompt tokens (at least one pass), so that a crowd does not hold up those that speak already. Returns the
        answers that began."""
        return [] if self.shapes is None else list(self._admit(self.shapes, reads))

    def advance(self) -> list[Answer]:
        """One more token for all that have a place. Returns the answers that grew or ended."""
        grown = self._step_groups() if self.shapes is None else list(self._advance(self.shapes))
        self._leave()
        return grown

    def step(self, reads: int | None = None) -> list[Answer]:
        """Both, in this order."""
        return list(dict.fromkeys([*self.admit(reads), *self.advance()]))

    def run(self) -> None:
        """Until nobody waits or speaks."""
        while self.waiting or self.busy:
            self.step()

    # Slots

    @property
    def _most(self) -> int:
        assert self.shapes is not None
        return min(self.shapes.rows[-1], SLOTS.get(self.model.device.type, SLOTS["cuda"]))

    def _admit(self, shapes: Shapes, reads: int | None) -> Iterable[Answer]:
        left = reads
        while self.waiting and (free := self._free(shapes)) and (left is None or left > 0):
            batch = self._next_prompts(free, shapes)
            if left is not None:
                left -= len(batch) * bucket(len(batch[0].ids))
            logits, keys = decoding.read_prompts(self._passes, [answer.ids for answer in batch], self.treated)
            slots = self._free_slots(len(batch))
            self._fill(slots, batch, keys, shapes)
            self._take(slots, batch, logits)
            yield from batch

    def _free(self, shapes: Shapes) -> int:
        """How many more may come, by slots and by memory."""
        busy = sum(a is not None for a in self._held)
        most = self._most
        if busy and self._cache is not None and (place := self._cache.bytes_per_place):
            room = max(self._cache.room, up_to(self.waiting[0].room, decoding.KEYS))
            most = min(most, max((rows for rows in shapes.rows if rows * room * place <= CACHE_BYTES), default=0))
        return max(0, most - busy)

    def _next_prompts(self, free: int, shapes: Shapes) -> list[Answer]:
        """The oldest, and others of its bucket to be read with it."""
        oldest = self.waiting[0]
        length = bucket(len(oldest.ids))
        most = max(1, min(free, READ.get(self.model.device.type, READ["cuda"]) // length)) if shapes.together else 1
        batch: list[Answer] = []
        others: deque[Answer] = deque()
        while self.waiting and len(batch) < most:
            answer = self.waiting.popleft()
            alike = bucket(len(answer.ids)) == length and answer.room <= max(oldest.room, self._room)
            (batch if alike else others).append(answer)
        self.waiting.extendleft(reversed(others))
        return batch

    @property
    def _room(self) -> int:
        return self._cache.room if self._cache else 0

    def _free_slots(self, number: int) -> list[int]:
        free = [slot for slot, answer in enumerate(self._held) if answer is None][:number]
        more = range(len(self._held), len(self._held) + number - len(free))
        return [*free, *more]

    def _fill(self, slots: list[int], batch: Sequence[Answer], keys: Sequence[Pair], shapes: Shapes) -> None:
        number = shapes.fit(max(len(self._held), slots[-1] + 1))
        room = max(answer.room for answer in batch)
        if self._cache is None:
            self._cache = SlotCache(number, room, self.model.device)
        elif room > self._cache.room:
            self._cache.grow(number, max(room, min(2 * self._cache.room, 4096)))
        else:
            self._cache.grow(number, room)
        missing = self._cache.slots - len(self._held)
        self._held += [None] * missing
        self._last += [0] * missing
        self._cache.fill(slots, [len(answer.ids) for answer in batch], keys)

    def _advance(self, shapes: Shapes) -> Iterable[Answer]:
        busy = [slot for slot, answer in enumerate(self._held) if answer is not None]
        if not busy or self._cache is None:
            self._held, self._last, self._cache = [], [], None
            return []
        rows = shapes.fit(len(busy))
        free = (slot for slot in range(rows) if self._held[slot] is None)
        for slot in [slot for slot in busy if slot >= rows]:
            to = next(free)
            self._cache.move(slot, to)
            self._held[to], self._last[to] = self._held[slot], self._last[slot]
            self._free_slot(slot)
        busy = [slot for slot in range(rows) if self._held[slot] is not None]
        speaking = [answer for answer in self._held if answer is not None]
        longest = max(len(answer.ids) + len(answer.tokens) for answer in speaking)
        logits = decoding.step(self._passes, self._cache, self._last[:rows], longest)
        self._cache.move_on(busy)
        self._take(busy, speaking, logits if len(busy) == rows else logits[busy])
        return speaking

    def _take(self, slots: list[int], answers: Sequence[Answer], logits: torch.Tensor) -> None:
        for slot, answer, token in zip(slots, answers, self._choose(answers, logits), strict=True):
            self._held[slot], self._last[slot] = answer, token
            if answer.ended:
                self._free_slot(slot)

    def _free_slot(self, slot: int) -> None:
        self._held[slot], self._last[slot] = None, 0
        if self._cache is not None:
            self._cache.at[slot] = 0

    def _choose(self, answers: Sequence[Answer], logits: torch.Tensor) -> list[int]:
        """The next token of each; what it says is noted. An answer whose logits are no numbers ends in an error."""
        best = logits.max(-1)
        tokens, right = best.indices.tolist(), [math.isfinite(value) for value in best.values.tolist()]
        drawn = [row for row, answer in enumerate(answers) if right[row] and not answer.ended and answer.drawn]
        if drawn:
            decoders, generators = [answers[row].decoder for row in drawn], [answers[row].generator for row in drawn]
            for row, token in zip(drawn, decoding.draw(logits[drawn], decoders, generators), strict=True):
                tokens[row] = token
        for row, answer in enumerate(answers):
            if answer.ended:
                continue
            if right[row]:
                noted = logits[row] if answer.top is not None else None
                answer.take(tokens[row], noted, self.stop_ids, self.read)
            else:
                answer.text, answer.finish = "", "error"
        return tokens

    def _leave(self) -> None:
        for slot, answer in enumerate(self._held):
            if answer is not None and answer.ended:
                self._free_slot(slot)
        self._groups = [group for group in self._groups if any(not answer.ended for answer in group.answers)]

    # Groups: without slots

    def _step_groups(self) -> list[Answer]:
        """Prompts of equal length go together, in a fixed number of rows, to the longest answer's end."""
        while self.waiting and len(self._groups) < GROUPS:
            length = len(self.waiting[0].ids)
            alike = [answer for answer in self.waiting if len(answer.ids) == length][:ROWS]
            self.waiting = deque(answer for answer in self.waiting if answer not in alike)
            self._groups.append(_Group(alike, self.model))
        grown: list[Answer] = []
        for group in self._groups:
            speaking = [answer for answer in group.answers if not answer.ended]
            group.last = self._choose(group.answers, group.logits(self.model))
            grown += speaking
        return grown


class _Group:
    """Prompts of one length, always in ROWS rows: the last one's copies fill them up."""

    def __init__(self, answers: list[Answer], model: Any) -> None:
        self.answers = answers
        self.last: list[int] = []
        self.cache = DynamicCache(config=model.config)

    def logits(self, model: Any) -> torch.Tensor:
        """[answers, vocabulary], after the prompts or the tokens chosen `last`."""
        rows = [[token] for token in self.last] or [answer.ids for answer in self.answers]
        ids = torch.tensor(rows + rows[-1:] * (ROWS - len(rows)), device=model.device)
        with torch.inference_mode():
            found = model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        logits: torch.Tensor = found[: len(self.answers)]
        return logits


def stop_at(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first stop text begins."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return min(places) if places else None


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end of `text` that are the beginning of a stop text."""
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


def _noted(token: int, logits: torch.Tensor, top: int) -> TokenLogprob:
    logp = torch.log_softmax(logits.float().cpu(), -1)
    best = logp.topk(min(top, len(logp)))
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return TokenLogprob(token, float(logp[token]), tuple((int(i), float(v)) for i, v in likeliest))
