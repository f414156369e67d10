"""The five steps every behaviour and every pressure must state, read from the docstring of its one file.

The docstring is the contract, not a description of it: `plumb behaviors`, `plumb pressures` and the report print
what is parsed here, and a file that lacks a step cannot be registered (a test reads all fifteen).
"""

import re

from plumbline.records import Record

STEPS = ("Target", "Variable", "Estimator", "Rule", "Regression metric")
_STEP = re.compile(r"^(\d)\. (" + "|".join(STEPS) + r"): ", re.MULTILINE)


class Contract(Record):
    """One area or pressure in five steps: the target in plain language; the variable over pi_theta(y | x); which
    examples or comparisons estimate it; the loss or run-time decision rule; the metric that proves it got worse."""

    schema_id = "plumbline.dev/contract/v1"

    name: str
    title: str
    target: str
    variable: str
    estimator: str
    rule: str
    regression_metric: str


def parse_contract(name: str, docstring: str | None) -> Contract:
    """Raises ValueError naming the step that is missing, empty or out of order."""
    text = docstring or ""
    marks = list(_STEP.finditer(text))
    found = [(int(mark.group(1)), mark.group(2)) for mark in marks]
    if found != list(enumerate(STEPS, start=1)):
        raise ValueError(f"{name}: the contract must hold the steps {', '.join(STEPS)}, numbered 1 to 5; found {found}")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    bodies = [_joined(text[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
    for step, body in zip(STEPS, bodies, strict=True):
        if not body:
            raise ValueError(f"{name}: the step {step!r} of the contract is empty")
    target, variable, estimator, rule, metric = bodies
    return Contract(
        name=name,
        title=_joined(text[: marks[0].start()]),
        target=target,
        variable=variable,
        estimator=estimator,
        rule=rule,
        regression_metric=metric,
    )


def contract(name: str) -> Contract:
    """The contract of a behaviour area or a pressure. KeyError for any other name."""
    from plumbline.evaluation.behaviors import BEHAVIORS
    from plumbline.evaluation.pressures import PRESSURE_MONITORS

    documents = {b.area: b.document for b in BEHAVIORS} | {p.name: p.document for p in PRESSURE_MONITORS}
    return parse_contract(name, documents[name])


def _joined(text: str) -> str:
    """The first paragraph of a step on one line; what follows a blank line is commentary for the file's reader."""
    return " ".join(text.strip().split("\n\n")[0].split())
