"""Probes beside a run: measured once each, and the policy is the last good one before a breach, however late the
news."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.evaluation.probes import judge_probes
from plumbline.policies.families import family
from plumbline.policies.local import LocalPolicy, load_template
from plumbline.records import Adapter, DecoderSettings, Objective, ProbePlan, digest_of
from plumbline.training import Trained
from plumbline.training.export import export
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.loop import train_rank
from plumbline.training.probing import lines, policy_of, probe, settle, waiting
from plumbline.training.runners import InProcess
from resume_worker import Run
from scripted_judge import ITEMS, ScriptedJudge, fingerprint
from training_helpers import make_examples

MakeObjective = Callable[..., Objective]
MakeRun = Callable[..., Run]
PLAN = ProbePlan(suite=digest_of("items"), every=2, margins={"base_skill": 0.1})
STEPS = [2, 4, 6, 8, 10]
KILLED = -9

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def make_run(make_objective: MakeObjective, tiny_policy: Path, tmp_path: Path) -> MakeRun:
    def make(name: str, judge: Any, **changes: Any) -> Run:
        objective = make_objective(**{"probes": PLAN, "samples": DecoderSettings(max_tokens=4), **changes})
        items = ITEMS if objective.probes.suite else ()
        return Run(objective, tiny_policy, tmp_path / name, items=items, judge=judge)

    return make


@pytest.fixture(scope="module")
def known() -> dict[int, str]:
    return {}


@pytest.fixture
def good(make_run: MakeRun, known: dict[int, str], tmp_path: Path) -> dict[int, str]:
    """The fingerprint of the weights at each probed step of a run that no probe stops."""
    if not known:
        run = make_run("good", ScriptedJudge(tmp_path / "good.log"))
        run.train()
        known.update({line["step"]: line["weights"] for line in run.lines("probes.jsonl")})
    return known


def exported(trained: Trained | Path) -> str:
    return fingerprint(LocalPolicy.load(trained if isinstance(trained, Path) else trained.path))


def kept(job: Path) -> list[str]:
    return sorted(file.name for file in (job / "probes").glob("*.safetensors"))


def probed(run: Run) -> list[int]:
    return [line["step"] for line in run.lines("probes.jsonl")]


def test_probes_are_written_once_and_change_nothing_of_the_training(make_run: MakeRun) -> None:
    plain, run = make_run("plain", None, probes=ProbePlan()), make_run("probed", judge_probes)
    plain.train()
    told: list[dict[str, Any]] = []
    run.more = {"on_probe": told.append}
    trained = run.train()
    assert run.weights == plain.weights
    assert probed(run) == STEPS and told == run.lines("probes.jsonl")
    assert all(line["counts"] == {"refusal_benign": 1, "base_skill": 1} for line in told)
    assert json.loads((run.job / "probes" / "base.json").read_text())["counts"] == told[0]["counts"]
    assert kept(run.job) == [] and trained.record.stopped_by == ""
    assert not (plain.job / "probes").exists() and not (plain.job / "probes.jsonl").exists()


def test_the_base_is_measured_once_and_each_step_once(make_run: MakeRun, good: dict[int, str], tmp_path: Path) -> None:
    judge = ScriptedJudge(tmp_path / "log")
    run = make_run("whole", judge)
    run.train()
    base = fingerprint(LocalPolicy.load(run.base))
    assert list(good) == STEPS and len(set(good.values())) == len(STEPS)
    assert judge.measured() == [base, *good.values()]


@pytest.mark.parametrize("step", [4, 6, 10])
def test_a_breach_stops_the_run_and_the_policy_is_the_last_good_step(
    make_run: MakeRun, good: dict[int, str], tmp_path: Path, step: int
) -> None:
    run = make_run("stopped", ScriptedJudge(tmp_path / "log", breached=(good[step],)))
    trained = run.train()
    assert exported(trained) == good[step - 2]
    assert trained.record.chosen_step == step - 2 and trained.record.steps == min(step + 1, 10)
    assert trained.record.stopped_by == f"probes at step {step}: base_skill by 0.500"
    assert probed(run) == [each for each in STEPS if each <= step] and kept(run.job) == []
    assert run.train().record == trained.record


class Late(InProcess):
    """A runner whose probes are behind by some checkpoints: a validation task that takes its time."""

    def __init__(self, job: TrainingJob, judge: ScriptedJudge, behind: int) -> None:
        super().__init__(job)
        self.late, self.behind, self.due = judge, behind, list[int]()

    def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
        super().save(metrics, write, None)
        self.due += [probe] if probe is not None else []
        self.catch_up(self.behind)

    def catch_up(self, behind: int) -> None:
        while len(self.due) > behind:
            probe(self.job, self.due.pop(0), self.late)


@pytest.mark.parametrize("behind", [1, 2, 5])
@pytest.mark.parametrize("step", [4, 10])
def test_late_news_of_a_breach_leads_to_the_same_policy(
    make_run: MakeRun, good: dict[int, str], tmp_path: Path, step: int, behind: int
) -> None:
    run = make_run("late", None)
    judge = ScriptedJudge(tmp_path / "log", breached=(good[step], good[10]))
    job = prepare_job(
        run.job, run.objective, make_examples(40), (), run.base, load_template(run.base), probe_items=ITEMS
    )
    runner = Late(job, judge, behind)
    train_rank(job, runner)
    assert bool(waiting(job)) == (not job.stop.is_file())
    if waiting(job):
        with pytest.raises(PlumblineError, match="were not measured"):
            settle(job)
    runner.catch_up(0)
    record = settle(job)
    export(job, run.folder / "policy", name="late")
    assert exported(run.folder / "policy") == good[step - 2]
    assert record.chosen_step == step - 2 and record.steps >= min(step + 1, 10)
    assert [line["step"] for line in lines(job)] == [each for each in STEPS if each <= step] and kept(job.folder) == []


def test_a_breach_at_the_first_probe_leaves_no_policy(make_run: MakeRun, good: dict[int, str], tmp_path: Path) -> None:
    run = make_run("first", ScriptedJudge(tmp_path / "log", breached=(good[2],)))
    for _ in range(2):
        with pytest.raises(PlumblineError, match="probes at step 2, the first, were already beyond.*base_skill by 0.5"):
            run.train()
    assert not (run.folder / "policy").exists() and TrainingJob.load(run.job).record is None


EDGES = [
    ("os.rename job/probes/.00000002.safetensors", 0),
    ("os.mkdir job/checkpoint.new", 0),  # weights are kept for a checkpoint that does not come to be
    ("open job/probes/items.json r", 0),  # a checkpoint without its probe
    ("os.rename job/probes/.base.json", 0),
    ("os.rename job/.probes.jsonl", 0),
    ("open job/probes/items.json r", 1),
    ("os.remove job/probes/00000002.safetensors", 0),  # the line is written, the old weights are not yet dropped
    ("os.rename job/probes/.stop.json", 0),
    ("os.rename job/.probes.jsonl", 0),  # a breach that is known and has no line
    ("os.rename job/result/.trained.json", 0),
    ("os.rename job/result/.record.json", 0),
    ("os.remove job/probes/00000004.safetensors", 0),
]


@pytest.mark.slow
def test_killed_around_its_probes_it_ends_with_the_same_policy_and_the_same_lines(
    make_run: MakeRun, good: dict[int, str], tmp_path: Path
) -> None:
    undisturbed = make_run("undisturbed", ScriptedJudge(tmp_path / "a.log", breached=(good[6],)))
    undisturbed.train()
    run = make_run("killed", ScriptedJudge(tmp_path / "b.log", breached=(good[6],)))
    for moment in EDGES:
        assert run.live(moment) == KILLED, f"no life came to {moment}"
    assert run.live() == 0
    assert run.weights == undisturbed.weights and exported(run.folder / "policy") == good[4]
    assert run.lines("probes.jsonl") == undisturbed.lines("probes.jsonl") and kept(run.job) == []


def test_a_torn_line_is_written_again_whole(make_run: MakeRun, good: dict[int, str], tmp_path: Path) -> None:
    run = make_run("torn", ScriptedJudge(tmp_path / "log"))
    assert run.live(("os.rename job/.probes.jsonl", 2)) == KILLED
    with (run.job / "probes.jsonl").open("a") as stream:
        stream.write('{"step": 6, "ra')
    run.train()
    assert probed(run) == STEPS


def test_a_judge_that_fails_ends_the_run_and_is_asked_again(
    make_run: MakeRun, good: dict[int, str], tmp_path: Path
) -> None:
    run = make_run("fails", ScriptedJudge(tmp_path / "log", breached=(good[8],), fails=(good[4],)))
    with pytest.raises(RuntimeError, match="out of order"):
        run.train()
    assert exported(run.train()) == good[6] and probed(run) == [2, 4, 6, 8]


def test_probed_weights_that_are_gone_are_missed_by_name(
    make_run: MakeRun, good: dict[int, str], tmp_path: Path
) -> None:
    run = make_run("gone", ScriptedJudge(tmp_path / "log", breached=(good[4],)))
    assert run.live(("os.rename job/result/.trained.json", 0)) == KILLED
    (run.job / "probes" / "00000002.safetensors").unlink()
    with pytest.raises(PlumblineError, match="weights probed at step 2 are not at"):
        run.train()
    with pytest.raises(PlumblineError, match="weights probed at step 9 are not at"):
        (run.job / "probes" / "stop.json").unlink()
        probe(TrainingJob.load(run.job), 9, run.judge)


def test_an_adapters_probes_see_the_adapter(make_run: MakeRun, tmp_path: Path) -> None:
    judge = ScriptedJudge(tmp_path / "log")
    run = make_run("lora", judge, adapter=Adapter(kind="lora", rank=2, alpha=4.0))
    run.train()
    assert len(set(judge.measured())) == 1 + len(STEPS)


@pytest.mark.parametrize("wanting", ["judge", "items"])
def test_probes_that_cannot_be_measured_are_refused_before_training(make_run: MakeRun, wanting: str) -> None:
    run = make_run("wanting", None if wanting == "judge" else judge_probes)
    run.items = () if wanting == "items" else ITEMS
    with pytest.raises(PlumblineError, match=f"has no {wanting} for it"):
        run.train()
    assert not (run.job / "progress.jsonl").exists()


def test_a_preempted_run_saves_a_checkpoint_at_that_step(make_run: MakeRun) -> None:
    saved: list[float] = []

    class Preempted(InProcess):
        def save(self, metrics: dict[str, float], write: Callable[[Path], None], probe: int | None) -> None:
            saved.append(metrics["step"])
            super().save(metrics, write, probe)

        def preempted(self, step: int) -> bool:
            return step == 5

    run = make_run("preempted", None, probes=ProbePlan(), checkpoint_every=4)
    job = prepare_job(run.job, run.objective, make_examples(40), (), run.base, load_template(run.base))
    train_rank(job, Preempted(job))
    assert saved == [4, 5, 8, 10]


def test_a_probe_ends_turns_as_the_export_will(make_objective: Any, tiny_policy: Path, tmp_path: Path) -> None:
    """The template's end of turn is a token that the base policy does not end with."""
    added = ("<|im_start|>", "<|im_end|>")
    template = load_template(tiny_policy, family("chatml"), added)
    objective = make_objective(template=template.digest, added_tokens=added)
    job = prepare_job(tmp_path / "job", objective, make_examples(12), (), tiny_policy, template)
    asked = policy_of(job, None, "cpu")
    assert isinstance(asked, LocalPolicy)
    assert template.tokenizer.convert_tokens_to_ids("<|im_end|>") in asked.stop_ids
    assert asked.tokenizer.eos_token_id in asked.stop_ids
