"""One step of many answers: slots, each at its own place in its own answer, and what to choose from the logits.

    step      1  2  3  4  5  6            no row is padded on the left, none waits for the longest of its batch
    slot 0    a  a  a .  d  d             (`.` an answer ends, its slot takes the next prompt)
    slot 1    b  b .  e  e  e
    slot 2    c  c  c  c  c .

An answer is the same whatever it is asked with. Float32 sums depend on the shape of a matrix product, in the last
bits: a CPU's kernels change with the number of rows (with AVX-512 at 2, 6 and 12; with AVX2 at 4 and 64, and there some
numbers treat their own last rows differently), and with the number of keys modulo their vector width. So a step
computes one of a few numbers of rows (`Shapes`, tried out on the policy at hand; empty slots compute and are thrown
away) and a multiple of 32 keys, of which those beyond an answer's own add exact zeros.

Measured with one thread and AVX-512, where 12 rows are the fewest that 32 and 64 agree with: a step of the
micro-world's reference takes 0.3 ms for 1 row, 0.5 for 8, 0.6 for 12, 0.7 for 16, 1.1 for 32 (`lean`; by transformers'
pass 0.7 to 1.6); with 61 million parameters, by that pass, 28 for 1, 57 for 8, 65 for 16 and 79 for 32. Passes of 8
rows would save a lone request a seventh, but cost 32 at once more than twice as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache

from plumbline.policies.lean import Lean, Pair
from plumbline.policies.scoring import bucket, plain_attention
from plumbline.records import DecoderSettings

SLOTS = {"cpu": 64, "cuda": 256}
READ = {"cpu": 512, "cuda": 8192}  # prompt tokens in one forward pass
ROWS = 16
KEYS = 32
COLDEST = 1e-5  # temperatures below it leave float32, so they are greedy
LADDER = (4, 8, 12, 16, 24, 32, 48, 64)


@dataclass(frozen=True)
class Shapes:
    """What agrees to the last bit: steps of these numbers of `rows`, ascending, wherever a row stands in them; and
    whether prompts may be read `together`."""

    rows: tuple[int, ...]
    together: bool

    def fit(self, busy: int) -> int:
        """The smallest number of rows that holds `busy` slots; the largest when none does."""
        return next((rows for rows in self.rows if rows >= busy), self.rows[-1])


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped
    """Keys and values [slots, heads, room, size] by layer; `at` is the next place of each slot, 0 while it is empty.
    A step writes the first slots at their places, and sees the first `seen` places, a multiple of KEYS."""

    def __init__(self, slots: int, room: int, device: torch.device) -> None:
        super().__init__(layers=[])
        self.room = up_to(room, KEYS)
        self.at = [0] * slots
        self.kept: list[Pair] = []
        self.seen = self.room
        self._rows = self._places = torch.zeros(0, dtype=torch.long, device=device)

    @property
    def slots(self) -> int:
        return len(self.at)

    @property
    def bytes_per_place(self) -> int:
        """Of one token in one slot; 0 until something was read."""
        return sum(t.shape[1] * t.shape[3] * t.element_size() for pair in self.kept for t in pair)

    def fill(self, slots: list[int], lengths: list[int], read: Sequence[Pair]) -> None:
        """Take in prompts of these lengths that were just read, the first rows of `read`, by layer."""
        for number, pair in enumerate(read):
            if number == len(self.kept):
                made = [t.new_zeros((self.slots, t.shape[1], self.room, t.shape[3])) for t in pair]
                self.kept.append((made[0], made[1]))
            for mine, theirs in zip(self.kept[number], pair, strict=True):
                width = min(self.room, theirs.shape[2])
                mine[slots, :, :width] = theirs[: len(slots), :, :width]
        for slot, length in zip(slots, lengths, strict=True):
            self.at[slot] = length

    def move_on(self, slots: list[int]) -> None:
        """These slots go to their next place; it may be the last one's successor, which is never written."""
        for slot in slots:
            self.at[slot] = min(self.at[slot] + 1, self.room - 1)

    def move(self, slot: int, to: int) -> None:
        """What one slot holds goes to another, whose content is lost."""
        self.at[to] = self.at[slot]
        for keys, values in self.kept:
            keys[to], values[to] = keys[slot], values[slot]

    def grow(self, slots: int, room: int) -> None:
        """To at least so many slots, and so much room in each."""
        had, old = self.slots, self.room
        slots, room = max(slots, had), max(up_to(room, KEYS), old)
        if (slots, room) == (had, old):
            return
        for number, pair in enumerate(self.kept):
            wider = [t.new_zeros((slots, t.shape[1], room, t.shape[3])) for t in pair]
            for new, held in zip(wider, pair, strict=True):
                new[:had, :, :old] = held
            self.kept[number] = (wider[0], wider[1])
        self.at += [0] * (slots - had)
        self.room = room

    def look(self, slots: int, seen: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Make ready for a step of the first `slots`, which sees `seen` places: their additive mask [slots, 1, 1, seen]
        and positions [slots, 1]."""
        device = self._rows.device
        self.seen, self._rows = seen, torch.arange(slots, device=device)
        self._places = torch.tensor(self.at[:slots], device=device)
        later = torch.arange(seen, device=device) > self._places[:, None]
        mask = torch.zeros(later.shape, device=device).masked_fill_(later, torch.finfo(torch.float32).min)
        return mask[:, None, None], self._places[:, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.kept[layer_idx]
        keys[self._rows, :, self._places] = key_states[:, :, 0]
        values[self._rows, :, self._places] = value_states[:, :, 0]
        return keys[: len(self._rows), :, : self.seen], values[: len(self._rows), :, : self.seen]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.seen


def up_to(length: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-length // step) * step


def step(model: Any, cache: SlotCache, last: list[int], longest: int) -> torch.Tensor:
    """Logits [rows, vocabulary] after the last token of each of the first slots; `longest` tokens stand in the fullest
    of them. `model` is transformers' or a Lean one; those of a Lean one after empty slots say nothing."""
    seen = min(cache.room, up_to(longest, KEYS))
    with torch.inference_mode():
        if isinstance(model, Lean):
            at = cache.at[: len(last)]
            busy = max((slot + 1 for slot, place in enumerate(at) if place), default=1)
            return model.step(last, at, seen, cache.kept, busy)
        mask, positions = cache.look(len(last), seen)
        logits = model(
            torch.tensor(last, device=model.device)[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
    return cast(torch.Tensor, logits[:, -1])


def read_prompts(model: Any, prompts: Sequence[list[int]], treated: bool) -> tuple[torch.Tensor, list[Pair]]:
    """Logits [prompts, vocabulary] after each prompt, and the keys of all, by layer; prompts are padded on the right.
    `model` is transformers' or a Lean one."""
    length = bucket(max(map(len, prompts)))
    ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in prompts], device=model.device)
    rows, ends = list(range(len(prompts))), [len(ids) - 1 for ids in prompts]
    with torch.inference_mode():
        if isinstance(model, Lean):
            return model.read(ids, ends, ROWS)
        cache = DynamicCache(config=model.config)
        if treated:
            return model(ids, past_key_values=cache, use_cache=True).logits[rows, ends], _pairs(cache)
        states = model.base_model(ids, past_key_values=cache, use_cache=True).last_hidden_state[rows, ends]
        head = model.get_output_embeddings()
        found = []
        for some in states.split(ROWS):  # always as many rows, so that neighbours change nothing
            more = some[-1:].expand(ROWS - len(some), -1)
            found.append(head(torch.cat([some, more]))[: len(some)])
        return torch.cat(found), _pairs(cache)


def _pairs(cache: DynamicCache) -> list[Pair]:
    return [(layer.keys, layer.values) for layer in cache.layers]


def draw(
    logits: torch.Tensor, decoders: Sequence[DecoderSettings], generators: Sequence[torch.Generator | None]
) -> list[int]:
    """The next token of each row of logits [rows, vocabulary], drawn at its decoder's temperature from its nucleus
    (Holtzman et al. 2020), by the row's own generator."""
    temperatures = torch.tensor([[decoder.temperature] for decoder in decoders])
    probabilities = torch.softmax(logits.float().cpu() / temperatures, -1)
    nuclei = [row for row, decoder in enumerate(decoders) if decoder.top_p < 1]
    if nuclei:
        ordered, places = probabilities[nuclei].sort(-1, descending=True)
        limits = torch.tensor([[decoders[row].top_p] for row in nuclei])
        beyond = (ordered.cumsum(-1) - ordered) >= limits
        beyond[:, 0] = False  # the likeliest is always one of them
        ordered[beyond] = 0
        probabilities[nuclei] = torch.zeros_like(ordered).scatter(-1, places, ordered)
    return [int(torch.multinomial(p, 1, generator=own)) for p, own in zip(probabilities, generators, strict=True)]


def try_out(model: Any, treated: bool) -> Shapes | None:
    """The shapes that agree to the last bit on this model, transformers' or a Lean one, and machine, by trying. None:
    slots at different places do not say what transformers says of each prompt alone (to 1e-3 of the largest logit)."""
    if not slots_work(model, treated):
        return None
    if model.device.type != "cpu":  # not promised to the last bit
        return Shapes(tuple(range(ROWS, SLOTS["cuda"] + 1, ROWS)), True)
    known = _known(model)
    prompts = [[(3 * i + 5 * j + 2) % known for i in range(12)] for j in range(8)]
    alone, read = read_prompts(model, prompts[:1], treated)
    keys = torch.stack([pair[0][0] for pair in read])

    def steps_alike(rows: int) -> torch.Tensor | None:
        """The logits of one slot, when they are the same in each of `rows` slots."""
        cache = SlotCache(rows, KEYS, model.device)
        for slot in range(rows):
            cache.fill([slot], [len(prompts[0])], read)
        logits = step(model, cache, [7 % known] * rows, len(prompts[0]) + 1)
        return logits[0] if bool((logits == logits[0]).all()) else None

    def reads_alike(number: int) -> bool:
        logits, many = read_prompts(model, [prompts[0]] * number, treated)
        same = all(bool((pair[0] == keys[n]).all()) for n, pair in enumerate(many))
        return same and bool((logits == alone[0]).all())

    right = steps_alike(ROWS)
    rows = [n for n in LADDER if n != ROWS and right is not None and _equal(steps_alike(n), right)]
    return Shapes(tuple(sorted([ROWS, *rows])), all(reads_alike(n) for n in (2, 4, 8)))


def _equal(one: torch.Tensor | None, other: torch.Tensor) -> bool:
    return one is not None and torch.equal(one, other)


def _known(model: Any) -> int:
    whole = model.model if isinstance(model, Lean) else model
    return int(whole.get_input_embeddings().num_embeddings)


def slots_work(model: Any, treated: bool) -> bool:
    """Whether slots at different places say what transformers says of each prompt alone, to 1e-3 of the largest."""
    whole = model.model if isinstance(model, Lean) else model
    if not plain_attention(whole.config):
        return False
    known = _known(model)
    prompts = [[i % known for i in range(2, 5)], [i % known for i in range(4, 41)]]
    try:
        first, read = read_prompts(model, prompts, treated)
        cache = SlotCache(2, 64, model.device)
        cache.fill([0, 1], [len(prompt) for prompt in prompts], read)
        tokens = [9 % known, 10 % known]
        second = step(model, cache, tokens, 38)
        with torch.no_grad():
            for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
                own = whole(torch.tensor([[*prompt, token]], device=model.device), use_cache=False).logits[0]
                for seen, alone in ((first[row], own[-2]), (second[row], own[-1])):
                    if not float((seen - alone).abs().max()) <= 1e-3 * float(own.abs().max()):
                        return False
    except Exception:  # an architecture with a cache of its own kind says so in many ways
        return False
    return True
