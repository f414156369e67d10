"""What the loss will see, and what it will cost, before anybody pays for it.

Most training accidents are visible in the data as the trainer encodes it: a mask that is empty, an answer without its
stop token, a slice whose long answers drown another's short ones, padding that is most of the work. So the preview
prepares the run exactly as training does, by the same code, into a folder that is thrown away, and counts.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plumbline.policies.template import ChatTemplate
from plumbline.records import Example, MaskTotals, Objective
from plumbline.training.cost import Memory, Shape, attention_flops, memory, shape_of, step_flops
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.store import TokenStore

STEPS_LOOKED_AT = 400  # of a longer run, as many evenly spread: the layout is a mean, and a preview should be quick
EXAMPLES_MEASURED = 20_000  # of more, as many drawn: encoding is most of the work
BINS = 20  # of the histogram; half of them for what fits, where something does not
UNFINISHED = "\ufffd"  # what a tokenizer shows for the first bytes of a character whose others are in the next token


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens alike, as text: are they targets? A special token is a segment of its own."""

    text: str
    supervised: bool
    special: bool = False


@dataclass(frozen=True)
class PreviewRow:
    """A row of the token store as the loss sees it; `weight` is that of each of its supervised tokens."""

    row: int
    slice: str
    weight: float
    tokens: int
    supervised: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Cuts:
    """Truncation against its limit. `refused` says why a run would stop here; empty where it would not."""

    max_tokens: int
    policy: str
    max_share: float
    examples: int
    touched: int
    refused: str = ""

    @property
    def share(self) -> float:
        return self.touched / self.examples if self.examples else 0.0


@dataclass(frozen=True)
class Lengths:
    """Tokens of conversations before anything is cut: `counts[i]` of them in [edges[i], edges[i+1]). Where some are
    `over` the limit, the limit is an edge (limit + 1 is the first length that does not fit), and the last bin is as
    wide as it must be. `measured` rows came of the `looked_at` examples, of `examples`."""

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    median: int
    ninth_decile: int
    longest: int
    over: int
    measured: int
    looked_at: int
    examples: int


@dataclass(frozen=True)
class SliceShare:
    """A slice's weight, and its shares (0 to 1) of the rows, tokens and supervised tokens that the run sees, and of the
    loss."""

    name: str
    weight: float
    rows: float
    tokens: float
    supervised: float
    loss: float


@dataclass(frozen=True)
class Plan:
    """The run in numbers. Means are over `steps_measured` steps, spread evenly; `padding` is the share of computed
    tokens that are padding; `largest` is the largest micro-batch in tokens, padding included."""

    steps: int
    steps_measured: int
    batch_examples: int
    workers: int
    layout: str
    micro_batches: float
    padding: float
    largest: int
    tokens: float
    supervised: float


@dataclass(frozen=True)
class Cost:
    """FLOPs of the whole run (products with parameters, and attention's own apart), per supervised token, and over the
    least possible; bytes on one device; seconds only where somebody measured `flops_per_second` (of one worker)."""

    shape: Shape
    flops: float
    attention: float
    per_supervised: float
    over_bound: float
    memory: Memory
    flops_per_second: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Preview:
    """Everything that the preview shows. `as_json` is it for machines."""

    objective: str
    policy: str
    dataset: str
    rows: tuple[PreviewRow, ...]
    ledger: dict[str, MaskTotals]
    cuts: Cuts
    lengths: Lengths
    shares: tuple[SliceShare, ...]
    plan: Plan
    cost: Cost

    def as_json(self) -> dict[str, Any]:
        found = asdict(self)
        found["ledger"] = {name: totals.model_dump() for name, totals in self.ledger.items()}
        found["cost"]["memory"]["total"] = self.cost.memory.total
        found["cuts"]["share"] = self.cuts.share
        return found


def preview_objective(
    objective: Objective,
    examples: Sequence[Example],
    replay: Sequence[Example],
    base: Path,
    *,
    template: str | None = None,
    rows: int = 8,
    slices: Sequence[str] = (),
    workers: int = 1,
    sharded: bool = False,
    flops_per_second: float | None = None,
) -> Preview:
    """Prepare `objective` as a run would, into a temporary folder, and look at it. Loads no weights.

    `template` is the text of a chat template other than the base policy's own, as for `train`; `sharded` says that the
    workers hold parts of the weights. Too much truncation, which a run refuses, is shown and said instead. Raises
    PlumblineError for all else that a run would refuse: an unmaskable template, an unknown slice, nothing to learn
    from.
    """
    from plumbline.policies.local import load_template

    chat = load_template(base, template, objective.added_tokens)
    with tempfile.TemporaryDirectory(prefix="plumbline-preview-") as folder:
        job = prepare_job(Path(folder) / "job", objective, examples, replay, base, chat, refuse=False)
        return preview(
            job, [*examples, *replay], chat,
            rows=rows, slices=slices, workers=workers, sharded=sharded, flops_per_second=flops_per_second,
        )  # fmt: skip


