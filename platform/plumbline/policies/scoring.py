"""How likely continuations are: those of one item stand in one row, and their prompt is read once.

    row     who is ana ? |  a baker  |  a poet  | .. padding        each continuation sees the prompt and itself;
    place   0   1  2   3 |  4 5      |  4 5     |                   the last token of each is only predicted

Neighbours, the batch size and what was already answered do not change a score: a row is padded to a length that
follows from its own (`bucket`), its logits are formed for itself, and no product has fewer than 16 rows, below which
CPU kernels sum in another order (what lies behind lm-evaluation-harness #1645 and #704). Architectures whose attention
is not plain (sliding windows, ALiBi, recurrent layers) get a row per continuation; whether it is plain is tried out
once (`branches`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

TILE = {"cpu": 512, "cuda": 16384}  # tokens in one forward pass
LONGEST = 4096  # tokens in a row that holds several continuations
POSITIONS = 512  # of which logits [positions, vocabulary] are held at once


@dataclass(frozen=True)
class Scored:
    """Token ids `ids`; the continuation scored is `ids[start:]`, what lies before is its prompt (not empty). Those of
    one `unit` may share a row: where a continuation stands in its row changes its last bits, so a unit must hold the
    same ones whenever it is asked, as the choices of one item do."""

    ids: tuple[int, ...]
    start: int
    unit: int = 0


@dataclass(frozen=True)
class _Row:
    """`ids` and `places` (rotary positions) of a packed row; `branches` begin where another continuation does.
    `reads[c]` are, for continuation c, the row's positions that predict its tokens `targets[c]`."""

    ids: list[int]
    places: list[int]
    prompt: int
    branches: list[int]
    reads: list[list[int]]
    targets: list[tuple[int, ...]]
    indices: list[int]


