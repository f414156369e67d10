"""A run killed by SIGKILL at any moment, as often as one likes, ends bitwise as if nothing had happened."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_template
from plumbline.records import Adapter, CheckpointChoice, KlTerm, Objective, TrainingRecord, digest_of
from plumbline.training import train
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.order import BatchOrder
from resume_worker import Run, hold, processes
from training_helpers import make_examples

MakeObjective = Callable[..., Objective]
MakeRun = Callable[..., Run]
TIMED = {"supervised_per_second", "tokens_per_second", "flops_per_second", "mfu", "eta_seconds", "seconds"}
KILLED = -9

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def make_run(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> MakeRun:
    def make(name: str, changes: dict[str, Any], **more: Any) -> Run:
        return Run(make_objective(**changes), tiny_policy, tmp_path / name, **more)

    return make


def told(run: Run) -> list[dict[str, Any]]:
    """What the run wrote of its progress, but for how long it took."""
    return [{key: line[key] for key in line.keys() - TIMED} for line in run.lines("progress.jsonl")]


def record(run: Run) -> dict[str, Any]:
    found = TrainingJob.load(run.job).record
    assert found is not None
    return found.model_dump(exclude={"wall_seconds"})


def assert_the_same(run: Run, undisturbed: Run) -> None:
    assert run.weights == undisturbed.weights
    assert told(run) == told(undisturbed)
    assert record(run) == record(undisturbed)
    steps = [line["step"] for line in told(run)]
    assert steps == sorted(set(steps)) and steps[-1] == record(run)["steps"]


OBJECTIVES: dict[str, dict[str, Any]] = {
    "slice weights, by example": {"epochs": 2.4, "normaliser": "examples"},
    "replay, KL and packed rows": {
        "layout": "packed", "micro_batch_tokens": 512, "replay": digest_of("replay"), "replay_share": 0.25,
        "kl": KlTerm(weight=0.2, slices=("facts",)), "epochs": 1.6,
    },
    "dropout in LoRA, bfloat16": {
        "adapter": Adapter(kind="lora", rank=2, alpha=4.0, dropout=0.3), "layout": "padded", "precision": "bfloat16",
        "gradient_checkpointing": True,
    },
    "dropout in DoRA": {"adapter": Adapter(kind="dora", rank=2, alpha=4.0, dropout=0.3)},
    "the best validation loss": {
        "checkpoint": CheckpointChoice(rule="best_validation_loss", every=2, validation_share=0.2), "epochs": 3.0,
    },
    "checkpoints inside a reporting window": {"batch_examples": 4, "epochs": 8.3, "checkpoint_every": 7},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", OBJECTIVES)
def test_killed_at_random_moments_it_ends_bitwise_the_same(make_run: MakeRun, what: str) -> None:
    """The kills fall on file accesses drawn from a seed; then two at whatever the machine is doing at the time."""
    more = {"replay": 12 if "replay" in OBJECTIVES[what] else 0}
    undisturbed, run = make_run("undisturbed", OBJECTIVES[what], **more), make_run("killed", OBJECTIVES[what], **more)
    assert undisturbed.live() == 0
    draw = random.Random(what)
    begun = undisturbed.touches().index("open job/progress.jsonl a")
    ends = [run.live(begun + draw.randrange(12)), run.live(draw.randrange(2, 30))]
    reached = len(run.lines("progress.jsonl")) if (run.job / "progress.jsonl").is_file() else 0
    seen = [0]

    def one_step_on() -> bool:
        file = run.job / "progress.jsonl"
        seen[0] = file.read_text().count("\n") if file.is_file() else 0
        return seen[0] > reached + 1 and draw.random() < 0.05

    ends += [run.live(kill_when=one_step_on), run.live()]
    assert ends.count(KILLED) >= 2 and ends[-1] == 0
    assert_the_same(run, undisturbed)


EDGES = [
    # a checkpoint half written, whole but not yet in its place, and between the two renames
    ("os.mkdir job/checkpoint.new", 0),
    ("os.rename job/checkpoint.new/.shard-00000-of-00001.safetensors", 0),
    ("os.rename job/checkpoint.new/.state.json", 0),
    ("os.rename job/checkpoint.new", 0),
    ("os.rename job/checkpoint", 0),
    ("os.rename job/checkpoint.new", 1),
    ("os.rmdir job/checkpoint.old", 0),
    # after the last step of the first epoch (5), with the last checkpoint before it; and of the second
    ("open job/progress.jsonl a", 2),
    # the run is over, its record is not written; it is written, and the policy is not exported
    ("os.rename job/result/.chosen.safetensors", 0),
    ("os.rename job/result/.trained.json", 0),
    ("os.rename job/result/.record.json", 0),
    ("os.rename .policy.building", 0),
]


@pytest.mark.slow
def test_killed_during_a_checkpoint_at_an_epochs_edge_and_while_it_finishes(make_run: MakeRun) -> None:
    """One run of many lives: each ends at another edge, and the next one begins with what it left."""
    undisturbed, run = make_run("undisturbed", {"epochs": 3.0}), make_run("killed", {"epochs": 3.0})
    assert undisturbed.live() == 0
    for moment in EDGES:
        assert moment[0] in undisturbed.touches()
        assert run.live(moment) == KILLED, f"no life came to {moment}"
    assert run.live() == 0
    assert_the_same(run, undisturbed)
    again = (run.folder / "policy" / "model.safetensors").stat().st_mtime_ns
    assert run.live() == 0 and (run.folder / "policy" / "model.safetensors").stat().st_mtime_ns == again


def test_torn_lines_and_leftover_folders_do_no_harm(make_run: MakeRun) -> None:
    undisturbed, run = make_run("undisturbed", {}), make_run("killed", {})
    undisturbed.train()
    assert run.live(("os.mkdir job/checkpoint.new", 2)) == KILLED
    assert json.loads((run.job / "checkpoint" / "state.json").read_text())["step"] == 6
    with (run.job / "progress.jsonl").open("a") as stream:
        stream.write('{"step": 9, "steps": 10, "lo')
    for leftover in ("checkpoint.new", "checkpoint.old"):
        shutil.rmtree(run.job / leftover, ignore_errors=True)
        shutil.copytree(run.job / "checkpoint", run.job / leftover)
        next((run.job / leftover).glob("shard-*")).write_bytes(b"cut short")
    (run.job / "checkpoint.new" / "shard-00001-of-00002.safetensors").touch()
    run.train()
    assert_the_same(run, undisturbed)


def test_a_result_without_a_record_is_settled_again(make_run: MakeRun) -> None:
    undisturbed, run = make_run("undisturbed", {}), make_run("killed", {})
    undisturbed.train()
    assert run.live(("os.rename job/result/.record.json", 0)) == KILLED
    (run.job / "result" / "chosen.safetensors").write_bytes(b"cut short")
    run.train()
    assert_the_same(run, undisturbed)


def test_a_checkpoint_inside_a_window_keeps_its_sums(make_run: MakeRun) -> None:
    run = make_run("killed", OBJECTIVES["checkpoints inside a reporting window"])
    assert run.live(("os.rename job/checkpoint", 0)) == KILLED  # the second checkpoint is ready, step 7 is in force
    state = json.loads((run.job / "checkpoint" / "state.json").read_text())
    assert state["step"] == 7 and told(run)[-1]["step"] == 14
    line = next(line for line in run.lines("progress.jsonl") if line["step"] == 6)
    assert state["supervised"] == line["supervised_tokens"] and state["window"]["supervised"] > 0


def test_a_changed_objective_is_refused_with_its_difference_and_the_run_goes_on_as_it_was(
    make_run: MakeRun, make_objective: MakeObjective
) -> None:
    undisturbed, run = make_run("undisturbed", {}), make_run("killed", {})
    undisturbed.train()
    assert run.live(("os.rename job/checkpoint", 0)) == KILLED
    was, run.objective = run.objective, make_objective(seed=6, slice_weights={"refusals": 3.0})
    with pytest.raises(PlumblineError, match=r"slice_weights: {'refusals': 2.0} -> {'refusals': 3.0}; seed: 5 -> 6"):
        run.train()
    run.objective = was
    run.train()
    assert_the_same(run, undisturbed)


def test_a_second_run_in_the_same_job_folder_is_refused_while_the_first_lives(make_run: MakeRun) -> None:
    run = make_run("held", {"max_steps": 1})
    run.job.mkdir(parents=True)
    ready = processes().Event()
    holder = processes().Process(target=hold, args=(run.job, ready))
    holder.start()
    assert ready.wait(180)
    with pytest.raises(PlumblineError, match="another run is at work in"):
        run.train()
    assert not (run.job / "plan.json").exists()
    holder.kill()
    holder.join()
    assert run.train().record.steps == 1, "the lock goes with the process that held it"


def test_a_resume_computes_the_epoch_it_is_in_and_none_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million rows, a step in the fourth epoch: two permutations, of that epoch and of its replay."""
    rows = 10_000_000
    order = BatchOrder(range(rows), range(rows, rows + 5000), 0.0001, 512, 5.0, 3)  # type: ignore[arg-type]
    asked: list[list[int]] = []
    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: asked.append(list(seed)) or generator(seed))
    step = 3 * order.epoch_size // order.batch + 1000
    batch = order.global_batch(step)
    assert len(set(batch.tolist())) == 512 and batch.min() >= 0 and batch.max() < rows + 5000
    assert asked == [[3, 2, 0], [3, 1, 3]], "no permutation of an epoch before"
    order.global_batch(step + 1)
    assert len(asked) == 2, "the next batch is read from the same one"


def test_a_prepared_job_is_prepared_once(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> None:
    """A kill while the job folder is written leaves no plan; prepared again, it is what it would have been."""
    template, objective = load_template(tiny_policy), make_objective()
    whole = prepare_job(tmp_path / "whole", objective, make_examples(40), (), tiny_policy, template)
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "tokens.safetensors").write_bytes((whole.folder / "tokens.safetensors").read_bytes()[:100])
    (torn / "objective.json").write_text("{")
    again = prepare_job(torn, objective, make_examples(40), (), tiny_policy, template)
    assert again.store.digest == whole.store.digest and again.train == whole.train
    trained = train(
        objective, make_examples(40), base=tiny_policy, out=tmp_path / "policy", name="aligned", job_folder=torn,
        runner="in-process",
    )  # fmt: skip
    assert TrainingRecord.model_validate_json((torn / "result" / "record.json").read_text()) == trained.record
