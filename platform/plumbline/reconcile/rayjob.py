"""A run as a RayJob: training, evaluation or back-fill, the object that `kubectl create -f` submits to KubeRay.

The choices that cost people their training, made here once (KubeRay 1.7):

- the run is named after what it is about (the objective, the plan), and Ray Train's run after the RayJob, so a retry, a
  suspension by Kueue or a second submission goes on from what is durable instead of starting at zero;
- `shutdownAfterJobFinishes` is true (the default bills GPUs until somebody notices);
- `backoffLimit` counts fresh clusters, and the submitter's own is 0: backing off is meant once;
- the head gets no work (`num-cpus: "0"`), no pip at start-up, /dev/shm from memory, bounds on every group;
- Ray Train waits for cold nodes longer than its minute, and not without end for a rank that has hung;
- the head names the ports that its Service needs: a container that names one gets none by default, and without
  `dashboard` nobody could submit. The run's own metrics are `train-metrics`; `metrics` is what KubeRay calls Ray's;
- only the head, where the driver runs, learns what the driver reads: the size of the run, MLflow and its credentials,
  the ledger (which an evaluation may record in, and of which a back-fill is the one writer).

Probes need no pod. Their task runs beside the workers and asks for 0.01 of a GPU, which the workers must leave free.

An elastic run (`RayJobSettings.elastic`) has KubeRay's autoscaler (v2) in the head's pod. That one talks to the API
server, so this head alone carries a token: of the account that KubeRay makes for the cluster, which ends with it.

The chart's template writes the same object; a test holds the two equal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.reconcile.kubernetes import CONTAINER_SECURITY, POD_SECURITY, JobSettings, Json, secret_env, store_access
from plumbline.records import Objective, Record
from plumbline.records.canonical import short


@dataclass(frozen=True)
class NodePool:
    """A pool of like nodes, as in the chart's `pools`. One Ray worker takes one node: all its GPUs."""

    name: str
    purpose: Literal["train", "serve", "shadow"]
    count: int
    min_count: int
    max_count: int
    gpus_per_node: int
    cpu: str
    memory: str
    shared_memory: str
    gpu_resource: str = "nvidia.com/gpu"
    selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def from_values(cls, pool: Mapping[str, Any]) -> "NodePool":
        """Read an entry of the chart's `pools`. `accelerator` and `spot` matter to whoever makes the nodes."""
        return cls(
            name=pool["name"],
            purpose=pool["purpose"],
            count=pool["count"],
            min_count=pool["minCount"],
            max_count=pool["maxCount"],
            gpus_per_node=pool["gpusPerNode"],
            cpu=pool["resources"]["cpu"],
            memory=pool["resources"]["memory"],
            shared_memory=pool["sharedMemory"],
            gpu_resource=pool.get("gpuResource", "nvidia.com/gpu"),
            selector=pool.get("selector") or {},
            tolerations=pool.get("tolerations") or (),
        )

    @property
    def workers_per_node(self) -> int:
        """Ray Train workers: one per GPU, or one per node without any."""
        return max(1, self.gpus_per_node)

    @property
    def whole_cpus(self) -> int:
        """Places for workers that take one CPU each, on a node without GPUs."""
        return max(1, int(self.cpu[:-1]) // 1000 if self.cpu.endswith("m") else int(float(self.cpu)))

    @property
    def node_selector(self) -> dict[str, str]:
        return dict(self.selector) or {"plumbline.dev/pool": self.name}

    @property
    def resources(self) -> Json:
        gpus = {self.gpu_resource: str(self.gpus_per_node)} if self.gpus_per_node else {}
        return {"requests": {"cpu": self.cpu, "memory": self.memory}, "limits": {"memory": self.memory, **gpus}}


@dataclass(frozen=True)
class Work:
    """What a RayJob runs: an entry point of `jobs/`, and the document that its ConfigMap carries. Policies and monitors
    know the pods of all three as the component `training`: what runs on the training pools."""

    kind: Literal["train", "evaluate", "backfill"]
    script: str
    option: str
    document: str
    volume: str = "plan"

    @property
    def trains(self) -> bool:
        return self.kind == "train"


TRAIN = Work("train", "sft", "--objective", "objective.json", volume="objective")
EVALUATE = Work("evaluate", "evaluate", "--plan", "evaluation.json")
BACKFILL = Work("backfill", "backfill", "--plan", "backfill.json")


def labels_of(release: str) -> dict[str, str]:
    """What a release's network policies and monitors select its pods by."""
    part = {"name": "plumbline", "instance": release, "component": "training"}
    return {f"app.kubernetes.io/{key}": value for key, value in part.items()}


@dataclass(frozen=True)
class RayJobSettings:
    """Where and with what a run is carried out. None of it changes the result. Seconds are wall-clock.

    sharded: weights are spread over the workers (FSDP2). elastic: between the pools' `minCount` and `maxCount` nodes,
    instead of `count`. mlflow_secret: a Secret whose keys become environment variables of the driver
    (MLFLOW_TRACKING_TOKEN, or _USERNAME and _PASSWORD). priority_class: of every pod; empty for the cluster's default.
    stores: where ledger and blobs are, for a head that opens them.
    """

    image: str
    policies_claim: str = "plumbline-policies"
    config_map: str = "sft-objective"
    service_account: str = "plumbline"
    namespace: str | None = None
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: labels_of("plumbline"))
    pod_labels: Mapping[str, str] = field(default_factory=lambda: labels_of("plumbline"))
    ray_version: str = "2.60.0"
    active_deadline_seconds: int = 86400
    pre_running_deadline_seconds: int = 3600
    ttl_seconds_after_finished: int = 86400
    backoff_limit: int = 2
    sharded: bool = False
    elastic: bool = False
    worker_start_timeout_seconds: int = 1800
    collective_timeout_seconds: int = 1800
    mlflow_tracking_uri: str = ""
    mlflow_secret: str = ""
    head_cpu: str = "1"
    head_memory: str = "4Gi"
    queue: str | None = None
    priority_class: str = ""
    stores: JobSettings | None = None


