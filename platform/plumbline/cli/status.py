"""`plumb status`: how a RayJob is, in words, from its own status and never from the submitter's pod.

Exit codes: 0 it ended well, 1 it failed, 3 it waits or runs, 2 an error with a remedy (no such run, no cluster).
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import as_json, print_json
from plumbline.errors import PlumblineError

if TYPE_CHECKING:
    from plumbline.reconcile.rayjob_status import RunStatus

CODES = {"succeeded": 0, "failed": 1, "waiting": 3, "running": 3}


@click.command()
@click.argument("name", required=False)
@click.option(
    "-f",
    "--file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Read the object from a file, or `-`: `kubectl get rayjob NAME -o json | plumb status -f -`.",
)
@click.option("-n", "--namespace", help="Namespace (default: kubectl's).")
@click.option("--context", help="Context of the kubeconfig (default: the current one).")
@as_json
def status(name: str | None, file: Path | None, namespace: str | None, context: str | None, json_out: bool) -> None:
    """How the run NAME is: what its jobStatus and reason mean, and what to do. Without NAME, all RayJobs.

    It asks through kubectl, with your own login. Exit code of one run: 0 it ended well, 1 it failed, 3 it waits or
    runs, 2 an error. Of several: 1 when any failed, else 3 when any is not over.
    """
    from plumbline.reconcile.rayjob_status import read_status

    if file is not None and name is not None:
        raise click.UsageError("give NAME, or --file, not both")
    found = from_file(file) if file is not None else from_cluster(name, namespace, context)
    runs = [read_status(one) for one in found]
    if json_out:
        shown = [dataclasses.asdict(run) for run in runs]
        print_json(shown[0] if name or (len(shown) == 1 and file) else shown)
    else:
        for run in runs:
            tell(run)
        if not runs:
            click.echo("there is no RayJob")
    codes = {CODES[run.state] for run in runs}
    sys.exit(next((code for code in (1, 3) if code in codes), 0))


def tell(run: "RunStatus") -> None:
    words = ", ".join(one for one in (run.job_status, run.deployment_status, run.reason) if one)
    click.echo(f"{run.name}: {run.state} ({words or 'no status yet'})")
    click.echo(f"  {run.said}")
    if run.message and run.state != "succeeded":
        click.echo(f"  message: {run.message}")
    if run.attempts_failed:
        click.echo(f"  attempts that failed: {run.attempts_failed}")
    if run.started:
        click.echo(f"  started {run.started}{f', ended {run.ended}' if run.ended else ''}")
    if run.remedy:
        click.echo(f"  do: {run.remedy}")


def from_cluster(name: str | None, namespace: str | None, context: str | None) -> list[dict[str, Any]]:
    line = ["kubectl", "get", "rayjobs.ray.io", *([name] if name else []), "--output=json", "--request-timeout=30s"]
    line += [f"--namespace={namespace}"] if namespace else []
    line += [f"--context={context}"] if context else []
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError as error:
        raise PlumblineError(
            "kubectl is not on PATH",
            consequence="no cluster was asked",
            remedy="install kubectl, or pipe the object in: `plumb status -f -`",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise PlumblineError(
            "kubectl did not answer within a minute",
            consequence="it is not known how the run is",
            remedy="see whether `kubectl get rayjobs` answers, then ask again",
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PlumblineError(
            f"kubectl could not read {f'the RayJob {name}' if name else 'RayJobs'}: {said}",
            consequence="it is not known how the run is; a finished RayJob is removed after ttlSecondsAfterFinished",
            remedy="check the name, --namespace and --context; without KubeRay a cluster knows no RayJobs",
        )
    return objects(done.stdout, "kubectl's answer")


def from_file(file: Path) -> list[dict[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlumblineError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}",
            consequence="it is not known how the run is",
            remedy="give what `kubectl get rayjob NAME -o json` printed",
        ) from error
    return objects(text, "the input" if str(file) == "-" else str(file))


def objects(text: str, what: str) -> list[dict[str, Any]]:
    """RayJobs in JSON: one, or a List."""
    try:
        read = json.loads(text)
        found = read["items"] if read.get("kind", "").endswith("List") else [read]
        if not all(one["kind"] == "RayJob" and isinstance(one.get("status", {}) or {}, dict) for one in found):
            raise ValueError("an object is not a RayJob")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlumblineError(
            f"{what} is no RayJob in JSON",
            consequence="it is not known how the run is",
            remedy="give what `kubectl get rayjob NAME -o json` printed",
        ) from error
    return list(found)
