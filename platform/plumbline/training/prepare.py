"""From examples to a token store: rendered once, masked once, every token that is cut or left out counted.

An example becomes one row, or several (its template rewrites history, or it is split); it is kept whole by the rules
of the objective or dropped whole, never in part unseen. The mask ledger says, per example and by slice, what became
of its tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.policies.template import ChatTemplate, Encoded
from plumbline.records import Example, MaskTotals, Truncation
from plumbline.training.store import TokenStore

BLOCK = 2048
Fate = Literal["kept", "truncated", "split", "dropped"]


@dataclass(frozen=True)
class ExampleMask:
    """The mask ledger's line for one example: tokens of its rows that are context (`prompt`) and `supervised`; tokens
    `truncated` (in no row); how many tokens of answers the mask leaves out (`ignored`: they are context at most), and
    how many end-of-turn tokens are supervised. `expanded`: several rows, since its template rewrites history or an
    answer's tokens would not begin where its prompt's end."""

    example: int
    slice: str
    fate: Fate
    rows: int
    expanded: bool
    prompt: int
    supervised: int
    ignored: int
    truncated: int
    stops: int


@dataclass(frozen=True)
class Prepared:
    """A token store with its mask ledger, by example and by slice. `kept[i]` is the index, among the examples given,
    of the store's row i. `refusal` is the error that a run would end with, where the caller asked not to raise."""

    store: TokenStore
    examples: tuple[ExampleMask, ...]
    ledger: dict[str, MaskTotals]
    kept: tuple[int, ...]
    refusal: PlumblineError | None = None


def prepare(
    examples: Sequence[Example],
    template: ChatTemplate,
    truncation: Truncation,
    weights: dict[str, float],
    *,
    turns: Literal["all", "last"] = "all",
    refuse: bool = True,
) -> Prepared:
    """Encode, mask and truncate. Raises PlumblineError when the template cannot be masked, when nothing is left to
    learn from, or (unless `refuse` is false) when more than `truncation.max_share` of the examples would be touched."""
    if not examples:
        raise PlumblineError(
            "the dataset version has no training examples",
            consequence="there is nothing to train on",
            remedy="publish a version with a train split",
        )
    template.check()
    names = tuple(sorted({example.slice for example in examples}))
    rows: list[tuple[int, int, Encoded]] = []  # origin, slice, row
    masks: list[ExampleMask] = []
    for start in range(0, len(examples), BLOCK):
        block = examples[start : start + BLOCK]
        for origin, encoded in enumerate(template.encode([e.messages for e in block], turns), start):
            kept, fate, truncated = fit(encoded, truncation)
            rows += [(origin, names.index(examples[origin].slice), row) for row in kept]
            masks.append(_mask_of(origin, examples[origin].slice, encoded, kept, fate, truncated))
    store = _store(rows, names)
    ledger = _ledger(masks, names, weights)
    refusal = _refusal(ledger["all"], len(examples), truncation)
    if refusal is not None and refuse:
        raise refusal
    return Prepared(store, tuple(masks), ledger, tuple(origin for origin, _, _ in rows), refusal)


def fit(rows: Sequence[Encoded], truncation: Truncation) -> tuple[list[Encoded], Fate, int]:
    """An example's rows made to fit `truncation.max_tokens`, its fate, and the number of tokens that no row carries.

    An example with a row that cannot be kept goes whole: under `drop` any row that is too long, under
    `truncate_prompt_left` any whose answers do not fit, and always one without a supervised token.
    """
    fitted: list[Encoded] = []
    fate: Fate = "kept"
    lost = 0
    for row in rows:
        if not any(row.supervised[1:]):
            return [], "dropped", _tokens(rows)
        excess = len(row.ids) - truncation.max_tokens
        if excess <= 0:
            fitted.append(row)
        elif truncation.policy == "split":
            parts, missing = split(row, truncation.max_tokens)
            fitted, fate, lost = [*fitted, *parts], "split", lost + missing
        elif truncation.policy == "drop" or any(row.supervised[: excess + 1]):
            return [], "dropped", _tokens(rows)
        else:
            fitted.append(_cut(row, excess, len(row.ids), excess))
            fate, lost = "truncated", lost + excess
    return fitted, fate, lost


def split(row: Encoded, size: int) -> tuple[list[Encoded], int]:
    """Rows of at most `size` tokens in which every supervised token of `row` is a target exactly once, with up to
    half a row of what came before it as context; and the number of tokens that none of them carries.

        row    p p p p a a a p p a a a a a a        size 8
        1st    p p p p a a a p
        2nd              . . p p a a a a            . context: not supervised again
        3rd                      . . . . a a

    An answer that fits in half a row is never cut. A cut answer has its stop token in its last row alone, so that
    nothing teaches to stop in the middle of a sentence.
    """
    parts: list[Encoded] = []
    done, carried, end = 1, 0, 0
    while (first := _next(row.supervised, done)) is not None:
        start = 0 if first <= size // 2 else first - size // 2
        begin, end = end, min(start + size, len(row.ids))
        if end < len(row.ids) and row.supervised[end] and row.supervised[end - 1]:
            turn = _run_start(row, end)
            end = turn if turn > first else end
        parts.append(_cut(row, start, end, first))
        carried += end - max(start, begin)
        done = end
    return parts, len(row.ids) - carried