def run_name(objective: Objective) -> str:
    """The name of the run that minimises this objective: `sft-` and twelve characters of its id."""
    return f"sft-{short(objective.digest)}"


def config_map(document: Record, settings: RayJobSettings, work: Work = TRAIN) -> Json:
    """The ConfigMap that hands the objective, or the plan, to the run."""
    meta: Json = {"name": settings.config_map, "labels": dict(settings.labels)}
    if settings.namespace:
        meta["namespace"] = settings.namespace
    data = {work.document: document.model_dump_json(indent=2) + "\n"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def rayjob(name: str, pools: Sequence[NodePool], settings: RayJobSettings, work: Work = TRAIN) -> Json:
    """The RayJob of the run `name` over `pools`, one worker group each. `run_name` and the plans name runs.

    Raises PlumblineError without a training pool, with a pool of another purpose, with CPU and GPU pools mixed
    (the workers of one run are alike), with GPUs for a back-fill, or when it is to be elastic and cannot be.
    """
    _check(pools, work)
    if settings.elastic:
        _check_elastic(pools, settings)
    labels = dict(settings.labels)
    if settings.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = settings.queue
    meta: Json = {"name": name, "labels": labels}
    if settings.namespace:
        meta["namespace"] = settings.namespace
    command = f"python /app/jobs/{work.script}.py {work.option} /etc/plumbline/{work.document} --run-name {name}"
    head = {
        "requests": {"cpu": settings.head_cpu, "memory": settings.head_memory},
        "limits": {"memory": settings.head_memory},
    }
    cluster: Json = {
        "rayVersion": settings.ray_version,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
            "template": _head_pod(head, pools, settings, work),
        },
        "workerGroupSpecs": [
            {
                "groupName": pool.name,
                "replicas": pool.count,
                "minReplicas": pool.min_count,
                "maxReplicas": pool.max_count,
                "rayStartParams": {},
                "template": _worker_pod(pool, settings, work),
            }
            for pool in pools
        ],
    }
    if settings.elastic:
        cluster |= {"enableInTreeAutoscaling": True, "autoscalerOptions": _autoscaler(settings)}
    spec: Json = {
        "entrypoint": f"{command} --storage /policies",
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
        "activeDeadlineSeconds": settings.active_deadline_seconds,
        "preRunningDeadlineSeconds": settings.pre_running_deadline_seconds,
        "backoffLimit": settings.backoff_limit,
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(settings),
        "rayClusterSpec": cluster,
    }
    if settings.queue is not None:
        spec["suspend"] = True
    made: Json = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": meta, "spec": spec}
    made = json.loads(json.dumps(made))  # no shared parts, which YAML would write as anchors
    return made


