"""However many workers there are, and whatever becomes of them, it is one run: the same batches, the same policy."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distributed_worker import Part, work
from plumbline.policies.local import load_template
from plumbline.records import Adapter, CheckpointChoice, KlTerm, Objective, Optimiser, ProbePlan, digest_of
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.loop import train_rank
from plumbline.training.runners import InProcess
from resume_worker import processes
from scripted_judge import ITEMS
from training_helpers import make_examples

MakeObjective = Callable[..., Objective]
SECONDS = 150  # for all ranks to finish: one that waits for another for ever is a failure, not a hang
EXAMPLES = make_examples(33)  # batches of 7: shares are ragged for 2 ranks and for 3, and the last batch is short
# epsilon well above rounding: AdamW would make whole steps of the signs of gradients that are nothing but rounding
SMOOTH = Optimiser(learning_rate=2e-3, warmup_steps=2, epsilon=1e-4)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "weights and KL": {"kl": KlTerm(weight=0.3, slices=("facts",)), "normaliser": "examples"},
    "packed": {"layout": "packed", "gradient_checkpointing": True},
    "validation": {"checkpoint": CheckpointChoice(rule="best_validation_loss", every=2, validation_share=0.2)},
    "lora": {"adapter": Adapter(kind="lora", rank=2, alpha=4.0), "kl": KlTerm(weight=0.3, slices=("refusals",))},
    "dora": {"adapter": Adapter(kind="dora", rank=2, alpha=4.0)},
    "fewer rows than ranks": {"batch_examples": 2, "max_steps": 5},
    "frozen": {"frozen": ("model.layers.0", "model.embed_tokens"), "slice_weights": {"facts": 0.0}},
}
FORMS = [(2, False), (3, False), (1, True), (2, True), (3, True)]
FIRST = "weights and KL"
RUNS = [(FIRST, each) for each in FORMS]
RUNS += [(what, each) for what in OBJECTIVES if what != FIRST for each in ((2, True), (3, False))]
RUNS += [("fewer rows than ranks", (3, True))]
BEGUN = [(2, True), (3, False)]  # killed after step 4, with the last checkpoint at 3
CONTINUED = [((2, True), (1, False)), ((2, True), (3, True)), ((2, True), (2, True)), ((3, False), (2, True))]

pytestmark = pytest.mark.timeout(900)


def launch(parts: list[Part], folder: Path, dies: bool = False) -> None:
    """Run the parts one after the other, on as many processes as the widest needs."""
    folder.mkdir()
    ranks = [
        processes().Process(target=work, args=(rank, parts, folder)) for rank in range(max(p.world for p in parts))
    ]
    for rank in ranks:
        rank.start()
    until = time.monotonic() + SECONDS
    for rank in ranks:
        rank.join(max(0.0, until - time.monotonic()))
    late = [rank for rank in ranks if rank.is_alive()]
    for rank in late:
        rank.kill()
    assert not late, f"the ranks did not finish in {SECONDS} s"
    assert [rank.exitcode for rank in ranks] == [-9 if dies else 0] * len(ranks)


class Runs:
    """Jobs prepared once and copied for each run, and what one process made of each."""

    def __init__(self, folder: Path, base: Path, make_objective: MakeObjective) -> None:
        self.folder, self.base = folder, base
        settings = {"batch_examples": 7, "micro_batch_examples": 3, "epochs": 1.6, "optimiser": SMOOTH}
        for what, changes in OBJECTIVES.items():
            objective = make_objective(**{**settings, **changes})
            prepare_job(self.place(what), objective, EXAMPLES, (), base, load_template(base))
            alone = self.copy(what, "alone")
            train_rank(TrainingJob.load(alone), InProcess(TrainingJob.load(alone)))

    def place(self, what: str, name: str = "prepared") -> Path:
        return self.folder / f"{what}, {name}"

    def copy(self, what: str, name: str) -> Path:
        return Path(shutil.copytree(self.place(what), self.place(what, name)))

    def weights(self, what: str, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.place(what, name) / "result" / "chosen.safetensors")

    def apart(self, what: str, name: str, other: str = "alone") -> float:
        ours, theirs = self.weights(what, name), self.weights(what, other)
        assert ours.keys() == theirs.keys() and ours
        return max(float((ours[key] - theirs[key]).abs().max()) for key in theirs)

    def record(self, what: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place(what, name) / "result" / "trained.json").read_text())
        return found


def form(world: int, sharded: bool) -> str:
    return f"{world} {'sharded' if sharded else 'whole'}"


@pytest.fixture(scope="module")
def runs(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    from plumbline.policies.files import manifest_of

    template = load_template(tiny_policy)
    base = manifest_of(tiny_policy, template.digest).digest

    def make(**changes: Any) -> Objective:
        rest = {"dataset": digest_of("dataset"), "rubric": digest_of("rubric"), "slice_weights": {"refusals": 2.0}}
        return Objective(**{**rest, "base_policy": base, "template": template.digest, "checkpoint_every": 3, **changes})

    folder = tmp_path_factory.mktemp("distributed")
    made = Runs(folder, tiny_policy, make)
    launch([Part(made.copy(what, form(*each)), *each) for what, each in RUNS], folder / "launch")
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("what", "each"), RUNS, ids=lambda each: each if isinstance(each, str) else form(*each))
def test_any_number_of_ranks_whole_or_sharded_ends_with_the_same_weights(
    runs: Runs, what: str, each: tuple[int, bool]
) -> None:
    assert runs.apart(what, form(*each)) < 1e-5
    ours, alone = runs.record(what, form(*each)), runs.record(what, "alone")
    for key in ("steps", "examples_seen", "supervised_tokens", "tokens", "chosen_step"):
        assert ours[key] == alone[key], key
    assert ours["last_loss"] == pytest.approx(alone["last_loss"], abs=1e-5) and ours["workers"] == each[0]


@pytest.mark.slow
def test_the_runs_that_are_compared_move_the_weights(runs: Runs) -> None:
    before = load_file(runs.base / "model.safetensors")
    after = runs.weights(FIRST, "alone")
    assert max(float((after[name] - before[name]).abs().max()) for name in after) > 5e-3


@pytest.mark.slow
@pytest.mark.parametrize(("what", "each"), RUNS, ids=lambda each: each if isinstance(each, str) else form(*each))
def test_ranks_take_every_row_of_the_same_global_batches_once(runs: Runs, what: str, each: tuple[int, bool]) -> None:
    job = TrainingJob.load(runs.place(what))
    world = each[0]
    seen = [
        json.loads((runs.place(what, form(*each)) / f"seen-{world}-{rank}.json").read_text()) for rank in range(world)
    ]
    trained = [step for step in zip(*seen, strict=True) if sorted(step[0][0]) != sorted(job.validation)]
    assert [step[0][0] for step in trained] == [job.order.global_batch(k).tolist() for k in range(job.order.steps)]
    for step in trained:
        assert all(batch == step[0][0] for batch, _ in step)
        assert sorted(row for _, rows in step for row in rows) == sorted(step[0][0])
    if job.objective.batch_examples % world:
        assert any(len({len(rows) for _, rows in step}) > 1 for step in trained), "some share is ragged"


@pytest.mark.slow
def test_a_run_killed_under_some_ranks_goes_on_under_others(runs: Runs, tmp_path: Path) -> None:
    for each in BEGUN:
        launch([Part(runs.copy(FIRST, f"begun {form(*each)}"), *each, dies_at=4)], tmp_path / form(*each), dies=True)
    parts = []
    for begun, then in CONTINUED:
        name = f"{form(*begun)}, then {form(*then)}"
        shutil.copytree(runs.place(FIRST, f"begun {form(*begun)}"), runs.place(FIRST, name))
        parts.append(Part(runs.place(FIRST, name), *then))
    launch(parts, tmp_path / "then")
    for (begun, then), part in zip(CONTINUED, parts, strict=True):
        name = f"{form(*begun)}, then {form(*then)}"
        assert runs.apart(FIRST, name) < 1e-5, name
        seen = json.loads((part.job / f"seen-{then[0]}-0.json").read_text())
        assert len(seen) == 8 - 3, "it goes on from the checkpoint"
        assert [line["step"] for line in lines(part.job)] == list(range(1, 9))
        assert [line["workers"] for line in lines(part.job)] == [begun[0]] * 3 + [then[0]] * 5
    assert runs.apart(FIRST, "2 sharded, then 2 sharded", "2 sharded") == 0, "the same ranks: bitwise"


def lines(job: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job / "progress.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_first_rank_hears_of_a_breach_for_all(runs: Runs, make_objective: MakeObjective, tmp_path: Path) -> None:
    """The second rank does not see the file that says stop; on its own it would go on, and wait for ever."""
    plan = ProbePlan(suite=digest_of("items"), every=2, margins={"base_skill": 0.1})
    objective, template = make_objective(probes=plan), load_template(runs.base)
    jobs = [
        prepare_job(tmp_path / name, objective, EXAMPLES, (), runs.base, template, probe_items=ITEMS)
        for name in ("first", "other")
    ]
    launch([Part(jobs[0].folder, 2, apart=jobs[1].folder)], tmp_path / "launch")
    record = json.loads((jobs[0].result / "trained.json").read_text())
    assert record["steps"] == 5 and not jobs[1].result.exists()
    assert sorted(path.name for path in jobs[0].folder.glob("checkpoint-*")) == [
        "checkpoint-0002", "checkpoint-0003", "checkpoint-0004", "checkpoint-0005",
    ]  # fmt: skip
