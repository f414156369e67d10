"""Train one objective to one policy directory: prepare, run (or resume), export. Each part is skipped when done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plumbline.errors import PlumblineError
from plumbline.records import Example, Objective, PolicyManifest, SuiteItem, TrainingRecord
from plumbline.training.job import TrainingJob
from plumbline.training.probing import Judge
from plumbline.training.runners import OnProgress

if TYPE_CHECKING:
    from plumbline.training.export import Form


@dataclass(frozen=True)
class Trained:
    """A finished run: the policy's directory and manifest, and what the run measured."""

    path: Path
    manifest: PolicyManifest
    record: TrainingRecord


def train(
    objective: Objective,
    examples: Sequence[Example],
    *,
    base: Path,
    out: Path,
    name: str,
    job_folder: Path,
    replay: Sequence[Example] = (),
    template: str | None = None,
    probe_items: Sequence[SuiteItem] = (),
    judge: Judge | None = None,
    runner: Literal["ray", "in-process"] = "ray",
    run_name: str | None = None,
    workers: int | tuple[int, int] = 1,
    use_gpu: bool = False,
    sharded: bool = False,
    form: "Form" = "merged",
    code: str = "",
    on_progress: OnProgress | None = None,
    on_probe: OnProgress | None = None,
) -> Trained:
    """Run `objective` over `examples` from the policy at `base`; write the aligned policy to `out`.

    Stopped anywhere and called again with the same arguments, it ends with the same policy (bitwise on CPU).
    `template` is the text of a chat template other than the base policy's own; `judge` scores the answers to
    `probe_items` at checkpoints. Raises PlumblineError for a changed objective, an unmaskable template, too much
    truncation, a base policy that is not what its manifest says, another run that is at work in `job_folder`, or a
    full disk.
    """
    from plumbline.training.export import export
    from plumbline.training.job import alone
    from plumbline.training.probing import settle
    from plumbline.training.runners import run_in_process, run_with_ray

    if runner == "in-process" and (sharded or workers != 1):
        raise PlumblineError(
            "more than one worker, or sharding, was asked of a run in this process",
            consequence="nothing was trained: it would have been one rank all the same",
            remedy="leave out --in-process, or --workers and --sharded",
        )
    with alone(job_folder):
        job = prepare(
            objective, examples, base=base, job_folder=job_folder, replay=replay, template=template,
            probe_items=probe_items,
        )  # fmt: skip
        if job.record is None:
            if runner == "ray":
                run_with_ray(
                    job,
                    name=run_name or f"{name}-{objective.digest[7:19]}",
                    workers=workers,
                    use_gpu=use_gpu,
                    sharded=sharded,
                    judge=judge,
                    on_progress=on_progress,
                    on_probe=on_probe,
                )
            else:
                device = "cuda" if use_gpu else "cpu"
                run_in_process(job, device=device, judge=judge, on_progress=on_progress, on_probe=on_probe)
        record = settle(job)
        return Trained(out, export(job, out, name=name, code=code, form=form), record)


def prepare(
    objective: Objective,
    examples: Sequence[Example],
    *,
    base: Path,
    job_folder: Path,
    replay: Sequence[Example] = (),
    template: str | None = None,
    probe_items: Sequence[SuiteItem] = (),
) -> TrainingJob:
    """The job folder of a run, made or found; the same arguments and errors as `train`'s. Nothing is trained."""
    from plumbline.policies.files import manifest_of, resolve, verify
    from plumbline.policies.local import load_template
    from plumbline.training.job import prepare_job

    base = resolve(base)
    manifest = manifest_of(base, load_template(base).digest)
    if manifest.digest != objective.base_policy:
        raise PlumblineError(
            f"the policy at {base} is {manifest.digest[:19]}, the objective names {objective.base_policy[:19]}",
            consequence="nothing was trained: the result's record would be untrue",
            remedy="pass the base policy that the objective names, or write a new objective",
        )
    verify(base, manifest)
    chat = load_template(base, template, objective.added_tokens)
    return prepare_job(job_folder, objective, examples, replay, base, chat, probe_items=probe_items)
