"""The training loop, read top to bottom: build, resume, step, account, choose, checkpoint, finish.

Capabilities: full fine-tuning and LoRA, DoRA, QLoRA; any number of data-parallel ranks with the same sequence of
global batches and the same loss; parameters sharded over the ranks (FSDP2) or whole on each; padded, bucketed or
packed micro-batches; slice weights; replay; KL to the base policy; frozen parameters; choice of the checkpoint by
validation loss, or by behaviour probes; resume at any checkpoint, under any number of ranks. Not supported here:
tensor, pipeline or context parallelism; parameters kept on the CPU.

Ranks do not use DDP: each adds up its share of one global sum, and a single all-reduce *sums* the gradients. DDP
would average them, which is wrong whenever ranks hold different numbers of supervised tokens (transformers#37474).
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.device_mesh import init_device_mesh

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.records import Objective, TrainingRecord
from plumbline.training import checkpoint as checkpoints
from plumbline.training import sharding
from plumbline.training.attention import use_document_attention
from plumbline.training.batch import Rows, collate, micro_batches, shares
from plumbline.training.checkpoint import State
from plumbline.training.job import TrainingJob
from plumbline.training.loss import LOSS, WeightedLoss, global_weight
from plumbline.training.optimise import fill_gradients, learning_rate, make_optimiser, sum_over_ranks
from plumbline.training.probing import keep_for_probe
from plumbline.training.progress import Progress
from plumbline.training.store import TokenStore
from plumbline.training.trainee import build


class Runner(Protocol):
    """What the loop needs of whatever runs it: its place among the ranks, a checkpoint to resume from, a way to save
    one (and to have the weights of `probe` probed), and the device. `save` is a barrier: every rank calls it the same
    number of times. `preempted` is one too."""

    rank: int
    world: int
    device: str
    sharded: bool

    def resume(self) -> AbstractContextManager[Path | None]: ...

    def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None: ...

    def preempted(self, step: int) -> bool: ...


def train_rank(job: TrainingJob, runner: Runner) -> None:
    """Run one rank to the end of the job. Rank 0 writes progress and, last, what was trained into `result/`."""
    # build
    objective, store, order = job.objective, job.store, job.order
    trainee = build(objective, job.base, runner.device)
    model = trainee.model.train()
    if objective.layout == "packed":
        for each in (model, trainee.reference):
            if each is not None:
                half = objective.precision == "bfloat16"
                use_document_attention(each, int(store.lengths.max()), half=half)
    root = WeightedLoss(model, objective, len(store.slice_names), trainee.reference)
    if runner.sharded:
        mesh = init_device_mesh(torch.device(runner.device).type, (runner.world,))
        sharding.shard(root, model, mesh)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = make_optimiser(parameters, objective.optimiser)
    weights, targets = store.token_weights(objective), store.targets
    state, chosen = State(objective=objective.digest), None

    # resume
    with runner.resume() as folder:
        if folder is not None:
            state, chosen = checkpoints.load(folder, objective.digest, model, optimiser)
    progress = Progress(job, runner, order.steps, state.step)

    started = time.monotonic() - state.seconds
    stopped = told_to_stop(job, runner)  # also by a probe that was measured while nothing ran
    while state.step < order.steps and not stopped:
        # step: this rank's share of the global batch, in micro-batches
        # (seeded per step, so that dropout is a function of the objective too, also after a resume)
        step, began = state.step, time.monotonic()
        torch.manual_seed(hash((objective.seed, step, runner.rank)) % 2**63)
        batch = order.global_batch(step)
        weight = global_weight(batch, targets, weights)
        tally = torch.zeros(root.tally_size, dtype=torch.float64, device=runner.device)
        cuts = rank_cuts(batch, store.lengths, objective, runner)
        for place, rows in enumerate(cuts):
            if runner.sharded:
                sharding.accumulate(root, last=place == len(cuts) - 1)
            loss, part = root(collate(store, rows, weights, objective, runner.device))
            (loss / (weight or 1.0)).backward()
            tally += part
        fill_gradients(parameters)
        if runner.world > 1:
            dist.all_reduce(tally)
            if not runner.sharded:
                sum_over_ranks(parameters)
        norm = sharding.clip(parameters, objective.optimiser.clip_norm)
        sums = tally.tolist()
        require_finite(sums[LOSS], norm, step)
        rate = learning_rate(objective.optimiser, step, order.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

        # account: ratios of sums, never means of means
        state.step, state.examples = step + 1, state.examples + len(batch)
        state.window.add(sums, weight, time.monotonic() - began)
        state.seconds = time.monotonic() - started
        stopped = told_to_stop(job, runner)
        last = state.step == order.steps or stopped
        progress.account(state, store.slice_names, rate, norm, last=last)

        # choose: keep the weights that the objective's checkpoint rule prefers
        rule = objective.checkpoint
        if rule.rule == "best_validation_loss" and (state.step % rule.every == 0 or last):
            seen = validation_loss(root, job, store, weights, runner)
            if state.best_validation is None or seen < state.best_validation:
                chosen, state.chosen_step, state.best_validation = whole(model, runner), state.step, seen

        # checkpoint, and have the weights probed
        due = state.step % objective.probes.every == 0 or last
        probed = objective.probes.suite is not None and due and not stopped
        if last or probed or state.step % objective.checkpoint_every == 0 or runner.preempted(state.step):
            if probed:
                probe_weights = whole(model, runner)
                if runner.rank == 0:
                    keep_for_probe(job, state.step, probe_weights)
            write = partial(
                checkpoints.save, state=state, model=model, optimiser=optimiser, chosen=chosen, rank=runner.rank,
                world=runner.world,
            )  # fmt: skip
            runner.save({"step": float(state.step), "loss": state.last_loss}, write, state.step if probed else None)

    # finish
    if chosen is None:
        chosen, state.chosen_step = whole(model, runner), state.step
    if runner.rank == 0:
        finish(job, state, chosen, runner.world)


def rank_cuts(batch: Rows, lengths: NDArray[np.int64], objective: Objective, runner: Runner) -> list[Rows]:
    """This rank's micro-batches. Sharded ranks step together, so that the others' count is matched with empty ones."""
    dealt = [micro_batches(rows, lengths, objective) for rows in shares(batch, lengths, runner.world)]
    mine = dealt[runner.rank]
    if runner.sharded:
        mine = mine + [np.zeros(0, dtype=np.int64)] * (max(map(len, dealt)) - len(mine))
    return mine


def whole(model: Any, runner: Runner) -> dict[str, torch.Tensor]:
    """What trains, whole, on rank 0 (elsewhere nothing). A collective when sharded."""
    return sharding.whole_weights(model, keep=runner.rank == 0)


def told_to_stop(job: TrainingJob, runner: Runner) -> bool:
    """Whether a probe went beyond its margin. Rank 0 looks, and its word holds on every rank: each looking for itself,
    ranks could part ways. A collective where the objective has margins."""
    if not job.objective.probes.margins:
        return False
    if runner.world == 1:
        return job.stop.is_file()
    word = torch.tensor([float(runner.rank == 0 and job.stop.is_file())], device=runner.device)
    dist.all_reduce(word)
    return bool(word.item() > 0)


def require_finite(loss: float, norm: float, step: int) -> None:
    """Raise before a step that would make every weight NaN."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise PlumblineError(
        f"the loss or its gradient is not finite at step {step + 1} (loss {loss}, gradient norm {norm})",
        consequence="training stopped before the weights were spoilt; the last checkpoint is intact",
        remedy="lower optimiser.learning_rate, lengthen optimiser.warmup_steps, or train with precision float32",
    )


