"""Generating answers: slots, each at its own place in its own answer, refilled as answers end.

    step      1  2  3  4  5  6            no row is padded on the left, none waits for the longest of its batch
    slot 0    a  a  a .  d  d             (`.` an answer ends, its slot takes the next prompt)
    slot 1    b  b .  e  e  e
    slot 2    c  c  c  c  c .

An answer is the same whatever it is asked with. Float32 sums depend on the shape of a matrix product, in the last
bits: on CPUs the kernels change below 16 rows, and with the number of keys modulo their vector width. So there are
always 16 rows at least (`ROWS`; empty ones compute and are thrown away) and a multiple of 32 keys, of which those
beyond an answer's own add exact zeros. `plumbline.evaluation.asking.invariance` tries it out on the policy at hand.
Architectures with other caches than one key per token take turns by equal length (`by_length`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache

from plumbline.policies.base import Completion
from plumbline.policies.scoring import bucket, plain_attention
from plumbline.records import DecoderSettings

SLOTS = {"cpu": 64, "cuda": 256}
READ = {"cpu": 512, "cuda": 8192}  # prompt tokens in one forward pass
ROWS = 16
KEYS = 32

Read = Callable[[list[int]], str]


@dataclass
class _Answer:
    """One answer as it grows."""

    index: int
    ids: list[int]
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    text: str | None = None
    stopped: bool = False

    def take(self, token: int, decoder: DecoderSettings, stop_ids: frozenset[int], read: Read) -> bool:
        """Add a token; whether the answer has ended."""
        if token in stop_ids:
            self.stopped = True
            return True
        self.tokens.append(token)
        if decoder.stop and (cut := stop_at(text := read(self.tokens), decoder.stop)) is not None:
            self.text, self.stopped = text[:cut], True
            return True
        return len(self.tokens) >= decoder.max_tokens

    def completion(self, read: Read) -> Completion:
        text = read(self.tokens) if self.text is None else self.text
        return Completion(text, "stop" if self.stopped else "length", len(self.tokens))


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Keys and values [slots, heads, room, size] by layer. A step writes each slot at its own place `at`, and sees the
    first `seen` places: a multiple of KEYS."""

    def __init__(self, slots: int, room: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.room = up_to(room, KEYS)
        self.rows = torch.arange(slots, device=device)
        self.at = torch.zeros(slots, dtype=torch.long, device=device)
        self.mask = torch.full((slots, 1, 1, self.room), torch.finfo(torch.float32).min, device=device)
        self.mask[..., 0] = 0
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.seen = self.room

    def fill(self, slots: list[int], lengths: list[int], read: DynamicCache) -> None:
        """Take in prompts of these lengths that were just read, the first rows of `read`."""
        for number, layer in enumerate(read.layers):
            if number == len(self.kept):
                made = [
                    t.new_zeros((len(self.rows), t.shape[1], self.room, t.shape[3])) for t in (layer.keys, layer.values)
                ]
                self.kept.append((made[0], made[1]))
            for mine, theirs in zip(self.kept[number], (layer.keys, layer.values), strict=True):
                width = min(self.room, theirs.shape[2])
                mine[slots, :, :width] = theirs[: len(slots), :, :width]
        for slot, length in zip(slots, lengths, strict=True):
            self.at[slot] = length
            self.mask[slot] = torch.finfo(torch.float32).min
            self.mask[slot, ..., : length + 1] = 0

    def move_on(self, slots: list[int]) -> None:
        """These slots go to their next place; it may be the last one's successor, which is never written."""
        self.at[slots] = (self.at[slots] + 1).clamp(max=self.room - 1)
        self.mask[slots, 0, 0, self.at[slots]] = 0

    def keep(self, slots: list[int]) -> None:
        """Only these slots, in this order."""
        self.rows = self.rows[: len(slots)]
        self.at, self.mask = self.at[slots], self.mask[slots]
        self.kept = [(keys[slots], values[slots]) for keys, values in self.kept]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.kept[layer_idx]
        keys[self.rows, :, self.at] = key_states[:, :, 0]
        values[self.rows, :, self.at] = value_states[:, :, 0]
        return keys[:, :, : self.seen], values[:, :, : self.seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen


def up_to(length: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-length // step) * step


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    decoder: DecoderSettings,
    stop_ids: frozenset[int],
    read: Read,
    *,
    treated: bool,
    slotted: bool,
) -> list[Completion]:
    """One completion per prompt, in order. Sampling has a generator per prompt, seeded by the decoder alone."""
    answers = [
        _Answer(i, ids, None if decoder.greedy else torch.Generator().manual_seed(decoder.seed))
        for i, ids in enumerate(prompts)
    ]
    if not slotted:
        by_length(model, answers, decoder, stop_ids, read)
        return [answer.completion(read) for answer in answers]
    _in_slots(model, answers, decoder, stop_ids, read, treated)
    return [answer.completion(read) for answer in answers]


def _in_slots(
    model: Any,
    answers: Sequence[_Answer],
    decoder: DecoderSettings,
    stop_ids: frozenset[int],
    read: Read,
    treated: bool,
) -> None:
    if not answers:
        return
    waiting = deque(sorted(answers, key=lambda answer: (-len(answer.ids), answer.index)))
    most = SLOTS.get(model.device.type, SLOTS["cuda"])
    held: list[_Answer | None] = [None] * min(most, up_to(len(answers), ROWS))
    last = [0] * len(held)
    cache = SlotCache(len(held), len(waiting[0].ids) + decoder.max_tokens, model.device)
    while waiting or any(held):
        while waiting and (free := [slot for slot, answer in enumerate(held) if answer is None]):
            batch = _next_prompts(waiting, len(free), model.device.type)
            logits, keys = _read_prompts(model, [answer.ids for answer in batch], treated)
            tokens = choose(logits, decoder, [answer.generator for answer in batch])
            cache.fill(free[: len(batch)], [len(answer.ids) for answer in batch], keys)
            for slot, answer, token in zip(free, batch, tokens, strict=False):
                if not answer.take(token, decoder, stop_ids, read):
                    held[slot], last[slot] = answer, token
        busy = [slot for slot, answer in enumerate(held) if answer is not None]
        rows = max(ROWS, up_to(len(busy), ROWS))
        if rows < len(held):  # nobody waits any more
            kept = [*busy, *[slot for slot, answer in enumerate(held) if answer is None]][:rows]
            cache.keep(kept)
            held, last = [held[slot] for slot in kept], [last[slot] for slot in kept]
            busy = list(range(len(busy)))
        if not busy:
            continue
        logits = _step(model, cache, last, max(len(a.ids) + len(a.tokens) for a in held if a is not None))
        cache.move_on(busy)
        for slot, token in zip(busy, choose(logits[busy], decoder, [a.generator for a in held if a]), strict=True):
            going = held[slot]
            assert going is not None
            last[slot] = token
            if going.take(token, decoder, stop_ids, read):
                held[slot], last[slot] = None, 0


def _step(model: Any, cache: SlotCache, last: list[int], longest: int) -> torch.Tensor:
    """Logits [slots, vocabulary] after each slot's last token; `longest` tokens stand in the fullest slot."""
    cache.seen = min(cache.room, up_to(longest, KEYS))
    with torch.inference_mode():
        logits = model(
            torch.tensor(last, device=model.device)[:, None],
            attention_mask=cache.mask[..., : cache.seen],
            position_ids=cache.at[:, None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
    return cast(torch.Tensor, logits[:, -1])


def _next_prompts(waiting: "deque[_Answer]", free: int, device: str) -> list[_Answer]:
    """Prompts of one bucket, to be read together."""
    length = bucket(len(waiting[0].ids))
    most = max(1, min(free, READ.get(device, READ["cuda"]) // length))
    batch = [waiting.popleft()]
    while waiting and len(batch) < most and bucket(len(waiting[0].ids)) == length:
        batch.append(waiting.popleft())
    return batch


def _read_prompts(model: Any, prompts: list[list[int]], treated: bool) -> tuple[torch.Tensor, DynamicCache]:
    """Logits [prompts, vocabulary] after each prompt, and the keys of all; prompts are padded on the right."""
    length = bucket(max(map(len, prompts)))
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in prompts], device=model.device)
    rows, ends = list(range(len(prompts))), [len(ids) - 1 for ids in prompts]
    more = max(0, ROWS - len(prompts))
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        if treated:
            return model(ids, past_key_values=cache, use_cache=True).logits[rows, ends], cache
        states = model.base_model(ids, past_key_values=cache, use_cache=True).last_hidden_state
        states = states[rows + [0] * more, ends + [0] * more]
        return model.get_output_embeddings()(states)[: len(prompts)], cache


def by_length(
    model: Any, answers: Sequence[_Answer], decoder: DecoderSettings, stop_ids: frozenset[int], read: Read
) -> None:
    """Without slots: prompts of equal length go together, in a fixed number of rows, to the longest answer's end."""
    groups: dict[int, list[_Answer]] = {}
    for answer in answers:
        groups.setdefault(len(answer.ids), []).append(answer)
    most = SLOTS.get(model.device.type, SLOTS["cuda"])
    for members in groups.values():
        for start in range(0, len(members), most):
            rows = members[start : start + most]
            filled = [rows[min(i, len(rows) - 1)].ids for i in range(max(ROWS, len(rows)))]
            generators = [None if decoder.greedy else torch.Generator().manual_seed(decoder.seed) for _ in filled]
            ended = [False] * len(rows)
            for step in steps(model, filled, decoder, generators):
                for i, answer in enumerate(rows):
                    ended[i] = ended[i] or answer.take(step[i], decoder, stop_ids, read)
                if all(ended):
                    break


def steps(
    model: Any, prompts: list[list[int]], decoder: DecoderSettings, generators: Sequence[torch.Generator | None]
) -> Iterator[list[int]]:
    """Next tokens of every row, step by step. All prompts have the same length."""
    ids = torch.tensor(prompts, device=model.device)
    cache = DynamicCache(config=model.config)
    for _ in range(decoder.max_tokens):
        # Not held across the yield: a consumer that drops the stream must not leave the mode switched on.
        with torch.inference_mode():
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            chosen = choose(logits, decoder, generators)
            ids = torch.tensor(chosen, device=model.device)[:, None]
        yield chosen


def choose(logits: torch.Tensor, decoder: DecoderSettings, generators: Sequence[torch.Generator | None]) -> list[int]:
    """The next token of each row of logits [rows, vocabulary]: the likeliest, or drawn at the decoder's temperature
    from its nucleus (Holtzman et al. 2020), by the row's own generator."""
    if decoder.greedy:
        return [int(i) for i in logits.float().argmax(-1).tolist()]
    probabilities = torch.softmax(logits.float().cpu() / decoder.temperature, -1)
    if decoder.top_p < 1:
        ordered, places = probabilities.sort(-1, descending=True)
        ordered[(ordered.cumsum(-1) - ordered) >= decoder.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(-1, places, ordered)
    picks = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators, strict=True)]
    return [int(pick) for pick in picks]


def slots_work(model: Any, treated: bool) -> bool:
    """Whether slots at different places say what each prompt says alone (to 1e-3 of the largest logit)."""
    if not plain_attention(model.config):
        return False
    known = int(model.get_input_embeddings().num_embeddings)
    prompts = [[i % known for i in range(2, 5)], [i % known for i in range(4, 9)]]
    try:
        first, read = _read_prompts(model, prompts, treated)
        cache = SlotCache(2, 16, model.device)
        cache.fill([0, 1], [3, 5], read)
        tokens = [9 % known, 10 % known]
        second = _step(model, cache, tokens, 6)
        with torch.no_grad():
            for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
                own = model(torch.tensor([[*prompt, token]], device=model.device), use_cache=False).logits[0]
                for seen, alone in ((first[row], own[-2]), (second[row], own[-1])):
                    if not float((seen - alone).abs().max()) <= 1e-3 * float(own.abs().max()):
                        return False
    except Exception:  # an architecture with a cache of its own kind says so in many ways
        return False
    return True


def stop_at(text: str, stops: tuple[str, ...]) -> int | None:
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return min(places) if places else None
