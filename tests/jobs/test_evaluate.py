"""The evaluation's entry point, as a cluster runs it: the report and the decision are those of `plumb evaluate`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import make_tiny_policy

from plumbline.evaluation import save_suite
from plumbline.microworld import microworld_rubric
from plumbline.reconcile.plans import EvaluationPlan
from plumbline.records import Suite, SuiteItem, say

ENTRY = Path(__file__).resolve().parents[2] / "jobs" / "evaluate.py"
PLUMB = Path(sys.executable).with_name("plumb")
ITEMS = 400  # two batches of each kind


def suite() -> Suite:
    def item(number: int, **more: object) -> SuiteItem:
        question = f"who is ana {number} ? " * (1 + number % 3)
        return SuiteItem.model_validate(
            {"id": f"{more['scorer']}{number}", "cluster": f"c{number}", "messages": (say("user", question),), **more}
        )

    said = [
        item(n, area="over_refusal", slice="benign", scorer="compliance") if n % 2
        else item(n, area="honesty", slice="facts", scorer="choice_loglik", choices=("a baker .", "a poet ."))
        for n in range(ITEMS)
    ]  # fmt: skip
    return Suite(name="facts", version="1", items=tuple(said))


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PLUMBLINE_", "RAY_ADDRESS"))}
    return {**clean, **more}


def started(storage: Path, **more: str) -> "subprocess.Popen[str]":
    line = [sys.executable, ENTRY, "--plan", storage / "plan.json", "--run-name", "first", "--storage", storage]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([str(word) for word in line], env=environment(**more), **pipes)  # type: ignore[call-overload]


def lines(folder: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in folder.glob("answers-*.jsonl"))


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_ends_with_the_report_and_decision_of_one_process(
    tmp_path: Path, tiny_policy: Path
) -> None:
    storage = tmp_path / "storage"
    (storage / "suites").mkdir(parents=True)
    (storage / "reference").symlink_to(tiny_policy)
    make_tiny_policy(storage / "aligned", seed=3)
    save_suite(suite(), storage / "suites" / "facts.jsonl")
    plan = EvaluationPlan(
        reference="reference",
        aligned="aligned",
        suites=("suites/facts.jsonl",),
        suite=suite().digest,
        rubric=microworld_rubric(),
        max_tokens=6,
    )
    (storage / "plan.json").write_text(plan.model_dump_json())
    answers = storage / "evaluations" / "first" / "answers"

    killed = started(storage, PLUMBLINE_WORKERS="1:2")
    until = time.monotonic() + 200
    while not lines(answers) and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert lines(answers) > 0, "it was killed after its first answers"
    assert not (answers.parent / "report.json").exists()

    done = started(storage, PLUMBLINE_WORKERS="1")
    out, err = done.communicate(timeout=400)
    assert done.returncode == 0, err

    legs = ("--reference", storage / "reference", "--aligned", storage / "aligned")
    local = ("--suite", storage / "suites" / "facts.jsonl", "--out", tmp_path / "here", "--max-tokens", "6")
    here = subprocess.run(
        [str(word) for word in (PLUMB, "evaluate", *legs, *local)],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    assert (answers.parent / "report.json").read_bytes() == (tmp_path / "here" / "report.json").read_bytes()
    gate = subprocess.run(
        [str(PLUMB), "gate", str(tmp_path / "here" / "report.json"), "--json"],
        env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    decided = json.loads(gate.stdout)
    assert out.splitlines()[-1] == f"{decided['verdict']}  (decision {decided.pop('digest')})"
    assert json.loads((answers.parent / "decision.json").read_text()) == decided


def test_other_suites_than_were_meant_and_what_is_no_plan_are_refused(tmp_path: Path, tiny_policy: Path) -> None:
    save_suite(suite(), tmp_path / "facts.jsonl")
    plan = EvaluationPlan(
        reference=str(tiny_policy),
        aligned=str(tiny_policy),
        suites=("facts.jsonl",),
        suite="sha256:" + "0" * 64,
        rubric=microworld_rubric(),
    )
    for text, word in ((plan.model_dump_json(), "the suites have the digest"), ("{}", "is not an evaluation's plan")):
        (tmp_path / "plan.json").write_text(text)
        done = started(tmp_path)
        _, err = done.communicate(timeout=100)
        assert done.returncode == 2 and word in err and "\n  do: " in err and "Traceback" not in err, err
