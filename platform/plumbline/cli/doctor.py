"""`plumb doctor`: what is missing on this machine or cluster, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from plumbline.cli.options import as_json, print_json

PACKAGES = ("torch", "transformers", "ray", "peft", "kserve", "pydantic", "prometheus-client", "kopf")
NEEDED_CRDS = {
    "rayjobs.ray.io": "install the KubeRay operator",
    "inferenceservices.serving.kserve.io": "install KServe",
    "datasetlines.plumbline.dev": "helm install plumbline-crds charts/plumbline-crds",
}


@dataclass(frozen=True)
class Finding:
    """`level` is ok, warning (something optional is missing) or error (something will not run)."""

    level: str
    what: str
    remedy: str = ""


@click.command()
@click.option("--cluster", is_flag=True, help="Look at the cluster that kubectl names, too.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Where runs go.")
@as_json
def doctor(cluster: bool, out: Path, json_out: bool) -> None:
    """Say what is missing. Exits 2 when something that is needed is."""
    findings = list(machine(out))
    if cluster:
        findings += list(cluster_findings(_kubectl))
    if json_out:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "ok     ", "warning": "warning", "error": "MISSING"}[finding.level]
            click.echo(f"{mark}  {finding.what}" + (f"\n         do: {finding.remedy}" if finding.remedy else ""))
    if any(finding.level == "error" for finding in findings):
        sys.exit(2)


def machine(out: Path) -> Iterator[Finding]:
    """This machine: Python, packages, disk, processors, accelerators, and the tools that tests use."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok" if sys.version_info >= (3, 11) else "error", f"Python {version}", "")
    for name in PACKAGES:
        try:
            yield Finding("ok", f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            optional = name == "kopf"
            level = "warning" if optional else "error"
            yield Finding(
                level, f"{name} is not installed", "pip install '.[operator]'" if optional else "pip install ."
            )
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


def cluster_findings(kubectl: Callable[[list[str]], str | None]) -> Iterator[Finding]:
    """The cluster: reachable, the CRDs that manifests need, GPU nodes. `kubectl(args)` gives output or None."""
    if kubectl(["version", "-o", "json"]) is None:
        yield Finding("error", "no cluster answers", "install kubectl and point KUBECONFIG at a cluster")
        return
    yield Finding("ok", "the cluster answers")
    crds = kubectl(["get", "crd", "-o", "name"]) or ""
    for name, remedy in NEEDED_CRDS.items():
        there = f"/{name}" in crds
        yield Finding(
            "ok" if there else "error", f"CRD {name}" + ("" if there else " is missing"), "" if there else remedy
        )
    gpus = kubectl(["get", "nodes", "-o", r"jsonpath={.items[*].status.allocatable.nvidia\.com/gpu}"]) or ""
    count = sum(int(n) for n in gpus.split() if n.isdigit())
    yield Finding(
        "ok" if count else "warning", f"{count} GPUs allocatable", "" if count else "CPU serving and training only"
    )


def _kubectl(arguments: list[str]) -> str | None:
    if shutil.which("kubectl") is None:
        return None
    try:
        done = subprocess.run(["kubectl", *arguments], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
