"""Train one objective to one policy directory: prepare, run (or resume), export. Each part is skipped when done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from plumbline.errors import PlumblineError
from plumbline.records import Example, Objective, PolicyManifest, TrainingRecord
from plumbline.training.runners import OnProgress


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
    runner: Literal["ray", "in-process"] = "ray",
    run_name: str | None = None,
    workers: int = 1,
    use_gpu: bool = False,
    code: str = "",
    on_progress: OnProgress | None = None,
) -> Trained:
    """Run `objective` over `examples` from the policy at `base`; write the aligned policy to `out`.

    Stopped anywhere and called again with the same arguments, it ends with the same policy (bitwise on CPU).
    Raises PlumblineError for a changed objective, an unmaskable template, too much truncation or a full disk.
    """
    from plumbline.policies.files import manifest_of, resolve
    from plumbline.policies.local import load_template
    from plumbline.training.export import export, read_record
    from plumbline.training.job import prepare_job
    from plumbline.training.runners import run_in_process, run_with_ray

    base = resolve(base)
    template = load_template(base)
    manifest = manifest_of(base, template.digest)
    if manifest.digest != objective.base_policy:
        raise PlumblineError(
            f"the policy at {base} is {manifest.digest[:19]}, the objective names {objective.base_policy[:19]}",
            consequence="nothing was trained: the result's record would be untrue",
            remedy="pass the base policy that the objective names, or write a new objective",
        )
    job = prepare_job(job_folder, objective, examples, replay, base, template)
    if read_record(job) is None:
        if runner == "ray":
            run_with_ray(
                job,
                name=run_name or f"{name}-{objective.digest[7:19]}",
                workers=workers,
                use_gpu=use_gpu,
                on_progress=on_progress,
            )
        else:
            run_in_process(job, device="cuda" if use_gpu else "cpu")
    record = read_record(job)
    if record is None:
        raise PlumblineError(
            f"the run in {job_folder} ended without a result",
            consequence="no policy was exported",
            remedy="see the run's log, then run the same command: it resumes from the last checkpoint",
        )
    exported = export(job, out, name=name, code=code)
    return Trained(out, exported, record)
