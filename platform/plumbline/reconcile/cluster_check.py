"""What `plumb doctor --cluster` says about what it saw: facts and questions in, findings out, nothing else.

Levels follow what the values ask for. What they need and the cluster lacks is an error, what they do not need is a
warning, and what may not be seen is a warning that says so: a right that is missing here need not be missing there.
"""

import re
from collections.abc import Iterator

from plumbline import __version__
from plumbline.reconcile import cluster_pools
from plumbline.reconcile.approval import POLICY, guard_problem
from plumbline.reconcile.cluster_finding import Finding, Level, finding
from plumbline.reconcile.cluster_questions import (
    FORBIDDEN,
    GATEWAY,
    KARPENTER,
    KUEUE,
    MONITORING,
    RAYJOBS,
    SERVICES,
    Facts,
    Json,
    Questions,
    Right,
    routes,
)
from plumbline.reconcile.crds import definition
from plumbline.reconcile.release_guard import release_guard_problem
from plumbline.records.resources import RESOURCES

OLDEST, NEWEST = (1, 30), (1, 37)  # 1.30: ValidatingAdmissionPolicy is v1. Newest: what manifests are validated against
INSTALL_CRDS = "helm template plumbline-crds charts/plumbline-crds | kubectl apply --server-side -f -"

# Fields by which an older definition is told from one that Plumbline's manifests can be handed to.
NEEDED_FIELDS = {
    RAYJOBS: (
        "v1",
        "spec.backoffLimit",
        "spec.activeDeadlineSeconds",
        "spec.preRunningDeadlineSeconds",
        "spec.submitterConfig.backoffLimit",
        "spec.rayClusterSpec.autoscalerOptions.version",
    ),
    SERVICES: ("v1beta1", "spec.predictor.model.storageUri", "spec.predictor.model.modelFormat"),
}
# Controllers, by their images: name, the oldest release that Plumbline's manifests were checked against.
CONTROLLERS = {
    "KubeRay": (re.compile(r"kuberay/operator|/kuberay-operator"), (1, 7)),
    "KServe": (re.compile(r"kserve-controller"), (0, 20)),
    "Kueue": (re.compile(r"/kueue(-controller)?(:|@|$)"), (0, 14)),
    "Karpenter": (re.compile(r"karpenter.*/controller|/karpenter(:|@|$)"), (1, 0)),
    "Prometheus Operator": (re.compile(r"prometheus-operator(:|@|$)"), (0, 80)),
}
# What the chart plumbline-crds makes, once per cluster.
OF_THE_DEFINITIONS = {"apiextensions.k8s.io", "admissionregistration.k8s.io", "rbac.authorization.k8s.io"}
# Provisioners that give a volume to one node only, and those that give it to many.
ONE_NODE = re.compile(r"ebs\.csi|pd\.csi\.storage|disk\.csi|local-path|no-provisioner|aws-ebs|gce-pd|rbd\.csi|hostpath")
MANY_NODES = re.compile(
    r"efs\.csi|filestore|file\.csi|nfs|cephfs|lustre|glusterfs|juicefs|longhorn|netapp|weka|portworx"
)


