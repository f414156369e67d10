"""The training loop, read top to bottom: build, resume, step, validate, checkpoint, finish.

Capabilities: full fine-tuning and LoRA; any number of data-parallel ranks with the same sequence of global batches
and the same loss; slice weights; replay; KL to the base policy; frozen parameters; choice of the checkpoint by
validation loss; resume at any checkpoint. Not supported here: sharded parameters, packing, QLoRA.

Ranks do not use DDP: each adds up its share of one global sum, and a single all-reduce *sums* the gradients. DDP
would average them, which is wrong whenever ranks hold different numbers of supervised tokens (transformers#37474).
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import save_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.policies.local import load_model
from plumbline.records import Adapter, Objective, Optimiser, TrainingRecord
from plumbline.training import checkpoint as checkpoints
from plumbline.training.checkpoint import State
from plumbline.training.job import TrainingJob
from plumbline.training.loss import Sums, collate, global_weight, micro_batches, weighted_loss
from plumbline.training.prepare import TokenStore

REPORT_EVERY = 20
SMALL = 5_000_000  # parameters: below this, one CPU thread is faster than two


class Runner(Protocol):
    """What the loop needs of whatever runs it: its place among the ranks, a checkpoint to resume from, a way to
    save one, and the device. `save` is a barrier: every rank calls it the same number of times."""

    rank: int
    world: int
    device: str

    def resume(self) -> AbstractContextManager[Path | None]: ...

    def save(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None: ...


@dataclass
class Trainee:
    """The model in training; `whole` is the adapter wrapper when there is one (it knows how to merge)."""

    model: Any
    whole: Any
    reference: Any | None


def build(objective: Objective, base: Path, device: str) -> Trainee:
    """Load the base policy, freeze what the objective freezes, add its adapter; load the KL reference if used."""
    _, model = load_model(base)
    size = sum(p.numel() for p in model.parameters())
    if device == "cpu" and size < SMALL:
        torch.set_num_threads(1)
    whole = model
    for name, parameter in model.named_parameters():
        if name.startswith(objective.frozen):
            parameter.requires_grad_(False)
    if objective.adapter.kind == "lora":
        whole = with_lora(model, objective.adapter, objective.seed)
    reference = load_model(base)[1].to(device).eval() if objective.kl.weight else None
    return Trainee(model.to(device), whole, reference)


def with_lora(model: Any, adapter: Adapter, seed: int) -> Any:
    """Inject LoRA layers into `model` in place; returns peft's wrapper. PlumblineError when no target is there."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets),
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise PlumblineError(
            f"LoRA cannot be added to this policy: {str(error).splitlines()[0]}",
            consequence="nothing was trained",
            remedy="name the policy's own linear layers in adapter.targets, or train without an adapter",
        ) from error


def train_rank(job: TrainingJob, runner: Runner) -> None:
    """Run one rank to the end of the job. Rank 0 writes progress and, last, `result/`."""
    # build
    objective, store, order = job.objective, job.store, job.order
    objective_id = objective.digest
    trainee = build(objective, job.base, runner.device)
    model = trainee.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = make_optimiser(parameters, objective.optimiser)
    example_weights = store.example_weights(objective.slice_weights)
    lengths, targets = store.lengths, store.targets
    state, chosen = State(objective=objective_id), checkpoints.trainable(model)

    # resume
    with runner.resume() as folder:
        if folder is not None:
            state, chosen = checkpoints.load(folder, objective_id, model, optimiser)
    if runner.rank == 0:
        _rewind_progress(job, state.step)

    started = time.monotonic() - state.seconds
    for step in range(state.step, order.steps):
        # step: this rank's share of the global batch, in micro-batches of similar length
        # (seeded per step, so that dropout is a function of the objective too, also after a resume)
        torch.manual_seed(hash((objective.seed, step, runner.rank)) % 2**63)
        batch = order.global_batch(step)
        weight = global_weight(batch, targets, example_weights)
        sums = Sums(weight=weight)
        for rows in micro_batches(batch[runner.rank :: runner.world], lengths, objective.micro_batch_examples):
            micro = collate(store, rows, example_weights, objective.kl, runner.device)
            loss, part = weighted_loss(model, micro, objective.kl, trainee.reference, objective.precision)
            if part.tokens and weight:
                (loss / weight).backward()  # type: ignore[no-untyped-call]
            sums.loss, sums.kl, sums.tokens = sums.loss + part.loss, sums.kl + part.kl, sums.tokens + part.tokens
        if runner.world > 1:
            all_reduce_sum(parameters, sums)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(objective.optimiser, step, order.steps)
        torch.nn.utils.clip_grad_norm_(parameters, objective.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

        # account: ratios of sums, never means of means
        mean = sums.loss / weight if weight else 0.0
        state.first_loss = mean if math.isnan(state.first_loss) else state.first_loss
        state.step, state.examples, state.tokens = step + 1, state.examples + len(batch), state.tokens + sums.tokens
        state.seconds = time.monotonic() - started
        _add(state.window, sums)
        last = state.step == order.steps
        if state.step % REPORT_EVERY == 0 or last:
            state.last_loss = state.window.loss / state.window.weight if state.window.weight else 0.0
            if runner.rank == 0:
                _progress(job, state, order.steps)
            state.window = Sums()

        # choose: keep the weights that the objective's checkpoint rule prefers
        rule = objective.checkpoint
        if rule.rule == "last" or not job.validation:
            if last:
                chosen, state.chosen_step = checkpoints.trainable(model), state.step
        elif state.step % rule.every == 0 or last:
            seen = validation_loss(model, job, store, example_weights, runner.device)
            if state.best_validation is None or seen < state.best_validation:
                chosen, state.chosen_step, state.best_validation = checkpoints.trainable(model), state.step, seen

        # checkpoint
        if last or state.step % objective.checkpoint_every == 0:
            metrics = {"step": float(state.step), "loss": state.last_loss, "tokens": float(state.tokens)}
            runner.save(
                metrics, partial(checkpoints.save, state=state, model=model, optimiser=optimiser, chosen=chosen)
            )

    # finish
    if runner.rank == 0:
        job.result.mkdir(exist_ok=True)
        save_file(chosen, job.result / "chosen.safetensors")
        _write_record(job, state, runner.world)


def make_optimiser(parameters: list[Any], settings: Optimiser) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only (norm gains and biases are not shrunk)."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(settings: Optimiser, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine from the peak to `final_share` of it at the last step. `step` is 0-based."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    span = max(1, steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - settings.warmup_steps) / span)))
    return settings.learning_rate * (settings.final_share + (1 - settings.final_share) * cosine)


