"""Logs of inspect_ai (EvalLog, version 2): `.json`, and `.eval`, which is a zip of JSON files compressed by zstd.

Read as they are, without inspect_ai. A sample's value is 1 for C, 0.5 for P, 0 for I and N (inspect_ai's own
`value_to_float`), booleans and numbers as they are; a scorer that returns a dictionary gives one metric per key. Epochs
of one sample are averaged. `metadata.slice` and `metadata.cluster` are taken where a task set them, or whatever keys
the caller names.
"""

import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError
from plumbline.evaluation.exchange.foreign import ForeignRun, ForeignSample
from plumbline.records import Message, digest_of

VALUES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
ZSTD = 93
ROLES = ("system", "user", "assistant")


def read_inspect_log(path: Path, *, slice_key: str = "slice", cluster_key: str = "cluster") -> ForeignRun:
    """One task of one run. PlumblineError for what is no log, holds no samples or did not finish."""
    log = _load(path)
    try:
        spec, samples, status = log["eval"], log.get("samples") or [], log["status"]
        grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for sample in samples:
            grouped[str(sample["id"])].append(sample)
        made = tuple(_sample(id, epochs, slice_key, cluster_key) for id, epochs in sorted(grouped.items()))
        generate, config = spec.get("model_generate_config") or {}, spec.get("config") or {}
        run = ForeignRun(
            harness="inspect_ai",
            task=str(spec["task"]),
            model=str(spec["model"]),
            identity={
                "harness": "inspect_ai", "model": spec["model"],
                "base_url": spec.get("model_base_url"), "args": _names(spec.get("model_args")),
            },
            settings={
                "task version": spec.get("task_version"), "task arguments": spec.get("task_args"),
                "generate config": generate, "epochs": config.get("epochs"),
                "message limit": config.get("message_limit"),
                "token limit": config.get("token_limit"), "scorers": [one["name"] for one in spec.get("scorers") or []],
            },
            samples=made,
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _no_log(path, f"it lacks {error}") from error
    if not made:
        raise PlumblineError(
            f"{path} holds no samples (its status is {status})",
            consequence="nothing can be paired",
            remedy="log samples (do not use --no-log-samples) and give the log of a finished run",
        )
    return run


def _sample(id: str, epochs: list[dict[str, Any]], slice_key: str, cluster_key: str) -> ForeignSample:
    first = epochs[0]
    metadata = first.get("metadata") or {}
    said = [_scores(one) for one in epochs]
    whole = [one for one in said if one is not None]
    target = first.get("target") or ""
    target = (target,) if isinstance(target, str) else tuple(str(one) for one in target)
    messages = _messages(first["input"])
    asked = digest_of([[message.role, message.content] for message in messages] + list(target))
    choices = (first.get("output") or {}).get("choices") or []
    return ForeignSample(
        id=id,
        asked=asked,
        messages=messages,
        target=target,
        answer=_text(choices[0]["message"]["content"]) if choices else "",
        scores=_mean(whole) if len(whole) == len(epochs) else None,
        slice=str(metadata.get(slice_key, "all samples")),
        cluster=str(metadata.get(cluster_key, id)),
    )


def _scores(sample: dict[str, Any]) -> dict[str, float] | None:
    """Values by metric; None for a sample that ended in an error or that nobody scored."""
    if sample.get("error") or not sample.get("scores"):
        return None
    found: dict[str, float] = {}
    for name, score in sample["scores"].items():
        value = score["value"]
        for metric, one in value.items() if isinstance(value, dict) else [(None, value)]:
            number = VALUES.get(one) if isinstance(one, str) else float(one) if one is not None else None
            if number is not None:
                found[name if metric is None else f"{name}.{metric}"] = number
    return found or None


def _mean(scores: list[dict[str, float]]) -> dict[str, float]:
    common = set.intersection(*(set(one) for one in scores))
    return {name: sum(one[name] for one in scores) / len(scores) for name in sorted(common)}


def _messages(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    return tuple(Message(role=one["role"], content=_text(one["content"])) for one in value if one["role"] in ROLES)


def _text(content: Any) -> str:
    """Text of a message, whose content is text or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


def _names(args: Any) -> list[str]:
    """Names of the model's arguments; values may hold secrets, or a whole mocked run."""
    return sorted(args) if isinstance(args, dict) else []


def _load(path: Path) -> dict[str, Any]:
    try:
        if not zipfile.is_zipfile(path):
            log = json.loads(path.read_bytes())
        else:
            with zipfile.ZipFile(path) as archive:
                log = json.loads(_read(archive, path, "header.json"))
                names = [name for name in archive.namelist() if name.startswith("samples/")]
                log["samples"] = [json.loads(_read(archive, path, name)) for name in names]
    except OSError as error:
        raise _no_log(path, error.strerror or str(error)) from error
    except (ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise _no_log(path, "it is neither JSON nor an .eval archive") from error
    if not isinstance(log, dict) or log.get("version") != 2:
        raise _no_log(path, "it says no `version: 2`")
    return log


def _read(archive: zipfile.ZipFile, path: Path, name: str) -> bytes:
    """A member's bytes. Python's zipfile learns zstd in 3.14; until then the frame goes through pyarrow."""
    member = archive.getinfo(name)
    if member.compress_type != ZSTD:
        return archive.read(member)
    try:
        import pyarrow
    except ImportError as error:
        raise PlumblineError(
            f"{path} is compressed by zstd, which needs pyarrow",
            consequence="the log was not read",
            remedy="install plumbline[parquet], or write JSON: inspect log convert LOG --to json --output-dir DIR",
        ) from error
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(member.compress_size)
    return bytes(pyarrow.decompress(packed, decompressed_size=member.file_size, codec="zstd", asbytes=True))


def _no_log(path: Path, why: str) -> PlumblineError:
    return PlumblineError(
        f"{path} is no log of inspect_ai: {why}",
        consequence="nothing was imported",
        remedy="give a .json or .eval file that `inspect eval` wrote",
    )
