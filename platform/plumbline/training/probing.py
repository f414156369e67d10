"""Behaviour probes on checkpoints, off the training path; and the early stop that they may call for.

    probes/
      items.json           the held-out items, fixed when the job was prepared
      base.json            what the base policy answers: the margins count from there
      00000040.safetensors the weights probed at step 40; kept while they may still become the policy
      stop.json            the first step at which a margin was exceeded, and the last good step before it
    probes.jsonl           one line per probed step

Probes run wherever the runner puts them (Ray Train: a validation task beside the run) and in the order of their
steps. Training goes on meanwhile and stops when it sees `stop.json`. The policy is the last good step before the
first breach, however late the news came, so speed and restarts do not change the result.

What an answer is worth is not training's business: the caller hands in the `Judge`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies import Policy
from plumbline.policies.files import manifest_of, write_durably
from plumbline.records import DecoderSettings, ProbeName, SuiteItem, TrainingRecord
from plumbline.training.checkpoint import Weights, put, save_weights
from plumbline.training.job import TrainingJob


class Judge(Protocol):
    """Asks `policy` the items and scores the answers: {"rates", "counts", "samples", "breaches"}, JSON-able. `base` is
    what this returned for the base policy; None while that itself is measured (no breaches then)."""

    def __call__(
        self,
        policy: Policy,
        items: Sequence[SuiteItem],
        decoder: DecoderSettings,
        base: dict[str, Any] | None,
        margins: dict[ProbeName, float],
    ) -> dict[str, Any]: ...


def keep_for_probe(job: TrainingJob, step: int, weights: Weights) -> None:
    """Put the weights of `step` where the probe finds them."""
    job.probes.mkdir(exist_ok=True)
    save_weights(weights, _weights(job, step))


def probe(job: TrainingJob, step: int, judge: Judge, device: str = "cpu") -> dict[str, Any]:
    """Probe the weights kept for `step`, once; returns the line. Called again, it returns what it found before."""
    for line in lines(job):
        if line["step"] == step:
            return line
    settings = job.objective
    base_file = job.probes / "base.json"
    items = [SuiteItem.model_validate(item) for item in json.loads((job.probes / "items.json").read_text())]
    if not base_file.is_file():
        answered = judge(policy_of(job, None, device), items, settings.samples, None, {})
        write_durably(base_file, json.dumps(answered).encode())
    base = json.loads(base_file.read_text())
    now = judge(policy_of(job, step, device), items, settings.samples, base, settings.probes.margins)
    line = {"step": step, **now}
    if now["breaches"] and not job.stop.is_file():
        good = [before["step"] for before in lines(job) if before["step"] < step and not before["breaches"]]
        found = {"step": step, "good": max(good, default=None), "breaches": now["breaches"]}
        write_durably(job.stop, json.dumps(found).encode())
    with (job.folder / "probes.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    _forget(job, step)
    return line


def lines(job: TrainingJob) -> list[dict[str, Any]]:
    """What was probed so far; a line that a kill cut short is not there."""
    file = job.folder / "probes.jsonl"
    if not file.is_file():
        return []
    whole = file.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines() if line]


def policy_of(job: TrainingJob, step: int | None, device: str) -> Policy:
    """The policy at `step`; None is the base policy, as the run began."""
    from plumbline.policies.local import LocalPolicy, load_template
    from plumbline.training.trainee import build

    trainee = build(job.objective, job.base, device, with_reference=False)
    if step is not None:
        put(trainee.model, load_file(_weights(job, step)))
    template = load_template(job.base, job.template, job.objective.added_tokens)
    return LocalPolicy(trainee.model, template, manifest_of(job.base, template.digest))


def settle(job: TrainingJob) -> TrainingRecord:
    """After the run: choose what the probes say, and write the training record, which marks the run as finished.

    Raises PlumblineError when the run left no result, or when the first probe already breached: no checkpoint is good.
    """
    if job.record is not None:
        return job.record
    trained = job.result / "trained.json"
    if not trained.is_file():
        raise PlumblineError(
            f"the run in {job.folder} ended without a result",
            consequence="no policy was exported",
            remedy="see the run's log, then run the same command: it resumes from the last checkpoint",
        )
    record = TrainingRecord.model_validate_json(trained.read_text())
    if job.stop.is_file():
        stop = json.loads(job.stop.read_text())
        said = ", ".join(f"{name} by {by:.3f}" for name, by in stop["breaches"].items())
        if stop["good"] is None:
            raise PlumblineError(
                f"the probes at step {stop['step']}, the first, were already beyond their margins: {said}",
                consequence="no checkpoint is good, so no policy was exported",
                remedy="probe earlier (probes.every), train more gently, or widen probes.margins with a reason",
            )
        save_weights(load_file(_weights(job, stop["good"])), job.result / "chosen.safetensors")
        record = record.model_copy(
            update={"chosen_step": stop["good"], "stopped_by": f"probes at step {stop['step']}: {said}"}
        )
    write_durably(job.result / "record.json", record.model_dump_json(indent=2).encode())
    return record


def _weights(job: TrainingJob, step: int) -> Path:
    return job.probes / f"{step:08d}.safetensors"


def _forget(job: TrainingJob, step: int) -> None:
    """Drop weights that can no longer become the policy: all probed ones but the last good one before a breach."""
    probed = [line["step"] for line in lines(job)]
    stop = json.loads(job.stop.read_text())["good"] if job.stop.is_file() else None
    good = max((line["step"] for line in lines(job) if not line["breaches"]), default=None)
    keep = stop if job.stop.is_file() else good
    for old in probed:
        if old != keep:
            _weights(job, old).unlink(missing_ok=True)
