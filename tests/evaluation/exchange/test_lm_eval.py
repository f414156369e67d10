"""Our suites as lm-evaluation-harness's tasks, its own run over them, and its samples read back and paired."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import make_tiny_policy

from plumbline.errors import PlumblineError
from plumbline.evaluation import evaluate
from plumbline.evaluation.exchange import export_inspect, export_lm_eval, paired_report, read_lm_eval_samples
from plumbline.policies.local import LocalPolicy
from plumbline.records import DecoderSettings, Suite, SuiteItem, say

CHOICES = ("yes , it is .", "no , it is not .", "maybe so .")


def item(number: int, scorer: str, **more) -> SuiteItem:
    return SuiteItem(
        id=f"{scorer}/{number}", area="honesty", slice="odd" if number % 2 else "even", cluster=f"pair {number // 2}",
        messages=more.pop("messages", (say("user", f"is {number} a number ?"),)), scorer=scorer, **more,
    )  # fmt: skip


@pytest.fixture
def mixed() -> Suite:
    items = [
        *(item(n, "choice_loglik", choices=tuple(f"{n} {CHOICES[(n + k) % 3]}" for k in range(3))) for n in range(24)),
        *(item(n, "exact", references=(f"{n}", "a number")) for n in range(4)),
        *(item(n, "refusal") for n in range(3)),
        item(9, "exact", references=("x",), messages=(say("user", "a"), say("assistant", "b"), say("user", "c"))),
    ]  # fmt: skip
    return Suite(name="Mixed set", version="1", items=tuple(items))


def test_what_a_harness_cannot_measure_alike_is_left_out_and_counted(mixed, tmp_path):
    theirs = export_lm_eval(mixed, tmp_path / "lm")
    assert theirs.items == 28
    assert theirs.left_out == {
        "scored by `refusal`, which lm-eval has no counterpart for": 3,
        "a conversation of several turns": 1,
    }
    inspect = export_inspect(mixed, tmp_path / "inspect")
    assert inspect.items == 8 and sum(inspect.left_out.values()) == 24
    compile((tmp_path / "inspect" / "mixed_set.py").read_text(), "task", "exec")


def test_the_true_choice_does_not_always_stand_first(mixed, tmp_path):
    export_lm_eval(mixed, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "mixed_set_choice_loglik.jsonl").read_text().splitlines()]
    labels = [row["label"] for row in rows]
    assert len(set(labels)) == 3
    assert all(row["choices"][row["label"]] == item.choices[0] for row, item in zip(rows, mixed.items, strict=False))


def test_a_suite_of_which_nothing_can_go_is_refused(mixed, tmp_path):
    only = mixed.model_copy(update={"items": tuple(i for i in mixed.items if i.scorer == "refusal")})
    with pytest.raises(PlumblineError, match="no counterpart"):
        export_lm_eval(only, tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm_eval is not installed (pip install 'plumbline[bench]')")
def test_their_run_over_our_tasks_gives_our_scores_and_can_be_gated(mixed, tmp_path, rubric):
    export_lm_eval(mixed, tmp_path / "tasks")
    policies = [make_tiny_policy(tmp_path / f"policy-{seed}", seed=seed) for seed in (0, 1)]
    for policy in policies:
        command = [
            sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={policy},dtype=float32",
            "--include_path", str(tmp_path / "tasks"), "--tasks", "mixed_set_choice_loglik", "--apply_chat_template",
            "--output_path", str(tmp_path / f"out-{policy.name}"), "--log_samples", "--device", "cpu",
        ]  # fmt: skip
        offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(command, capture_output=True, text=True, env=offline)
        assert done.returncode == 0, done.stderr[-3000:]
    theirs = paired_report(*(read_lm_eval_samples(tmp_path / f"out-{policy.name}") for policy in policies), rubric)
    (estimate,) = theirs.estimates
    only = mixed.model_copy(update={"items": tuple(i for i in mixed.items if i.scorer == "choice_loglik")})
    ours = evaluate(
        *(LocalPolicy.load(policy) for policy in policies), only, rubric=rubric, decoder=DecoderSettings(max_tokens=4)
    )
    (same,) = [one for one in ours.estimates if one.metric == "truthful_choice"]
    assert (estimate.reference.rate, estimate.aligned.rate) == (same.reference.rate, same.aligned.rate)
    assert (estimate.difference, estimate.low, estimate.high) == (same.difference, same.low, same.high)
    assert 0 < estimate.reference.rate < 1, "a set on which everything is right or wrong shows nothing"


def test_a_folder_without_their_results_is_refused(tmp_path: Path):
    with pytest.raises(PlumblineError, match=r"no results_\*.json"):
        read_lm_eval_samples(tmp_path)
    (tmp_path / "results_x.json").write_text("{}")
    with pytest.raises(PlumblineError, match="lack"):
        read_lm_eval_samples(tmp_path)
