"""Logs of lm-evaluation-harness: `results_*.json` beside `samples_TASK_*.jsonl`, as `--log_samples` writes them.

Read as they are, without lm_eval. A document's value is what the harness put under each metric's name; a filter other
than `none` is part of the metric's name. Pairing is by document id, and the harness's own hashes of document, prompt
and target must agree. Slices and clusters are fields of the document, by the names that the caller gives.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.exchange.foreign import ForeignRun, ForeignSample
from plumbline.records import Message, digest_of
from plumbline.records.report import Direction

_RUN = ("fewshot_seed", "random_seed", "numpy_seed", "torch_seed", "gen_kwargs", "limit")
_TASK = ("num_fewshot", "generation_kwargs", "output_type", "repeats", "doc_to_text", "description")


def read_lm_eval_samples(
    folder: Path, *, slice_key: str = "slice", cluster_key: str = "cluster", metrics: tuple[str, ...] = ()
) -> list[ForeignRun]:
    """The tasks of the newest run in a folder, sorted by name. `metrics` keeps only these
    (`acc`, or `exact_match,strict-match`).

    PlumblineError for a folder without results, or whose run logged no samples.
    """
    results = _newest(folder)
    try:
        said = json.loads(results.read_bytes())
        config, configs = said["config"], said["configs"]
        higher = said.get("higher_is_better") or {}
        runs = []
        for task in sorted(configs):
            lines = _lines(results, task)
            if lines is None:
                continue
            directions: dict[str, Direction] = {
                metric: "up" if up else "down" for metric, up in (higher.get(task) or {}).items() if up is not None
            }
            samples = _samples(lines, slice_key, cluster_key, metrics)
            named = {name for sample in samples for name in sample.scores or {}}
            runs.append(
                ForeignRun(
                    harness="lm_eval",
                    task=task,
                    model=_name(config),
                    identity={
                        "harness": "lm_eval", "model": config["model"], "args": config.get("model_args"),
                        "revision": config.get("model_sha"), "dtype": config.get("model_dtype"),
                    },
                    settings={
                        **{name: config.get(name) for name in _RUN},
                        **{name: configs[task].get(name) for name in _TASK},
                        "task version": (said.get("versions") or {}).get(task),
                        "chat template": said.get("chat_template_sha"),
                        "system instruction": said.get("system_instruction_sha"),
                        "few-shot as turns": said.get("fewshot_as_multiturn"),
                    },
                    samples=samples,
                    directions={name: directions.get(name.split(",")[0], "up") for name in named},
                )
            )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise _no_log(folder, f"{results.name} or its samples lack {error}") from error
    if not runs:
        raise _no_log(folder, f"no samples lie beside {results.name}")
    return runs


def _newest(folder: Path) -> Path:
    if folder.is_file() and folder.name.startswith("results_"):
        return folder
    found = sorted(folder.rglob("results_*.json"), key=lambda path: path.name) if folder.is_dir() else []
    if not found:
        raise _no_log(folder, "no results_*.json lies in it")
    return found[-1]


def _lines(results: Path, task: str) -> list[dict[str, Any]] | None:
    """The samples of a task, which carry the results' own time in their name."""
    date = results.stem.removeprefix("results_")
    path = results.with_name(f"samples_{task}_{date}.jsonl")
    if not path.exists():
        return None
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]


def _samples(
    lines: list[dict[str, Any]], slice_key: str, cluster_key: str, metrics: tuple[str, ...]
) -> tuple[ForeignSample, ...]:
    """One sample a document. The harness writes a line for each filter; their metrics are joined."""
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        grouped[int(line["doc_id"])].append(line)
    return tuple(_sample(id, grouped[id], slice_key, cluster_key, metrics) for id in sorted(grouped))


def _sample(
    id: int, lines: list[dict[str, Any]], slice_key: str, cluster_key: str, metrics: tuple[str, ...]
) -> ForeignSample:
    first = lines[0]
    doc = first["doc"] if isinstance(first["doc"], dict) else {}
    scores: dict[str, float] = {}
    for line in lines:
        for metric in line["metrics"]:
            name = metric if line.get("filter", "none") == "none" else f"{metric},{line['filter']}"
            value = line.get(metric)
            if (not metrics or name in metrics) and isinstance(value, bool | int | float):
                scores[name] = float(value)
    asked = first["arguments"]["gen_args_0"]["arg_0"]
    return ForeignSample(
        id=f"{id:06d}",
        asked=digest_of([first.get("doc_hash"), first.get("prompt_hash"), first.get("target_hash")]),
        messages=(Message(role="user", content=str(asked)),),
        target=(str(first["target"]),),
        answer=_answer(first),
        scores=scores or None,
        slice=str(doc.get(slice_key, "all documents")),
        cluster=str(doc.get(cluster_key, id)),
    )


def _answer(line: dict[str, Any]) -> str:
    """Generated text, or the continuation that was likeliest."""
    said = line["filtered_resps"]
    if not said:
        return ""
    if isinstance(said[0], str):
        return said[0]
    values = [float(one[0]) for one in said]
    best = values.index(max(values))
    return str(line["arguments"][f"gen_args_{best}"]["arg_1"])


def _name(config: dict[str, Any]) -> str:
    args = config.get("model_args")
    if isinstance(args, dict):
        return str(args.get("pretrained") or args.get("model") or config["model"])
    for part in str(args or "").split(","):
        if part.startswith(("pretrained=", "model=")):
            return part.partition("=")[2]
    return str(config["model"])


def _no_log(folder: Path, why: str) -> PlumblineError:
    return PlumblineError(
        f"{folder} holds no samples of lm-evaluation-harness: {why}",
        consequence="nothing was imported",
        remedy="give the folder that `lm_eval --output_path DIR --log_samples` wrote",
    )