def _check(pools: Sequence[NodePool], work: Work) -> None:
    consequence = "no RayJob was written"
    if not pools:
        raise PlumblineError(
            "no node pool is named", consequence=consequence, remedy="add a pool with purpose train to the values"
        )
    for pool in pools:
        if pool.purpose != "train":
            raise PlumblineError(
                f"the pool {pool.name} has the purpose {pool.purpose}",
                consequence=consequence,
                remedy="name pools with purpose train: the others answer users",
            )
    if len({pool.gpus_per_node > 0 for pool in pools}) > 1:
        raise PlumblineError(
            "CPU and GPU pools are mixed in one run",
            consequence=consequence,
            remedy="name pools of one kind: the workers of a run are alike",
        )
    if work is BACKFILL and pools[0].gpus_per_node:
        raise PlumblineError(
            f"the pool {pools[0].name} has GPUs, which a back-fill has no use for",
            consequence=consequence,
            remedy="name a pool with gpusPerNode 0",
        )


def _check_elastic(pools: Sequence[NodePool], settings: RayJobSettings) -> None:
    consequence = "no RayJob was written"
    if settings.queue is not None:
        raise PlumblineError(
            "an elastic run cannot wait in a queue of Kueue, which admits runs of a fixed size",
            consequence=consequence,
            remedy="leave out elastic, or run it without Kueue",
        )
    if all(pool.min_count == pool.max_count for pool in pools):
        raise PlumblineError(
            f"an elastic run has nowhere to grow: {', '.join(pool.name for pool in pools)} is of a fixed size",
            consequence=consequence,
            remedy="set the pool's minCount below its maxCount, or leave out elastic",
        )


def _workers(pools: Sequence[NodePool], settings: RayJobSettings, work: Work) -> str:
    """N, or MIN:MAX of an elastic run; never more than there are places, or the rest pends."""

    def places(pool: NodePool) -> int:
        return pool.workers_per_node if work.trains or pool.gpus_per_node else pool.whole_cpus

    if not settings.elastic:
        return str(sum(pool.count * places(pool) for pool in pools))
    fewest = max(1, sum(pool.min_count * places(pool) for pool in pools))
    return f"{fewest}:{sum(pool.max_count * places(pool) for pool in pools)}"


def _autoscaler(settings: RayJobSettings) -> Json:
    """KubeRay's sidecar in the head's pod, held to the same rules as every other container."""
    return {
        "version": "v2",
        "upscalingMode": "Default",
        "idleTimeoutSeconds": 300,  # Ray Train looks once a minute whether it may grow: do not take nodes from under it
        "imagePullPolicy": settings.image_pull_policy,
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _pod(settings: RayJobSettings, container: Json, volumes: list[Json], **more: Any) -> Json:
    spec: Json = {
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "securityContext": POD_SECURITY,
        "containers": [container],
        "volumes": volumes,
        **more,
    }
    if settings.priority_class:
        spec["priorityClassName"] = settings.priority_class
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {"metadata": {"labels": dict(settings.pod_labels)}, "spec": spec}


def _container(name: str, env: list[Json], resources: Json, mounts: list[Json], settings: RayJobSettings) -> Json:
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "env": env,
        "resources": resources,
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }


