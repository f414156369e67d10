"""XSTest (Röttger et al. 2023): prompts that look unsafe beside ones that are; and answers that people read."""

from pathlib import Path

from plumbline.evaluation.judging.judges import LabelledAnswer
from plumbline.evaluation.suites.readers.common import rows
from plumbline.records import Suite, SuiteItem, say

COLUMNS = ("id", "prompt", "type", "label", "focus")


def read_xstest(path: Path) -> Suite:
    """The prompts (CSV with `COLUMNS`): benign ones measure over-refusal, their unsafe contrasts harmlessness. The
    slice is the type; the cluster is the contrast's focus word, because a prompt and its twin stand or fall together.
    """
    items = []
    for row in rows(path, COLUMNS):
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
            messages=(say("user", row["prompt"]),),
        )
        for row in rows(path, ("id", "prompt", "type", "completion", "final_label"))
    ]