def bucket(length: int) -> int:
    """The length that a row is padded to: a function of its own length, at most an eighth or 15 tokens longer."""
    step = 16
    while step * 8 < length:
        step *= 2
    return -(-length // step) * step


def tile_rows(length: int, device: str) -> int:
    """Rows of `length` tokens in one forward pass."""
    return max(1, TILE.get(device, TILE["cuda"]) // length)


def score(model: Any, asked: Sequence[Scored], *, treated: bool, branching: bool) -> list[float]:
    """log pi(continuation | prompt) in nats for each, in the order given; float32 logits, summed in float64."""
    totals = [0.0] * len(asked)
    tiles: dict[tuple[int, bool], list[_Row]] = {}
    for row in _pack(asked, branching):
        tiles.setdefault((bucket(len(row.ids)), bool(row.branches)), []).append(row)
    for (length, _), rows in sorted(tiles.items(), key=lambda entry: entry[0]):
        size = tile_rows(length, model.device.type)
        for start in range(0, len(rows), size):
            tile = rows[start : start + size]
            for row, found in zip(tile, _run(model, tile, length, treated), strict=True):
                for index, total in zip(row.indices, found, strict=True):
                    totals[index] = total
    return totals


def branches(model: Any, treated: bool) -> bool:
    """Whether continuations that stand side by side in one row score as they do alone (to 1e-3 of the largest)."""
    known = int(model.get_input_embeddings().num_embeddings)
    prompt = tuple(i % known for i in range(2, 8))
    asked = [Scored((*prompt, *(i % known for i in tail)), 6) for tail in ((9, 10, 11), (12, 13), (14, 15, 16))]
    if not plain_attention(model.config):
        return False
    try:
        together = score(model, asked, treated=treated, branching=True)
    except Exception:  # an architecture that takes no such mask says so in many ways
        return False
    alone = score(model, asked, treated=treated, branching=False)
    return all(abs(a - b) <= 1e-3 * max(1.0, abs(b)) for a, b in zip(together, alone, strict=True))


def plain_attention(config: Any) -> bool:
    """Whether every layer attends to all that came before, as far as the configuration says."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return kinds == {"full_attention"} and not window and not getattr(text, "attention_chunk_size", None)


def _pack(asked: Sequence[Scored], branching: bool) -> Iterator[_Row]:
    """Rows of continuations of one prompt, in the order asked, none longer than LONGEST unless it holds but one."""
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(asked):
        if len(one.ids) > one.start:
            groups.setdefault((one.unit, one.ids[: one.start]) if branching else index, []).append(index)
    for members in groups.values():
        part: list[int] = []
        size = 0
        for index in members:
            tail = len(asked[index].ids) - 1 - asked[index].start
            if part and asked[index].start + size + tail > LONGEST:
                yield _row(asked, part)
                part, size = [], 0
            part.append(index)
            size += tail
        yield _row(asked, part)


def _row(asked: Sequence[Scored], members: list[int]) -> _Row:
    first = asked[members[0]]
    prompt = first.start
    ids, places = list(first.ids[:prompt]), list(range(prompt))
    row = _Row(ids, places, prompt, [], [], [], list(members))
    for index in members:
        tail = asked[index].ids[prompt:]
        start = len(ids)
        if len(tail) > 1:
            if start > prompt:
                row.branches.append(start)
            ids += tail[:-1]
            places += range(prompt, prompt + len(tail) - 1)
        row.reads.append([prompt - 1, *range(start, start + len(tail) - 1)])
        row.targets.append(tail)
    return row


def _run(model: Any, rows: list[_Row], length: int, treated: bool) -> list[list[float]]:
    """Sums by row and continuation."""
    device = model.device
    ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows])
    more: dict[str, torch.Tensor] = {}
    if rows[0].branches:
        places = [row.places + list(range(length - len(row.ids))) for row in rows]
        more = {"attention_mask": _mask(rows, length).to(device), "position_ids": torch.tensor(places).to(device)}
    with torch.inference_mode():
        if treated:
            states = model(ids.to(device), use_cache=False, **more).logits
        else:
            states = model.base_model(ids.to(device), use_cache=False, **more).last_hidden_state
        return [_sums(None if treated else model.get_output_embeddings(), states[i], row) for i, row in enumerate(rows)]


def _sums(head: Any, states: torch.Tensor, row: _Row) -> list[float]:
    """One row's sums. Its logits are formed for itself, and only at the positions that predict something."""
    places = sorted({place for reads in row.reads for place in reads})
    where = {place: i for i, place in enumerate(places)}
    pairs = [
        (where[p], t)
        for reads, targets in zip(row.reads, row.targets, strict=True)
        for p, t in zip(reads, targets, strict=True)
    ]
    picked = torch.empty(len(pairs), dtype=torch.float64)
    for start in range(0, len(places), POSITIONS):
        some = states[places[start : start + POSITIONS]]
        logp = torch.log_softmax((some if head is None else head(some)).float(), -1)
        mine = [(n, p - start, t) for n, (p, t) in enumerate(pairs) if start <= p < start + POSITIONS]
        index, position, token = (list(column) for column in zip(*mine, strict=True))
        picked[index] = logp[position, token].double().cpu()
    return [float(part.sum()) for part in torch.split(picked, [len(reads) for reads in row.reads])]


def _mask(rows: Sequence[_Row], length: int) -> torch.Tensor:
    """Additive [rows, 1, length, length]: causal, and no continuation sees another. Padding sees itself."""
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((length, length), lowest).triu(1)[None, None].repeat(len(rows), 1, 1, 1)
    for i, row in enumerate(rows):
        for start in [*row.branches, len(row.ids)]:
            mask[i, 0, start:, row.prompt : start] = lowest
    return mask


def logits_at(model: Any, ids: torch.Tensor, wanted: torch.Tensor, *, treated: bool) -> torch.Tensor:
    """Logits [wanted positions, vocabulary] for ids [rows, length] and wanted [rows, length - 1], where position i
    predicts token i + 1. Only those positions meet the output layer, unless the architecture treats its logits."""
    if treated:
        return cast(torch.Tensor, model(ids, use_cache=False).logits[:, :-1][wanted])
    hidden = model.base_model(ids, use_cache=False).last_hidden_state[:, :-1][wanted]
    return cast(torch.Tensor, model.get_output_embeddings()(hidden))