def _submitter(settings: RayJobSettings) -> Json:
    resources = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}
    env = [{"name": "HOME", "value": "/tmp"}]
    tmp = [{"name": "tmp", "mountPath": "/tmp"}]
    container = _container("ray-job-submitter", env, resources, tmp, settings)
    return _pod(settings, container, [{"name": "tmp", "emptyDir": {}}], restartPolicy="Never")


COMMON = [
    {"name": "HOME", "value": "/tmp"},
    {"name": "HF_HUB_OFFLINE", "value": "1"},
    {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
]
PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
METRICS = {"train-metrics": 9090}


def _head_pod(resources: Json, pools: Sequence[NodePool], settings: RayJobSettings, work: Work) -> Json:
    """The pod of Ray's head, where the driver runs."""
    read = (
        _training(pools, settings)
        if work.trains
        else {
            "PLUMBLINE_WORKERS": _workers(pools, settings, work),
            "PLUMBLINE_GPUS_PER_WORKER": str(min(1, pools[0].gpus_per_node)),
        }
    )
    env: list[Json] = [*COMMON, *({"name": name, "value": value} for name, value in read.items())]
    stores, mounts, volumes = store_access(settings.stores) if settings.stores else ([], [], [])
    stores = [one for one in stores if one.get("value") != ""]  # a training run reads no blobs
    if settings.stores and settings.stores.secret:
        stores += [secret_env(key, settings.stores.secret, key) for key in settings.stores.secret_keys]
    made = _ray_pod("head", resources, "1Gi", env + stores, settings, work)
    (container,) = made["spec"]["containers"]
    ports = PORTS | METRICS if work.trains else PORTS
    container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    container["volumeMounts"] += mounts
    made["spec"]["volumes"] += volumes
    if settings.stores and settings.stores.affinity:
        made["spec"]["affinity"] = dict(settings.stores.affinity)
    if work.trains and settings.mlflow_tracking_uri and settings.mlflow_secret:
        container["envFrom"] = [{"secretRef": {"name": settings.mlflow_secret}}]
    if settings.elastic:
        del made["spec"]["serviceAccountName"]  # KubeRay makes one, for this cluster's autoscaler
        made["spec"] |= {"automountServiceAccountToken": True, "restartPolicy": "Never"}
    return made


def _training(pools: Sequence[NodePool], settings: RayJobSettings) -> dict[str, str]:
    """What the driver of a training run reads from its environment."""
    read = {
        "PLUMBLINE_TRAIN_WORKERS": _workers(pools, settings, TRAIN),
        "PLUMBLINE_TRAIN_GPUS_PER_WORKER": str(min(1, pools[0].gpus_per_node)),
        "PLUMBLINE_METRICS_PORT": str(METRICS["train-metrics"]),
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(settings.worker_start_timeout_seconds),
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(settings.collective_timeout_seconds),
    }
    if settings.sharded:
        read["PLUMBLINE_TRAIN_SHARDED"] = "1"
    if settings.mlflow_tracking_uri:
        read["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    return read


def _worker_pod(pool: NodePool, settings: RayJobSettings, work: Work) -> Json:
    more: Json = {"nodeSelector": pool.node_selector}
    if pool.tolerations:
        more["tolerations"] = [dict(item) for item in pool.tolerations]
    if settings.elastic:
        more["restartPolicy"] = "Never"  # the autoscaler replaces pods itself
    return _ray_pod("worker", pool.resources, pool.shared_memory, COMMON, settings, work, **more)


def _ray_pod(
    role: str, resources: Json, shared_memory: str, env: list[Json], settings: RayJobSettings, work: Work, **more: Any
) -> Json:
    mounts: list[Json] = [
        {"name": work.volume, "mountPath": "/etc/plumbline", "readOnly": True},
        {"name": "policies", "mountPath": "/policies"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    volumes: list[Json] = [
        {"name": work.volume, "configMap": {"name": settings.config_map}},
        {"name": "policies", "persistentVolumeClaim": {"claimName": settings.policies_claim}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory}},
    ]
    return _pod(settings, _container(f"ray-{role}", env, resources, mounts, settings), volumes, **more)
