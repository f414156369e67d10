"""Values: every one is commented and in the schema, and the schema refuses any other."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
import yaml
from chart_tools import CHART, CHARTS, KUBERNETES

Helm = Callable[..., "subprocess.CompletedProcess[str]"]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of values that a user sets; maps that are values themselves (resources, labels) count as one."""
    if isinstance(value, dict) and value and not "".join(path[-1:]).lower().endswith(("resources", "labels")):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_every_value_has_a_comment() -> None:
    text = (CHART / "values.yaml").read_text().splitlines()
    commented: set[tuple[str, ...]] = set()
    stack: list[str] = []
    for number, line in enumerate(text):
        stripped = line.strip()
        if not stripped or stripped.startswith(("#", "- ")) or ":" not in stripped:
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], stripped.split(":")[0]]
        if text[number - 1].strip().startswith("#"):
            commented.add(tuple(stack))
    values = yaml.safe_load("\n".join(text))
    missing = [".".join(path) for path in leaves(values) if path not in commented]
    assert missing == []


def test_the_schema_is_closed_everywhere() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)

    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("type") == "object":
                assert schema.get("additionalProperties") is False, f"{path} takes unknown keys"
            for key, inner in schema.items():
                walk(inner, f"{path}/{key}")

    walk(SCHEMA, "")


def test_the_schema_knows_every_value() -> None:
    def walk(values: Any, schema: Any, path: str) -> None:
        while "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
        if isinstance(values, dict) and "properties" in schema:
            for key, inner in values.items():
                assert key in schema["properties"], f"{path}.{key} is not in the schema"
                walk(inner, schema["properties"][key], f"{path}.{key}")
            unknown = set(schema["properties"]) - set(values) - {"global"}
            assert not unknown or path == "", f"{path}: in the schema but not among the values: {unknown}"

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA, "")


@pytest.mark.parametrize(
    "wrong",
    [
        "collecter.enabled=false",
        "operator.resync=3",
        "image.tag=latest",
        "image.digest=sha256:short",
        "storage.data.size=lots",
        "pools[0].name=train",
        "secretKeys[0]=AWS_SECRET",
        "training.rayJob.name=Not_A_Name",
        "training.rayJob.elastic=3",
        "serving.canary.weight=101",
        "shadow.abShare=5",
        "shadow.abShare=0.0",
        "retention.olderThan=forever",
        "training.mlflow.trackingUri=http://me:secret@mlflow:5000",
        "training.mlflow.trackingUri=databricks",
        "review.publicUrl=http://review.example.org",
        "review.publicUrl=https://me:secret@review.example.org",
    ],
)
def test_helm_refuses_values_that_mean_nothing(helm: Helm, wrong: str) -> None:
    done = helm("template", "rel", str(CHART), "--kube-version", KUBERNETES, "--set", wrong)
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr


@pytest.mark.parametrize(
    ("sets", "shown"),
    [
        ("shadow.enabled=true,shadow.mode=ab,shadow.abShare=0.05", "--ab-share=0.05"),  # --set makes it a string
        ("networkPolicy.scrapers=null,networkPolicy.clients=null", "kind: NetworkPolicy"),
    ],
)
def test_helm_takes_what_its_own_command_line_makes_of_a_value(helm: Helm, sets: str, shown: str) -> None:
    done = helm("template", "rel", str(CHART), "--kube-version", KUBERNETES, "--set", sets)
    assert done.returncode == 0 and shown in done.stdout, done.stderr


def test_the_chart_of_definitions_refuses_unknown_values_too(helm: Helm) -> None:
    done = helm("template", "crds", str(CHARTS / "plumbline-crds"), "--kube-version", KUBERNETES, "--set", "kept=true")
    assert done.returncode != 0


POOL = "pools[0].name=p,pools[0].count=1,pools[0].minCount=0,pools[0].maxCount=1,pools[0].resources.cpu=2,"
POOL += "pools[0].resources.memory=4Gi,pools[0].sharedMemory=1Gi,pools[0].purpose={purpose},pools[0].gpusPerNode={gpus}"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ("training.rayJob.enabled=true", "needs a pool with purpose train"),
        ("training.rayJob.enabled=true,training.rayJob.pools[0]=gone", 'names the pool "gone"'),
        ("serving.enabled=true,serving.reference.runtime=huggingface", "serves from GPUs"),
        ("serving.canary.enabled=true", "needs serving.enabled"),
        ("review.enabled=true", "needs review.publicUrl"),
        ("serving.enabled=true,serving.canary.enabled=true", "needs serving.canary.gateway.name"),
        (
            "serving.enabled=true,serving.canary.enabled=true,serving.canary.gateway.name=g,serving.canary.weight=5",
            "the gate decision that passed",
        ),
        (
            "serving.enabled=true,serving.aligned.pool=p," + POOL.format(purpose="train", gpus=1),
            "need a pool with purpose serve or shadow",
        ),
        (
            "training.rayJob.enabled=true,training.rayJob.pools[0]=p," + POOL.format(purpose="serve", gpus=1),
            "whose purpose is serve",
        ),
        (
            "training.rayJob.enabled=true,training.rayJob.elastic=true,pools[0].minCount=1,"
            + POOL.format(purpose="train", gpus=1).replace("minCount=0", "minCount=1"),
            "nowhere to grow",
        ),
        (
            "training.rayJob.enabled=true,training.rayJob.elastic=true,kueue.enabled=true,"
            + POOL.format(purpose="train", gpus=1),
            "exclude each other",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_a_reason(helm: Helm, sets: str, says: str) -> None:
    arguments: list[str] = []
    for item in sets.split(","):
        arguments += ["--set-string" if "resources" in item else "--set", item]
    done = helm("template", "rel", str(CHART), "--kube-version", KUBERNETES, *arguments)
    assert done.returncode != 0
    assert says in done.stderr


@pytest.mark.parametrize("release", ["1team", "my.team"])
def test_a_release_that_no_service_can_be_called_after_is_refused_before_anything_is_made(
    helm: Helm, release: str
) -> None:
    """Helm admits such names; an API server refuses the Services, when half of the release is there."""
    render = ("template", release, str(CHART), "--kube-version", KUBERNETES)
    done = helm(*render)
    assert done.returncode != 0 and "name the release so, or set fullnameOverride" in done.stderr
    assert "name: team-collector" in helm(*render, "--set", "fullnameOverride=team").stdout
