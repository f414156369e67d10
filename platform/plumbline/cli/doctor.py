"""`plumb doctor`: what is missing on this machine or cluster, and what to do about it."""

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from plumbline.cli.options import as_json, print_json, read_yaml
from plumbline.reconcile.cluster_finding import Finding

PACKAGES = ("torch", "transformers", "ray", "peft", "kserve", "pydantic", "prometheus-client", "kopf")
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
MARKS = {"ok": "ok     ", "warning": "warning", "error": "MISSING"}


@click.command()
@click.option("--cluster", is_flag=True, help="Look at the cluster that the kubeconfig names, too.")
@click.option("--context", help="Context of the kubeconfig; by default its current one.")
@click.option("--namespace", help="Where the chart is or will be installed; by default the context's namespace.")
@click.option("--release", default="plumbline", show_default=True, help="Name of the helm release.")
@click.option("--values", type=FILE, multiple=True, help="The chart's values file (may be repeated, as with helm).")
@click.option("--strict", is_flag=True, help="Exit 1 when there is a warning and nothing worse.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs go.")
@as_json
def doctor(
    cluster: bool,
    context: str | None,
    namespace: str | None,
    release: str,
    values: tuple[Path, ...],
    strict: bool,
    out: Path,
    json_out: bool,
) -> None:
    """Say what is missing, and what to do about it.

    With --cluster: versions of Kubernetes, KubeRay and KServe, definitions, admission policies, storage, node pools of
    the values against the nodes there are, secrets (by name; none is read), and rights. Nothing is changed.

    \b
    Exit codes: 0  nothing that is needed is missing
                1  there are warnings (with --strict only)
                2  something that is needed is missing, or the cluster cannot be reached
    """
    if not cluster and (context or namespace or values):
        raise click.UsageError("--context, --namespace and --values are about a cluster; add --cluster")
    findings = list(machine(out))
    if cluster:
        findings += cluster_findings(context, namespace, release, values)
    if json_out:
        print_json([vars(finding) for finding in findings])
    else:
        about = ""
        for finding in findings:
            if cluster and finding.about != about:
                about = finding.about
                click.echo(f"\n{about}")
            click.echo(f"{MARKS[finding.level]}  {finding.what}")
            if finding.remedy:
                click.echo(f"         do: {finding.remedy}")
    levels = {finding.level for finding in findings}
    sys.exit(2 if "error" in levels else 1 if strict and "warning" in levels else 0)


def cluster_findings(
    context: str | None, namespace: str | None, release: str, files: tuple[Path, ...]
) -> list[Finding]:
    """What there is to say about a cluster. That none answers is a finding; a wrong values file is an error."""
    from plumbline.reconcile.cluster_check import findings
    from plumbline.reconcile.cluster_look import Unreachable, configuration, look
    from plumbline.reconcile.cluster_questions import DEFAULTS, merged, questions

    given = DEFAULTS
    for file in files:
        given = merged(given, read_yaml(file, "a values file", consequence="the cluster was not looked at"))
    try:
        reach, current = configuration(context)
        asked = questions(given, namespace=namespace or current or "default", release=release)
        return list(findings(asked, look(reach, asked)))
    except Unreachable as error:
        return [Finding("error", error.fact, error.remedy, "kubernetes")]


def machine(out: Path) -> Iterator[Finding]:
    """This machine: Python, packages, disk, processors, accelerators, and the tools that tests use."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok" if sys.version_info >= (3, 11) else "error", f"Python {version}", "")
    for name in PACKAGES:
        try:
            yield Finding("ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            optional = name == "kopf"
            remedy = "pip install '.[operator]'" if optional else "pip install ."
            yield Finding("warning" if optional else "error", f"{name} is not installed", remedy)
    folder = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding("ok" if free > 2 else "error", f"{free:.0f} GiB free for {out}", "" if free > 2 else "free 2 GiB")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Finding("error", f"{folder} is no directory to write in", "choose another --out")
    yield Finding("ok", f"{os.cpu_count()} processors")
    gpus = shutil.which("nvidia-smi")
    yield Finding("ok", "an NVIDIA driver is here" if gpus else "no GPU here: the embedded default needs none")
    for tool, use in (("helm", "chart tests"), ("kubectl", "a cluster"), ("chromium", "the report's browser test")):
        found = shutil.which(tool) is not None
        yield Finding("ok" if found else "warning", f"{tool} ({use})" + ("" if found else " is not on PATH"))
