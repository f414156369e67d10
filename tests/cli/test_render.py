"""`plumb render rayjob`: what the cluster is given, from an objective file and the chart's values."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from plumbline.reconcile.plans import BackfillPlan, EvaluationPlan
from plumbline.records import Objective

POOL = {
    "name": "train-a",
    "purpose": "train",
    "count": 2,
    "minCount": 1,
    "maxCount": 3,
    "gpusPerNode": 4,
    "sharedMemory": "8Gi",
    "resources": {"cpu": "8", "memory": "64Gi"},
}
SUITE = """{"suite": "probes", "version": "1"}
{"id": "a-1", "area": "over_refusal", "slice": "s", "cluster": "a", "scorer": "compliance",
 "messages": [{"role": "user", "content": "who is ana ?"}]}
""".replace("\n ", " ")


@pytest.fixture
def data(plumb: Any) -> Any:
    plumb.import_messages()
    plumb.write("values.yaml", yaml.safe_dump({"pools": [POOL]}))
    return plumb


def rendered(data: Any, file: Path, *more: str) -> tuple[dict[str, Any], dict[str, Any]]:
    said = data("render", "rayjob", file, "--values", "values.yaml", "--pool", "train-a", "--image", "i", *more)
    assert said.code == 0, said
    config, job = yaml.safe_load_all(said.out)
    return config, job


def environment(job: dict[str, Any]) -> dict[str, str]:
    (container,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


def test_probes_a_template_and_added_tokens_are_in_the_job_folder_and_only_their_digests_in_the_config_map(
    data: Any, tiny_policy: Path
) -> None:
    data.write("suite.jsonl", SUITE)
    asked = {
        "template": "chatml",
        "added_tokens": ["<|im_start|>", "<|im_end|>"],
        "probes": {"suite": "suite.jsonl", "every": 2, "margins": {"refusal_benign": 0.1}},
        "layout": "packed",
        "adapter": {"kind": "dora"},
    }
    file = data.objective(tiny_policy, **asked)
    config, job = rendered(data, file)
    assert list(config["data"]) == ["objective.json"]
    objective = Objective.model_validate_json(config["data"]["objective.json"])
    assert objective.digest == data("objective", "show", file, "--json").json["id"]
    assert "who is ana" not in json.dumps(config), "items are prompts, and prompts are no business of etcd"
    prepared = data("train", file, "--prepare-only", "--job", "job", "--json")
    assert prepared.json["objective"] == objective.digest, prepared
    assert (data.folder / "job" / "objective.json").read_text().strip() == config["data"]["objective.json"].strip()
    assert json.loads((data.folder / "job" / "probes" / "items.json").read_text())[0]["id"] == "a-1"
    assert "<|im_start|>" in json.loads((data.folder / "job" / "plan.json").read_text())["template"]
    assert f"--run-name {job['metadata']['name']} " in job["spec"]["entrypoint"]


def test_sharded_and_elastic_runs_are_rendered_where_asked(data: Any, tiny_policy: Path) -> None:
    file = data.objective(tiny_policy)
    _, fixed = rendered(data, file)
    assert environment(fixed)["PLUMBLINE_TRAIN_WORKERS"] == "8"
    _, job = rendered(data, file, "--sharded", "--elastic")
    assert environment(job)["PLUMBLINE_TRAIN_WORKERS"] == "4:12"
    assert environment(job)["PLUMBLINE_TRAIN_SHARDED"] == "1"
    assert job["spec"]["rayClusterSpec"]["autoscalerOptions"]["version"] == "v2"
    assert job["metadata"]["name"] == fixed["metadata"]["name"], "where a run happens is no part of what it minimises"


def test_what_cannot_be_sharded_or_elastic_renders_nothing(data: Any, tiny_policy: Path) -> None:
    given = ("--values", "values.yaml", "--pool", "train-a", "--image", "i")
    qlora = data.objective(tiny_policy, adapter={"kind": "qlora"})
    assert data("render", "rayjob", qlora, *given, "--sharded").faulted("qlora", "no manifest was written")
    data.write("values.yaml", yaml.safe_dump({"pools": [{**POOL, "minCount": 3}]}))
    file = data.objective(tiny_policy)
    assert data("render", "rayjob", file, *given, "--elastic").faulted("nowhere to grow", "minCount")


@pytest.mark.parametrize("secret", ["", "mlflow"])
def test_mlflow_comes_from_the_values_and_its_secret_is_only_named(data: Any, tiny_policy: Path, secret: str) -> None:
    mlflow = {"trackingUri": "http://mlflow.tracking:5000", "existingSecret": secret}
    data.write("values.yaml", yaml.safe_dump({"pools": [POOL], "training": {"mlflow": mlflow}}))
    _, job = rendered(data, data.objective(tiny_policy))
    assert environment(job)["MLFLOW_TRACKING_URI"] == "http://mlflow.tracking:5000"
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert head.get("envFrom", []) == ([{"secretRef": {"name": "mlflow"}}] if secret else [])


def both(data: Any, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    said = data("render", "rayjob", *words, "--values", "values.yaml", "--pool", "train-a")
    assert said.code == 0, said
    config, job = yaml.safe_load_all(said.out)
    return config, job


EVALUATION = ("--kind", "evaluate", "--reference", "reference", "--aligned", "sft-1", "--suite", "suites/private.jsonl")


def test_an_evaluation_is_named_after_its_plan_and_carries_no_items(data: Any) -> None:
    config, job = both(data, *EVALUATION)
    plan = EvaluationPlan.model_validate_json(config["data"]["evaluation.json"])
    assert job["metadata"]["name"] == config["metadata"]["name"] == plan.run_name
    assert plan.suites == ("suites/private.jsonl",) and plan.rubric.digest
    assert environment(job)["PLUMBLINE_WORKERS"] == "8" and environment(job)["PLUMBLINE_GPUS_PER_WORKER"] == "1"
    assert "PLUMBLINE_LEDGER" not in environment(job), "nothing is read from it"
    assert both(data, *EVALUATION, "--max-tokens", "9")[1]["metadata"]["name"] != plan.run_name
    _, recorded = both(data, *EVALUATION, "--record")
    assert environment(recorded)["PLUMBLINE_LEDGER"] == "/data/ledger.sqlite"


def test_a_backfill_is_named_after_its_plan_and_its_head_opens_the_ledger(data: Any) -> None:
    data.write("values.yaml", yaml.safe_dump({"pools": [{**POOL, "gpusPerNode": 0}], "image": {"tag": "9"}}))
    config, job = both(data, "events/big.jsonl", "--kind", "backfill", "--source", "app", "--release", "prod")
    plan = BackfillPlan.model_validate_json(config["data"]["backfill.json"])
    assert (plan.file, plan.source, job["metadata"]["name"]) == ("events/big.jsonl", "app", plan.run_name)
    pod = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "prod"
    assert (
        pod["spec"]["serviceAccountName"] == "prod-plumbline" and pod["spec"]["containers"][0]["image"] == "plumbline:9"
    )
    assert environment(job)["PLUMBLINE_WORKERS"] == "16", "a reading task per CPU"


def test_a_kind_that_is_not_told_what_it_needs_renders_nothing(data: Any) -> None:
    given = ("--values", "values.yaml", "--pool", "train-a", "--image", "i")
    assert data("render", "rayjob", *given).faulted("--kind train needs FILE")
    assert data("render", "rayjob", *EVALUATION[:4], *given).faulted("needs --aligned and --suite")
    assert data("render", "rayjob", "--kind", "backfill", *given).faulted("needs FILE and --source")
    bad = (*EVALUATION, "--suite-digest", "sha256:1")
    assert data("render", "rayjob", *bad, *given).faulted("this is no evaluation", "--suite-digest")
    gpu = data("render", "rayjob", "f", "--kind", "backfill", "--source", "app", *given)
    assert gpu.faulted("has GPUs, which a back-fill has no use for")
    assert data("render", "rayjob", *EVALUATION, "--values", "values.yaml", "--pool", "b").faulted("has no pool 'b'")
