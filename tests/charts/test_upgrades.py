"""An upgrade goes through and loses nothing: what Kubernetes never lets change stays, and what holds data is kept."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_tools import CHART, KUBERNETES, SETUPS, Doc

Render = Callable[..., list[Doc]]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]
STATEFUL_SET_MAY_CHANGE = {"replicas", "template", "updateStrategy", "ordinals", "minReadySeconds",
                           "persistentVolumeClaimRetentionPolicy"}  # fmt: skip

# What users change from day to day; none of it may need an object to be deleted first.
CHANGES = [
    ("image.tag=0.2.0",),
    ("image.digest=sha256:" + "c" * 64,),
    ("operator.replicas=2", "shadow.replicas=4", "shadow.experiment=next"),
    ("serving.enabled=true", "shadow.enabled=true", "toolbox.enabled=true", "retention.enabled=true"),
    ("ledger.existingSecret=plumbline-secrets",),
    ("ledger.existingSecret=plumbline-secrets", "blobs.url=s3://bucket/prefix"),
    ("existingSecret=plumbline-secrets", "secretKeys={PLUMBLINE_TENANT_KEY}"),
    ("monitoring.serviceMonitor.enabled=true", "networkPolicy.enabled=false"),
]


def fixed(doc: Doc) -> Any:
    """The part of an object that the API server refuses to change."""
    spec = doc.get("spec", {})
    if doc["kind"] == "Deployment":
        return spec["selector"]
    if doc["kind"] == "StatefulSet":
        return {key: value for key, value in spec.items() if key not in STATEFUL_SET_MAY_CHANGE}
    if doc["kind"] == "Job":
        return spec
    if doc["kind"] == "PersistentVolumeClaim":
        return {key: value for key, value in spec.items() if key != "resources"}
    return doc.get("roleRef")


def by_name(docs: list[Doc]) -> dict[tuple[str, str], Doc]:
    return {(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change[0].split("=")[0])
def test_no_change_of_values_touches_what_cannot_be_changed(render: Render, change: tuple[str, ...]) -> None:
    for setup in ("default", "cpu-everything", "gpu-serving"):
        before, after = by_name(render(setup)), by_name(render(setup, *change))
        for key in before.keys() & after.keys():
            assert fixed(before[key]) == fixed(after[key]), key


def test_a_newer_chart_and_version_need_no_object_deleted(helm: Helm, render: Render, tmp_path: Path) -> None:
    newer = shutil.copytree(CHART, tmp_path / "plumbline")
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    values = str(CHART / "ci" / "cpu-everything-values.yaml")
    done = helm("template", "rel", str(newer), "-n", "demo", "--kube-version", KUBERNETES, "-f", values)
    after = by_name([doc for doc in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if doc])
    before = by_name(render("cpu-everything"))
    for key in before.keys() & after.keys():
        assert fixed(before[key]) == fixed(after[key]), key
    jobs = {name for kind, name in before.keys() ^ after.keys() if kind == "Job"}
    assert len(jobs) == 4, "another version is another migration and another check, under names of their own"


def test_an_upgrade_without_a_change_runs_nothing_again(render: Render) -> None:
    first = by_name(render("default"))
    again = by_name(render("default", "operator.resyncSeconds=61"))
    migrations = [name for kind, name in first if kind == "Job" and "-migrate-" in name]
    assert migrations == [name for kind, name in again if kind == "Job" and "-migrate-" in name]
    assert set(first) != set(again), "the start-up check looks at each set of values"


@pytest.mark.parametrize("setup", SETUPS)
def test_going_back_keeps_the_claims(render: Render, setup: str) -> None:
    """Helm deletes what an older revision had not; a claim that came since is kept by its annotation."""
    for (kind, name), doc in by_name(render(setup)).items():
        if kind == "PersistentVolumeClaim":
            assert doc["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", name
        if kind == "StatefulSet":
            policy = doc["spec"].get("persistentVolumeClaimRetentionPolicy", {})
            assert "Delete" not in policy.values(), name


# --- NOTES ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def notes(helm: Helm, tmp_path: Path) -> Callable[..., str]:
    """NOTES.txt as helm shows it after an install: `helm template` leaves it out, so here it is an object's text."""
    copy = shutil.copytree(CHART, tmp_path / "chart")
    text = (copy / "templates" / "NOTES.txt").read_text()
    for template in copy.glob("templates/**/*.yaml"):
        template.unlink()
    (copy / "templates" / "NOTES.txt").unlink()
    (copy / "templates" / "_notes.tpl").write_text('{{- define "notes" -}}' + text + "{{- end -}}")
    (copy / "templates" / "notes.yaml").write_text(
        'kind: Notes\nmetadata: {name: n}\ntext: {{ include "notes" . | toJson }}\n'
    )

    def show(setup: str, *apis: str) -> str:
        has = [part for api in apis for part in ("--api-versions", api)]
        values = ("-f", str(CHART / "ci" / f"{setup}-values.yaml"))
        done = helm("template", "rel", str(copy), "-n", "demo", "--kube-version", KUBERNETES, *values, *has)
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["text"])

    return show


def test_the_notes_say_what_is_missing_and_what_to_do_next(notes: Callable[..., str]) -> None:
    bare = notes("default")
    assert "MISSING: Plumbline's own definitions" in bare and "KServe is not here" in bare
    assert "helm -n demo test rel --logs" in bare and "create secret generic plumbline-sources" in bare
    assert "MISSING: KubeRay" not in bare, "without a pool nobody trains here"
    assert "MISSING: KubeRay" in notes("gpu-pools")
    apis = ("plumbline.dev/v1alpha1/DatasetLine", "ray.io/v1/RayJob", "serving.kserve.io/v1beta1/InferenceService",
            "monitoring.coreos.com/v1/ServiceMonitor")  # fmt: skip
    for setup in SETUPS:
        assert "MISSING" not in notes(setup, *apis) and "not here" not in notes(setup, *apis)
    assert "users go to http://rel-plumbline-router.demo" in notes("cpu-everything", *apis)
    assert "exec deploy/rel-plumbline-toolbox -- plumb review invite PERSON" in notes("review", *apis)
