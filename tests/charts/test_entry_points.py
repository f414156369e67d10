"""What manifests start is in the image: every command of every object, parsed by what it would start."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from chart_tools import CHART, REPO, SETUPS, Doc, made_by_the_operator
from schema_tools import load_all
from test_dockerfile import steps

Render = Callable[..., list[Doc]]
SOURCE = REPO / "platform"
COPIED = {copy.split()[0].removeprefix("./") for copy in steps("COPY") if copy.split()[-1].startswith("./")}
INSTALLED = {"plumb", "kopf", "python"}  # in /opt/plumbline/bin, which comes first on PATH
RAYS = {"ray-head", "ray-worker", "ray-job-submitter"}  # KubeRay writes their commands: bash, ray, wget


def containers(value: Any) -> Iterator[Doc]:
    """Whatever has an image, wherever it stands: containers, init containers, sidecars, of any kind of object."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str) and "name" in value:
            yield value
        for inner in value.values():
            yield from containers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from containers(inner)


def handed_over(render: Render) -> list[Doc]:
    written = [*(REPO / "jobs").glob("*.yaml"), *(CHART / "examples").glob("*.yaml")]
    docs = [doc for path in written for doc in load_all(path.read_text("utf-8"))]
    return [*docs, *made_by_the_operator(), *(doc for setup in SETUPS for doc in render(setup))]


def commands(render: Render) -> dict[tuple[str, ...], str]:
    """Every different command line that starts our image, with an object that has it."""
    found: dict[tuple[str, ...], str] = {}
    for doc in handed_over(render):
        name = f"{doc['kind']}/{doc['metadata']['name']}"
        if doc["kind"] == "RayJob":
            found.setdefault(tuple(doc["spec"]["entrypoint"].split()), name)
        for container in containers(doc):
            command = (*container.get("command", ["plumb"]), *container.get("args", []))
            if command == ("plumb",):
                assert container["name"] in RAYS, f"{name}: {container['name']} would only print the help"
            else:
                found.setdefault(command, name)
            for hook in ("livenessProbe", "readinessProbe", "startupProbe"):
                if "exec" in container.get(hook, {}):
                    found.setdefault(tuple(container[hook]["exec"]["command"]), f"{name} {hook}")
    return found


def parse(command: click.Command, name: str, words: list[str], parent: click.Context | None = None) -> None:
    """Parse as the command line would, down to the last sub-command, and run nothing."""
    with command.make_context(name, list(words), parent=parent) as context:
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if isinstance(command, click.Group) and rest:
            sub_name, sub, left = command.resolve_command(context, rest)
            assert sub is not None
            parse(sub, sub_name or "", left, context)


HELP = """
import runpy, sys
for target in sys.argv[1:]:
    sys.argv = [target, "--help"]
    print("=== " + target, flush=True)
    try:
        runpy.run_path(target, run_name="__main__") if "/" in target else runpy.run_module(target, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end
"""


def options_of(*targets: str) -> dict[str, set[str]]:
    """What files and modules say to --help, by one process: each of them imports the same heavy things."""
    done = subprocess.run([sys.executable, "-c", HELP, *targets], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("=== ")[1:]
    return {part.splitlines()[0]: options(part) for part in parts}


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z][a-z-]+", text))


def test_the_image_starts_plumb_and_has_the_programs_that_manifests_name(render: Render) -> None:
    assert steps("ENTRYPOINT") == ['["plumb"]']
    assert "plumb" in tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"operators", "jobs"} <= COPIED and steps("WORKDIR")[-1] == "/app"
    found = commands(render)
    assert len(found) > 15 and {command[0] for command in found} == INSTALLED


def test_every_plumb_command_parses(render: Render) -> None:
    from plumbline.cli.main import cli

    ours = {command: where for command, where in commands(render).items() if command[0] == "plumb"}
    assert {command[1] for command in ours} >= {"collector", "ingest", "erase", "shadow"}
    for command, where in ours.items():
        try:
            parse(cli, "plumb", list(command[1:]))
        except click.ClickException as error:
            pytest.fail(f"{where}: plumb {' '.join(command[1:])}: {error.format_message()}")


def test_every_python_command_names_a_file_or_module_of_the_image_and_options_that_it_has(render: Render) -> None:
    started: dict[tuple[str, ...], str] = {}
    for command, where in commands(render).items():
        if command[0] != "python" or command[1] == "-c":
            continue
        if command[1] == "-m":
            assert (SOURCE / (command[2].replace(".", "/") + ".py")).is_file(), f"{where} starts {command[2]}"
            started[command] = command[2]
        else:
            path = command[1].removeprefix("/app/")
            assert command[1].startswith("/app/") and path.split("/")[0] in COPIED, f"{where} starts {command[1]}"
            assert (REPO / path).is_file(), f"{where} starts {command[1]}"
            started[command] = path
    known = options_of(*sorted(set(started.values())))
    assert set(known) == {"plumbline.serving.predictor"} | {
        f"jobs/{path.name}" for path in (REPO / "jobs").glob("*.py")
    }
    for command, target in started.items():
        assert options(" ".join(command[2:])) <= known[target], " ".join(command)


def test_the_operator_is_started_as_kopf_takes_it(render: Render) -> None:
    from kopf.cli import main as kopf

    ours = [command for command in commands(render) if command[0] == "kopf"]
    for command in ours:
        parse(kopf, "kopf", list(command[1:]))
        (file,) = [word for word in command if word.startswith("/app/")]
        assert (REPO / file.removeprefix("/app/")).is_file() and file.split("/")[2] in COPIED
    assert ours


def test_a_predictor_listens_to_others(render: Render) -> None:
    ours = [command for command in commands(render) if "plumbline.serving.predictor" in command]
    assert ours and all("--host=0.0.0.0" in command for command in ours), "it listens on loopback unless told otherwise"


def test_the_head_of_a_run_has_the_environment_that_the_run_reads(render: Render) -> None:
    asked = ("training.rayJob.sharded=true", "training.mlflow.trackingUri=http://mlflow:5000")
    (run,) = [doc for doc in render("cpu-everything", *asked) if doc["kind"] == "RayJob"]
    (head,) = run["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mentioned = r"\b(?:PLUMBLINE_(?:TRAIN|METRICS)|MLFLOW)_[A-Z_]+"
    read = set(re.findall(mentioned, (REPO / "jobs" / "sft.py").read_text()))
    assert {item["name"] for item in head["env"] if re.fullmatch(mentioned, item["name"])} == read
    constants = importlib.import_module("ray.train.v2._internal.constants")
    of_ray = {item["name"] for item in head["env"] if item["name"].startswith("RAY_TRAIN_")}
    assert of_ray == {constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, constants.COLLECTIVE_TIMEOUT_S_ENV_VAR}


def test_the_operator_reads_the_environment_that_the_chart_sets(render: Render) -> None:
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
