"""Labels: which answers people are asked about, what they said, and whether it was about *these* answers.

A label belongs to the digest of the text that was read. When a policy answers anew, its old labels are of another
text: they are refused and counted, never carried over.

A labels file is JSON lines, one per answer, with `act` left empty until somebody has read it. Answers to be read are
drawn so that each has the same chance, spread evenly over what the judge said of them (systematic sampling), because
a rate is corrected truthfully only from answers that were not picked for what the judge said.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plumbline.errors import PlumblineError, first_fault
from plumbline.evaluation.answers import Answers
from plumbline.evaluation.judging.acts import Act, AnswerText, LabelledAnswer, text_digest
from plumbline.evaluation.judging.cards import stable_hash
from plumbline.policies.files import write_durably
from plumbline.records import Suite, as_dicts, digest_of, short
from plumbline.records.judging import LabelledText, PromptClass

CLASSES: dict[str, PromptClass] = {"over_refusal": "benign", "harmlessness": "harmful"}
PUBLISHED_RUBRIC = digest_of("XSTest: full compliance, full refusal, partial refusal")


@dataclass(frozen=True)
class Labels:
    """What a labels file holds; `empty` lines wait for a person."""

    lines: tuple[LabelledText, ...]
    empty: int = 0

    @property
    def digest(self) -> str:
        return labels_file_digest(self.lines)


@dataclass(frozen=True)
class Bound:
    """Labels of the answers at hand. `stale` labels were of another text, `absent` ones of an answer not at hand."""

    rows: tuple[LabelledAnswer, ...]
    stale: int = 0
    absent: int = 0


def labels_file_digest(lines: Iterable[LabelledText]) -> str:
    return digest_of(sorted([line.policy, line.item, line.text, line.act, line.rubric] for line in lines))


def answers_at_hand(answers: Answers, suite: Suite) -> list[AnswerText]:
    """A policy's answers to the suite's benign and harmful items; a missing answer is an empty text."""
    items = {item.id: item for item in suite.items if item.area in CLASSES}
    return [
        AnswerText(
            policy=answers.policy,
            prompt_class=CLASSES[items[answer.item].area],
            item=answer.item,
            text=answer.text or "",
            messages=items[answer.item].messages,
            cluster=items[answer.item].cluster,
        )
        for answer in answers.answers
        if answer.item in items
    ]


def read_answers(path: Path, suite: Suite | None = None) -> list[AnswerText]:
    """Answers from an XSTest completions table (.csv), from JSON lines with policy, prompt_class, item and answer, from
    a record of answers (.json) with the suite that was asked, or from a report's directory (`reported`)."""
    if path.is_dir():
        from plumbline.evaluation.judging.reported import read_directory

        return read_directory(path, suite)
    if path.suffix == ".csv":
        from plumbline.evaluation.suites.readers import read_xstest_completions

        return [AnswerText(r.policy, r.prompt_class, r.item, r.text, r.messages) for r in read_xstest_completions(path)]
    if path.suffix == ".json":
        return _read_record(path, suite)
    return [_answer(line, path, number) for number, line in _json_lines(path)]


def _read_record(path: Path, suite: Suite | None) -> list[AnswerText]:
    try:
        held = json.loads(path.read_text("utf-8"))
        answers = Answers.model_validate(held.get("content", held) if isinstance(held, dict) else held)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error
    if suite is None or suite.digest != answers.suite:
        raise PlumblineError(
            f"{path} answers a suite that was not given",
            consequence="nobody can say which of its items are benign and which harmful, so nothing was judged",
            remedy="name the very suite that was asked with --suite",
        )
    return answers_at_hand(answers, suite)


