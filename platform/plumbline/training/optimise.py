"""AdamW, its schedule, and the sum of gradients over ranks."""

import math
from typing import Any

import torch
import torch.distributed as dist

from plumbline.records import Optimiser


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
    """Linear warm-up over `warmup_steps`, but at most half of the run, then the schedule's way from the peak towards
    `final_share` of it. `step` is 0-based."""
    warmup = min(settings.warmup_steps, steps // 2)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    span = max(1, steps - warmup)
    done = min(1.0, (step - warmup) / span)
    left = 0.5 * (1 + math.cos(math.pi * done)) if settings.schedule == "cosine" else 1 - done
    return settings.learning_rate * (settings.final_share + (1 - settings.final_share) * left)


def sum_over_ranks(parameters: list[Any]) -> None:
    """Sum gradients over ranks in one flat tensor. A parameter that no rank's loss reached has a gradient of zero,
    with one rank or many, so that its decay is the same."""
    joined = torch.cat([p.grad.reshape(-1) for p in parameters])
    dist.all_reduce(joined)
    start = 0
    for parameter in parameters:
        parameter.grad.copy_(joined[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def fill_gradients(parameters: list[Any]) -> None:
    """Give a zero gradient to what no micro-batch reached."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
