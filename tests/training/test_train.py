"""A run ends with the same policy however often it is stopped, and refuses to become another run."""

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from plumbline.errors import PlumblineError
from plumbline.policies.local import LocalPolicy, load_template
from plumbline.records import Adapter, CheckpointChoice, DecoderSettings, Objective
from plumbline.training import Trained, loop, train
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.loop import train_rank
from plumbline.training.runners import InProcess
from training_helpers import make_examples

MakeObjective = Callable[..., Objective]
LEARNING_RATE = loop.learning_rate
EXAMPLES = make_examples(40)


class Killed(Exception):
    """Stands for a kill: nothing in the loop catches it."""


class DiesAfter:
    """The learning-rate schedule, until its `steps` are used up."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, *args: Any) -> float:
        if self.left == 0:
            raise Killed
        self.left -= 1
        return LEARNING_RATE(*args)


def run(objective: Objective, base: Path, folder: Path, **more: Any) -> Trained:
    settings: dict[str, Any] = {"runner": "in-process", "name": "aligned", **more}
    return train(objective, EXAMPLES, base=base, out=folder / "policy", job_folder=folder / "job", **settings)


def weights(trained: Trained) -> bytes:
    return (trained.path / "model.safetensors").read_bytes()


def test_training_lowers_the_loss_and_records_what_made_the_policy(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    objective = make_objective(epochs=60.0, checkpoint_every=100)
    trained = run(objective, tiny_policy, tmp_path)
    assert trained.record.last_loss < 0.5 * trained.record.first_loss
    assert trained.manifest.objective == objective.digest
    assert trained.manifest.base_policy == objective.base_policy
    policy = LocalPolicy.load(trained.path)
    answer = policy.generate([EXAMPLES[1].prompt], DecoderSettings(max_tokens=24))[0]
    assert answer.text == "ana is a baker ." and answer.finish == "stop"


def test_a_killed_run_ends_with_bitwise_the_same_weights(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = make_objective()
    whole = run(objective, tiny_policy, tmp_path / "whole")
    for steps in (1, 3, 5, 6, 9):
        folder = tmp_path / f"killed-{steps}"
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop, "learning_rate", DiesAfter(steps))
            run(objective, tiny_policy, folder)
        assert weights(run(objective, tiny_policy, folder)) == weights(whole), f"killed after {steps} steps"


def test_a_changed_objective_is_refused_with_what_changed(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    run(make_objective(max_steps=2), tiny_policy, tmp_path)
    with pytest.raises(PlumblineError, match=r"changed: max_steps: 2 -> 3"):
        run(make_objective(max_steps=3), tiny_policy, tmp_path)


def test_another_base_policy_than_the_objectives_is_refused(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    objective = make_objective(base_policy="sha256:" + "0" * 64)
    with pytest.raises(PlumblineError, match="the objective names sha256:0000"):
        run(objective, tiny_policy, tmp_path)


def test_an_export_never_overwrites_another_policy(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    first = run(make_objective(max_steps=2), tiny_policy, tmp_path)
    before = weights(first)
    with pytest.raises(PlumblineError, match="already holds another policy"):
        train(
            make_objective(max_steps=3),
            EXAMPLES,
            base=tiny_policy,
            out=first.path,
            name="aligned",
            job_folder=tmp_path / "job-2",
            runner="in-process",
        )
    assert weights(first) == before


def test_lora_trains_only_the_adapter_and_exports_a_merged_policy(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    objective = make_objective(adapter=Adapter(kind="lora", rank=4, alpha=8.0), epochs=4.0)
    trained = run(objective, tiny_policy, tmp_path)
    before, after = load_file(tiny_policy / "model.safetensors"), load_file(trained.path / "model.safetensors")
    assert before.keys() == after.keys()
    assert (before["model.embed_tokens.weight"] == after["model.embed_tokens.weight"]).all()
    assert not (before["model.layers.0.mlp.up_proj.weight"] == after["model.layers.0.mlp.up_proj.weight"]).all()
    assert trained.record.last_loss < trained.record.first_loss


def test_the_ledger_says_each_slices_true_share_of_the_loss(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    replayed = [e.model_copy(update={"slice": "replay"}) for e in make_examples(40)]
    objective = make_objective(replay="sha256:" + "0" * 64, replay_share=0.2, max_steps=None, epochs=1.0)
    run(objective, tiny_policy, tmp_path, replay=replayed)
    shares = {name: row.loss_share for name, row in TrainingJob.load(tmp_path / "job").ledger.items() if name != "all"}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
    assert 0.05 < shares["replay"] < 0.3, "ten of forty replay examples are drawn, and refusals weigh double"


def test_frozen_parameters_do_not_move(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> None:
    trained = run(make_objective(frozen=("model.embed_tokens",)), tiny_policy, tmp_path)
    before, after = load_file(tiny_policy / "model.safetensors"), load_file(trained.path / "model.safetensors")
    moved = {name for name in before if not (before[name] == after[name]).all()}
    assert "model.embed_tokens.weight" not in moved and moved


def test_the_checkpoint_rule_keeps_the_best_validation_loss(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    rule = CheckpointChoice(rule="best_validation_loss", every=2, validation_share=0.2)
    trained = run(make_objective(checkpoint=rule, epochs=6.0), tiny_policy, tmp_path)
    job = TrainingJob.load(tmp_path / "job")
    assert job.validation and not set(job.validation) & set(job.train)
    assert 0 < trained.record.chosen_step <= trained.record.steps


def test_a_full_disk_at_a_checkpoint_leaves_the_previous_one(
    make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path
) -> None:
    """A real limit on the size of files, from the second checkpoint on; then the run goes on from the first."""
    objective = make_objective()
    whole = run(objective, tiny_policy, tmp_path / "whole")
    folder = tmp_path / "full"

    class FillsUp(InProcess):
        def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
            if metrics["step"] > 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
            super().save(metrics, write, probe)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    template = load_template(tiny_policy)
    job = prepare_job(folder / "job", objective, EXAMPLES, (), tiny_policy, template)
    try:
        with pytest.raises(PlumblineError, match="could not be written") as error:
            train_rank(job, FillsUp(job))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "the previous checkpoint is intact" in str(error.value)
    assert json.loads((job.folder / "checkpoint" / "state.json").read_text())["step"] == 3
    assert weights(run(objective, tiny_policy, folder)) == weights(whole)