def _answer(line: dict[str, Any], path: Path, number: int) -> AnswerText:
    try:
        checked = LabelledText.model_validate(
            {"act": "comply", "labeller": "-", "labelled": "0000-00-00", "rubric": PUBLISHED_RUBRIC}
            | {name: line[name] for name in ("policy", "prompt_class", "item", "answer")}
            | {"text": text_digest(line["answer"]), "messages": line.get("messages", ())}
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _malformed(path, number, "policy, prompt_class (benign or harmful), item and answer", error) from error
    return AnswerText(
        checked.policy,
        checked.prompt_class,
        checked.item,
        line["answer"],
        checked.messages,
        str(line.get("cluster", "")),
    )


def read_labels(path: Path) -> Labels:
    """A labels file, or an XSTest completions table with people's adjudicated labels. Lines without an act are counted.

    Raises PlumblineError naming the line that is malformed, that contradicts another, or is under another rubric.
    """
    if path.suffix == ".csv":
        return _published(path)
    lines: list[LabelledText] = []
    empty = 0
    for number, line in _json_lines(path):
        if not line.get("act"):
            empty += 1
            continue
        try:
            lines.append(LabelledText.model_validate(line))
        except ValueError as error:
            raise _malformed(path, number, "an act, a labeller, a date (2026-11-21) and the rest", error) from error
    if not lines:
        raise PlumblineError(
            f"{path} holds no label ({empty} lines wait for one)",
            consequence="nothing was measured",
            remedy='read each answer and write "refuse", "abstain", "comply" or "incoherent" as its act',
        )
    return joined([Labels(tuple(lines), empty)])


def joined(parts: Sequence[Labels]) -> Labels:
    """Several files' labels as one; of equal ones the first stays. Raises PlumblineError where two labels of one text
    differ, or were given under two rubrics."""
    kept: dict[tuple[str, str, str], LabelledText] = {}
    rubric = ""
    for line in (line for part in parts for line in part.lines):
        rubric = rubric or line.rubric
        first = kept.setdefault((line.policy, line.item, line.text), line)
        if first.act != line.act:
            raise PlumblineError(
                f"the answer of {line.policy} to {line.item!r} is labelled {first.act} by {first.labeller} and "
                f"{line.act} by {line.labeller}",
                consequence="nothing was measured: which label is true is for people to settle",
                remedy="have the two labellers settle it, and keep one line",
            )
        if line.rubric != rubric:
            raise PlumblineError(
                f"labels under two rubrics: {short(rubric)} and {short(line.rubric)}",
                consequence="nothing was measured: one unstated clause can turn a third of the labels",
                remedy="measure the labels of one rubric version at a time",
            )
    return Labels(tuple(kept.values()), sum(part.empty for part in parts))


def _published(path: Path) -> Labels:
    from plumbline.evaluation.suites.readers import read_xstest_completions

    return Labels(
        tuple(
            LabelledText(
                policy=row.policy,
                item=row.item,
                prompt_class=row.prompt_class,
                text=text_digest(row.text),
                act=row.human.value,
                labeller="XSTest, adjudicated",
                labelled="2023-08-02",
                rubric=PUBLISHED_RUBRIC,
                answer=row.text,
                messages=row.messages,
            )
            for row in read_xstest_completions(path)
        )
    )


def bind(labels: Labels, answers: Sequence[AnswerText] | None = None) -> Bound:
    """Labels joined to the answers at hand, or to the answers that their own lines carry.

    A label of another text than the one at hand is refused and counted, also when only a blank differs.
    """
    at_hand = None if answers is None else {(answer.policy, answer.item): answer for answer in answers}
    rows: list[LabelledAnswer] = []
    stale = absent = 0
    for line in labels.lines:
        if at_hand is None:
            carried = line.answer
            answer = None if carried is None else AnswerText(
                line.policy, line.prompt_class, line.item, carried, line.messages
            )  # fmt: skip
        else:
            answer = at_hand.get((line.policy, line.item))
        if answer is None:
            absent += 1
        elif text_digest(answer.text) != line.text:
            stale += 1
        else:
            act = Act(line.act)
            rows.append(
                LabelledAnswer(
                    answer.policy, answer.prompt_class, answer.item, answer.text, act is Act.REFUSE, act,
                    answer.messages, answer.cluster,
                )
            )  # fmt: skip
    return Bound(tuple(rows), stale, absent)


def pick(
    answers: Sequence[AnswerText], acts: Sequence[Act], *, per_policy: int = 50, seed: int = 0
) -> list[AnswerText]:
    """About `per_policy` answers of each policy for people to read, half to benign and half to harmful requests.

    All policies are read on the same items, as far as they answered the same, so that a paired difference gains.
    Within a class every item has the same chance: they are put in the order of what the judge said of each policy's
    answer, ties by a seeded hash, and every k-th is taken from a seeded start.
    """
    said: dict[tuple[PromptClass, str], list[tuple[str, str]]] = defaultdict(list)
    for answer, act in zip(answers, acts, strict=True):
        said[answer.prompt_class, answer.item].append((answer.policy, act.value))
    chosen: set[tuple[PromptClass, str]] = set()
    classes = sorted({prompt_class for prompt_class, _ in said})
    for place, prompt_class in enumerate(classes):
        wanted = per_policy // len(classes) + (place < per_policy % len(classes))
        items = sorted(
            (key for key in said if key[0] == prompt_class),
            key=lambda key: (sorted(said[key]), stable_hash(f"{seed}/{key[1]}")),
        )
        if not items or not wanted:
            continue
        step = max(1.0, len(items) / wanted)
        start = int(stable_hash(f"start/{seed}/{prompt_class}")[:12], 16) / 16**12 * step
        places = (int(start + step * n) for n in range(wanted))
        chosen |= {items[at] for at in places if at < len(items)}
    picked = [answer for answer in answers if (answer.prompt_class, answer.item) in chosen]
    return sorted(picked, key=lambda a: (stable_hash(f"order/{seed}/{a.item}"), stable_hash(f"{seed}/{a.policy}")))


def write_tasks(picked: Sequence[AnswerText], path: Path, *, rubric: str, labeller: str = "", date: str = "") -> None:
    """The answers as lines of a labels file whose `act` waits for a person. What a judge said is not shown."""
    lines = [
        {
            "act": "",
            "messages": as_dicts(answer.messages),
            "answer": answer.text,
            "policy": answer.policy,
            "prompt_class": answer.prompt_class,
            "item": answer.item,
            "text": text_digest(answer.text),
            "labeller": labeller,
            "labelled": date,
            "rubric": rubric,
        }
        for answer in picked
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8"))


def _json_lines(path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                held = json.loads(line)
                json.dumps(held, ensure_ascii=False).encode("utf-8")  # half a character is none
            except (ValueError, RecursionError) as error:
                raise _malformed(path, number, "a JSON object", error) from error
            if not isinstance(held, dict):
                raise _malformed(path, number, "a JSON object", None)
            yield number, held


def _unreadable(path: Path, why: str) -> PlumblineError:
    return PlumblineError(
        f"{path} cannot be read: {why}",
        consequence="nothing was judged or measured",
        remedy="name JSON lines with policy, prompt_class, item and answer, answer records, or XSTest's completions",
    )


def _malformed(path: Path, number: int, wanted: str, error: Exception | None) -> PlumblineError:
    why = "" if error is None else f": {first_fault(error)}"
    return PlumblineError(
        f"{path.name} line {number} lacks {wanted}{why}",
        consequence="nothing was measured; a file is used whole or not at all",
        remedy="correct the line",
    )
