"""`plumb export`: a finished training job to a policy directory."""

from pathlib import Path
from typing import Literal

import click

from plumbline.cli.options import as_json, print_json


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the policy to write.")
@click.option("--name", help="Name of the policy (default: the directory's).")
@click.option(
    "--form",
    type=click.Choice(["merged", "adapter"]),
    default="merged",
    show_default=True,
    help="One model that any server loads, or the adapter alone.",
)
@as_json
def export(job: Path, out: Path, name: str | None, form: Literal["merged", "adapter"], json_out: bool) -> None:
    """Export what the training job in folder JOB made. It is reloaded and compared before it is called good."""
    import json
    import os

    from plumbline.errors import PlumblineError

    if not (job / "plan.json").is_file():
        raise PlumblineError(
            f"{job} is not a training job",
            consequence="nothing was exported",
            remedy="name a job folder: `plumb train FILE --out DIR` makes DIR.job beside the policy",
        )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    from plumbline.reconcile.provenance import code_digest
    from plumbline.training.export import EXPORT
    from plumbline.training.export import export as run
    from plumbline.training.job import TrainingJob

    logging.disable_progress_bar()
    manifest = run(TrainingJob.load(job), out, name=name or out.resolve().name, code=code_digest(), form=form)
    drift = json.loads((out / EXPORT).read_text())
    if json_out:
        print_json({"policy": manifest.digest, "path": str(out), "export": drift})
        return
    click.echo(f"policy {manifest.digest} at {out}")
    click.echo(f"  {form}; reloaded, its logits differ by at most {drift['drift_reload']:.1e}")
    if drift["drift_from_trained"] > drift["tolerance"]:
        click.echo(f"  from the 4-bit network as it trained, by at most {drift['drift_from_trained']:.1e}")
