"""Helm, and the chart rendered once per values file."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # chart_tools, which every test here imports

from chart_tools import CHART, KUBERNETES, SETUPS, Doc, find_helm
from schema_tools import load_all


@pytest.fixture(scope="session")
def helm() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run helm; the test decides what its exit code should be."""
    binary = find_helm()
    if binary is None:
        pytest.skip("helm is not on PATH nor under .tools; `make tools` fetches it")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[Doc]]:
    """The objects of the chart for a setup from charts/plumbline/ci, with further `--set` arguments."""

    @functools.cache
    def run(setup: str, *sets: str) -> list[Doc]:
        values = CHART / "ci" / f"{setup}-values.yaml"
        more = [part for item in sets for part in ("--set", item)]
        arguments = ["template", "rel", str(CHART), "--namespace", "demo", "--kube-version", KUBERNETES]
        done = helm(*arguments, "--values", str(values), *more)
        assert done.returncode == 0, done.stderr
        return load_all(done.stdout)

    return run


@pytest.fixture(params=SETUPS)
def setup(request: pytest.FixtureRequest) -> str:
    return str(request.param)
