"""Ray Train for real: workers and drivers that are killed, too few machines, shards, and probes beside the run."""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies.local import LocalPolicy, load_template
from plumbline.records import Adapter, DecoderSettings, Objective, Optimiser, ProbePlan, digest_of
from plumbline.training.job import prepare_job
from plumbline.training.runners import run_with_ray
from resume_worker import Run
from scripted_judge import ITEMS, ScriptedJudge, fingerprint
from training_helpers import make_examples

MakeObjective = Callable[..., Objective]
MakeRun = Callable[..., Run]
KILLED = -9
LONG: dict[str, Any] = {"epochs": 8.0, "adapter": Adapter(kind="lora", rank=2, alpha=4.0, dropout=0.2)}
PLAN = ProbePlan(suite=digest_of("items"), every=2, margins={"base_skill": 0.1})

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def make_run(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> MakeRun:
    def make(name: str, changes: dict[str, Any], judge: Any = None, **more: Any) -> Run:
        items = ITEMS if judge is not None else ()
        return Run(make_objective(**changes), tiny_policy, tmp_path / name, items=items, judge=judge, more=more)

    return make


def by_ray(**more: Any) -> dict[str, Any]:
    return {"runner": "ray", "run_name": "run", **more}


def assert_each_step_once(run: Run) -> None:
    steps = [line["step"] for line in run.lines("progress.jsonl")]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] == run.lines("progress.jsonl")[-1]["steps"]


def test_four_bits_are_not_sharded_and_ray_does_not_start_to_find_out(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("qlora", {"adapter": Adapter(kind="qlora", rank=2, alpha=4.0)})
    job = prepare_job(run.job, run.objective, make_examples(40), (), run.base, load_template(run.base))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PlumblineError, match="adapter.kind is qlora, and --sharded"):
        run_with_ray(job, name="run", workers=2, sharded=True)


@pytest.mark.slow
def test_a_killed_driver_started_again_under_the_same_name_goes_on(make_run: MakeRun) -> None:
    undisturbed, run = make_run("undisturbed", LONG), make_run("killed", LONG, **by_ray())
    undisturbed.train()
    progress = run.job / "progress.jsonl"
    assert run.live(kill_when=lambda: progress.is_file() and progress.read_text().count("\n") >= 8) == KILLED
    first = progress.read_text().splitlines()[0]
    assert run.live() == 0
    assert run.weights == undisturbed.weights
    assert progress.read_text().splitlines()[0] == first, "the first steps were not done again"
    assert_each_step_once(run)


@pytest.mark.slow
def test_two_sharded_workers_train_the_same_policy(make_run: MakeRun) -> None:
    changes = {"optimiser": Optimiser(learning_rate=3e-3, warmup_steps=2, epsilon=1e-4)}
    alone, both = make_run("alone", changes), make_run("both", changes, **by_ray(workers=2, sharded=True))
    one, two = alone.train(), both.train()
    assert two.record.workers == 2 and one.record.supervised_tokens == two.record.supervised_tokens
    ours, theirs = load_file(one.path / "model.safetensors"), load_file(two.path / "model.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert both.train().manifest == two.manifest, "a finished run is found, not run again"


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray with room for one worker."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # a probe's process finds the scripted judge
        ray.init(
            address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            object_store_memory=128 * 1024 * 1024,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_started_again_and_the_run_ends_bitwise_the_same(make_run: MakeRun) -> None:
    killed: list[int] = []
    told: list[int] = []

    def kill_once(line: dict[str, Any]) -> None:
        told.append(line["step"])
        if line["step"] < 8 or killed:
            return
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # another test's, which has ended
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    undisturbed, run = make_run("undisturbed", LONG), make_run("killed", LONG, on_progress=kill_once, **by_ray())
    undisturbed.train()
    run.train()
    assert len(killed) == 1
    assert run.weights == undisturbed.weights
    assert_each_step_once(run)
    assert told == sorted(set(told)) and told[-1] == 40


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_an_elastic_run_starts_with_the_one_worker_that_there_is_room_for(make_run: MakeRun) -> None:
    """Sharded over one worker, it is as if it were not."""
    undisturbed, run = make_run("undisturbed", {}), make_run("elastic", {}, **by_ray(workers=(1, 2), sharded=True))
    undisturbed.train()
    assert run.train().record.workers == 1
    assert run.weights == undisturbed.weights


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_probes_are_validation_tasks_and_those_that_fail_are_made_up_for(make_run: MakeRun, tmp_path: Path) -> None:
    """The judge fails once at the first step, which the next probe makes up for, and once at the last, which the driver
    does; there the margin is exceeded."""
    changes = {"probes": PLAN, "samples": DecoderSettings(max_tokens=4)}
    whole = make_run("whole", changes, judge=ScriptedJudge(tmp_path / "whole.log"))
    whole.train()
    good = {line["step"]: line["weights"] for line in whole.lines("probes.jsonl")}
    judge = ScriptedJudge(tmp_path / "log", breached=(good[10],), fails=(good[2], good[10]), seconds=0.2)
    told: list[int] = []
    run = make_run("probed", changes, judge, on_probe=lambda line: told.append(line["step"]), **by_ray())
    trained = run.train()
    base = fingerprint(LocalPolicy.load(run.base))
    assert judge.measured() == [base, *(good[step] for step in (2, 2, 4, 6, 8, 10, 10))]
    assert [line["step"] for line in run.lines("probes.jsonl")] == [2, 4, 6, 8, 10] == told
    assert fingerprint(LocalPolicy.load(trained.path)) == good[8] and trained.record.chosen_step == 8
    assert list((run.job / "probes").glob("*.safetensors")) == []
    state = json.loads((run.job / "probes" / "stop.json").read_text())
    assert (state["step"], state["good"]) == (10, 8)
