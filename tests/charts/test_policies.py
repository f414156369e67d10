"""What must hold of every object in every setup: safety, and that things which name each other fit."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from chart_tools import SETUPS, Doc, pods

from plumbline.reconcile.dataset_line import StartIngestion
from plumbline.reconcile.kubernetes import CONTAINER_SECURITY, POD_SECURITY, JobSettings, job
from plumbline.records import digest_of

Render = Callable[..., list[Doc]]


def named(docs: list[Doc], kind: str) -> dict[str, Doc]:
    return {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == kind}


def ingestion_job(docs: list[Doc]) -> Doc | None:
    """A Job as the operator of this setup would make it, from the settings that the chart hands it."""
    for doc in docs:
        if doc["kind"] == "ConfigMap" and "jobs.yaml" in doc.get("data", {}):
            settings = JobSettings.from_yaml(doc["data"]["jobs.yaml"])
            line = {
                "metadata": {"name": "support", "namespace": "demo", "uid": "u1"},
                "spec": {"dataset": "support", "rubric": digest_of("rubric")},
            }
            run = {"kind": "IngestionRun", "metadata": {"name": "support-run", "uid": "u2"}}
            return job(StartIngestion(digest_of("run"), 1, 9), line, run, settings)
    return None


def all_objects(render: Render, setup: str) -> list[Doc]:
    docs = render(setup)
    extra = ingestion_job(docs)
    return [*docs, extra] if extra is not None else docs


def every_pod(render: Render, setup: str) -> Iterator[tuple[str, Doc]]:
    for doc in all_objects(render, setup):
        yield from pods(doc)


def test_every_pod_meets_the_restricted_pod_security_standard(render: Render, setup: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    for name, pod in every_pod(render, setup):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        for volume in pod["volumes"]:
            assert set(volume) - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim", "secret"}, name
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert inner["readOnlyRootFilesystem"] is True, name
            assert not inner.get("privileged"), name


def test_the_charts_security_is_the_operators(render: Render) -> None:
    """Two hands write pods, the chart and the operator; they write the same."""
    for _, pod in every_pod(render, "cpu-everything"):
        assert pod["securityContext"] == POD_SECURITY
        for container in pod["containers"]:
            assert container["securityContext"] == CONTAINER_SECURITY


def test_every_container_can_write_to_tmp_and_asks_for_what_it_uses(render: Render, setup: str) -> None:
    for name, pod in every_pod(render, setup):
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]], name
            assert set(container["resources"]["requests"]) >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_only_the_operator_and_an_elastic_runs_autoscaler_hold_a_token(render: Render, setup: str) -> None:
    for name, pod in every_pod(render, setup):
        scaling = setup == "elastic" and name.endswith(" head")
        assert pod["automountServiceAccountToken"] is (name.endswith("-operator") or scaling), name
        assert not scaling or "serviceAccountName" not in pod, "KubeRay makes an account for that cluster alone"
    for doc in named(render(setup), "ServiceAccount").values():
        assert doc["automountServiceAccountToken"] is False


def test_whatever_serves_is_probed_over_http(render: Render, setup: str) -> None:
    for name, pod in every_pod(render, setup):
        for container in pod["containers"]:
            if ("ports" not in container and container["name"] != "model") or container["name"] == "ray-head":
                continue  # KubeRay probes Ray's pods itself
            probes = ["readinessProbe", "livenessProbe", "startupProbe"]
            if container["name"] == "worker":
                probes.remove("readinessProbe")  # users are served whether or not the worker is there
            for probe in probes:
                port = container[probe]["httpGet"]["port"]
                ports = container.get("ports", [{"containerPort": 8080}])
                assert port in [item for entry in ports for item in (entry.get("name"), entry["containerPort"])], name


def test_no_right_is_a_wildcard_and_none_is_for_the_whole_cluster(render: Render, setup: str) -> None:
    docs = render(setup)
    assert not {"ClusterRole", "ClusterRoleBinding"} & {doc["kind"] for doc in docs}
    for doc in named(docs, "Role").values():
        for rule in doc["rules"]:
            for part in ("apiGroups", "resources", "verbs"):
                assert "*" not in rule[part]
            assert not set(rule["resources"]) & {"secrets", "pods/exec", "roles", "rolebindings"}


def test_services_and_monitors_select_something_with_that_port(render: Render, setup: str) -> None:
    docs = render(setup)
    workloads = [doc["spec"]["template"] for doc in docs if doc["kind"] in ("Deployment", "StatefulSet")]

    def matches(selector: Doc, labels: Doc) -> bool:
        return selector.items() <= labels.items()

    for name, service in named(docs, "Service").items():
        found = [pod for pod in workloads if matches(service["spec"]["selector"], pod["metadata"]["labels"])]
        assert len(found) == 1, f"{name} selects {len(found)} workloads"
        ports = [port["name"] for container in found[0]["spec"]["containers"] for port in container.get("ports", [])]
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"]), name
    scraped = [doc for doc in named(docs, "Service").values() if "plumbline.dev/scrape" in doc["metadata"]["labels"]]
    found_by: list[str] = []
    for monitor in named(docs, "ServiceMonitor").values():
        selector, endpoints = monitor["spec"]["selector"], monitor["spec"]["endpoints"]
        services = [doc for doc in scraped if matches(selector["matchLabels"], doc["metadata"]["labels"])]
        for rule in selector.get("matchExpressions", []):
            assert rule["operator"] == "NotIn"
            services = [doc for doc in services if doc["metadata"]["labels"][rule["key"]] not in rule["values"]]
        for endpoint in endpoints:
            assert all(endpoint["port"] in [port["name"] for port in doc["spec"]["ports"]] for doc in services)
        found_by += [doc["metadata"]["name"] for doc in services]
    if named(docs, "ServiceMonitor"):
        assert sorted(found_by) == sorted(doc["metadata"]["name"] for doc in scraped), "each by one monitor"
    monitors = named(docs, "PodMonitor")
    if monitor := monitors.pop("rel-plumbline-predictor", None):
        wanted = dict(monitor["spec"]["selector"]["matchLabels"])
        predictors = [doc["spec"]["predictor"] for doc in named(docs, "InferenceService").values()]
        assert predictors and all(matches(wanted, predictor["labels"]) for predictor in predictors)
    if monitor := monitors.pop("rel-plumbline-training", None):
        wanted = dict(monitor["spec"]["selector"]["matchLabels"])
        assert wanted.pop("ray.io/node-type") == "head"  # KubeRay's own label
        heads = [doc["spec"]["rayClusterSpec"]["headGroupSpec"] for doc in named(docs, "RayJob").values()]
        assert heads and all(matches(wanted, head["template"]["metadata"]["labels"]) for head in heads)
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        for head in heads:  # Prometheus finds a pod's port by its number only where the pod names it
            (container,) = head["template"]["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert ports["train-metrics"] == endpoint["portNumber"]
            assert {"name": "PLUMBLINE_METRICS_PORT", "value": str(endpoint["portNumber"])} in container["env"]
    assert not monitors


def test_whoever_is_monitored_may_be_scraped(render: Render) -> None:
    docs = render("cpu-everything")
    policies = named(docs, "NetworkPolicy")
    for name, monitor in named(docs, "PodMonitor").items():
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        scrapers = [
            rule["from"]
            for rule in policies[name]["spec"]["ingress"]
            if {"port": endpoint["portNumber"], "protocol": "TCP"} in rule.get("ports", [])
        ]
        monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        assert len(scrapers) == 1 and monitoring in scrapers[0], name


def test_every_network_policy_selects_a_component_that_exists(render: Render, setup: str) -> None:
    docs = render(setup)
    components = {
        doc["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]
        for doc in docs
        if doc["kind"] in ("Deployment", "StatefulSet")
    }
    kinds = {doc["kind"] for doc in docs}
    components |= {"predictor"} if "InferenceService" in kinds else set()
    components |= {"training"} if "RayJob" in kinds else set()
    components |= {"check"} if "Pod" in kinds else set()
    components |= {"ingestion", "evaluation"} if "operator" in components else set()  # its Jobs
    for name, policy in named(docs, "NetworkPolicy").items():
        labels = policy["spec"]["podSelector"]["matchLabels"]
        component = labels.get("app.kubernetes.io/component")
        for expression in policy["spec"]["podSelector"].get("matchExpressions", []):
            assert components & set(expression["values"]) and "operator" in expression["values"], name
        assert component in components or name.endswith(("-default", "-stores")), name


def test_workloads_select_their_own_pods(render: Render, setup: str) -> None:
    for doc in render(setup):
        if doc["kind"] in ("Deployment", "StatefulSet"):
            labels = doc["spec"]["template"]["metadata"]["labels"]
            assert doc["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_names_resolve(render: Render, setup: str) -> None:
    """ConfigMaps, claims, secrets and accounts that pods name are in the render, or are the values' business."""
    docs = all_objects(render, setup)
    accounts, maps = named(docs, "ServiceAccount"), named(docs, "ConfigMap")
    claims, theirs = named(docs, "PersistentVolumeClaim"), {"ledger", "policies"}
    for name, pod in every_pod(render, setup):
        kuberays = setup == "elastic" and name.endswith(" head")
        assert kuberays or pod["serviceAccountName"] in accounts, name
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        templates = [
            claim["metadata"]["name"]
            for doc in docs
            if doc["kind"] == "StatefulSet" and name == f"StatefulSet/{doc['metadata']['name']}"
            for claim in doc["spec"]["volumeClaimTemplates"]
        ]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            for mount in container["volumeMounts"]:
                assert mount["name"] in volumes or mount["name"] in templates, name
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                assert reference is None or reference["name"] == "plumbline-secrets", name
        for volume in volumes.values():
            if "secret" in volume:
                assert volume["secret"]["secretName"] == "plumbline-sources", name
            if "configMap" in volume:
                user_made = volume["configMap"]["name"] == "sft-objective"
                assert volume["configMap"]["name"] in maps or user_made, name
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert claim in claims or claim in theirs, name
    for binding in named(docs, "RoleBinding").values():
        assert binding["roleRef"]["name"] in named(docs, "Role")
        assert all(subject["name"] in accounts for subject in binding["subjects"])
    for service in named(docs, "InferenceService").values():
        text = yaml.safe_dump(service)
        assert "pvc://" not in text or any(f"pvc://{claim}/" in text for claim in [*claims, *theirs])


