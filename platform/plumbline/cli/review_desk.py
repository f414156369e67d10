"""What the commands of `plumb review` share: opening the desk, naming people and rubrics, and showing what it says."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plumbline.cli.options import open_ledger, tenant_key

if TYPE_CHECKING:
    from plumbline.feedback.pseudonyms import Pseudonyms
    from plumbline.feedback.review.desk import ReviewDesk, Task
    from plumbline.records import Label, Rubric
    from plumbline.statistics.agreement import Agreement


def open_desk(ledger: Path) -> "ReviewDesk":
    from plumbline.feedback.review.desk import ReviewDesk

    return ReviewDesk(open_ledger(ledger, must_exist=True))


def desk_of(ledger: Path, identity: str) -> "tuple[str, ReviewDesk]":
    """The pseudonym of a person (empty for nobody) and the desk."""
    desk = open_desk(ledger)
    return tenant_key(ledger, desk.ledger, identity=identity).of(identity) if identity else "", desk


def names_of(desk: "ReviewDesk", ledger: Path, people: list[str]) -> "Pseudonyms":
    """The key for several people; it may be absent only when all of them are pseudonyms already."""
    from plumbline.feedback.pseudonyms import PSEUDONYM

    named = [who for who in people if who]
    identity = next((who for who in named if not PSEUDONYM.match(who)), next(iter(named), ""))
    return tenant_key(ledger, desk.ledger, identity=identity)


def somebody(person: str) -> str:
    """A person as they were named. PlumblineError when that is empty, as a variable is that nobody set."""
    from plumbline.errors import PlumblineError

    if not person.strip():
        raise PlumblineError(
            "no person is named",
            consequence="nobody was invited or dismissed",
            remedy="give an identity or a pseudonym (s-...); was a variable of the shell empty?",
        )
    return person


def rubric_of(desk: "ReviewDesk", named: str | None) -> "Rubric":
    """The rubric that is named, or the one that items were opened under last."""
    from plumbline.cli.gate import read_rubric
    from plumbline.errors import PlumblineError

    if named and not re.fullmatch("sha256:[0-9a-f]{64}", named):
        return read_rubric(Path(named))
    found = desk.reviews.rubric(named) if named else desk.reviews.latest_rubric()
    if found is None:
        raise PlumblineError(
            f"the desk knows no rubric {named}" if named else "nothing was ever opened for review",
            consequence="there is nothing to show or settle",
            remedy="run `plumb review open` first, with --rubric FILE if it is not the default",
        )
    return found


def label_of(desk: "ReviewDesk", item: int, person: str, verdict: str, said: dict[str, Any]) -> "Label":
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.records import Label

    text, known = said["text"], desk.reviews.item(item).text
    named = text if text.startswith("sha256:") else f"sha256:{text}"
    if len(named) >= len("sha256:") + 12 and known.startswith(named):
        named = known
    try:
        return Label(
            text=named,
            verdict=verdict,
            rules=said["rules"],
            severity=said["severity"] or "none",
            reason=said["reason"],
        )
    except ValidationError as error:
        raise PlumblineError(
            f"this is no label: {first_fault(error)}",
            consequence="nothing was recorded",
            remedy=f"see `plumb review show {item} REVIEWER` for the text's digest, and `plumb review label --help`",
        ) from error


def seen(task: "Task") -> dict[str, Any]:
    """A task as JSON: what its person may see, and neither whose it is nor why it was selected."""
    return {
        "item": task.item.item,
        "text": task.item.text,
        "rubric": task.item.rubric,
        "messages": [said.model_dump(mode="json") for said in task.text.messages],
        "answer": task.text.answer,
        "note": task.text.note,
        "mine": task.mine.model_dump(mode="json") if task.mine else None,
        "labels": [one.model_dump(mode="json") for one in task.labels],
    }


def label_line(label: "Label") -> str:
    rest = "" if label.severity == "none" else f", {label.severity}"
    return f"{label.verdict}{rest} by {', '.join(label.rules)}{': ' if label.reason else ''}{visible(label.reason)}"


def reading(found: "Agreement") -> str:
    alpha = "alpha undefined" if found.alpha is None else f"alpha {found.alpha:.2f}"
    bounds = "" if found.low is None else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{alpha}{bounds} on {found.units} items: {found.state.replace('_', ' ')}"


def visible(text: str) -> str:
    from plumbline.console import words

    return words.visible(text)


def format_of(file: Path, kind: str | None) -> str:
    from plumbline.errors import PlumblineError

    found = kind or file.suffix.lower().removeprefix(".")
    if found not in ("jsonl", "csv"):
        raise PlumblineError(
            f"the ending of {file.name} says neither JSONL nor CSV",
            consequence="nothing was read or written",
            remedy="name the format: --format jsonl or --format csv",
        )
    return found
