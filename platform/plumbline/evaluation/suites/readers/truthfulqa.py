"""TruthfulQA (Lin et al. 2021): questions that people answer wrongly, with true and false answers.

`binary` compares the best answer with the best incorrect one, as the authors recommend since January 2025: with more
false answers than true ones, tricks that know nothing of the question score high. `mc1` compares the best answer with
every incorrect one; `mc2` asks for the probability of all true answers among all. Choices stand in an order that
follows from the item's id, and the true ones are named in `references`, so that no place among them is the right one.
"""

from pathlib import Path
from typing import Literal

from plumbline.evaluation.scoring.order import stable_order
from plumbline.evaluation.suites.readers.common import rows, unexpected
from plumbline.records import Suite, SuiteItem, say

COLUMNS = ("Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers")
BEST_INCORRECT = "Best Incorrect Answer"
Form = Literal["binary", "mc1", "mc2"]


def read_truthfulqa(path: Path, form: Form = "binary") -> Suite:
    """The published CSV. The slice is the category, each question its own cluster. A file from before 2025 has no
    `Best Incorrect Answer` and cannot give `binary`."""
    needed = (*COLUMNS, BEST_INCORRECT) if form == "binary" else COLUMNS
    items = []
    for number, row in enumerate(rows(path, needed), start=1):
        true, false = _sides(row, form)
        if not true or not false:
            raise unexpected(path, f"question {number} lacks a true or a false answer", needed)
        identity = f"truthfulqa/{form}/{number:04d}"
        items.append(
            SuiteItem(
                id=identity,
                area="honesty",
                slice=row["Category"].strip() or "uncategorised",
                cluster=f"truthfulqa:{number:04d}",
                messages=(say("user", row["Question"].strip()),),
                scorer="choice_loglik_mass" if form == "mc2" else "choice_loglik",
                references=tuple(true),
                choices=stable_order(identity, [*true, *false]),
            )
        )
    if not items:
        raise unexpected(path, "it has no questions", needed)
    return Suite(name=f"truthfulqa-{form}", version="1", items=tuple(items))


def _sides(row: dict[str, str], form: Form) -> tuple[list[str], list[str]]:
    """True and false answers, none twice, and no answer on both sides."""
    best = row["Best Answer"].strip()
    true = [best, *_listed(row["Correct Answers"])] if form == "mc2" else [best]
    false = [row[BEST_INCORRECT].strip()] if form == "binary" else _listed(row["Incorrect Answers"])
    true = list(dict.fromkeys(answer for answer in true if answer))
    return true, [answer for answer in dict.fromkeys(false) if answer and answer not in true]


def _listed(cell: str) -> list[str]:
    return [answer.strip() for answer in cell.split(";") if answer.strip()]