def reach(render: Render, *sets: str) -> set[int] | None:
    """Ports that the head of a run may reach beside the other Ray pods; None without a rule for it."""
    policy = named(render("gpu-pools", *sets), "NetworkPolicy").get("rel-plumbline-training-head")
    if policy is None:
        return None
    assert policy["spec"]["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    (rule,) = policy["spec"]["egress"]
    assert set(rule) == {"ports"} and policy["spec"]["policyTypes"] == ["Egress"]
    return {port["port"] for port in rule["ports"]}


def test_a_run_gets_out_of_the_cluster_only_for_what_was_asked(render: Render) -> None:
    uri = "training.mlflow.trackingUri={}".format
    assert reach(render) is None
    assert reach(render, "training.mlflow.existingSecret=mlflow") is None, "a secret alone says nowhere to go"
    assert reach(render, uri("http://mlflow.tracking:5000")) == {5000}
    assert reach(render, uri("https://mlflow.example.org/at/10:30")) == {443}
    assert reach(render, uri("http://mlflow.tracking"), "training.mlflow.podPort=5000") == {80, 5000}
    assert reach(render, "training.rayJob.elastic=true") == {443, 6443}
    assert reach(render, uri("http://[fd00::1]:5000"), "training.rayJob.elastic=true") == {443, 6443, 5000}


@pytest.mark.parametrize(
    ("endpoint", "ports"),
    [("http://minio:9000", {443, 9000}), ("http://minio", {443, 80}), ("https://[fd00::1]", {443})],
)
def test_the_port_of_the_blobs_endpoint_is_let_through(render: Render, endpoint: str, ports: set[int]) -> None:
    docs = render("default", "blobs.url=s3://bucket/prefix", f"blobs.endpoint={endpoint}")
    (rule,) = named(docs, "NetworkPolicy")["rel-plumbline-stores"]["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == ports


def test_an_api_server_at_another_port_is_reached(render: Render) -> None:
    ports = "networkPolicy.apiServerPorts={443,16443}"
    assert reach(render, ports, "training.rayJob.elastic=true") == {443, 16443}
    rule = named(render("default", ports), "NetworkPolicy")["rel-plumbline-operator"]["spec"]["egress"][0]
    assert [port["port"] for port in rule["ports"]] == [443, 16443]


def test_the_head_of_an_evaluation_reaches_the_releases_own_endpoints_and_a_worker_does_not(render: Render) -> None:
    policy = named(render("cpu-everything"), "NetworkPolicy")["rel-plumbline-training-predictors"]["spec"]
    assert policy["podSelector"]["matchLabels"]["ray.io/node-type"] == "head"
    ((peer,),) = [rule["to"] for rule in policy["egress"]]
    assert peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "predictor"
    assert "rel-plumbline-training-predictors" not in named(render("gpu-pools"), "NetworkPolicy"), "nothing is served"


def test_the_start_up_check_is_not_ended_while_its_image_comes(render: Render) -> None:
    (check,) = [doc["spec"] for name, doc in named(render("default"), "Job").items() if "-check-" in name]
    (container,) = check["template"]["spec"]["containers"]
    (wait,) = [int(word.partition("=")[2]) for word in container["args"] if word.startswith("--wait=")]
    assert check["activeDeadlineSeconds"] >= (check["backoffLimit"] + 1) * wait + 1800


def test_mlflows_credentials_reach_the_driver_alone_and_by_reference(render: Render) -> None:
    asked = ("training.mlflow.trackingUri=http://mlflow:5000", "training.mlflow.existingSecret=mlflow")
    for name, pod in [item for doc in render("gpu-pools", *asked) for item in pods(doc)]:
        for container in pod["containers"]:
            given = container.get("envFrom", [])
            assert given == ([{"secretRef": {"name": "mlflow"}}] if name.endswith(" head") else []), name
    assert all("envFrom" not in c for doc in render("gpu-pools") for _, pod in pods(doc) for c in pod["containers"])


def test_everyone_who_opens_the_ledger_is_beside_the_collector(render: Render) -> None:
    for name, pod in every_pod(render, "cpu-everything"):
        mounts = [mount["mountPath"] for container in pod["containers"] for mount in container["volumeMounts"]]
        if "/data" in mounts and not name.endswith("-collector"):
            (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert term["labelSelector"]["matchLabels"]["app.kubernetes.io/component"] == "collector"


def test_with_everything_on_servers_nothing_is_mounted_and_nobody_is_tied_to_a_node(render: Render) -> None:
    docs = render("server-stores")
    assert "rel-plumbline-data" not in named(docs, "PersistentVolumeClaim")
    for name, pod in every_pod(render, "server-stores"):
        assert "affinity" not in pod, name
        for container in pod["containers"]:
            assert "/data" not in [mount["mountPath"] for mount in container["volumeMounts"]], name
            given = {item["name"]: item for item in container["env"]}
            url = given["PLUMBLINE_LEDGER"]["valueFrom"]["secretKeyRef"]
            assert url == {"name": "plumbline-secrets", "key": "ledger-url"}, name
            assert given["PLUMBLINE_BLOBS"]["value"] == "s3://plumbline-blobs/production", name
            assert given["AWS_ENDPOINT_URL"]["value"] == "https://objects.storage:9000", name
            assert all("valueFrom" in item for key, item in given.items() if key.endswith(("_KEY", "_KEY_ID"))), name
    policy = named(docs, "NetworkPolicy")["rel-plumbline-stores"]["spec"]
    assert policy["egress"] == [{"ports": [{"port": 5432, "protocol": "TCP"}, {"port": 9000, "protocol": "TCP"}]}]
    assert "rel-plumbline-stores" not in named(render("default"), "NetworkPolicy")


def test_one_value_moves_the_ledger_to_a_server_and_one_the_blobs(render: Render) -> None:
    for setup, sets in (("postgresql", ()), ("default", ("blobs.url=s3://bucket/prefix",))):
        docs = render(setup, *sets)
        extra = ingestion_job(docs)
        assert extra is not None
        ours = [pod for doc in [*docs, extra] for _, pod in pods(doc)]
        for container in [c for pod in ours for c in [*pod["containers"], *pod.get("initContainers", [])]]:
            given = {item["name"]: item for item in container["env"]}
            if container["name"] == "after-migration":
                assert set(given) == {"PLUMBLINE_LEDGER"}, "what it waits for and nothing else"
            elif setup == "postgresql":
                for variable, key in (("PLUMBLINE_LEDGER", "url"), ("PLUMBLINE_TENANT_KEY", "PLUMBLINE_TENANT_KEY")):
                    assert given[variable]["valueFrom"]["secretKeyRef"] == {"name": "plumbline-secrets", "key": key}
            else:
                assert given["PLUMBLINE_BLOBS"]["value"] == "s3://bucket/prefix"
        ports = [port for rule in named(docs, "NetworkPolicy")["rel-plumbline-stores"]["spec"]["egress"]
                 for port in rule["ports"]]  # fmt: skip
        assert ports == [{"port": 5432 if setup == "postgresql" else 443, "protocol": "TCP"}]


def test_several_operators_roll_and_one_stays_while_nodes_are_drained(render: Render) -> None:
    docs = render("server-stores")
    operator = named(docs, "Deployment")["rel-plumbline-operator"]["spec"]
    assert (operator["replicas"], operator["strategy"]["type"]) == (2, "RollingUpdate")
    budget = named(docs, "PodDisruptionBudget")["rel-plumbline-operator"]["spec"]
    assert budget["selector"]["matchLabels"].items() <= operator["template"]["metadata"]["labels"].items()
    assert not named(render("default"), "PodDisruptionBudget")


def test_a_budget_is_for_several_pods_and_selects_exactly_one_workload(render: Render, setup: str) -> None:
    docs = render(setup)
    workloads = [(doc["spec"]["replicas"], doc["spec"]["template"]["metadata"]["labels"]) for doc in docs
                 if doc["kind"] in ("Deployment", "StatefulSet")]  # fmt: skip
    legs = [doc["spec"]["predictor"] for doc in named(docs, "InferenceService").values()]
    workloads += [(leg["minReplicas"], leg["labels"]) for leg in legs]
    budgets = [doc["spec"]["selector"]["matchLabels"].items() for doc in named(docs, "PodDisruptionBudget").values()]
    for budget in budgets:
        assert len([1 for _, labels in workloads if budget <= labels.items()]) == 1
    for replicas, labels in workloads:
        assert (replicas > 1) == any(budget <= labels.items() for budget in budgets), labels


def test_the_ramp_sends_users_by_weight_to_both_policies_and_0_is_the_way_back(render: Render) -> None:
    docs = render("canary")
    (route,) = named(docs, "HTTPRoute").values()
    (rule,) = route["spec"]["rules"]
    assert {ref["name"]: ref["weight"] for ref in rule["backendRefs"]} == {
        f"{name}-predictor": weight
        for name, weight in zip(sorted(named(docs, "InferenceService")), (10, 90), strict=True)
    }
    assert route["metadata"]["annotations"]["plumbline.dev/gate-decision"].startswith("sha256:")
    gateways = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    (ingress,) = named(docs, "NetworkPolicy")["rel-plumbline-predictor"]["spec"]["ingress"]
    assert gateways in ingress["from"], "the gateway reaches the predictors"
    back = named(render("canary", "serving.canary.weight=0"), "HTTPRoute")["rel-plumbline"]["spec"]["rules"][0]
    assert [ref["weight"] for ref in back["backendRefs"]] == [100, 0]
    services = named(render("canary"), "InferenceService")
    assert services == named(render("canary", "serving.canary.weight=50"), "InferenceService"), "no pod moves"


def test_the_operator_may_do_what_it_asks_for_and_never_approve(render: Render) -> None:
    """Every request of the operator's client against the Role, so that neither knows more than the other."""
    rules = named(render("default"), "Role")["rel-plumbline-operator"]["rules"]
    may = {
        (resource, verb, tuple(rule.get("resourceNames", [])))
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    owned = {"datasetlines", "approvals", "erasurerequests", "releases", "shadowevaluations"}
    shown = {"ingestionruns", "datasetversions"}
    wanted = {(kind, verb, ()) for kind in owned | shown for verb in ("get", "list", "watch")}
    wanted |= {(f"{kind}/status", "patch", ()) for kind in owned | shown | {"passingdecisions"}}
    wanted |= {(kind, verb, ()) for kind in shown for verb in ("create", "delete")}
    wanted |= {("passingdecisions", verb, ()) for verb in ("list", "watch", "create")}
    wanted |= {("passingdecisions", verb, ("plumbline",)) for verb in ("get", "update")}
    wanted |= {("jobs", verb, ()) for verb in ("list", "watch", "create", "delete")} | {("events", "create", ())}
    wanted |= {("leases", "create", ())} | {("leases", verb, ("plumbline-operator",)) for verb in ("get", "update")}
    assert may == wanted


def test_images_are_pinned(render: Render, setup: str) -> None:
    for name, pod in every_pod(render, setup):
        for container in pod["containers"]:
            image = container.get("image", "")
            assert image == "" or "@sha256:" in image or (":" in image and not image.endswith(":latest")), name
    if setup == "gpu-pools":
        assert all("@sha256:" in c["image"] for _, pod in every_pod(render, setup) for c in pod["containers"])


def test_no_secret_is_written_down(render: Render, setup: str) -> None:
    assert not named(render(setup), "Secret")


def test_serving_is_said_to_be_standard_and_is_two_services(render: Render) -> None:
    for setup in ("cpu-everything", "gpu-serving"):
        services = named(render(setup), "InferenceService")
        assert sorted(services) == ["rel-plumbline-aligned", "rel-plumbline-reference"]
        for doc in services.values():
            assert doc["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
            assert "canary" not in doc["spec"] and "canaryTrafficPercent" not in doc["spec"]["predictor"]


def test_gpus_of_a_pool_reach_the_predictor(render: Render) -> None:
    services = named(render("gpu-serving"), "InferenceService")
    predictor = services["rel-plumbline-aligned"]["spec"]["predictor"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert predictor["nodeSelector"] == {"plumbline.dev/pool": "shadow-l4"}
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in predictor["model"]["volumeMounts"]
    assert "--disable_log_requests" in predictor["model"]["args"]


def test_karpenter_and_kueue_agree_with_the_pools(render: Render) -> None:
    docs = render("karpenter-kueue")
    pools = named(docs, "NodePool")
    assert sorted(pools) == ["rel-plumbline-serve-l4", "rel-plumbline-train-a100"]
    train = pools["rel-plumbline-train-a100"]["spec"]
    assert train["limits"] == {"nvidia.com/gpu": "32"}
    assert train["template"]["metadata"]["labels"] == {"plumbline.dev/pool": "train-a100"}
    capacity = next(r for r in train["template"]["spec"]["requirements"] if r["key"].endswith("capacity-type"))
    assert capacity["values"] == ["spot"]

    flavors = named(docs, "ResourceFlavor")
    (queue,) = named(docs, "ClusterQueue").values()
    (group,) = queue["spec"]["resourceGroups"]
    assert [flavor["name"] for flavor in group["flavors"]] == ["rel-plumbline-cpu", "rel-plumbline-train-a100"]
    assert {flavor["name"] for flavor in group["flavors"]} == set(flavors)
    for flavor in group["flavors"]:
        assert [item["name"] for item in flavor["resources"]] == group["coveredResources"]
    quotas = {item["name"]: item["nominalQuota"] for item in group["flavors"][1]["resources"]}
    assert quotas == {"cpu": "360", "memory": "3600Gi", "nvidia.com/gpu": "32"}

    (local,) = named(docs, "LocalQueue").values()
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (rayjob,) = named(docs, "RayJob").values()
    assert rayjob["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert rayjob["spec"]["suspend"] is True


@pytest.mark.parametrize("setup", SETUPS)
def test_claims_survive_an_uninstall(render: Render, setup: str) -> None:
    for claim in named(render(setup), "PersistentVolumeClaim").values():
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def commands(render: Render) -> set[tuple[Any, ...]]:
    """Every command line in every setup, without its values."""
    found: set[tuple[Any, ...]] = set()
    for setup in SETUPS:
        for _, pod in every_pod(render, setup):
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                line = [*container.get("command", []), *container.get("args", [])]
                found.add(tuple(part.split("=")[0] for part in line))
    return found


def test_manifests_call_only_the_images_entry_points(render: Render) -> None:
    """Containers without a command use the image's entry point, `plumb`; the rest name what is in the image."""
    starts = {line[0] for line in commands(render) if line}
    ours = {"collector", "review", "shadow", "stores", "smoke", "feedback"}
    assert starts <= {*ours, "plumb", "kopf", "python", "--model_name"}
