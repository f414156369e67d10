"""The RayJob's entry point, as a cluster runs it: a prepared job on shared storage, no ledger, no text."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plumbline.feedback import import_dataset
from plumbline.records import digest_of
from plumbline.stores import Ledger, LocalBlobs

ENTRY = Path(__file__).resolve().parents[2] / "jobs" / "sft.py"
PLUMB = Path(sys.executable).with_name("plumb")


def run(*words: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PLUMBLINE_", "RAY_ADDRESS"))}
    return subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, timeout=800, env={**clean, **environment}
    )


def sft(storage: Path, name: str = "first", objective: Path | None = None, **environment: str):
    given = objective or storage / "jobs" / name / "objective.json"
    return run(sys.executable, ENTRY, "--objective", given, "--run-name", name, "--storage", storage, **environment)


def faulted(done: "subprocess.CompletedProcess[str]", *words: str) -> bool:
    assert done.returncode == 2 and done.stderr.startswith("sft: ") and "Traceback" not in done.stderr, done
    assert "\n  so: " in done.stderr and "\n  do: " in done.stderr
    return all(word in done.stderr for word in words)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """Shared storage with one job, prepared where the ledger is; the ledger itself lies elsewhere."""
    home = tmp_path_factory.mktemp("home")
    turns = [("user", "who is ana {} ?"), ("assistant", "ana is a baker .")]
    lines = [{"messages": [{"role": r, "content": c.format(n)} for r, c in turns]} for n in range(24)]
    (home / "facts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with Ledger(home / "ledger.sqlite") as ledger:
        blobs = LocalBlobs(home / "blobs")
        rubric = digest_of("rubric")
        import_dataset(ledger, blobs, home / "facts.jsonl", "messages", "facts", licence="MIT", rubric=rubric)
    objective = {
        "dataset": "facts@1",
        "base_policy": str(tiny_policy),
        "optimiser": {"learning_rate": 1e-3},
        "batch_examples": 8,
        "truncation": {"max_tokens": 200},
    }
    (home / "objective.yaml").write_text(json.dumps(objective))
    shared = tmp_path_factory.mktemp("storage")
    (shared / "home").symlink_to(home)
    stores = ("--ledger", home / "ledger.sqlite", "--blobs", home / "blobs")
    job = ("--prepare-only", "--job", shared / "jobs" / "first")
    done = run(PLUMB, "train", home / "objective.yaml", *job, *stores)
    assert done.returncode == 0 and "is ready: 3 steps" in done.stdout, done
    return shared


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the moment it was written."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


@pytest.mark.slow
def test_a_prepared_job_becomes_a_policy_by_ray_and_running_it_again_changes_nothing(storage: Path) -> None:
    done = sft(storage)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((storage / "first" / "plumbline.json").read_text())
    assert done.stdout.startswith("policy sha256:") and manifest["name"] == "first" and manifest["code"]
    assert (storage / "ray" / "first").is_dir(), "checkpoints lie where every node finds them"
    before = contents(storage)
    again = sft(storage)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert contents(storage) == before
    home = storage / "home"
    recorded = run(
        PLUMB, "train", home / "objective.yaml", "--out", storage / "first", "--job", storage / "jobs" / "first",
        "--ledger", home / "ledger.sqlite", "--blobs", home / "blobs",
    )  # fmt: skip
    assert recorded.returncode == 0, recorded.stderr
    with Ledger(home / "ledger.sqlite") as ledger:
        assert [policy.digest for policy in ledger.releases.policies()] == [done.stdout.split()[1]]


def test_a_changed_objective_is_refused(storage: Path, tmp_path: Path) -> None:
    changed = json.loads((storage / "jobs" / "first" / "objective.json").read_text())
    changed["epochs"] = 2.0
    other = tmp_path / "objective.json"
    other.write_text(json.dumps(changed))
    assert faulted(sft(storage, objective=other), "changed: epochs", "nothing was trained")


def test_a_job_that_nobody_prepared_is_refused_with_the_command_that_prepares_it(storage: Path) -> None:
    given = storage / "jobs" / "first" / "objective.json"
    done = sft(storage, "second", objective=given)
    assert faulted(done, "no prepared job", f"plumb train FILE --job {storage}/jobs/second --prepare-only")
    assert not (storage / "second").exists()


def test_what_is_no_objective_no_name_or_no_number_of_workers_is_refused(storage: Path, tmp_path: Path) -> None:
    broken = tmp_path / "objective.json"
    for content in (b"{}", b"not json", b"\xff"):
        broken.write_bytes(content)
        assert faulted(sft(storage, objective=broken), "is not an objective")
    assert faulted(sft(storage, objective=tmp_path / "absent.json"), "absent.json")
    assert faulted(sft(storage, "../first", objective=broken), "no name for a run")
    for wrong in ("many", "2:1", "0"):
        assert faulted(sft(storage, PLUMBLINE_TRAIN_WORKERS=wrong), f"PLUMBLINE_TRAIN_WORKERS is '{wrong}'")


@pytest.fixture
def unfinished(storage: Path) -> str:
    """The name of a job that nobody has run yet."""
    kept = shutil.ignore_patterns("result", "checkpoint*", "progress.jsonl", "tensorboard")
    shutil.rmtree(storage / "jobs" / "fresh", ignore_errors=True)
    shutil.copytree(storage / "jobs" / "first", storage / "jobs" / "fresh", ignore=kept)
    return "fresh"


def test_a_run_that_could_not_be_followed_as_asked_is_refused_before_it_takes_a_gpu(
    storage: Path, unfinished: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert faulted(sft(storage, unfinished, PLUMBLINE_METRICS_PORT=port), port, "nobody could scrape")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert faulted(sft(storage, unfinished, MLFLOW_TRACKING_URI=nobody), nobody, "MLflow")
    assert not (storage / "ray" / unfinished).exists() and not (storage / unfinished).exists()


@pytest.mark.slow
def test_an_elastic_sharded_run_ends_with_a_policy_and_leaves_no_port_open(storage: Path, unfinished: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {"PLUMBLINE_TRAIN_WORKERS": "1:2", "PLUMBLINE_TRAIN_SHARDED": "1", "PLUMBLINE_METRICS_PORT": str(port)}
    done = sft(storage, unfinished, **asked)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (storage / "jobs" / unfinished / "progress.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == lines[-1]["steps"] == 3 and lines[-1]["workers"] in (1, 2)
    with socket.socket() as after:
        assert after.connect_ex(("127.0.0.1", port)) != 0
