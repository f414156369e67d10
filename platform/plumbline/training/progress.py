"""What a run says of itself while it goes: one line per window of steps, written by rank 0 to `progress.jsonl`."""

import json
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from plumbline.policies.files import read_lines, write_durably
from plumbline.training.checkpoint import State
from plumbline.training.cost import Shape, peak_flops, shape_of, step_flops
from plumbline.training.job import TrainingJob
from plumbline.training.loss import Sums

if TYPE_CHECKING:
    from plumbline.training.loop import Runner

WINDOWS = 40  # a run reports about this often, at most every step and at least every LONGEST steps
LONGEST = 20


class Progress:
    """Closes windows and writes their lines. The window is a number of steps, so that the recorded last loss does not
    depend on speed."""

    def __init__(self, job: TrainingJob, runner: "Runner", steps: int, resumed_at: int) -> None:
        self.job, self.runner, self.steps = job, runner, steps
        self.every = max(1, min(LONGEST, steps // WINDOWS))
        self.file = job.folder / "progress.jsonl"
        if runner.rank == 0 and self.file.is_file():  # steps beyond the checkpoint are done again
            kept = [line for line in read_lines(self.file) if line["step"] <= resumed_at]
            write_durably(self.file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def account(self, state: State, slices: tuple[str, ...], rate: float, norm: float, *, last: bool) -> None:
        """Close the window if the step ends one, and write its line."""
        if math.isnan(state.first_loss):
            state.first_loss = state.window.mean
        if state.step % self.every and not last:
            return
        window, state.window = state.window, Sums()
        state.last_loss = window.mean
        state.supervised, state.tokens = state.supervised + window.supervised, state.tokens + window.tokens
        if self.runner.rank == 0:
            with self.file.open("a") as stream:
                stream.write(json.dumps(self.line(state, window, slices, rate, norm)) + "\n")

    def line(self, state: State, window: Sums, slices: tuple[str, ...], rate: float, norm: float) -> dict[str, Any]:
        """Losses are in nats per unit of weight (`loss`), per supervised token (`slices`), or per supervised token of
        the KL slices (`kl`)."""
        seconds = max(window.seconds, 1e-9)
        flops = self._flops(window) / seconds
        return {
            "step": state.step,
            "steps": self.steps,
            "epoch": round(state.examples / max(1, self.job.order.epoch_size), 4),
            "loss": round(window.mean, 6),
            "slices": {name: round(nll, 6) for name, nll in window.by_slice(slices).items()},
            "kl": round(window.kl / max(1, window.anchored), 6),
            "learning_rate": rate,
            "grad_norm": round(norm, 6),
            "supervised_tokens": state.supervised,
            "tokens": state.tokens,
            "supervised_per_second": round(window.supervised / seconds, 1),
            "tokens_per_second": round(window.tokens / seconds, 1),
            "flops_per_second": flops,
            "mfu": self._mfu(flops),
            "eta_seconds": round((self.steps - state.step) * state.seconds / max(1, state.step), 1),
            "seconds": round(state.seconds, 3),
            "workers": self.runner.world,
        }

    @cached_property
    def _shape(self) -> Shape:
        return shape_of(self.job.base, self.job.objective)

    def _flops(self, window: Sums) -> float:
        """Model FLOPs of the window by the cost model; attention's own and recomputation are not counted."""
        frozen = self.job.objective.adapter.kind != "none"
        return step_flops(self._shape, window.tokens, window.supervised, frozen_body=frozen)

    def _mfu(self, flops: float) -> float | None:
        """Model FLOP/s over what the devices could do; None where that is not known."""
        if not self.runner.device.startswith("cuda"):
            return None
        peak = peak_flops(torch.cuda.get_device_name(), self.job.objective.precision)
        return round(flops / (peak * self.runner.world), 4) if peak else None
