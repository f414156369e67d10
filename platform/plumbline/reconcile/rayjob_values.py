"""A RayJob's settings from the chart's values, so that what `plumb render rayjob` writes belongs to a release.

The same labels as the chart's pods: its network policies, monitors and queues select them. The same claims, account,
image, stores and deadlines, where the values name them; the chart's defaults elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from plumbline import __version__
from plumbline.errors import PlumblineError
from plumbline.reconcile.kubernetes import JobSettings
from plumbline.reconcile.rayjob import BACKFILL, NodePool, RayJobSettings, Work, labels_of

Values = Mapping[str, Any]
TENANT_KEY = "PLUMBLINE_TENANT_KEY"
ACCESS_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def pools_of(values: Values, names: Sequence[str], what: object) -> list[NodePool]:
    """The pools of these names. `what` is where the values come from, for errors."""
    consequence = "no manifest was written"
    listed = values.get("pools")
    listed = listed if isinstance(listed, list) else []
    pools = {str(pool["name"]): pool for pool in listed if isinstance(pool, dict) and "name" in pool}
    for name in names:
        if name not in pools:
            raise PlumblineError(
                f"{what} has no pool {name!r}",
                consequence=consequence,
                remedy=f"choose from {', '.join(pools)}" if pools else "add one with purpose train under `pools:`",
            )
    try:
        return [NodePool.from_values(pools[name]) for name in names]
    except (KeyError, TypeError) as error:
        raise PlumblineError(
            f"a pool in {what} is not complete: {error} is missing or of another kind",
            consequence=consequence,
            remedy="write every pool as the chart's values.yaml describes it",
        ) from error


def settings_of(values: Values, release: str, work: Work, *, config_map: str) -> RayJobSettings:
    """Settings for a release of the chart that was installed with these values."""
    full, job, mlflow = (
        fullname(values, release),
        _part(values, "training", "rayJob"),
        _part(values, "training", "mlflow"),
    )
    labels = labels_of(release)
    image, kueue, head = _part(values, "image"), _part(values, "kueue"), _part(job, "head", "resources", "requests")
    asked: dict[str, Any] = {
        name: job[key]
        for name, key in (
            ("ray_version", "rayVersion"),
            ("active_deadline_seconds", "activeDeadlineSeconds"),
            ("pre_running_deadline_seconds", "preRunningDeadlineSeconds"),
            ("ttl_seconds_after_finished", "ttlSecondsAfterFinished"),
            ("backoff_limit", "backoffLimit"),
            ("worker_start_timeout_seconds", "workerStartTimeoutSeconds"),
            ("collective_timeout_seconds", "collectiveTimeoutSeconds"),
        )
        if key in job
    }
    asked |= {name: str(head[key]) for name, key in (("head_cpu", "cpu"), ("head_memory", "memory")) if key in head}
    made = RayJobSettings(
        image=image_of(values),
        policies_claim=_text(values, "storage", "policies", "existingClaim") or f"{full}-policies",
        config_map=config_map,
        service_account=full,
        image_pull_policy=str(image.get("pullPolicy") or "IfNotPresent"),
        image_pull_secrets=tuple(image.get("pullSecrets") or ()),
        labels=labels,
        pod_labels=labels,
        queue=str(kueue.get("queueName") or "plumbline-train") if kueue.get("enabled") else None,
        priority_class=f"{full}-training" if _part(values, "priorityClasses").get("enabled") else "",
        mlflow_tracking_uri=str(mlflow.get("trackingUri") or "") if work.trains else "",
        mlflow_secret=str(mlflow.get("existingSecret") or "") if work.trains else "",
        **asked,
    )
    stores = stores_of(values, release, work)
    return replace(made, stores=stores if not work.trains or stores.ledger_secret else None)


def stores_of(values: Values, release: str, work: Work) -> JobSettings:
    """How the head reaches the ledger and the blobs. A training run reaches a ledger on a server, or none."""
    full, secret, url = (
        fullname(values, release),
        _text(values, "ledger", "existingSecret"),
        _text(values, "blobs", "url"),
    )
    on_disk = not (secret and url)
    places = (("AWS_ENDPOINT_URL", "endpoint"), ("AWS_DEFAULT_REGION", "region"))
    # As the chart has it: a ledger on a server has the tenant key in its own secret unless another secret is named.
    keyed = _text(values, "existingSecret")
    keys = tuple(key for key in values.get("secretKeys") or () if key == TENANT_KEY) if keyed else (TENANT_KEY,)
    made = JobSettings(
        image="",
        service_account="",
        ledger_secret=secret,
        ledger_key=_text(values, "ledger", "secretKey") or "url",
        secret=(keyed or secret) if work is BACKFILL else "",
        secret_keys=keys,
    )
    if work.trains:  # the policy is recorded, nothing else: no blob is read or written
        return replace(made, blobs="")
    collector = {f"app.kubernetes.io/{key}": said for key, said in _COLLECTOR.items()}
    collector["app.kubernetes.io/instance"] = release
    beside = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": collector}}
    collects = _part(values, "collector").get("enabled", True)
    return replace(
        made,
        claim=(_text(values, "storage", "data", "existingClaim") or f"{full}-data") if on_disk else "",
        blobs=url or "/data/blobs",
        blobs_secret=_text(values, "blobs", "existingSecret") if url else "",
        blobs_keys=ACCESS_KEYS if url else (),
        env={name: said for name, key in places if url and (said := _text(values, "blobs", key))},
        affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}}
        if on_disk and collects
        else None,
    )


_COLLECTOR = {"name": "plumbline", "component": "collector"}


def fullname(values: Values, release: str) -> str:
    """The prefix of a release's object names, as the chart's `plumbline.fullname` makes it."""
    given = _text(values, "fullnameOverride")
    name = _text(values, "nameOverride") or "plumbline"
    return (given or (release if name in release else f"{release}-{name}"))[:40].removesuffix("-")


def image_of(values: Values) -> str:
    image = _part(values, "image")
    repository = str(image.get("repository") or "plumbline")
    return (
        f"{repository}@{image['digest']}" if image.get("digest") else f"{repository}:{image.get('tag') or __version__}"
    )


def _part(values: Values, *path: str) -> dict[str, Any]:
    found: Any = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def _text(values: Values, *path: str) -> str:
    return str(_part(values, *path[:-1]).get(path[-1]) or "")
