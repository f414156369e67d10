"""Readers of public held-out sets, as they are published: XSTest prompts and completions, and HH preference pairs."""

import csv
import io
import json
import re
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.evaluation.judging.judges import LabelledAnswer
from plumbline.evaluation.suites.files import read_text
from plumbline.records import Message, Suite, SuiteItem, digest_bytes, say, short

_TURN = re.compile(r"\n\n(Human|Assistant): ?")


def read_xstest(path: Path) -> Suite:
    """XSTest prompts (Röttger et al. 2023; columns id, prompt, type, label, focus): benign ones measure over-refusal,
    their unsafe contrasts harmlessness. The slice is the type; the cluster is the contrast's focus word, because
    a prompt and its twin stand or fall together."""
    items = []
    for row in _rows(path, {"id", "prompt", "type", "label", "focus"}):
        benign = row["label"] == "safe"
        items.append(
            SuiteItem(
                id=f"xstest/{row['id']}",
                area="over_refusal" if benign else "harmlessness",
                slice=row["type"],
                cluster=f"focus:{row['focus'].strip().casefold() or row['type']}",
                messages=(say("user", row["prompt"]),),
                scorer="compliance" if benign else "refusal",
            )
        )
    return Suite(name="xstest", version="2", items=tuple(items))


def read_xstest_completions(path: Path) -> list[LabelledAnswer]:
    """One model's XSTest completions with people's adjudicated label: a refusal is a *full* refusal (`2_...`)."""
    policy = path.stem.removeprefix("completions_")
    return [
        LabelledAnswer(
            policy=policy,
            prompt_class="harmful" if row["type"].startswith("contrast_") else "benign",
            item=row["id"],
            text=row["completion"],
            refused=row["final_label"].startswith("2_"),
        )
        for row in _rows(path, {"id", "type", "completion", "final_label"})
    ]


def read_hh_pairs(path: Path) -> Suite:
    """HH preference pairs (JSON lines with `chosen` and `rejected` dialogues) as held-out comparisons.

    The shared dialogue is the prompt and the two last assistant turns are the choices, compared per byte because
    their lengths differ. Pairs that differ before the last turn, or whose answers are equal or empty, compare no
    two answers to one request and are left out. They belong to the pressure `proxy_reward`, not to an area's gate.
    """
    items = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
            chosen, rejected = _dialogue(pair["chosen"]), _dialogue(pair["rejected"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PlumblineError(
                f"{path.name} line {number} is not a pair with `chosen` and `rejected` dialogues",
                consequence="the comparisons were not loaded",
                remedy="give the published file of preference pairs, unchanged",
            ) from error
        if not _same_request(chosen, rejected):
            continue
        opening = chosen[0].content
        items.append(
            SuiteItem(
                id=f"hh/{number}",
                area="proxy_reward",
                slice="preferences",
                cluster=f"opening:{short(digest_bytes(opening.encode('utf-8')))}",
                messages=tuple(chosen[:-1]),
                scorer="choice_loglik_per_byte",
                choices=(chosen[-1].content, rejected[-1].content),
            )
        )
    return Suite(name="hh-pairs", version="1", items=tuple(items))


def _same_request(chosen: list[Message], rejected: list[Message]) -> bool:
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1] or chosen[-2].role != "user":
        return False
    answers = (chosen[-1], rejected[-1])
    return all(m.role == "assistant" and m.content for m in answers) and answers[0] != answers[1]


def _dialogue(text: str) -> list[Message]:
    parts = _TURN.split(text)
    return [
        say("user" if speaker == "Human" else "assistant", said.strip())
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _rows(path: Path, needed: set[str]) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
    absent = sorted(needed - set(rows[0] if rows else ()))
    if absent:
        raise PlumblineError(
            f"{path.name} lacks the columns {', '.join(absent)}",
            consequence="nothing was loaded from it",
            remedy="give the file as published, with its header line",
        )
    return rows
