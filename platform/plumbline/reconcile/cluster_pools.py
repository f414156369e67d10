"""Whether a cluster's nodes carry the GPU pools that a values file names, and if not, what is in the way.

Pure: pools and nodes in, findings out. A node carries a pool when it has the pool's labels, is ready and schedulable,
has no taint that the pool does not tolerate, and could hold one of the pool's pods if it were empty. What runs there
already is not subtracted: a node that is busy is waited for, a node that is too small is not.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from plumbline.reconcile.cluster_finding import Finding, Level, finding

Json = dict[str, Any]
ABOUT = "node pools"
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18} | {
    f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)
}


def amount(quantity: object) -> float:
    """A Kubernetes quantity (`500m`, `90`, `900Gi`, `1e3`) as a number. ValueError for anything else."""
    text = str(quantity).strip()
    digits = text.rstrip("".join(UNITS))
    if text[len(digits) :] in UNITS:
        return float(digits) * UNITS[text[len(digits) :]]
    return float(text)  # an exponent: 1e3, 12E2


def gpus(nodes: Sequence[Json] | None) -> Iterator[Finding]:
    """All GPUs, whatever their vendor calls them."""
    if nodes is None:
        yield finding("warning", ABOUT, "you may not list nodes", "ask for the right to list nodes, or ask who has it")
        return
    counts: dict[str, int] = {}
    for node in nodes:
        for name, value in node.get("status", {}).get("allocatable", {}).items():
            if name.endswith("/gpu") and amount(value):
                counts[name] = counts.get(name, 0) + int(amount(value))
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    ready = sum(_why_not_up(node) == "" for node in nodes)
    text = f"{ready} of {len(nodes)} nodes ready, {told or 'no GPU'} allocatable"
    remedy = "" if counts else "CPU serving and training only; where nodes have GPUs, install their device plugin"
    yield finding("ok" if ready and counts else "warning" if ready else "error", ABOUT, text, remedy)


def pools(wanted: Sequence[Json], nodes: Sequence[Json] | None, *, made_on_demand: bool) -> Iterator[Finding]:
    """One finding per pool. `made_on_demand`: Karpenter makes nodes of GPU pools, so none of those need be there."""
    for pool in wanted if nodes is not None else ():
        try:
            yield _pool(pool, nodes or (), made_on_demand)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"a pool of the values is not complete: {type(error).__name__} {error}"
            yield finding("error", ABOUT, text, "write every pool as the chart's values.yaml describes it")


def _pool(pool: Json, nodes: Sequence[Json], made_on_demand: bool) -> Finding:
    name, count = str(pool["name"]), int(pool["count"])
    selector = pool.get("selector") or {"plumbline.dev/pool": name}
    resource = pool.get("gpuResource") or "nvidia.com/gpu"
    needs = {"cpu": amount(pool["resources"]["cpu"]), "memory": amount(pool["resources"]["memory"])}
    needs |= {resource: float(pool["gpusPerNode"])} if int(pool["gpusPerNode"]) else {}
    labels = ",".join(f"{key}={value}" for key, value in selector.items())

    chosen = [node for node in nodes if selector.items() <= node["metadata"].get("labels", {}).items()]
    reasons = {node["metadata"]["name"]: _why_not(node, needs, pool.get("tolerations") or ()) for node in chosen}
    fit = [node for node, reason in reasons.items() if not reason]
    said = f"pool {name} ({pool['purpose']}): {len(fit)} of {count} nodes can take it"
    if len(fit) >= count:
        return finding("ok", ABOUT, said)
    refused = [(node, reason) for node, reason in reasons.items() if reason]
    if refused:
        node, reason = refused[0]
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        return finding("error", ABOUT, f"{said}; {node} {reason}{more}", _REMEDIES[reason.split()[0]].format(name=name))
    if made_on_demand and int(pool["gpusPerNode"]):  # the chart makes no NodePool of others
        return finding("ok", ABOUT, f"{said}; Karpenter makes the others when they are asked for")
    remedy = f"label the nodes {labels}, correct pools[].selector, or let an autoscaler make nodes with these labels"
    level: Level = "warning" if pool.get("minCount") == 0 or fit else "error"
    return finding(level, ABOUT, f"{said}; no more nodes are labelled {labels}", remedy)


_REMEDIES = {
    "is": "make the node ready (`kubectl describe node`), or uncordon it",
    "has": "add the taint to tolerations of pool {name} in the values",
    "offers": "ask for less in resources or gpusPerNode of pool {name}, or name larger nodes;"
    " where a GPU is missing, install its device plugin",
}


def _why_not(node: Json, needs: dict[str, float], tolerations: Sequence[Json]) -> str:
    """Why a labelled node takes none of the pool's pods; empty if it can. The first word finds the remedy."""
    down = _why_not_up(node)
    if down:
        return down
    for taint in node.get("spec", {}).get("taints", []):
        if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(item, taint) for item in tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"has the taint {taint['key']}{value}:{taint['effect']}, which it does not tolerate"
    offered = node.get("status", {}).get("allocatable", {})
    for name, least in needs.items():
        if amount(offered.get(name, 0)) < least:
            return f"offers {offered.get(name, 0)} {name}, and one of its pods asks for {_written(least)}"
    return ""


def _why_not_up(node: Json) -> str:
    if node.get("spec", {}).get("unschedulable"):
        return "is cordoned"
    ready = [item for item in node.get("status", {}).get("conditions", []) if item["type"] == "Ready"]
    return "" if ready and ready[0]["status"] == "True" else "is not ready"


def _tolerates(toleration: Json, taint: Json) -> bool:
    """As the scheduler compares them: an empty key with Exists tolerates all, an empty effect every effect."""
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return toleration.get("key") == taint["key"] and (toleration.get("value") or "") == (taint.get("value") or "")


def _written(number: float) -> str:
    return f"{number / 2**30:.4g}Gi" if number >= 2**30 else f"{number:g}"
