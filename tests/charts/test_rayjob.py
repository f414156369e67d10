"""One run, written by three hands: the renderer, the chart's template and the plain manifest."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml
from chart_tools import CHART, CRDS, REPO, Doc, problems

from plumbline.errors import PlumblineError
from plumbline.reconcile.rayjob import (
    BACKFILL,
    EVALUATE,
    TRAIN,
    NodePool,
    RayJobSettings,
    Work,
    config_map,
    rayjob,
    run_name,
)
from plumbline.reconcile.rayjob_values import settings_of
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
    settings = replace(
        settings_of(given, "rel", TRAIN, config_map="sft-objective"),
        sharded=asked.get("sharded", False),
        elastic=asked.get("elastic", False),
    )
    assert chart["spec"] == rayjob(chart["metadata"]["name"], pools, settings)["spec"]
    assert settings.labels.items() <= chart["metadata"]["labels"].items()


PLAIN = {
    "sft": (TRAIN, "sft-example", GPU, "sft-objective", "plumbline:0.1.0"),
    "evaluate": (EVALUATE, "eval-example", GPU, "eval-plan", "plumbline:0.1.0"),
    "backfill": (BACKFILL, "backfill-example", replace(GPU, name="train-cpu", gpus_per_node=0, tolerations=()),
                 "backfill-plan", "plumbline:0.1.0"),
}  # fmt: skip


def plain(script: str) -> Doc:
    found: Doc = yaml.safe_load((REPO / "jobs" / f"{script}.rayjob.yaml").read_text())
    return found


def rendered(script: str) -> Doc:
    """What the renderer writes of the same, for a release with default values."""
    work, name, pool, plan, image = PLAIN[script]
    settings = replace(settings_of({}, "plumbline", work, config_map=plan), image=image)
    return rayjob(name, [pool], settings if work is not EVALUATE else replace(settings, stores=None), work)


@pytest.mark.parametrize("script", PLAIN)
def test_the_plain_manifest_is_the_renderers(script: str) -> None:
    assert plain(script) == rendered(script)
    assert f"python /app/jobs/{script}.py " in plain(script)["spec"]["entrypoint"]
    assert (REPO / "jobs" / f"{script}.py").is_file()


@pytest.mark.parametrize("script", PLAIN)
def test_the_plain_manifest_validates_strictly(script: str) -> None:
    path = CRDS / "rayjobs.ray.io.yaml"
    if not path.is_file():
        pytest.skip(f"the definition {path.name} is not beside the repository (shared/crds)")
    assert problems(plain(script), path) == []


@pytest.mark.parametrize("work", [TRAIN, EVALUATE, BACKFILL])
def test_a_rendered_runs_pods_are_selected_by_the_releases_policies_and_monitors(render: Render, work: Work) -> None:
    docs = render("cpu-everything")
    settings = settings_of(values("cpu-everything"), "rel", work, config_map="plan")
    spec = rayjob("run-1", [CPU], settings, work)["spec"]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]
    pods = [
        spec["submitterPodTemplate"],
        head,
        *(one["template"] for one in spec["rayClusterSpec"]["workerGroupSpecs"]),
    ]

    def selecting(kind: str, labels: Doc) -> set[str]:
        key = "podSelector" if kind == "NetworkPolicy" else "selector"
        return {doc["metadata"]["name"] for doc in docs if doc["kind"] == kind and _matches(doc["spec"][key], labels)}

    for pod in pods:
        assert {"rel-plumbline-default", "rel-plumbline-training"} <= selecting(
            "NetworkPolicy", pod["metadata"]["labels"]
        )
    kuberays = {**head["metadata"]["labels"], "ray.io/node-type": "head"}
    assert "rel-plumbline-training" in selecting("PodMonitor", kuberays)
    (container,) = head["spec"]["containers"]
    assert ("train-metrics" in {port["name"] for port in container["ports"]}) is (work is TRAIN)
    accounts = {doc["metadata"]["name"] for doc in docs if doc["kind"] == "ServiceAccount"}
    assert head["spec"]["serviceAccountName"] in accounts
    claims = {doc["metadata"]["name"] for doc in docs if doc["kind"] == "PersistentVolumeClaim"}
    named = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in head["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert set(named) <= claims | {"ledger", "policies"} and len(named) == (1 if work is TRAIN else 2)


def _matches(selector: Doc, labels: Doc) -> bool:
    said = [labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])]
    return all(said) and selector.get("matchLabels", {}).items() <= labels.items()


def test_only_the_head_of_a_backfill_opens_the_ledger_and_only_by_reference() -> None:
    given = values("server-stores")
    spec = rayjob("b-1", [CPU], settings_of(given, "rel", BACKFILL, config_map="plan"), BACKFILL)["spec"]
    cluster = spec["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    env = {item["name"]: item for item in head["env"]}
    assert env["PLUMBLINE_LEDGER"]["valueFrom"]["secretKeyRef"] == {"name": "plumbline-secrets", "key": "ledger-url"}
    assert all("valueFrom" in env[name] for name in env if name.endswith(("_KEY", "_KEY_ID")))
    assert "affinity" not in cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        (worker,) = group["template"]["spec"]["containers"]
        assert not {item["name"] for item in worker["env"]} & {"PLUMBLINE_LEDGER", "PLUMBLINE_TENANT_KEY"}
    assert {"name": "PLUMBLINE_WORKERS", "value": "4"} in head["env"], "a task per CPU"
    with pytest.raises(PlumblineError, match="no use for") as error:
        rayjob("b-1", [GPU], RayJobSettings(image="i"), BACKFILL)
    assert error.value.remedy


def test_the_run_is_named_after_its_objective_so_a_second_submission_resumes() -> None:
    assert run_name(OBJECTIVE) == run_name(OBJECTIVE.model_copy()) == f"sft-{OBJECTIVE.digest[7:19]}"
    assert run_name(OBJECTIVE.model_copy(update={"seed": 1})) != run_name(OBJECTIVE)
    made = rayjob(run_name(OBJECTIVE), [GPU], RayJobSettings(image="i"))
    assert f"--run-name {made['metadata']['name']} " in made["spec"]["entrypoint"]
    assert "generateName" not in made["metadata"]


def test_the_config_map_carries_the_very_objective() -> None:
    made = config_map(OBJECTIVE, RayJobSettings(image="i", namespace="demo"))
    assert Objective.model_validate_json(made["data"]["objective.json"]).digest == OBJECTIVE.digest
    assert made["metadata"]["name"] == RayJobSettings(image="i").config_map
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