def _next(supervised: list[bool], start: int) -> int | None:
    """The first supervised token at or after `start`."""
    try:
        return supervised.index(True, start)
    except ValueError:
        return None


def _run_start(row: Encoded, inside: int) -> int:
    """Where the answer begins that token `inside` belongs to: after a gap, or after another answer's stop token."""
    start = inside
    while start > 0 and row.supervised[start - 1] and not (row.stop[start - 1] and not row.stop[start]):
        start -= 1
    return start


def _cut(row: Encoded, start: int, end: int, supervised_from: int) -> Encoded:
    """Tokens [start, end) of a row, with targets from `supervised_from` on."""
    seen = [target and index >= supervised_from for index, target in enumerate(row.supervised[start:end], start)]
    stop = [mark and target for mark, target in zip(row.stop[start:end], seen, strict=True)]
    return Encoded(row.ids[start:end], seen, row.content[start:end], stop, row.ignored)


def _tokens(rows: Iterable[Encoded]) -> int:
    return sum(len(row.ids) for row in rows)


def _mask_of(
    example: int, name: str, encoded: list[Encoded], kept: list[Encoded], fate: Fate, truncated: int
) -> ExampleMask:
    supervised = sum(sum(row.supervised[1:]) for row in kept)
    ignored = sum(row.ignored for row in encoded) if kept else 0
    return ExampleMask(
        example=example,
        slice=name,
        fate=fate,
        rows=len(kept),
        expanded=len(encoded) > 1,
        prompt=_tokens(kept) - supervised,
        supervised=supervised,
        ignored=ignored,
        truncated=truncated,
        stops=sum(sum(row.stop) for row in kept),
    )


def _refusal(totals: MaskTotals, examples: int, truncation: Truncation) -> PlumblineError | None:
    touched = totals.truncated + totals.split + totals.dropped
    if touched <= truncation.max_share * examples and totals.examples:
        return None
    if not totals.examples:
        return PlumblineError(
            f"no example is left: all {examples} are longer than {truncation.max_tokens} tokens or have no answer",
            consequence="there is nothing to train on",
            remedy="raise truncation.max_tokens, or choose another truncation.policy",
        )
    return PlumblineError(
        f"{touched} of {examples} examples are longer than {truncation.max_tokens} tokens "
        f"({totals.dropped} would be dropped, {totals.truncated} cut, {totals.split} split)",
        consequence=f"the run would touch more than the {truncation.max_share:.1%} that the objective allows",
        remedy="raise truncation.max_tokens, allow more with truncation.max_share, or shorten the examples",
    )


def _store(rows: list[tuple[int, int, Encoded]], names: tuple[str, ...]) -> TokenStore:
    lengths = [len(row.ids) for _, _, row in rows]
    total = sum(lengths)
    return TokenStore(
        ids=np.fromiter((t for _, _, row in rows for t in row.ids), dtype=np.int32, count=total),
        supervised=np.fromiter((s for _, _, row in rows for s in row.supervised), dtype=np.bool_, count=total),
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        slices=np.array([index for _, index, _ in rows], dtype=np.int16),
        slice_names=names,
    )


def _ledger(masks: list[ExampleMask], names: tuple[str, ...], weights: dict[str, float]) -> dict[str, MaskTotals]:
    """Totals by slice and over all. `loss_share` is of one pass over everything; a job puts in the run's true one."""
    by_slice = {name: [mask for mask in masks if mask.slice == name] for name in names}
    mass = {name: weights.get(name, 1.0) * sum(m.supervised for m in rows) for name, rows in by_slice.items()}
    whole = sum(mass.values()) or 1.0
    shares = {name: round(mass[name] / whole, 6) for name in names}
    return {
        **{name: _totals(rows, shares[name]) for name, rows in by_slice.items()},
        "all": _totals(masks, 1.0),
    }


def _totals(masks: Sequence[ExampleMask], share: float) -> MaskTotals:
    return MaskTotals(
        examples=sum(m.fate != "dropped" for m in masks),
        rows=sum(m.rows for m in masks),
        prompt_tokens=sum(m.prompt for m in masks),
        supervised_tokens=sum(m.supervised for m in masks),
        ignored_tokens=sum(m.ignored for m in masks),
        truncated=sum(m.fate == "truncated" for m in masks),
        truncated_tokens=sum(m.truncated for m in masks),
        split=sum(m.fate == "split" for m in masks),
        expanded=sum(m.expanded and m.fate != "dropped" for m in masks),
        dropped=sum(m.fate == "dropped" for m in masks),
        stop_supervised=sum(m.stops for m in masks),
        loss_share=share,
    )


def ledger_lines(masks: Iterable[ExampleMask], places: Sequence[int] = ()) -> Iterable[str]:
    """The ledger by example, as JSON lines. `places[i]` is the example's place in the dataset version, where the masks
    are in another order; what lies beyond it is replay."""
    import json

    for mask in masks:
        replayed = bool(places) and mask.example >= len(places)
        example = places[mask.example] if places and not replayed else mask.example - len(places)
        yield json.dumps({**asdict(mask), "example": example, "replay": replayed}) + "\n"
