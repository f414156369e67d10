"""What `plumb doctor --cluster` asks a cluster, and what it got to hear: plain values, no network here.

What is asked follows from the chart's values: somebody who serves nothing needs no KServe. Asking (`cluster_look`) and
judging (`cluster_check`) are apart, so that every judgement is a table in a test.

A Secret is asked for by name, as metadata alone: its values never leave the API server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from plumbline.errors import PlumblineError
from plumbline.reconcile.approval import POLICY
from plumbline.reconcile.release_guard import DECISIONS, RELEASES
from plumbline.records.resources import RESOURCES

Json = dict[str, Any]
Hidden = Literal["hidden"]  # the API server says 403: it may be there
Seen = Json | Hidden | None  # None: it is not there
RAY, SERVING, MONITORING, KUEUE, KARPENTER, GATEWAY = (
    "ray.io",
    "serving.kserve.io",
    "monitoring.coreos.com",
    "kueue.x-k8s.io",
    "karpenter.sh",
    "gateway.networking.k8s.io",
)
RAYJOBS, SERVICES = f"rayjobs.{RAY}", f"inferenceservices.{SERVING}"
GUARDS = (POLICY, RELEASES, DECISIONS)

# The chart's defaults, as far as they are looked at; a test holds them equal to values.yaml.
DEFAULTS: Json = {
    "nameOverride": "",
    "fullnameOverride": "",
    "image": {"pullSecrets": []},
    "existingSecret": "",
    "ledger": {"existingSecret": ""},
    "blobs": {"url": "", "existingSecret": ""},
    "storage": {
        "data": {"existingClaim": "", "storageClassName": "", "accessModes": ["ReadWriteOnce"]},
        "policies": {"existingClaim": "", "storageClassName": "", "accessModes": ["ReadWriteMany"]},
    },
    "pools": [],
    "training": {"rayJob": {"enabled": False}, "mlflow": {"existingSecret": ""}},
    "serving": {"enabled": False, "canary": {"enabled": False}},
    "shadow": {"enabled": False, "spool": {"storageClassName": ""}},
    "collector": {"enabled": True, "sourcesSecret": "plumbline-sources"},
    "review": {"enabled": False, "gateway": {"name": ""}},
    "toolbox": {"enabled": False},
    "operator": {"enabled": True},
    "migrations": {"enabled": True},
    "checks": {"startup": {"enabled": True}},
    "retention": {"enabled": False},
    "networkPolicy": {"enabled": True},
    "priorityClasses": {"enabled": False},
    "monitoring": {"serviceMonitor": {"enabled": False}, "prometheusRule": {"enabled": False}},
    "karpenter": {
        "enabled": False,
        "nodeClassRef": {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "default"},
    },
    "kueue": {"enabled": False, "apiVersion": "v1beta2"},
}


class Right(NamedTuple):
    """To do `verb` to `resource` of `group`; `cluster`: everywhere, instead of in the namespace."""

    verb: str
    group: str
    resource: str
    cluster: bool = False
    subresource: str = ""

    def __str__(self) -> str:
        whole = "/".join(part for part in (self.resource, self.subresource) if part)
        return f"{self.verb} {whole}" + (f".{self.group}" if self.group else "")


@dataclass(frozen=True)
class Questions:
    """What to look for. `release` and `namespace` are where the chart is, or will be, installed."""

    namespace: str
    release: str
    values: Json
    crds: tuple[str, ...]
    secrets: Mapping[str, str]
    claims: Mapping[str, str]
    rights: tuple[Right, ...]
    operator_account: str
    operator_rights: tuple[Right, ...]
    node_class: tuple[str, str, str] | None


@dataclass(frozen=True)
class Facts:
    """What a cluster answered. A tuple that could not be listed is None."""

    server: str
    version: str
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    namespace: Seen = None
    crds: Mapping[str, Seen] = field(default_factory=dict)
    deployments: Sequence[Json] | None = None
    storage_classes: Sequence[Json] | None = None
    nodes: Sequence[Json] | None = None
    claims: Mapping[str, Seen] = field(default_factory=dict)
    secrets: Mapping[str, Seen] = field(default_factory=dict)
    guards: Mapping[str, tuple[Seen, Seen]] = field(default_factory=dict)
    node_class: Seen = None
    may: Mapping[Right, bool] = field(default_factory=dict)
    operator: Seen = None  # its service account
    operator_may: Mapping[Right, bool] | None = None  # None: who asks may not ask that


def questions(given: Json, *, namespace: str, release: str) -> Questions:
    """What to ask about a release of the chart with these values (those of files, over the chart's defaults)."""
    values = merged(DEFAULTS, given)
    prefix = fullname(values, release)
    return Questions(
        namespace=namespace,
        release=release,
        values=values,
        crds=(RAYJOBS, SERVICES, *(f"{item.plural}.{item.group}" for item in RESOURCES)),
        secrets=_secrets(values),
        claims=_claims(values, prefix),
        rights=tuple(_installing(values)),
        operator_account=f"{prefix}-operator" if values["operator"]["enabled"] else "",
        operator_rights=tuple(_operating()) if values["operator"]["enabled"] else (),
        node_class=_node_class(values) if values["karpenter"]["enabled"] else None,
    )


def merged(base: Json, over: Json) -> Json:
    """`over` laid upon `base` as helm does: maps are merged, anything else replaces; a null asks for the default."""
    found = dict(base)
    for key, value in over.items():
        if value is None and key in found:
            continue
        before = found.get(key)
        if before is not None and type(before) is not type(value):
            raise PlumblineError(
                f"the value {key!r} is a {type(value).__name__}, and the chart takes a {type(before).__name__}",
                consequence="the cluster was not looked at: the chart would not install with these values",
                remedy="correct the values file; `helm lint` names every such mistake",
            )
        found[key] = merged(before, value) if isinstance(before, dict) else value
    return found


def fullname(values: Json, release: str) -> str:
    """The prefix of object names, as the chart's `plumbline.fullname` makes it."""
    name = values["nameOverride"] or "plumbline"
    whole = values["fullnameOverride"] or (release if name in release else f"{release}-{name}")
    return str(whole)[:40].removesuffix("-")


def needs_data_volume(values: Json) -> bool:
    return not (values["ledger"]["existingSecret"] and values["blobs"]["url"])


def routes(values: Json) -> bool:
    """Whether the chart makes an HTTPRoute."""
    review = values["review"]
    return bool(values["serving"]["canary"]["enabled"] or (review["enabled"] and review["gateway"]["name"]))


def _secrets(values: Json) -> dict[str, str]:
    """Name -> who waits for it."""
    named = {
        values["collector"]["sourcesSecret"]: "who may post events (collector.sourcesSecret)"
        if values["collector"]["enabled"]
        else "",
        values["ledger"]["existingSecret"]: "the ledger's URL and, unless existingSecret is set, the tenant key",
        values["existingSecret"]: "the tenant key and the like (existingSecret)",
        values["blobs"]["existingSecret"]: "the blobs' credentials (blobs.existingSecret)",
        values["training"]["mlflow"]["existingSecret"]: "MLflow's credentials (training.mlflow.existingSecret)",
        **{str(name): "pulling images (image.pullSecrets)" for name in values["image"]["pullSecrets"]},
    }
    return {str(name): what for name, what in named.items() if name and what}


def _claims(values: Json, prefix: str) -> dict[str, str]:
    """Which volume -> the claim's name."""
    storage = values["storage"]
    found = {name: str(storage[name]["existingClaim"] or f"{prefix}-{name}") for name in ("data", "policies")}
    if not needs_data_volume(values):
        del found["data"]
    return found


def _node_class(values: Json) -> tuple[str, str, str]:
    named = values["karpenter"]["nodeClassRef"]
    return str(named["group"]), str(named["kind"]), str(named["name"])


def _installing(values: Json) -> list[Right]:
    """What whoever runs `helm install` must be allowed to do, by what the values ask for."""
    monitoring = values["monitoring"]
    kinds: list[tuple[str, str, bool, bool]] = [  # group, resource, of the whole cluster, asked for
        ("apiextensions.k8s.io", "customresourcedefinitions", True, True),
        ("admissionregistration.k8s.io", "validatingadmissionpolicies", True, True),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", True, True),
        ("rbac.authorization.k8s.io", "clusterroles", True, True),
        ("rbac.authorization.k8s.io", "clusterrolebindings", True, True),
        ("", "secrets", False, True),  # helm keeps its releases in them
        ("", "configmaps", False, True),
        ("", "services", False, True),
        ("", "serviceaccounts", False, True),
        ("", "persistentvolumeclaims", False, True),
        ("", "pods", False, True),
        ("apps", "deployments", False, True),
        ("apps", "statefulsets", False, values["shadow"]["enabled"]),
        ("batch", "jobs", False, values["migrations"]["enabled"] or values["checks"]["startup"]["enabled"]),
        ("batch", "cronjobs", False, values["retention"]["enabled"]),
        ("policy", "poddisruptionbudgets", False, True),
        ("networking.k8s.io", "networkpolicies", False, values["networkPolicy"]["enabled"]),
        ("rbac.authorization.k8s.io", "roles", False, values["operator"]["enabled"]),
        ("rbac.authorization.k8s.io", "rolebindings", False, values["operator"]["enabled"]),
        (RAY, "rayjobs", False, values["training"]["rayJob"]["enabled"]),
        (SERVING, "inferenceservices", False, values["serving"]["enabled"]),
        (GATEWAY, "httproutes", False, routes(values)),
        ("scheduling.k8s.io", "priorityclasses", True, values["priorityClasses"]["enabled"]),
        (MONITORING, "servicemonitors", False, monitoring["serviceMonitor"]["enabled"]),
        (MONITORING, "podmonitors", False, monitoring["serviceMonitor"]["enabled"]),
        (MONITORING, "prometheusrules", False, monitoring["prometheusRule"]["enabled"]),
        (KARPENTER, "nodepools", True, values["karpenter"]["enabled"]),
        (KUEUE, "resourceflavors", True, values["kueue"]["enabled"]),
        (KUEUE, "clusterqueues", True, values["kueue"]["enabled"]),
        (KUEUE, "localqueues", False, values["kueue"]["enabled"]),
    ]
    return [
        Right(verb, group, name, cluster)
        for group, name, cluster, asked in kinds
        if asked
        for verb in ("create", "patch")
    ]


def _operating() -> list[Right]:
    """What the operator's account must be allowed to do; the chart's Role, as single questions."""
    group = RESOURCES[0].group
    watched = [item.plural for item in RESOURCES]
    own = ("ingestionruns", "datasetversions", "passingdecisions")
    return [
        *(Right(verb, group, plural) for plural in watched for verb in ("list", "watch")),
        *(Right("patch", group, plural, subresource="status") for plural in watched),
        *(Right("create", group, plural) for plural in own),
        *(Right(verb, "batch", "jobs") for verb in ("list", "watch", "create", "delete")),
        Right("create", "coordination.k8s.io", "leases"),
        Right("create", "", "events"),
    ]


# What the operator's account must not be able to do: a Role that grants it is another than the chart's.
FORBIDDEN = (
    Right("get", "", "secrets"),
    Right("create", "plumbline.dev", "approvals"),
    Right("create", "", "pods", subresource="exec"),
)