def findings(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """All findings, in the order in which they should be mended."""
    yield from kubernetes(asked, seen)
    yield from definitions(asked, seen)
    yield from admission(asked, seen)
    yield from training_and_serving(asked, seen)
    yield from peers(asked, seen)
    yield from storage(asked, seen)
    yield from cluster_pools.gpus(seen.nodes)
    on_demand = bool(asked.values["karpenter"]["enabled"])
    yield from cluster_pools.pools(asked.values["pools"], seen.nodes, made_on_demand=on_demand)
    yield from secrets(asked, seen)
    yield from installer(asked, seen)
    yield from operator(asked, seen)
    yield from running(asked, seen)


def kubernetes(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """The API server's version, and the namespace."""
    found = version_of(seen.version)
    text = f"Kubernetes {seen.version or 'of no version'} at {seen.server}"
    if found < OLDEST:
        need = "1.30 or newer is needed: admission without a webhook (ValidatingAdmissionPolicy v1)"
        yield finding("error", "kubernetes", text, f"upgrade the cluster; {need}")
    elif found > NEWEST:
        last = ".".join(map(str, NEWEST))
        yield finding("warning", "kubernetes", f"{text} is newer than any that manifests were checked against",
                      f"nothing yet; {last} is the newest that was checked")  # fmt: skip
    else:
        yield finding("ok", "kubernetes", text)
    if seen.namespace is None:
        make = f"kubectl create namespace {asked.namespace} (or helm install --create-namespace)"
        yield finding("warning", "kubernetes", f"there is no namespace {asked.namespace}", make)


def definitions(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """Plumbline's own definitions: there, accepted, and of this version."""
    about = "definitions"
    missing, other, hidden = [], [], []
    for resource in RESOURCES:
        name, found = f"{resource.plural}.{resource.group}", seen.crds.get(f"{resource.plural}.{resource.group}")
        if found is None:
            missing.append(name)
        elif found == "hidden":
            hidden.append(name)
        elif not established(found):
            yield finding("error", about, f"{name} is not accepted by the API server", f"kubectl describe crd {name}")
        elif difference(found, definition(resource)):
            other.append(f"{name} ({difference(found, definition(resource))})")
    if missing:
        yield finding("error", about, f"not installed: {', '.join(missing)}", INSTALL_CRDS)
    if hidden:
        yield finding("warning", about, f"you may not read {', '.join(hidden)}", "ask for the right to get CRDs")
    if other:
        text = f"not those of Plumbline {__version__}: {', '.join(other)}"
        yield finding("error", about, text, f"{INSTALL_CRDS} (from the chart of this version; it keeps objects)")
    if not missing + other + hidden:
        yield finding("ok", about, f"all {len(RESOURCES)} definitions are those of Plumbline {__version__}")


def admission(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """The admission policies that approvals and releases rest on, and their bindings: there, and not weaker."""
    for name, (policy, binding) in seen.guards.items():
        if isinstance(policy, str) or isinstance(binding, str):
            yield finding("warning", "admission", f"you may not read the admission policy {name}",
                          "ask somebody who may: without it the operator records and releases nothing")  # fmt: skip
            continue
        problem = guard_problem(policy, binding) if name == POLICY else release_guard_problem(name, policy, binding)
        said = problem or f"the policy {name} and its binding are in force"
        yield finding("error" if problem else "ok", "admission", said, INSTALL_CRDS)


def training_and_serving(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """KubeRay and KServe: definitions with the fields that manifests use, and controllers that act on them."""
    values = asked.values
    trains = values["training"]["rayJob"]["enabled"] or any(_purpose(pool) == "train" for pool in values["pools"])
    for about, crd, needed, remedy in (
        ("KubeRay", RAYJOBS, trains, "install the KubeRay operator 1.7 or newer (its chart, and its CRDs server-side)"),
        ("KServe", SERVICES, values["serving"]["enabled"], "install KServe 0.20 or newer, in Standard mode"),
    ):
        found = seen.crds.get(crd)
        purpose = "training" if about == "KubeRay" else "serving"
        if found is None:
            level: Level = "error" if needed else "warning"
            yield finding(level, about, f"{crd} is not installed; {purpose} needs it", remedy)
            continue
        if found == "hidden":
            yield finding("warning", about, f"you may not read {crd}", "ask for the right to get CRDs")
            continue
        lacking = lacking_fields(found, *NEEDED_FIELDS[crd])
        if lacking:
            text = f"{crd} is too old: it does not know {', '.join(lacking)}"
            yield finding("error" if needed else "warning", about, text, remedy)
            continue
        yield from _controller(about, seen, bool(needed), remedy, f"{crd} has every field that is used")


def peers(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """What values may ask for beside those: Kueue, Karpenter, the Prometheus Operator, a Gateway."""
    values = asked.values
    if values["kueue"]["enabled"]:
        version = str(values["kueue"]["apiVersion"])
        served = seen.groups.get(KUEUE, frozenset())
        if version in served:
            yield from _controller("Kueue", seen, True, "install Kueue's controller", f"{KUEUE}/{version} is served")
        else:
            other = f"set kueue.apiVersion to one of {', '.join(sorted(served))}" if served else "install Kueue"
            yield finding("error", "Kueue", f"{KUEUE}/{version} is not served", f"{other}, or leave kueue.enabled off")
    if values["karpenter"]["enabled"]:
        yield from _karpenter(asked, seen)
    monitoring = values["monitoring"]
    if monitoring["serviceMonitor"]["enabled"] or monitoring["prometheusRule"]["enabled"]:
        if "v1" in seen.groups.get(MONITORING, frozenset()):
            said = f"{MONITORING}/v1 is served"
            yield from _controller("Prometheus Operator", seen, True, "install the Prometheus Operator", said)
        else:
            off = "install the Prometheus Operator, or leave monitoring.*.enabled off: a plain Prometheus works too"
            yield finding("error", "Prometheus Operator", f"{MONITORING}/v1 is not served", off)
    if routes(values):
        there = "v1" in seen.groups.get(GATEWAY, frozenset())
        said = f"{GATEWAY}/v1 is {'' if there else 'not '}served"
        yield finding("ok" if there else "error", "Gateway API", said, "install the Gateway API's CRDs and a gateway")


def storage(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """Claims that are there must be usable; for those that are not, a class must be."""
    values = asked.values["storage"]
    for which, name in asked.claims.items():
        claim = seen.claims.get(name)
        wanted = [str(mode) for mode in values[which]["accessModes"]]
        if isinstance(claim, dict):
            yield _claim(which, name, claim, wanted)
        elif claim == "hidden":
            yield finding("warning", "storage", f"you may not read the claim {name}", "ask for the right to get claims")
        elif values[which]["existingClaim"]:
            make = f"make it, or leave storage.{which}.existingClaim empty so that the chart does"
            yield finding("error", "storage", f"there is no claim {name} for the {which} volume", make)
        else:
            yield from _class(f"{which} volume", str(values[which]["storageClassName"]), wanted, seen)
    if asked.values["shadow"]["enabled"]:
        named = str(asked.values["shadow"]["spool"]["storageClassName"])
        yield from _class("shadow's spool", named, ["ReadWriteOnce"], seen)


def secrets(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """Secrets that values name. Only that they are there is looked at, never what they hold."""
    for name, what in asked.secrets.items():
        found = seen.secrets.get(name)
        if found == "hidden":
            yield finding("warning", "secrets", f"you may not see whether the secret {name} is there", f"it is {what}")
        elif found is None:
            make = f"kubectl --namespace {asked.namespace} create secret generic {name} --from-file=..."
            yield finding("error", "secrets", f"there is no secret {name}: {what}", make)
        else:
            yield finding("ok", "secrets", f"secret {name}: {what}; its keys were not read")


def installer(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """What whoever asks may do, of what installing takes."""
    denied = [right for right in asked.rights if not seen.may.get(right, False)]
    here = [right for right in denied if not right.cluster]
    once = [right for right in denied if right.cluster and right.group in OF_THE_DEFINITIONS]
    everywhere = [right for right in denied if right.cluster and right.group not in OF_THE_DEFINITIONS]
    installed = all(isinstance(seen.crds.get(f"{item.plural}.{item.group}"), dict) for item in RESOURCES)
    if here:
        text = f"in namespace {asked.namespace} you may not {_listed(here)}"
        yield finding("error", "permissions", text, "ask for the role `admin` of the namespace, or for these verbs")
    if everywhere:
        text = f"in the whole cluster you may not {_listed(everywhere)}"
        yield finding("error", "permissions", text, "have an administrator install, or leave off what takes them")
    if once:
        text = f"in the whole cluster you may not {_listed(once)}"
        remedy = "nothing now; an administrator upgrades plumbline-crds, which somebody installed already"
        level: Level = "warning" if installed else "error"
        yield finding(level, "permissions", text, remedy if installed else f"have an administrator run: {INSTALL_CRDS}")
    if not denied:
        yield finding("ok", "permissions", f"you may do all that installing takes ({len(asked.rights)} rights)")


def operator(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """What the operator's account may do: all of the chart's Role, and nothing that undoes four eyes."""
    account = asked.operator_account
    if not account or seen.operator is None or seen.operator == "hidden":
        return  # not installed yet, or not to be
    if seen.operator_may is None:
        ask = "ask somebody who may create subjectaccessreviews"
        yield finding("warning", "permissions", f"you may not ask what the account {account} may do", ask)
        return
    lacking = [right for right in asked.operator_rights if not seen.operator_may.get(right, False)]
    beyond = [right for right in FORBIDDEN if seen.operator_may.get(right, False)]
    if lacking:
        text = f"the operator's account {account} may not {_listed(lacking)}"
        yield finding("error", "permissions", text, "helm upgrade: its Role is not the one of this version's chart")
    if beyond:
        text = f"the operator's account {account} may {_listed(beyond)}, which the chart does not give it"
        yield finding("error", "permissions", text, "find the binding (`kubectl get rolebindings -o wide`), remove it")
    if not lacking + beyond:
        yield finding("ok", "permissions", f"the account {account} may do what the chart's Role says, and no more")


def running(asked: Questions, seen: Facts) -> Iterator[Finding]:
    """Plumbline's own Deployments in the namespace, if there are any."""
    for item in seen.deployments or ():
        labels = item["metadata"].get("labels", {})
        ours = labels.get("app.kubernetes.io/name") == "plumbline" and item["metadata"]["namespace"] == asked.namespace
        if not ours or labels.get("app.kubernetes.io/instance") != asked.release:
            continue
        name, version = item["metadata"]["name"], labels.get("app.kubernetes.io/version", "")
        ready, want = item.get("status", {}).get("readyReplicas", 0), item["spec"].get("replicas", 1)
        text = f"{name} {version}: {ready} of {want} ready"
        look = f"kubectl --namespace {asked.namespace} describe deployment {name}; then its pods and their logs"
        yield finding("ok" if ready >= want else "error", "running", text, look)
        if version != __version__:
            remedy = "helm upgrade with the chart of this version, or use the `plumb` of that one"
            yield finding(
                "warning", "running", f"{name} is {version or 'of no version'}, this is {__version__}", remedy
            )


# --- one thing each -------------------------------------------------------------------------------------------


def version_of(text: str) -> tuple[int, int]:
    """Major and minor of `v1.36.2-eks-3`, `registry.example/kuberay/operator:v1.7.0`, `1.30+`; (0, 0) for none."""
    found = re.search(r"(?:^|[:v])v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def established(crd: Json) -> bool:
    conditions = crd.get("status", {}).get("conditions", [])
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def difference(installed: Json, ours: Json) -> str:
    """In what an installed definition differs from this version's; empty if in nothing that matters."""
    (mine,) = ours["spec"]["versions"]
    found = [item for item in installed["spec"]["versions"] if item["name"] == mine["name"]]
    if not found or not found[0]["served"] or not found[0]["storage"]:
        return f"{mine['name']} is not what it serves and stores"
    old = set(installed.get("status", {}).get("storedVersions", [])) - {mine["name"]}
    if old:
        return f"objects are stored as {', '.join(sorted(old))}"
    for part, name in (("schema", "schema"), ("subresources", "subresources"), ("additionalPrinterColumns", "columns")):
        if found[0].get(part) != mine[part]:
            return f"another {name}"
    return "" if installed["spec"]["names"] == ours["spec"]["names"] else "other names"


def lacking_fields(crd: Json, version: str, *paths: str) -> list[str]:
    """Which of these fields a definition's version does not know. Lists are walked through."""
    served = [item for item in crd["spec"]["versions"] if item["name"] == version and item["served"]]
    if not served:
        return [version]
    whole = served[0].get("schema", {}).get("openAPIV3Schema", {})
    return [path for path in paths if not _knows(whole, path.split("."))]


def _knows(schema: Json, path: list[str]) -> bool:
    if not path or schema.get("x-kubernetes-preserve-unknown-fields"):
        return True
    inner = schema.get("items", schema).get("properties", {}).get(path[0])
    return inner is not None and _knows(inner, path[1:])


def _controller(about: str, seen: Facts, needed: bool, remedy: str, said: str) -> Iterator[Finding]:
    """The Deployment that acts on a peer's objects: there, ready, and not older than what was checked."""
    pattern, oldest = CONTROLLERS[about]
    if seen.deployments is None:
        look = "ask for the right to list deployments in all namespaces"
        yield finding("warning", about, f"{said}; its version is not seen: you may not list deployments", look)
        return
    for item in seen.deployments:
        for container in item["spec"]["template"]["spec"]["containers"]:
            if not pattern.search(container["image"]):
                continue
            space, name = item["metadata"]["namespace"], item["metadata"]["name"]
            where = f"{space}/{name}"
            version = version_of(container["image"])
            if not item.get("status", {}).get("readyReplicas"):
                look = f"kubectl --namespace {space} describe deployment {name}"
                yield finding("error" if needed else "warning", about, f"{said}; {where} is not ready", look)
            elif version == (0, 0):
                yield finding("ok", about, f"{said}; {where} runs {container['image']}")
            elif version < oldest:
                text = f"{where} is {_dotted(version)}, older than {_dotted(oldest)}, which manifests were checked with"
                yield finding("warning", about, text, remedy)
            else:
                yield finding("ok", about, f"{said}; {where} is {_dotted(version)}")
            return
    text = f"{said}; no Deployment that acts on its objects was found"
    yield finding("warning", about, text, f"{remedy}, unless a service outside the cluster does it")


def _karpenter(asked: Questions, seen: Facts) -> Iterator[Finding]:
    if "v1" not in seen.groups.get(KARPENTER, frozenset()):
        off = "install Karpenter 1.0 or newer, or leave karpenter.enabled off"
        yield finding("error", "Karpenter", f"{KARPENTER}/v1 is not served", off)
        return
    yield from _controller("Karpenter", seen, True, "install Karpenter's controller", f"{KARPENTER}/v1 is served")
    group, kind, name = asked.node_class or ("", "", "")
    if seen.node_class is None:
        text = f"there is no {kind} {name} ({group}), which karpenter.nodeClassRef names"
        yield finding("error", "Karpenter", text, "make it as your provider describes, or name another")
    elif seen.node_class == "hidden":
        yield finding("warning", "Karpenter", f"you may not read {kind} {name}", "ask somebody who may")


def _claim(which: str, name: str, claim: Json, wanted: list[str]) -> Finding:
    phase, modes = claim.get("status", {}).get("phase", "Pending"), claim["spec"].get("accessModes", [])
    text = f"{which} volume: claim {name} is {phase}, {', '.join(modes)}"
    lacking = [mode for mode in wanted if mode not in modes]
    if lacking:
        remedy = f"a claim's modes cannot be changed: make another and name it in storage.{which}.existingClaim"
        return finding("error", "storage", f"{text}; the values ask for {', '.join(lacking)}", remedy)
    if phase == "Bound":
        return finding("ok", "storage", text)
    look = f"kubectl describe pvc {name}: it is bound when the first pod comes, or its class cannot make it"
    return finding("warning" if phase == "Pending" else "error", "storage", text, look)


def _class(what: str, named: str, wanted: list[str], seen: Facts) -> Iterator[Finding]:
    if seen.storage_classes is None:
        yield finding("warning", "storage", "you may not list storage classes", "ask for that right")
        return
    classes = {item["metadata"]["name"]: item for item in seen.storage_classes}
    defaults = [name for name, item in classes.items() if _is_default(item)]
    name = named or (defaults[0] if defaults else "")
    many = "ReadWriteMany" in wanted
    if name not in classes:
        fact = f"there is no storage class {named}" if named else "no storage class is the default"
        there = f"one of {', '.join(sorted(classes))}" if classes else "install a storage provisioner"
        yield finding("error", "storage", f"{what}: {fact}", f"set its storageClassName: {there}")
        return
    provisioner = str(classes[name].get("provisioner", ""))
    text = f"{what}: class {name} ({provisioner}), {', '.join(wanted)}"
    if not named and len(defaults) > 1:
        both = ", ".join(sorted(defaults))
        yield finding("warning", "storage", f"{what}: {both} are all the default", "set its storageClassName")
    elif many and ONE_NODE.search(provisioner):
        remedy = "set storageClassName to a class with ReadWriteMany (a file system, not a disk); with one node at most"
        yield finding("error", "storage", f"{text}: it gives a volume to one node",
                      f"{remedy}, accessModes: [ReadWriteOnce]")  # fmt: skip
    elif many and not MANY_NODES.search(provisioner):
        remedy = "look whether it offers ReadWriteMany: a StorageClass does not say"
        yield finding("warning", "storage", f"{text}: whether it gives a volume to several nodes is not known", remedy)
    else:
        yield finding("ok", "storage", text)


def _is_default(storage_class: Json) -> bool:
    marks = storage_class["metadata"].get("annotations", {})
    return bool(marks.get("storageclass.kubernetes.io/is-default-class") == "true")


def _purpose(pool: object) -> str:
    return str(pool.get("purpose", "")) if isinstance(pool, dict) else ""


def _listed(rights: list[Right]) -> str:
    """Verbs of one resource together: `create, patch roles.rbac.authorization.k8s.io`."""
    by_resource: dict[str, list[str]] = {}
    for right in rights:
        by_resource.setdefault(str(right).split(" ", 1)[1], []).append(right.verb)
    return "; ".join(f"{', '.join(verbs)} {resource}" for resource, verbs in by_resource.items())


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