def all_reduce_sum(parameters: list[Any], sums: Sums) -> None:
    """Sum gradients and running sums over ranks, in one flat tensor."""
    flat = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    tail = torch.tensor([sums.loss, sums.kl, float(sums.tokens)], device=flat[0].device, dtype=torch.float64)
    joined = torch.cat([g.reshape(-1) for g in flat])
    dist.all_reduce(joined)
    dist.all_reduce(tail)
    start = 0
    for parameter in parameters:
        parameter.grad = joined[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    sums.loss, sums.kl, sums.tokens = float(tail[0]), float(tail[1]), int(tail[2])


def validation_loss(
    model: Any, job: TrainingJob, store: TokenStore, example_weights: NDArray[np.float64], device: str
) -> float:
    """Weighted loss per supervised token on the examples set aside for the checkpoint rule."""
    indices = np.array(job.validation, dtype=np.int64)
    total, weight = 0.0, 0.0
    model.eval()
    with torch.no_grad():
        for rows in micro_batches(indices, store.lengths, 64):
            micro = collate(store, rows, example_weights, job.objective.kl, device)
            _, sums = weighted_loss(model, micro, job.objective.kl, None, job.objective.precision)
            total, weight = total + sums.loss, weight + sums.weight
    model.train()
    return total / weight if weight else 0.0


def _add(window: Sums, sums: Sums) -> None:
    window.loss, window.kl = window.loss + sums.loss, window.kl + sums.kl
    window.weight, window.tokens = window.weight + sums.weight, window.tokens + sums.tokens


def _rewind_progress(job: TrainingJob, step: int) -> None:
    """Forget progress beyond the checkpoint that the run resumes from: those steps are done again."""
    file = job.folder / "progress.jsonl"
    if file.is_file():
        lines = [line for line in file.read_text().splitlines() if line and json.loads(line)["step"] <= step]
        write_durably(file, "".join(line + "\n" for line in lines).encode())


def _progress(job: TrainingJob, state: State, steps: int) -> None:
    line = {
        "step": state.step,
        "steps": steps,
        "loss": round(state.last_loss, 5),
        "tokens": state.tokens,
        "tokens_per_second": round(state.tokens / max(state.seconds, 1e-9)),
    }
    with (job.folder / "progress.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def _write_record(job: TrainingJob, state: State, world: int) -> None:
    record = TrainingRecord(
        objective=state.objective,
        steps=state.step,
        examples_seen=state.examples,
        supervised_tokens=state.tokens,
        first_loss=state.first_loss,
        last_loss=state.last_loss,
        chosen_step=state.chosen_step,
        mask_ledger=job.ledger,
        wall_seconds=round(state.seconds, 3),
        workers=world,
    )
    write_durably(job.result / "record.json", record.model_dump_json(indent=2).encode())