def validation_loss(
    root: WeightedLoss, job: TrainingJob, store: TokenStore, weights: NDArray[np.float64], runner: Runner
) -> float:
    """Weighted loss per unit of weight on the rows set aside for the checkpoint rule. A collective."""
    rows = np.array(job.validation, dtype=np.int64)
    total = torch.zeros(root.tally_size, dtype=torch.float64, device=runner.device)
    root.eval()
    with torch.no_grad():
        for cut in rank_cuts(rows, store.lengths, job.objective, runner):
            total += root(collate(store, cut, weights, job.objective, runner.device))[1]
    root.train()
    if runner.world > 1:
        dist.all_reduce(total)
    weight = global_weight(rows, store.targets, weights)
    return float(total[LOSS]) / weight if weight else 0.0


def finish(job: TrainingJob, state: State, chosen: dict[str, torch.Tensor], world: int) -> None:
    """Write the chosen weights and what the run measured; `probing.settle` makes the record of it."""
    job.result.mkdir(exist_ok=True)
    window = state.window  # not empty where a resumed run learnt at once that it had been stopped
    checkpoints.save_weights(chosen, job.result / "chosen.safetensors")
    record = TrainingRecord(
        objective=state.objective,
        steps=state.step,
        examples_seen=state.examples,
        supervised_tokens=state.supervised + window.supervised,
        tokens=state.tokens + window.tokens,
        first_loss=state.first_loss,
        last_loss=window.mean if window.weight else state.last_loss,
        chosen_step=state.chosen_step,
        mask_ledger=job.ledger,
        wall_seconds=round(state.seconds, 3),
        workers=world,
    )
    write_durably(job.result / "trained.json", json.dumps(record.model_dump(mode="json"), indent=2).encode())
