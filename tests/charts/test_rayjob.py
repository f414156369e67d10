"""One training run, written by three hands: the renderer, the chart's template and the plain manifest."""

from collections.abc import Callable
from dataclasses import replace

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


@pytest.mark.parametrize("setup", ["gpu-pools", "cpu-everything", "karpenter-kueue", "elastic"])
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
        sharded=asked.get("sharded", False),
        elastic=asked.get("elastic", False),
        worker_start_timeout_seconds=asked.get("workerStartTimeoutSeconds", 1800),
        mlflow_tracking_uri=given["training"].get("mlflow", {}).get("trackingUri", ""),
        mlflow_secret=given["training"].get("mlflow", {}).get("existingSecret", ""),
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


def head_env(spec: Doc) -> dict[str, str]:
    (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    return {item["name"]: item["value"] for item in container["env"]}


def test_a_run_is_fixed_and_copied_unless_asked_otherwise() -> None:
    spec = rayjob("sft-1", [GPU], RayJobSettings(image="i"))["spec"]
    assert head_env(spec)["PLUMBLINE_TRAIN_WORKERS"] == "2"
    assert not {"PLUMBLINE_TRAIN_SHARDED", "MLFLOW_TRACKING_URI"} & set(head_env(spec))
    assert not {"enableInTreeAutoscaling", "autoscalerOptions"} & set(spec["rayClusterSpec"])
    sharded = rayjob("sft-1", [GPU], RayJobSettings(image="i", sharded=True))["spec"]
    assert head_env(sharded)["PLUMBLINE_TRAIN_SHARDED"] == "1"


@pytest.mark.parametrize(("pools", "workers"), [([GPU], "1:4"), ([CPU], "1:2"), ([replace(GPU, min_count=2), CPU], "")])
def test_an_elastic_run_takes_what_its_pools_may_have(pools: list[NodePool], workers: str) -> None:
    settings = RayJobSettings(image="i", elastic=True)
    if not workers:
        with pytest.raises(PlumblineError, match="mixed"):
            rayjob("sft-1", pools, settings)
        return
    spec = rayjob("sft-1", pools, settings)["spec"]
    cluster = spec["rayClusterSpec"]
    assert head_env(spec)["PLUMBLINE_TRAIN_WORKERS"] == workers
    assert cluster["enableInTreeAutoscaling"] is True and cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["securityContext"]["readOnlyRootFilesystem"] is True
    (mount,) = cluster["autoscalerOptions"]["volumeMounts"]
    head, *others = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert mount["name"] in [volume["name"] for volume in head["template"]["spec"]["volumes"]]
    assert all(group["template"]["spec"]["restartPolicy"] == "Never" for group in [head, *others])
    assert "RAY_enable_autoscaler_v2" not in head_env(spec), "KubeRay sets it itself"
    tokens = [group["template"]["spec"]["automountServiceAccountToken"] for group in [head, *others]]
    assert tokens == [True] + [False] * len(others)


@pytest.mark.parametrize("wrong", [{"pools": [replace(GPU, min_count=4)]}, {"queue": "train"}])
def test_an_elastic_run_that_cannot_grow_or_must_queue_is_refused(wrong: Doc) -> None:
    settings = RayJobSettings(image="i", elastic=True, queue=wrong.get("queue"))
    with pytest.raises(PlumblineError, match="elastic") as error:
        rayjob("sft-1", wrong.get("pools", [GPU]), settings)
    assert error.value.remedy


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
    env = head_env(spec)
    assert int(env["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) >= 600, "GPU nodes take minutes to come"
    assert int(env["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"]) > 0, "by default Ray Train waits for ever"
    ports = {port["name"] for port in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
    assert ports >= {"gcs-server", "dashboard", "client"}, "a head that names a port gets none by default"
    assert "metrics" not in ports, "KubeRay takes that name for Ray's own metrics"
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
