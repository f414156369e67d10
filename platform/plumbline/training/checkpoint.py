"""Checkpoints: safetensors and JSON only, written whole or not at all, tied to an objective id.

    checkpoint/
      shard-00000-of-00002.safetensors  each rank's rows of what trains, and of AdamW's moments (sharding.py)
      chosen.safetensors                the weights that the checkpoint rule prefers so far, where it is not the last
      state.json                        where the run is

The ranks write into one folder, or the runner merges theirs. Any number of ranks, sharded or not, can load it.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.training.loss import Sums
from plumbline.training.sharding import load_shards, save_shards, write_tensors

Weights = dict[str, torch.Tensor]


@dataclass
class State:
    """Where a run is: everything that is not a tensor."""

    objective: str
    step: int = 0
    examples: int = 0
    supervised: int = 0
    tokens: int = 0
    first_loss: float = float("nan")
    last_loss: float = float("nan")
    chosen_step: int = 0
    best_validation: float | None = None
    seconds: float = 0.0
    window: Sums = field(default_factory=Sums)

    @property
    def tag(self) -> str:
        """What the files of one checkpoint have in common."""
        return f"{self.objective} step {self.step}"


def save(
    folder: Path,
    state: State,
    model: Any,
    optimiser: torch.optim.Optimizer,
    chosen: Weights | None,
    *,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Write a rank's part of a checkpoint. Raises PlumblineError when the disk is full; an older checkpoint is not
    touched."""
    save_shards(folder, rank, world, model, optimiser, state.tag)
    if rank != 0:
        return
    if chosen is not None:
        save_weights(chosen, folder / "chosen.safetensors")
    write_durably(folder / "state.json", json.dumps(asdict(state)).encode())


def load(folder: Path, objective: str, model: Any, optimiser: torch.optim.Optimizer) -> tuple[State, Weights | None]:
    """Restore a checkpoint into model and optimiser. Raises PlumblineError under another objective id."""
    raw = json.loads((folder / "state.json").read_text())
    state = State(**{**raw, "window": Sums(**raw["window"])})
    if state.objective != objective:
        raise PlumblineError(
            f"the checkpoint at {folder} belongs to objective {state.objective[:19]}, not {objective[:19]}",
            consequence="resuming would mix two objectives in one policy, so nothing was trained",
            remedy="restore the objective that the run began with, or start under another run name",
        )
    load_shards(folder, model, optimiser, state.tag)
    chosen = folder / "chosen.safetensors"
    return state, load_file(chosen) if chosen.is_file() else None


def save_weights(weights: Weights, path: Path) -> None:
    """Write weights so that the file is absent, old or whole. Raises PlumblineError when it cannot be written."""
    write_tensors(path, weights, what=str(path))
