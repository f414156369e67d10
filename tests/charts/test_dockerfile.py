"""The Dockerfile keeps hadolint's and our own rules, and the image has what the manifests call."""

import importlib
import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch

import click
from chart_tools import REPO, SETUPS, Doc, pods

from plumbline.reconcile.dataset_line import Publish, Reject, StartIngestion, StartRemoval
from plumbline.reconcile.kubernetes import JobSettings, erasure_job, job
from plumbline.records import digest_of

LINES = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", (REPO / "Dockerfile").read_text())).splitlines()
STEPS = [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in LINES if line.strip()]
IGNORED = [line for line in (REPO / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def steps(kind: str) -> list[str]:
    return [rest for word, rest in STEPS if word == kind]


def test_it_builds_in_stages_from_one_pinned_base_without_a_registry() -> None:
    assert steps("ARG")[0] == "BASE_IMAGE=python:3.11-slim-bookworm"
    assert steps("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert not re.search(r":latest\b", "\n".join(LINES))
    assert not re.search(r"https?://|\b[\w-]+\.(io|com|org|dev)/", "\n".join(LINES))


def test_it_ends_as_a_user_that_is_not_root_and_is_the_manifests() -> None:
    assert steps("USER") == ["10001:10001"]
    assert STEPS.index(("USER", "10001:10001")) > max(i for i, (word, _) in enumerate(STEPS) if word in ("RUN", "COPY"))
    assert not any("sudo" in line for line in LINES)


def test_it_downloads_nothing_to_run_it_and_leaves_no_lists_behind() -> None:
    for command in steps("RUN"):
        assert not re.search(r"(curl|wget)[^&|]*\|\s*(ba)?sh", command)
        if "apt-get" in command:
            assert "apt-get update" in command and "--no-install-recommends" in command
            assert "rm -rf /var/lib/apt/lists/*" in command and "upgrade" not in command
        if "pip install" in command:
            assert "--constraint constraints.txt" in command
    assert "PIP_NO_CACHE_DIR=1" in steps("ENV")[0]
    assert not steps("ADD")


def test_no_secret_and_no_index_reaches_the_image() -> None:
    final = STEPS[max(i for i, (word, _) in enumerate(STEPS) if word == "FROM") :]
    assert not [rest for word, rest in final if word == "ARG"]
    for word, rest in STEPS:
        if word in ("ENV", "ARG"):
            assert not re.search(r"(?i)secret|token|password|_key", rest)
            assert not re.match(r"PIP_(EXTRA_)?INDEX_URL=", rest)


def test_what_it_copies_is_sent_to_the_builder_and_little_else_is() -> None:
    assert IGNORED[0] == "*"
    allowed = [line[1:] for line in IGNORED if line.startswith("!")]
    wanted = {
        source.removeprefix("./") for copy in steps("COPY") if "--from" not in copy for source in copy.split()[:-1]
    }
    assert wanted == set(allowed)
    for private in (".git", ".venv", "runs", "tests", ".env"):
        assert not any(fnmatch(private, pattern) for pattern in allowed)


def test_its_entry_points_are_those_that_the_manifests_call(render: Callable[..., list[Doc]]) -> None:
    assert steps("ENTRYPOINT") == ['["plumb"]']
    project = tomllib.loads((REPO / "pyproject.toml").read_text())
    assert "plumb" in project["project"]["scripts"]
    installed = " ".join(steps("RUN"))
    assert '".[operator,tracking,qlora,postgresql,s3,parquet]"' in installed and "kserve" in installed
    assert '"ray[default,train]"' in installed, "without its dashboard, Ray's head takes no job"

    called: set[str] = set()
    for setup in SETUPS:
        for doc in render(setup):
            called |= {doc["spec"]["entrypoint"]} if doc["kind"] == "RayJob" else set()
            for _, pod in pods(doc):
                for container in pod["containers"]:
                    called.add(" ".join([*container.get("command", []), *container.get("args", [])]))
    text = "\n".join(called)
    for path in re.findall(r"/app/(\S+\.py)", text):
        assert (REPO / path).is_file(), f"{path} is called by a manifest and is not in the repository"
        assert path.split("/")[0] in ("operators", "jobs")
    for module in re.findall(r"python -m (\S+)", text):
        assert (REPO / "platform" / (module.replace(".", "/") + ".py")).is_file(), module


def plumb_calls(render: Callable[..., list[Doc]]) -> list[list[str]]:
    """Arguments of every container that starts `plumb`, the operator's Jobs included."""
    found = []
    for setup in SETUPS:
        for doc in render(setup):
            for _, pod in pods(doc):
                found += [
                    container["args"]
                    for container in pod["containers"]
                    if not container.get("command") and container.get("args") and container["name"] != "model"
                ]
    line = {
        "metadata": {"name": "support", "namespace": "demo", "uid": "u"},
        "spec": {"dataset": "support", "rubric": digest_of("rubric")},
    }
    settings = JobSettings(image="i", service_account="s", claim="c")
    run, candidate = digest_of("run"), digest_of("candidate")
    run_object = {"kind": "IngestionRun", "metadata": {"name": "support-run", "uid": "u"}}
    actions = (StartIngestion(run, 1, 2), StartRemoval(run, 3), Publish(run, candidate), Reject(run, candidate))
    for action in actions:
        found += [job(action, line, run_object, settings)["spec"]["template"]["spec"]["containers"][0]["args"]]
    request = {
        "metadata": {"name": "letter", "namespace": "demo", "uid": "u"},
        "spec": {"subject": digest_of("subject"), "remediation": "retire"},
    }
    found += [erasure_job(request, 1, settings)["spec"]["template"]["spec"]["containers"][0]["args"]]
    return found


def test_the_commands_have_the_options_that_manifests_pass(render: Callable[..., list[Doc]]) -> None:
    from plumbline.cli.main import cli

    context = click.Context(cli)
    for arguments in plumb_calls(render):
        command = cli.get_command(context, arguments[0])
        assert command is not None, f"plumb has no command {arguments[0]}"
        with command.make_context(arguments[0], list(arguments[1:]), resilient_parsing=False):
            pass


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]+", text))


def test_python_entry_points_have_the_options_that_manifests_pass(render: Callable[..., list[Doc]]) -> None:
    asked = ("training.rayJob.sharded=true", "training.mlflow.trackingUri=http://mlflow:5000")
    for doc in render("cpu-everything", *asked):
        if doc["kind"] == "InferenceService":
            (container,) = doc["spec"]["predictor"]["containers"]
            source = (REPO / "platform" / "plumbline" / "serving" / "predictor.py").read_text()
            assert options(" ".join(container["args"])) <= options(source)
            assert "--host=0.0.0.0" in container["args"], "it listens on loopback unless told otherwise"
        if doc["kind"] == "RayJob":
            assert options(doc["spec"]["entrypoint"]) <= options((REPO / "jobs" / "sft.py").read_text())
            (head,) = doc["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
            mentioned = r"\b(?:PLUMBLINE_(?:TRAIN|METRICS)|MLFLOW)_[A-Z_]+"
            read = set(re.findall(mentioned, (REPO / "jobs" / "sft.py").read_text()))
            assert {item["name"] for item in head["env"] if re.fullmatch(mentioned, item["name"])} == read
            constants = importlib.import_module("ray.train.v2._internal.constants")
            of_ray = {item["name"] for item in head["env"] if item["name"].startswith("RAY_TRAIN_")}
            assert of_ray == {constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, constants.COLLECTIVE_TIMEOUT_S_ENV_VAR}


def test_the_operator_reads_the_environment_that_the_chart_sets(render: Callable[..., list[Doc]]) -> None:
    deployments = {doc["metadata"]["name"]: doc for doc in render("default") if doc["kind"] == "Deployment"}
    operator = deployments["rel-plumbline-operator"]
    (container,) = operator["spec"]["template"]["spec"]["containers"]
    read = set(re.findall(r"PLUMBLINE_[A-Z_]+", (REPO / "operators" / "plumbline_operator.py").read_text()))
    assert {item["name"] for item in container["env"]} == read - {"PLUMBLINE_TENANT_KEY"}
    (container,) = next(
        doc["spec"]["template"]["spec"]["containers"]
        for doc in render("server-stores")
        if doc["kind"] == "Deployment" and doc["metadata"]["name"].endswith("-operator")
    )
    assert {item["name"] for item in container["env"] if item["name"].startswith("PLUMBLINE_")} == read
