"""Behaviour probes on checkpoints, off the training path; and the early stop that they may call for.

    probes/
      items.json           the held-out items, fixed when the job was prepared
      base.json            what the base policy answers: the margins count from there
      00000040.safetensors the weights probed at step 40; kept while they may still become the policy
      stop.json            the first step at which a margin was exceeded, and the last good step before it
    probes.jsonl           one line per probed step

Probes run wherever the runner puts them (Ray Train: a validation task beside the run) and in the order of their
steps: one that a kill or an error left out is made up for before the next. Training goes on meanwhile and stops when
it sees `stop.json`. The policy is the last good step before the first breach, however late the news came, so speed
and restarts do not change the result. Nothing after the first breach is measured, and no run is settled while
something before it is not.

What an answer is worth is not training's business: the caller hands in the `Judge`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plumbline.errors import PlumblineError
from plumbline.policies import Policy
from plumbline.policies.files import manifest_of, read_lines, write_durably
from plumbline.records import DecoderSettings, ProbeName, SuiteItem, TrainingRecord
from plumbline.training.job import TrainingJob

if TYPE_CHECKING:
    from plumbline.training.checkpoint import Weights


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


def require_probes(job: TrainingJob, judge: Judge | None) -> None:
    """Raise PlumblineError when the objective asks for probes that this run could not measure."""
    if job.objective.probes.suite is None:
        return
    for wanting, there in (("no judge", judge is not None), ("no items", (job.probes / "items.json").is_file())):
        if not there:
            raise PlumblineError(
                f"the objective names a probes.suite, and the run in {job.folder} has {wanting} for it",
                consequence="nothing was trained: probes.margins could not choose the checkpoint",
                remedy="prepare a new job folder with the suite's items and pass a judge, or leave probes out",
            )


def keep_for_probe(job: TrainingJob, step: int, weights: "Weights") -> None:
    """Put the weights of `step` where the probe finds them. A step that is done again after a restart keeps those that
    were probed: on a GPU the new ones may differ in the last bit."""
    if any(line["step"] == step for line in lines(job)):
        return
    from plumbline.training.checkpoint import save_weights

    job.probes.mkdir(exist_ok=True)
    save_weights(weights, _weights(job, step))


def probe(job: TrainingJob, step: int, judge: Judge, device: str = "cpu") -> dict[str, Any] | None:
    """Probe the weights kept for `step`, once, after those of earlier steps that still wait; returns the line. Called
    again, it returns what it found before. None for a step after the first breach: it cannot become the policy."""
    for each in [*(earlier for earlier in waiting(job) if earlier < step), step]:
        _measure(job, each, judge, device)
        _forget(job)
    return next((line for line in lines(job) if line["step"] == step), None)


def waiting(job: TrainingJob) -> list[int]:
    """Steps whose weights are kept and were never probed, in order; none from after the first breach."""
    done = {line["step"] for line in lines(job)}
    last = _breach(job)["step"] if job.stop.is_file() else float("inf")
    return [step for step in _kept(job) if step not in done and step <= last]


def _measure(job: TrainingJob, step: int, judge: Judge, device: str) -> None:
    """Write the line of one step, and `stop.json` before it when the step is the first beyond a margin."""
    before = lines(job)
    if any(line["step"] == step for line in before) or (job.stop.is_file() and step > _breach(job)["step"]):
        return
    settings = job.objective
    base_file = job.probes / "base.json"
    items = [SuiteItem.model_validate(item) for item in json.loads((job.probes / "items.json").read_text())]
    if not base_file.is_file():
        answered = judge(policy_of(job, None, device), items, settings.samples, None, {})
        write_durably(base_file, json.dumps(answered).encode())
    base = json.loads(base_file.read_text())
    now = judge(policy_of(job, step, device), items, settings.samples, base, settings.probes.margins)
    if now["breaches"] and not job.stop.is_file():
        good = max((line["step"] for line in before if line["step"] < step), default=None)
        found = {"step": step, "good": good, "breaches": now["breaches"]}
        write_durably(job.stop, json.dumps(found).encode())
    # the whole file anew: appended after a line that a kill cut short, this one would be lost with it
    text = "".join(json.dumps(line) + "\n" for line in [*before, {"step": step, **now}])
    write_durably(job.folder / "probes.jsonl", text.encode())


def lines(job: TrainingJob) -> list[dict[str, Any]]:
    """What was probed so far; a line that a kill cut short is not there."""
    return read_lines(job.folder / "probes.jsonl")


def policy_of(job: TrainingJob, step: int | None, device: str) -> Policy:
    """The policy at `step`; None is the base policy, as the run began."""
    from plumbline.policies.local import LocalPolicy, load_template
    from plumbline.training.sharding import put_whole
    from plumbline.training.trainee import build

    trainee = build(job.objective, job.base, device, with_reference=False)
    if step is not None:
        put_whole(trainee.model, _load(job, step))
    template = load_template(job.base, job.template, job.objective.added_tokens)
    policy = LocalPolicy(trainee.model, template, manifest_of(job.base, template.digest))
    # as the export will say: the template may end turns otherwise than the base does
    policy.stop_ids |= set(template.stop_ids)
    return policy


def settle(job: TrainingJob) -> TrainingRecord:
    """After the run: choose what the probes say, and write the training record, which marks the run as finished.

    Raises PlumblineError when the run left no result, when a probe that could still choose was not measured, or when
    the first probe already breached: no checkpoint is good.
    """
    if job.record is not None:
        _drop(job, _kept(job))
        return job.record
    trained = job.result / "trained.json"
    if not trained.is_file():
        raise PlumblineError(
            f"the run in {job.folder} ended without a result",
            consequence="no policy was exported",
            remedy="see the run's log, then run the same command: it resumes from the last checkpoint",
        )
    if job.objective.probes.margins and not job.stop.is_file() and (left := waiting(job)):
        raise PlumblineError(
            f"the probes at step {left[0]} of the run in {job.folder} were not measured",
            consequence="whether a margin was exceeded is not known, so no policy was exported",
            remedy="see the run's log for what the probe said, then run the same command: it measures them first",
        )
    record = TrainingRecord.model_validate_json(trained.read_text())
    if job.stop.is_file():
        stop = _breach(job)
        said = ", ".join(f"{name} by {by:.3f}" for name, by in stop["breaches"].items())
        if stop["good"] is None:
            raise PlumblineError(
                f"the probes at step {stop['step']}, the first, were already beyond their margins: {said}",
                consequence="no checkpoint is good, so no policy was exported",
                remedy="probe earlier (probes.every), train more gently, or widen probes.margins with a reason",
            )
        from plumbline.training.checkpoint import save_weights

        save_weights(_load(job, stop["good"]), job.result / "chosen.safetensors")
        record = record.model_copy(
            update={"chosen_step": stop["good"], "stopped_by": f"probes at step {stop['step']}: {said}"}
        )
    write_durably(job.result / "record.json", record.model_dump_json(indent=2).encode())
    _drop(job, _kept(job))
    return record


def _breach(job: TrainingJob) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(job.stop.read_text())
    return found


def _weights(job: TrainingJob, step: int) -> Path:
    return job.probes / f"{step:08d}.safetensors"


def _kept(job: TrainingJob) -> list[int]:
    """The steps whose weights are there, in order."""
    return sorted(int(file.stem) for file in job.probes.glob("[0-9]*.safetensors"))


def _load(job: TrainingJob, step: int) -> "Weights":
    from safetensors.torch import load_file

    file = _weights(job, step)
    if not file.is_file():
        raise PlumblineError(
            f"the weights probed at step {step} are not at {file}",
            consequence="they can be neither probed nor exported, so there is no policy",
            remedy="restore the file, or train again in a new job folder",
        )
    weights: Weights = load_file(file)
    return weights


def _forget(job: TrainingJob) -> None:
    """Drop weights that can no longer become the policy: what was probed, but for the last good step before a breach;
    and what came after one."""
    probed = lines(job)
    if job.stop.is_file():
        good = _breach(job)["good"]
    else:
        good = max((line["step"] for line in probed), default=None)
    _drop(job, [step for step in _kept(job) if step != good and step not in waiting(job)])


def _drop(job: TrainingJob, steps: Sequence[int]) -> None:
    for step in steps:
        _weights(job, step).unlink(missing_ok=True)