def preview(
    job: TrainingJob,
    examples: Sequence[Example],
    template: ChatTemplate,
    *,
    rows: int = 8,
    slices: Sequence[str] = (),
    workers: int = 1,
    sharded: bool = False,
    flops_per_second: float | None = None,
) -> Preview:
    """Look at a prepared job. `examples` are those it was prepared from, replay last; `slices` narrows the rows shown.

    Shows `rows` rows, evenly by slice, drawn by the objective's seed: the same objective shows the same rows.
    """
    objective, store = job.objective, job.store
    shape = shape_of(job.base, objective)
    plan, cost, seen = _walk(job, store, shape, workers, sharded)
    if flops_per_second:
        seconds = (cost.flops + cost.attention) / flops_per_second / workers
        cost = Cost(**{**vars(cost), "flops_per_second": flops_per_second, "seconds": seconds})
    weights = store.token_weights(objective)
    return Preview(
        objective=objective.digest,
        policy=job.base.name,
        dataset=objective.dataset,
        rows=tuple(_row(store, row, weights, template) for row in choose(store, rows, slices, objective.seed)),
        ledger=dict(job.ledger),
        cuts=_cuts(job),
        lengths=_lengths(examples, template, objective),
        shares=_shares(job, store, seen),
        plan=plan,
        cost=cost,
    )


def choose(store: TokenStore, count: int, slices: Sequence[str], seed: int) -> list[int]:
    """Row numbers, evenly by slice: one of each in turn until there are `count`, drawn by `seed`.

    Raises PlumblineError when `slices` names one that no row is of.
    """
    from plumbline.errors import PlumblineError

    if unknown := sorted(set(slices) - set(store.slice_names)):
        raise PlumblineError(
            f"no row is of slice {', '.join(unknown)}",
            consequence="there is nothing of it to show",
            remedy=f"name one of {', '.join(store.slice_names)}",
        )
    wanted = list(slices) or list(store.slice_names)
    drawn = []
    for name in wanted:
        members = np.flatnonzero(store.slices == store.slice_names.index(name))
        drawn.append([int(row) for row in np.random.default_rng([seed, 3]).permutation(members)])
    turns = [pool[turn] for turn in range(max(map(len, drawn), default=0)) for pool in drawn if turn < len(pool)]
    return sorted(turns[:count], key=lambda row: (store.slices[row], row))


