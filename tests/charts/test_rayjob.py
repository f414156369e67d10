"""One training run, written by three hands: the renderer, the chart's template and the plain manifest."""

from collections.abc import Callable

import pytest
import yaml
from chart_tools import CHART, CRDS, REPO, Doc, problems

from plumbline.errors import PlumblineError
from plumbline.reconcile.rayjob import NodePool, RayJobSettings, objective_config_map, rayjob, run_name
from plumbline.records import Objective, Optimiser, digest_of

Render = Callable[..., list[Doc]]
OBJECTIVE = Objective(
    dataset=digest_of("dataset"),
    base_policy=digest_of("policy"),
    template=digest_of("template"),
    rubric=digest_of("rubric"),
    optimiser=Optimiser(learning_rate=1e-4),
)
GPU = NodePool(
    name="train-gpu",
    purpose="train",
    count=2,
    min_count=0,
    max_count=4,
    gpus_per_node=1,
    cpu="7",
    memory="28Gi",
    shared_memory="8Gi",
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
)
CPU = NodePool("train-cpu", "train", 2, 1, 2, 0, "2", "4Gi", "1Gi")


def values(setup: str) -> Doc:
    found: Doc = yaml.safe_load((CHART / "ci" / f"{setup}-values.yaml").read_text())
    return found


@pytest.mark.parametrize("setup", ["gpu-pools", "cpu-everything", "karpenter-kueue"])
def test_the_chart_writes_what_the_renderer_writes(render: Render, setup: str) -> None:
    (chart,) = [doc for doc in render(setup) if doc["kind"] == "RayJob"]
    given = values(setup)
    asked = given["training"]["rayJob"]
    pools = [NodePool.from_values(pool) for pool in given["pools"]]
    pools = [pool for pool in pools if pool.purpose == "train" and pool.name in asked.get("pools", [pool.name])]
    submitter = chart["spec"]["submitterPodTemplate"]
    settings = RayJobSettings(
        image=submitter["spec"]["containers"][0]["image"],
        policies_claim="rel-plumbline-policies",
        service_account="rel-plumbline",
        image_pull_secrets=tuple(given.get("image", {}).get("pullSecrets", ())),
        pod_labels=submitter["metadata"]["labels"],
        queue="plumbline-train" if "kueue" in given else None,
    )
    assert chart["spec"] == rayjob(chart["metadata"]["name"], pools, settings)["spec"]


def test_the_plain_manifest_is_the_renderers() -> None:
    plain = yaml.safe_load((REPO / "jobs" / "sft.rayjob.yaml").read_text())
    assert plain == rayjob("sft-example", [GPU], RayJobSettings(image="plumbline:0.1.0-cuda"))


def test_the_plain_manifest_validates_strictly() -> None:
    path = CRDS / "rayjobs.ray.io.yaml"
    if not path.is_file():
        pytest.skip(f"the definition {path.name} is not beside the repository (shared/crds)")
    assert problems(yaml.safe_load((REPO / "jobs" / "sft.rayjob.yaml").read_text()), path) == []


def test_the_run_is_named_after_its_objective_so_a_second_submission_resumes() -> None:
    assert run_name(OBJECTIVE) == run_name(OBJECTIVE.model_copy()) == f"sft-{OBJECTIVE.digest[7:19]}"
    assert run_name(OBJECTIVE.model_copy(update={"seed": 1})) != run_name(OBJECTIVE)
    made = rayjob(run_name(OBJECTIVE), [GPU], RayJobSettings(image="i"))
    assert f"--run-name {made['metadata']['name']} " in made["spec"]["entrypoint"]
    assert "generateName" not in made["metadata"]


def test_the_config_map_carries_the_very_objective() -> None:
    made = objective_config_map(OBJECTIVE, RayJobSettings(image="i", namespace="demo"))
    assert Objective.model_validate_json(made["data"]["objective.json"]).digest == OBJECTIVE.digest
    assert made["metadata"]["name"] == RayJobSettings(image="i").objective_config_map
    volumes = rayjob("r", [GPU], RayJobSettings(image="i"))["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    assert volumes["spec"]["volumes"][0] == {"name": "objective", "configMap": {"name": made["metadata"]["name"]}}


@pytest.mark.parametrize("pools", [[GPU], [CPU], [GPU, NodePool.from_values(values("gpu-pools")["pools"][0])]])
def test_the_choices_that_cost_people_their_training_are_made(pools: list[NodePool]) -> None:
    spec = rayjob("sft-1", pools, RayJobSettings(image="i"))["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] in {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"}
    assert spec["backoffLimit"] >= 0 and spec["submitterConfig"]["backoffLimit"] == 0
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert "runtimeEnvYAML" not in spec, "pip at start-up is the classic slow and failing start"
    cluster = spec["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    env = {item["name"]: item["value"] for item in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
    per_worker = int(env["PLUMBLINE_TRAIN_GPUS_PER_WORKER"])
    offered = 0
    for group, pool in zip(cluster["workerGroupSpecs"], pools, strict=True):
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        pod = group["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        gpus = int(limits.get(pool.gpu_resource, 0))
        assert gpus == pool.gpus_per_node and per_worker == (1 if gpus else 0)
        offered += group["replicas"] * (gpus or 1)
        memory = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shared-memory"]
        assert memory == [{"medium": "Memory", "sizeLimit": pool.shared_memory}]
        assert pod["nodeSelector"]
    assert int(env["PLUMBLINE_TRAIN_WORKERS"]) == offered, "more workers than places would pend forever"


def test_kueue_gets_a_job_that_may_be_suspended() -> None:
    made = rayjob("sft-1", [GPU], RayJobSettings(image="i", queue="train"))
    assert made["spec"]["suspend"] is True and made["spec"]["shutdownAfterJobFinishes"] is True
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "train"
    assert "clusterSelector" not in made["spec"]


def test_pools_that_cannot_train_are_refused_with_a_remedy() -> None:
    serving = NodePool("serve", "serve", 1, 0, 1, 1, "1", "1Gi", "1Gi")
    for pools in ([], [serving], [CPU, GPU]):
        with pytest.raises(PlumblineError) as error:
            rayjob("sft-1", pools, RayJobSettings(image="i"))
        assert error.value.remedy
