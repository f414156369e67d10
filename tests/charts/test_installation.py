"""The chart's own commands, as local processes: migration, start, start-up check, and the round trip of `helm test`.

Every command line and its environment is what the chart renders; only addresses, files and secrets are put in.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from backends import Backend, backend  # noqa: F401  (a fixture)
from chart_tools import Doc, pods

from plumbline.stores import Ledger
from plumbline.stores.upkeep import newest_schema

Render = Callable[..., list[Doc]]
PLUMB = str(Path(sys.executable).with_name("plumb"))
TOKEN = "a token that is long enough"
SOURCES = {"console": {"token": TOKEN * 2, "may": ["consent"]}, "app": {"token": TOKEN, "hmac_secret": TOKEN[::-1]}}
KEY = "5" * 32


class Here:
    """Runs containers of rendered pods as processes of this machine."""

    def __init__(self, docs: list[Doc], folder: Path, stores: Backend, **mounts: Path) -> None:
        self.containers = {
            f"{pod_name}/{container['name']}": container
            for doc in docs
            for pod_name, pod in pods(doc)
            for container in [*pod.get("initContainers", []), *pod["containers"]]
        }
        self.secrets = {"ledger-url": str(stores.ledger), "PLUMBLINE_TENANT_KEY": KEY}
        sources = folder / "sources.json"
        sources.write_text(json.dumps(SOURCES))
        self.places = {"/data/ledger.sqlite": str(stores.ledger), "/data/blobs": str(stores.blobs)}
        self.places |= {
            "s3://plumbline-blobs/production": str(stores.blobs),
            "/etc/plumbline/sources.json": str(sources),
        }
        self.places |= {f"/{name}": str(path) for name, path in mounts.items()}
        self.stack = ExitStack()

    def command(self, name: str) -> tuple[list[str], dict[str, str]]:
        (container,) = [found for key, found in self.containers.items() if re.fullmatch(name, key)]
        line = [*container.get("command", [PLUMB]), *container["args"]]
        env = {key: value for key, value in os.environ.items() if not key.startswith("PLUMBLINE_")}
        for item in container["env"]:
            value = item.get("value") or self.secrets.get(item.get("valueFrom", {}).get("secretKeyRef", {}).get("key"))
            if value is not None and not item["name"].startswith("AWS_"):  # those are the test server's
                env[item["name"]] = self.put(value)
        return [sys.executable if part == "python" else self.put(part) for part in line], env

    def put(self, text: str) -> str:
        for place, here in self.places.items():
            text = text.replace(place, here)
        return text.replace("--host=0.0.0.0", "--host=127.0.0.1")

    def start(self, name: str, *, at: str = "", port: int = 8080) -> "subprocess.Popen[str]":
        """A service's name in the cluster (`at`) becomes a free port of this machine."""
        line, env = self.command(name)
        if at:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                number = free.getsockname()[1]
            line = [part.replace(f"--port={port}", f"--port={number}") for part in line]
            assert f"--port={number}" in line
            self.places[f"http://{at}.demo.svc.cluster.local"] = f"http://127.0.0.1:{number}"
        process = subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.stack.callback(process.wait, 30)
        self.stack.callback(process.terminate)
        return process

    def run(self, name: str, **instead: str) -> tuple[int, str]:
        line, env = self.command(name)
        for option, value in instead.items():
            line = [f"--{option}={value}" if part.startswith(f"--{option}=") else part for part in line]
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def started(render: Render, backend: Backend, tmp_path: Path, tiny_policy: Path) -> Iterator[Here]:  # noqa: F811
    """The setup whose stores are this backend's, with nothing running yet."""
    setup = "server-stores" if backend.name.startswith("postgresql") else "cpu-everything"
    here = Here(render(setup), tmp_path, backend, spool=tmp_path / "spool", **{"mnt/models": tiny_policy})
    with here.stack:
        yield here


@pytest.mark.slow
def test_an_installation_migrates_starts_and_passes_its_own_test(started: Here, backend: Backend) -> None:  # noqa: F811
    waiting = started.start(r"Deployment/\S+-collector/after-migration")
    assert waiting.stdout is not None and "is not made yet" in waiting.stdout.readline()
    code, said = started.run(r"Job/\S+-migrate-\w+/migrate")
    assert code == 0 and f"schema none -> {newest_schema()}" in said
    assert waiting.wait(30) == 0, "what waited goes on"
    code, said = started.run(r"Job/\S+-migrate-\w+/migrate")
    assert code == 0 and "nothing to do" in said

    started.start(r"Deployment/\S+-collector/collector", at="rel-plumbline-collector")
    if backend.name.startswith("sqlite"):  # the other setup's policies are elsewhere
        for leg in ("reference", "aligned"):
            started.start(f"InferenceService/\\S+-{leg}/kserve-container", at=f"rel-plumbline-{leg}-predictor")
        started.start(r"StatefulSet/\S+-router/router", at="rel-plumbline-router")
    else:
        started.containers = {key: leave_out(found, "router") for key, found in started.containers.items()}
    code, said = started.run(r"Job/\S+-check-\w+/check")
    assert code == 0 and "all of this works" in said, said

    code, said = started.run(r"Pod/\S+-test/round-trip")
    assert code == 0 and "all of this works" in said, said
    for seen in ("a token is refused", "with the consent that covers it", "is a duplicate", "the words are gone"):
        assert seen in said
    assert said.count("answers as") == (3 if backend.name.startswith("sqlite") else 0), "router and both policies"
    assert TOKEN not in said
    with Ledger(backend.ledger) as ledger:
        (queued,) = ledger.inbox.read(1, 99)
        assert (queued.source, queued.event) == ("app", None), "what stays has no words"
        now = ledger.database.clock()
        for purpose in ("training", "evaluation"):
            assert not ledger.consent.covers(queued.subject, purpose, ledger.consent.head().sequence, now).covered

    started.stack.close()
    code, said = started.run(r"Pod/\S+-test/round-trip", wait="0")
    assert code == 2 and "does not answer" in said and "  do: " in said and "Traceback" not in said


def leave_out(container: Doc, what: str) -> Doc:
    args = [part for part in container.get("args", []) if what not in part or not part.startswith("--")]
    return {**container, "args": args}


@pytest.mark.slow
def test_the_nightly_retention_is_a_command_that_runs(render: Render, tmp_path: Path) -> None:
    stores = Backend("sqlite+local", tmp_path / "ledger.sqlite", tmp_path / "blobs")
    here = Here(render("canary"), tmp_path, stores)
    assert here.run(r"Job/\S+-migrate-\w+/migrate")[0] == 0
    code, said = here.run(r"CronJob/\S+-retention/retention")
    assert code == 0 and said.startswith("0 events")
