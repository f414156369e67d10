"""Who goes first when nodes are full: users above shadow above training, in every pod, and in the queue."""

from collections.abc import Callable
from typing import Any

import pytest
from chart_tools import CHART, KUBERNETES, SETUPS, Doc, pods

Render = Callable[..., list[Doc]]
ON = "priorityClasses.enabled=true"


def classes(render: Render, setup: str, *sets: str) -> dict[str, Doc]:
    docs = render(setup, *sets)
    return {doc["metadata"]["name"]: doc for doc in docs if doc["kind"] == "PriorityClass"}


def test_users_come_before_shadow_before_training_and_training_takes_nobodys_place(render: Render) -> None:
    found = classes(render, "cpu-everything", ON)
    users, shadow, training = (found[f"rel-plumbline-{name}"] for name in ("users", "shadow", "training"))
    assert users["value"] > shadow["value"] > training["value"] > 0
    assert training["preemptionPolicy"] == "Never" and users["preemptionPolicy"] == "PreemptLowerPriority"
    assert not any(doc["globalDefault"] for doc in found.values())


def test_every_pod_is_in_the_class_of_what_it_does(render: Render) -> None:
    said: dict[str, Any] = {}
    for doc in render("cpu-everything", ON):
        for name, pod in pods(doc):
            said[name.replace("rel-plumbline-", "")] = (pod.get("priorityClassName") or "").replace(
                "rel-plumbline-", ""
            )
    wanted = {"collector": "users", "router": "users", "reference": "users", "aligned": "shadow"}
    for part, priority in wanted.items():
        (found,) = [given for name, given in said.items() if name.endswith(f"/{part}")]
        assert found == priority, part
    runs = {given for name, given in said.items() if name.startswith("RayJob/")}
    assert runs == {"training"}
    served = render("cpu-everything", ON, "shadow.mode=ab")
    aligned = next(doc for doc in served if doc["metadata"]["name"] == "rel-plumbline-aligned")
    assert aligned["spec"]["predictor"]["priorityClassName"] == "rel-plumbline-users", "it answers users in mode ab"


@pytest.mark.parametrize("setup", [name for name in SETUPS if name != "karpenter-kueue"])
def test_unless_asked_for_no_pod_names_a_class_and_nothing_is_cluster_scoped_for_it(render: Render, setup: str) -> None:
    assert not classes(render, setup)
    assert not any("priorityClassName" in pod for doc in render(setup) for _, pod in pods(doc))


def test_an_order_that_would_give_users_nodes_to_an_experiment_is_refused(helm: Callable[..., Any]) -> None:
    for wrong in ("users=5", "training=200000"):
        done = helm("template", "rel", str(CHART), "--kube-version", KUBERNETES, "--set", ON, "--set",
                    f"priorityClasses.{wrong}")  # fmt: skip
        assert done.returncode != 0 and "users must be above shadow" in done.stderr


def test_the_queue_lends_to_its_cohort_and_takes_back(render: Render) -> None:
    for version, field in (("v1beta2", "cohortName"), ("v1beta1", "cohort")):
        docs = render("karpenter-kueue", f"kueue.apiVersion={version}")
        (queue,) = [doc for doc in docs if doc["kind"] == "ClusterQueue"]
        assert queue["spec"][field] == "research"
        assert queue["spec"]["preemption"] == {"withinClusterQueue": "LowerPriority", "reclaimWithinCohort": "Any"}
