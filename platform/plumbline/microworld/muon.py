"""Muon (Jordan et al. 2024), the optimiser that fits the reference's pre-training into a minute of one CPU thread.

Momentum whose matrix is orthogonalised by five Newton-Schulz iterations before it is applied, scaled to AdamW's
usual update size (Liu et al. 2025, arXiv 2502.16982: 0.2 * sqrt(max(rows, columns))). On this model it reaches the
same lookup accuracy in about half of AdamW's steps. Matrices of one shape are stacked and treated together, in
float32: that is what is fast on a CPU. For weight matrices only; embeddings and gains stay with AdamW.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic of the reference implementation


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. Only two-dimensional parameters; no weight decay."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = []
                for parameter in parameters:
                    gradient, state = cast(torch.Tensor, parameter.grad), self.state[parameter]
                    if "momentum" not in state:
                        state["momentum"] = torch.zeros_like(parameter)
                    state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(state["momentum"], group["momentum"]))
                step = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, orthogonalise(torch.stack(updates)), strict=True):
                    parameter.add_(update, alpha=-step)


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Stacked (k, m, n) matrices with their singular values driven towards one; float32, same shape."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return cast(torch.Tensor, x.mT if tall else x)
