"""A real cluster, named by KUBECONFIG; a namespace of its own that is deleted afterwards."""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # cluster_tools
sys.path.insert(0, str(Path(__file__).parents[1] / "charts"))  # chart_tools
sys.path.insert(0, str(Path(__file__).parents[1] / "operators"))  # operator_tools

from chart_tools import CHARTS, KUBERNETES, find_helm

from plumbline.records.resources import RESOURCES

Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    missing = None if os.environ.get("KUBECONFIG") else "KUBECONFIG does not name a cluster"
    missing = missing or (None if shutil.which("kubectl") else "kubectl is not on PATH")
    missing = missing or (None if find_helm() else "helm is not on PATH nor under .tools")
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def kubectl() -> Kubectl:
    """Run kubectl; with `check=False` the test looks at the answer itself."""

    def run(*arguments: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=180, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def template() -> Callable[..., str]:
    """`helm template` of a chart, as text for `kubectl apply`."""

    def run(chart: str, *arguments: str) -> str:
        command = [str(find_helm()), "template", "plumbline", str(CHARTS / chart), "--kube-version", KUBERNETES]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def definitions(kubectl: Kubectl, template: Callable[..., str]) -> None:
    """Our CRDs, roles and admission policy, installed as users do: server-side."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=template("plumbline-crds"))
    names = [f"crd/{resource.plural}.{resource.group}" for resource in RESOURCES]
    kubectl("wait", "--for=condition=Established", *names, "--timeout=60s")


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"plumbline-test-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    labels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    kubectl("label", "namespace", name, *labels)
    yield name
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false", check=False)
