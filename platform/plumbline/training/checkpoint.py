"""Checkpoints: safetensors and JSON only, written whole or not at all, tied to an objective id.

A checkpoint folder holds `model.safetensors` (what trains), `optimiser.safetensors` (AdamW's moments),
`chosen.safetensors` (the weights that the checkpoint rule prefers so far) and `state.json`, written last.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.training.loss import Sums


@dataclass
class State:
    """Where a run is: everything that is not a tensor."""

    objective: str
    step: int = 0
    examples: int = 0
    tokens: int = 0
    first_loss: float = float("nan")
    last_loss: float = float("nan")
    chosen_step: int = 0
    best_validation: float | None = None
    seconds: float = 0.0
    window: Sums = field(default_factory=Sums)


def save(
    folder: Path, state: State, model: Any, optimiser: torch.optim.Optimizer, chosen: dict[str, torch.Tensor]
) -> None:
    """Write a checkpoint. Raises PlumblineError when the disk is full; an older checkpoint is not touched."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        save_file(trainable(model), folder / "model.safetensors")
        save_file(_moments(model, optimiser), folder / "optimiser.safetensors")
        save_file(chosen, folder / "chosen.safetensors")
    except Exception as error:  # safetensors wraps I/O errors in its own kind
        raise PlumblineError(
            f"the checkpoint of step {state.step} could not be written to {folder}: {error}",
            consequence="training stopped; the previous checkpoint is intact",
            remedy="free space on that disk and run the same command: it goes on from the previous checkpoint",
        ) from error
    write_durably(folder / "state.json", json.dumps(asdict(state)).encode())


def load(
    folder: Path, objective: str, model: Any, optimiser: torch.optim.Optimizer
) -> tuple[State, dict[str, torch.Tensor]]:
    """Restore a checkpoint into model and optimiser. Raises PlumblineError under another objective id."""
    raw = json.loads((folder / "state.json").read_text())
    state = State(**{**raw, "window": Sums(**raw["window"])})
    if state.objective != objective:
        raise PlumblineError(
            f"the checkpoint at {folder} belongs to objective {state.objective[:19]}, not {objective[:19]}",
            consequence="resuming would mix two objectives in one policy, so nothing was trained",
            remedy="restore the objective that the run began with, or start under another run name",
        )
    put(model, load_file(folder / "model.safetensors"))
    moments = load_file(folder / "optimiser.safetensors")
    for name, parameter in model.named_parameters():
        if f"{name}|step" in moments:
            optimiser.state[parameter] = {
                key: moments[f"{name}|{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return state, load_file(folder / "chosen.safetensors")


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the parameters that train, by name."""
    return {n: p.detach().cpu().clone().contiguous() for n, p in model.named_parameters() if p.requires_grad}


def put(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Copy weights into a model's parameters by name; every name must exist."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def _moments(model: Any, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}|{key}": value.detach().cpu().clone().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }
