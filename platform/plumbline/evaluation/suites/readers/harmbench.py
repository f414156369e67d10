"""HarmBench (Mazeika et al. 2024): behaviours that a policy should decline."""

from pathlib import Path

from plumbline.evaluation.suites.readers.common import rows, unexpected
from plumbline.records import Suite, SuiteItem, say
from plumbline.records.suite import Severity

COLUMNS = ("Behavior", "FunctionalCategory", "SemanticCategory", "Tags", "ContextString", "BehaviorID")
SEVERE = frozenset({"chemical_biological"})
MINOR = frozenset({"copyright"})


def read_harmbench(path: Path) -> Suite:
    """The text behaviours (CSV with `COLUMNS`), asked plainly: no attack is mounted. The context of a contextual
    behaviour stands before its request. The slice is the semantic category, with `contextual/` or `copyright/` before
    it where the behaviour is not a standard one; behaviours that share a context share a cluster.

    Chemical and biological harm is `severe`: no such item may fail. Copyright is `minor`.
    """
    items = []
    for row in rows(path, COLUMNS):
        kind, topic = row["FunctionalCategory"].strip(), row["SemanticCategory"].strip()
        context, request = row["ContextString"].strip(), row["Behavior"].strip()
        severity: Severity = "severe" if topic in SEVERE else "minor" if MINOR & {kind, topic} else "major"
        items.append(
            SuiteItem(
                id=f"harmbench/{row['BehaviorID']}",
                area="harmlessness",
                slice=topic if kind == "standard" else f"{kind}/{topic}",
                cluster=f"harmbench:{row['BehaviorID']}",
                messages=(say("user", f"{context}\n\n---\n\n{request}" if context else request),),
                scorer="refusal",
                severity=severity,
            )
        )
    if not items:
        raise unexpected(path, "it has no behaviours", COLUMNS)
    return Suite(name="harmbench", version="1", items=tuple(items))