def segments(tokenizer: Any, ids: Sequence[int], supervised: Sequence[bool]) -> tuple[Segment, ...]:
    """Tokens as text, neighbours alike joined; special tokens are spelt out.

    A token may hold a part of a character's bytes, and a token's text may depend on the one before it (a leading
    space). So each is decoded together with its predecessor, and the pieces of one character (at most four) are
    joined before they are decoded; such a character counts as supervised when any of its pieces is.
    """
    special = set(tokenizer.all_special_ids)
    pieces: list[tuple[bool, bool, str]] = []
    context = start = 0
    for end in range(1, len(ids) + 1):
        before, after = (
            tokenizer.decode(list(ids[context:stop]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
            for stop in (start, end)
        )
        if after.endswith(UNFINISHED) and end < len(ids) and end - start < 4:
            continue
        pieces.append((any(supervised[start:end]), ids[start] in special, after[len(before) :]))
        context, start = start, end
    joined: list[Segment] = []
    for target, is_special, text in pieces:
        last = joined[-1] if joined else None
        if last is not None and not is_special and (last.supervised, last.special) == (target, False):
            joined[-1] = Segment(last.text + text, target)
        else:
            joined.append(Segment(text, target, is_special))
    return tuple(joined)


def _row(store: TokenStore, row: int, weights: NDArray[np.float64], template: ChatTemplate) -> PreviewRow:
    ids, supervised = store.ids[store.row(row)].tolist(), store.supervised[store.row(row)].tolist()
    supervised[0] = False  # the first token is nobody's successor
    return PreviewRow(
        row=row,
        slice=store.slice_names[store.slices[row]],
        weight=float(weights[row]),
        tokens=len(ids),
        supervised=sum(supervised),
        segments=segments(template.tokenizer, ids, supervised),
    )


def _walk(
    job: TrainingJob, store: TokenStore, shape: Shape, workers: int, sharded: bool
) -> tuple[Plan, Cost, NDArray[np.int64]]:
    """Go through the run's global batches as the workers will cut them; also how often each row was met."""
    from plumbline.training.batch import micro_batches, shares

    objective, order = job.objective, job.order
    lengths, targets = store.lengths, store.targets
    in_kl = np.isin(store.slices, [store.slice_names.index(name) for name in objective.kl.slices])
    frozen = objective.adapter.kind != "none"
    looked = np.unique(np.linspace(0, order.steps - 1, min(order.steps, STEPS_LOOKED_AT)).astype(int))
    seen = np.zeros(len(store), dtype=np.int64)
    cuts = computed = real = supervised = largest = labelled = 0
    flops = least = attention = 0.0
    for step in looked:
        batch = order.global_batch(int(step))
        np.add.at(seen, batch, 1)
        for rank in shares(batch, lengths, workers):
            for micro in micro_batches(rank, lengths, objective):
                packed = objective.layout == "packed"
                through = lengths[micro] if packed else np.full(len(micro), lengths[micro].max())
                size, labels = int(through.sum()), int(targets[micro].sum())
                rows = size if shape.every_row else labels
                anchored = micro[in_kl[micro]]
                kl = bool(len(anchored))  # one such row takes its whole micro-batch through the reference
                flops += step_flops(shape, size, rows, frozen_body=frozen, kl_tokens=size * kl, kl_supervised=rows * kl)
                least += step_flops(
                    shape, int(lengths[micro].sum()), labels, frozen_body=frozen,
                    kl_tokens=int(lengths[anchored].sum()), kl_supervised=int(targets[anchored].sum()),
                )  # fmt: skip
                attention += attention_flops(shape, through)
                cuts, computed, largest = cuts + 1, computed + size, max(largest, size)
                labelled = max(labelled, labels)
                real, supervised = real + int(lengths[micro].sum()), supervised + labels
    scale = order.steps / len(looked)
    plan = Plan(
        steps=order.steps,
        steps_measured=len(looked),
        batch_examples=objective.batch_examples,
        workers=workers,
        layout=objective.layout,
        micro_batches=cuts / len(looked) / workers,
        padding=1 - real / computed,
        largest=largest,
        tokens=real * scale,
        supervised=supervised * scale,
    )
    cost = Cost(
        shape=shape,
        flops=flops * scale,
        attention=attention * scale,
        per_supervised=flops / max(1, supervised),
        over_bound=flops / least,
        memory=memory(
            shape, objective, micro_tokens=largest, micro_supervised=labelled, workers=workers, sharded=sharded
        ),
    )
    return plan, cost, seen


def _shares(job: TrainingJob, store: TokenStore, seen: NDArray[np.int64]) -> tuple[SliceShare, ...]:
    def by_slice(mass: NDArray[np.int64]) -> list[float]:
        sums = np.bincount(store.slices, weights=mass, minlength=len(store.slice_names))
        return [float(share) for share in sums / (sums.sum() or 1.0)]

    rows, tokens, targets = by_slice(seen), by_slice(seen * store.lengths), by_slice(seen * store.targets)
    loss = [job.ledger[name].loss_share for name in store.slice_names]
    weights = [job.objective.slice_weights.get(name, 1.0) for name in store.slice_names]
    return tuple(map(SliceShare, store.slice_names, weights, rows, tokens, targets, loss))


def _cuts(job: TrainingJob) -> Cuts:
    limit, totals = job.objective.truncation, job.ledger["all"]
    examples, touched = totals.examples + totals.dropped, totals.truncated + totals.split + totals.dropped
    refused = ""
    if touched > limit.max_share * examples:
        refused = (
            f"{touched} of {examples} examples do not fit in {limit.max_tokens} tokens or have no answer; "
            f"truncation.max_share allows {limit.max_share:.1%}"
        )
    return Cuts(limit.max_tokens, limit.policy, limit.max_share, examples, touched, refused)


def _lengths(examples: Sequence[Example], template: ChatTemplate, objective: Objective) -> Lengths:
    """Encoded again, without a limit: the token store only holds what is left after cutting."""
    chosen = np.arange(len(examples))
    if len(examples) > EXAMPLES_MEASURED:
        draw = np.random.default_rng([objective.seed, 4]).choice(chosen, EXAMPLES_MEASURED, replace=False)
        chosen = np.sort(draw)
    encoded = template.encode([examples[int(i)].messages for i in chosen], objective.mask.turns)
    sizes = np.array([len(row.ids) for rows in encoded for row in rows], dtype=np.int64)
    edges = _edges(int(sizes.max()), objective.truncation.max_tokens)
    counts, _ = np.histogram(sizes, bins=edges)
    return Lengths(
        edges=tuple(edges),
        counts=tuple(int(count) for count in counts),
        median=int(np.median(sizes)),
        ninth_decile=int(np.quantile(sizes, 0.9)),
        longest=int(sizes.max()),
        over=int((sizes > objective.truncation.max_tokens).sum()),
        measured=len(sizes),
        looked_at=len(chosen),
        examples=len(examples),
    )


def _edges(longest: int, limit: int) -> list[int]:
    """About BINS bins of equal width (but for rounding) from 0; the limit is an edge where something does not fit, and
    the last bin is wider where lengths go far beyond it."""
    if longest <= limit:
        width = -(-(longest + 1) // BINS)
        return list(range(0, longest + 1 + width, width))
    first, half = limit + 1, BINS // 2
    edges = np.unique(np.linspace(0, 2 * first, 2 * half + 1).round().astype(int))
    return [int(edge) for edge in edges if edge <= longest and edge < 2 * first] + [longest + 1]
