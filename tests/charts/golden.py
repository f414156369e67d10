"""What the chart renders, kept as files, so that a change of a template shows in a review as a change of objects.

    make golden        writes tests/charts/golden/*.yaml anew

`default.yaml` holds every object of the default values; the file of another setup (charts/plumbline/ci) only those
that it adds or that differ there. Left out is what lies in files of its own (dashboards, rules) and what follows from
the rest (the digests in the names of Jobs).
"""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))

from chart_tools import CHART, KUBERNETES, SETUPS, Doc, find_helm

FOLDER = Path(__file__).parent / "golden"


class Plain(yaml.SafeDumper):
    """YAML without anchors, lists indented as people do."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def text_block(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Plain.add_representer(str, text_block)


def reviewable(doc: Doc) -> Doc:
    doc = copy.deepcopy(doc)
    if doc["kind"] == "Job":
        doc["metadata"]["name"] = re.sub("-[0-9a-f]{8}$", "-(digest)", doc["metadata"]["name"])
    if doc["kind"] == "PrometheusRule":
        doc["spec"] = "(charts/plumbline/files)"
    for name in doc.get("data", {}):
        if name.endswith(".json"):
            doc["data"][name] = "(charts/plumbline/files)"
    annotations = doc.get("spec", {}) if isinstance(doc.get("spec"), dict) else {}
    annotations = annotations.get("template", {}).get("metadata", {}).get("annotations", {})
    for name in annotations:
        if name.startswith("checksum/"):
            annotations[name] = "(digest)"
    return doc


def files(rendered: dict[str, list[Doc]]) -> dict[str, str]:
    """The text of each golden file, by its setup."""
    shown = {setup: [reviewable(doc) for doc in docs] for setup, docs in rendered.items()}
    usual = shown["default"]
    return {
        setup: yaml.dump_all(
            docs if setup == "default" else [doc for doc in docs if doc not in usual],
            Dumper=Plain,
            sort_keys=False,
            width=110,
            explicit_start=True,
        )
        for setup, docs in shown.items()
    }


def render(setup: str) -> list[Doc]:
    helm, values = find_helm(), CHART / "ci" / f"{setup}-values.yaml"
    if helm is None:
        sys.exit("helm is not on PATH nor under .tools; `make tools` fetches it")
    arguments = ["template", "rel", str(CHART), "--namespace", "demo", "--kube-version", KUBERNETES, "-f", str(values)]
    done = subprocess.run([helm, *arguments], capture_output=True, text=True, check=True)
    return [doc for doc in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if doc]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.yaml"):
        old.unlink()
    for setup, text in files({setup: render(setup) for setup in SETUPS}).items():
        (FOLDER / f"{setup}.yaml").write_text(text)
    print(f"wrote {len(SETUPS)} files to {FOLDER}; read `git diff {FOLDER.relative_to(Path.cwd())}`")
