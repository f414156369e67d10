"""Our suites as tasks of inspect_ai and lm-evaluation-harness, as far as they can measure the same.

Each export says what it leaves out, because a task that silently measures something else is worse than none:

    inspect_ai    generated answers, scored by Plumbline's own scorer (the task imports it); it has no local
                  log-likelihood, so items that compare choices stay here
    lm-eval       choices by log-likelihood (`acc` for choice_loglik, `acc_bytes` for choice_loglik_per_byte) and exact
                  matches; no conversations of several turns, no judges

The likelihood tasks put choices in a stable order that follows from the item: lm-eval takes the first of those that
tie, and a set whose true choice always stands first would credit a policy that cannot tell them apart.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.answers import by_likelihood
from plumbline.evaluation.scoring.order import stable_order
from plumbline.policies.files import write_durably
from plumbline.records import Suite, SuiteItem, as_dicts


@dataclass(frozen=True)
class Exported:
    """Files written, items in them, and items left out by reason."""

    files: tuple[Path, ...]
    items: int
    left_out: dict[str, int]


def export_inspect(suite: Suite, out: Path) -> Exported:
    """`OUT/NAME.py` with one @task, and its items beside it. Run: `inspect eval OUT/NAME.py --model ...`."""
    kept, left_out = _sorted_out(
        suite, lambda item: "compared by log-likelihood, which inspect_ai does not offer" if by_likelihood(item) else ""
    )
    name = _identifier(suite.name)
    rows = [
        {
            "id": item.id,
            "input": as_dicts(item.messages),
            "target": list(item.references),
            "metadata": {
                "area": item.area,
                "slice": item.slice,
                "cluster": item.cluster,
                "item": item.model_dump_json(),
            },
        }
        for item in kept
    ]
    data, task = out / f"{name}.jsonl", out / f"{name}.py"
    _write(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _write(task, _INSPECT_TASK.format(name=name, suite=suite.name, version=suite.version, digest=suite.digest))
    return Exported((task, data), len(kept), left_out)


def export_lm_eval(suite: Suite, out: Path) -> Exported:
    """A YAML file and a JSONL for each kind of scorer. Run: `lm_eval --include_path OUT --tasks NAME_...`."""
    kept, left_out = _sorted_out(suite, _not_for_lm_eval)
    name = _identifier(suite.name)
    files: list[Path] = []
    for scorer, template in _LM_EVAL_TASKS.items():
        items = [item for item in kept if item.scorer == scorer]
        if not items:
            continue
        task = f"{name}_{scorer}"
        data, config = out / f"{task}.jsonl", out / f"{task}.yaml"
        _write(data, "".join(json.dumps(_document(item), ensure_ascii=False) + "\n" for item in items))
        _write(
            config,
            template.format(
                task=task, data=json.dumps(str(data.resolve())), version=json.dumps(suite.version), digest=suite.digest
            ),
        )
        files += [config, data]
    if not files:
        raise PlumblineError(
            f"no item of {suite.name} can be a task of lm-eval: "
            + "; ".join(f"{n} {why}" for why, n in sorted(left_out.items())),
            consequence="nothing was written",
            remedy="evaluate the suite with `plumb evaluate`, or export it to inspect",
        )
    return Exported(tuple(files), len(kept), left_out)


def _sorted_out(suite: Suite, why_not: Callable[[SuiteItem], str]) -> tuple[list[SuiteItem], dict[str, int]]:
    kept: list[SuiteItem] = []
    left_out: dict[str, int] = {}
    for item in suite.items:
        if reason := why_not(item):
            left_out[reason] = left_out.get(reason, 0) + 1
        else:
            kept.append(item)
    return kept, left_out


def _not_for_lm_eval(item: SuiteItem) -> str:
    if item.scorer not in _LM_EVAL_TASKS:
        return f"scored by `{item.scorer}`, which lm-eval has no counterpart for"
    if len([m for m in item.messages if m.role != "system"]) != 1:
        return "a conversation of several turns"
    if any(m.role == "system" for m in item.messages):
        return "under a system message of its own"
    if len(item.true_choices) > 1:
        return "with several true choices"
    return ""


def _document(item: SuiteItem) -> dict[str, object]:
    row: dict[str, object] = {
        "id": item.id, "prompt": item.messages[-1].content, "area": item.area, "slice": item.slice,
        "cluster": item.cluster,
    }  # fmt: skip
    if item.choices:
        choices = stable_order(item.id, item.choices)
        return row | {"choices": list(choices), "label": choices.index(item.choices[item.true_choices[0]])}
    return row | {"references": list(item.references)}


def _identifier(name: str) -> str:
    text = "".join(character if character.isalnum() and character.isascii() else "_" for character in name.lower())
    return text if text[:1].isalpha() else f"suite_{text}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode("utf-8"))


_INSPECT_TASK = '''"""Suite {suite} {version} for inspect_ai. Plumbline, installed beside it, scores the answers.

suite {digest}
"""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import json_dataset
from inspect_ai.scorer import Score, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate

from plumbline.evaluation.answers import ItemAnswer
from plumbline.evaluation.judging.judges import TextJudge
from plumbline.evaluation.scorers import score
from plumbline.records import SuiteItem


@scorer(metrics=[accuracy(), stderr(cluster="cluster")])
def plumbline():
    judge = TextJudge()

    async def scored(state: TaskState, target: Target) -> Score:
        item = SuiteItem.model_validate_json(state.metadata["item"])
        found = score(item, ItemAnswer(item=item.id, text=state.output.completion, finish="stop"), judge)
        return Score(value=found.success, answer=state.output.completion, explanation=found.outcome.value)

    return scored


@task
def {name}() -> Task:
    return Task(dataset=json_dataset(str(Path(__file__).with_suffix(".jsonl"))), solver=generate(), scorer=plumbline())
'''
_LM_EVAL_HEAD = """# suite {digest}
task: {task}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
doc_to_text: "{{{{prompt}}}}"
metadata: {{version: {version}}}
"""
_LM_EVAL_CHOICE = (
    _LM_EVAL_HEAD
    + """output_type: multiple_choice
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
target_delimiter: ""
metric_list:
  - {{metric: METRIC, aggregation: mean, higher_is_better: true}}
"""
)
_LM_EVAL_TASKS = {
    "choice_loglik": _LM_EVAL_CHOICE.replace("METRIC", "acc"),
    "choice_loglik_per_byte": _LM_EVAL_CHOICE.replace("METRIC", "acc_bytes"),
    "exact": _LM_EVAL_HEAD
    + """output_type: generate_until
doc_to_target: "{{{{references}}}}"
generation_kwargs: {{until: [], do_sample: false, max_gen_toks: 64}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: true}}
""",
}
