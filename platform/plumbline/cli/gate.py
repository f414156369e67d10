"""`plumb gate`: a report and margins in, a verdict and an exit code out."""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import click

from plumbline.cli.options import (
    as_json,
    open_blobs,
    open_ledger,
    print_json,
    read_text,
    read_yaml,
    stores,
)

if TYPE_CHECKING:
    from plumbline.records import EvaluationReport, Rubric


@click.command()
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--rubric", type=click.Path(path_type=Path, exists=True), help="Rubric YAML with the margins.")
@click.option(
    "--margins",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="YAML {area: {metric: margin}} in the rubric's place: a question of your own; it releases nothing.",
)
@click.option("--margin", type=float, help="The same margin for everything that the report measures; releases nothing.")
@click.option(
    "--last-released",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Report that compares the same aligned policy with the one released last, held to the same margins.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write the verdicts as JUnit XML too.")
@click.option("--record", is_flag=True, help="Keep report and decision, as `plumb release promote` asks for.")
@as_json
@stores
def gate(
    report: Path,
    rubric: Path | None,
    margins: Path | None,
    margin: float | None,
    last_released: Path | None,
    junit: Path | None,
    record: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Hold REPORT against the rubric's margins. Exit code: 0 PASS, 1 REGRESSED, 2 ERROR, 3 INCONCLUSIVE.

    With --record the report goes to the blobs and the decision, whatever its verdict, to the ledger.
    """
    from plumbline.evaluation import decide
    from plumbline.evaluation.junit import junit_xml
    from plumbline.policies.files import write_durably

    read = read_report(report)
    since = read_report(last_released) if last_released else None
    own = own_margins(margins, margin, read)
    decision = decide(read, read_rubric(rubric), last_released=since, margins=own)
    if junit:
        junit.parent.mkdir(parents=True, exist_ok=True)
        write_durably(junit, junit_xml(decision))
    if record:  # the blobs first: a decision in the ledger can always show its reports
        kept = open_blobs(blobs)
        for one in (read, since):
            if one is not None:
                kept.put(one.canonical_bytes())
        with contextlib.closing(open_ledger(ledger)) as store:
            store.releases.record_decision(decision)
    if json_out:
        print_json({"digest": decision.digest, **json.loads(decision.model_dump_json())})
    else:
        for fault in decision.errors:
            click.echo(f"ERROR         {fault}")
        for area in decision.areas:
            click.echo(f"{area.verdict.value:<13} {area.explanation}")
        held = "; held to margins of your own, so it releases nothing" if own else ""
        click.echo(f"\n{decision.verdict.value}  (decision {decision.digest}{', recorded' if record else ''}{held})")
    sys.exit(decision.verdict.exit_code)


def read_report(path: Path) -> "EvaluationReport":
    """PlumblineError for a file that is no report."""
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.records import EvaluationReport

    try:
        return EvaluationReport.model_validate_json(
            read_text(path, "an evaluation report", consequence="there is no verdict")
        )
    except ValidationError as error:
        raise PlumblineError(
            f"{path} is not an evaluation report: {first_fault(error)}",
            consequence="there is no verdict",
            remedy="pass the report.json that `plumb evaluate` wrote",
        ) from error


def own_margins(
    margins: Path | None, margin: float | None, report: "EvaluationReport"
) -> dict[str, dict[str, float]] | None:
    """What --margins or --margin ask in the rubric's place; None where neither was given."""
    from plumbline.errors import PlumblineError

    if margins and margin is not None:
        raise PlumblineError(
            f"--margins {margins} and --margin {margin:g} are two answers to one question",
            consequence="there is no verdict",
            remedy="give one of them",
        )
    if margins:
        return read_margins(margins, report)
    return None if margin is None else one_margin(margin, report)


def read_margins(path: Path, report: "EvaluationReport") -> dict[str, dict[str, float]]:
    """Margins by area and metric. PlumblineError for what is no margin, or about something the report does not hold."""
    from plumbline.errors import PlumblineError

    measured = {(estimate.area, estimate.metric) for estimate in report.estimates}
    text = read_yaml(path, "a file of margins", consequence="there is no verdict")
    faults, found = [], {}
    for area, of_area in text.items():
        found[area] = {name: float(m) for name, m in of_area.items() if _is_margin(m)} if _named(of_area) else {}
        if not found[area] or len(found[area]) != len(of_area):
            faults.append(f"{area} needs metrics with margins between 0 and 1, such as `benign_refusal: 0.02`")
        faults += [f"the report has no {area}.{name}" for name in found[area] if (area, name) not in measured]
    if faults or not found:
        raise PlumblineError(
            f"{path}: {'; '.join(faults) or 'no margins by area and metric'}",
            consequence="there is no verdict",
            remedy="name what the report measures: "
            + (", ".join(sorted(f"{area}.{metric}" for area, metric in measured)) or "it measures nothing"),
        )
    return found


def one_margin(margin: float, report: "EvaluationReport") -> dict[str, dict[str, float]]:
    """The same margin for every gated metric of a report, and for every metric of an area that is not Plumbline's."""
    from plumbline.errors import PlumblineError
    from plumbline.evaluation.behaviors import behavior

    if not 0 < margin < 1:
        raise PlumblineError(
            f"--margin {margin} is no margin",
            consequence="there is no verdict",
            remedy="give a share between 0 and 1: 0.02 is two points",
        )
    found: dict[str, dict[str, float]] = {}
    for estimate in report.estimates:
        known = behavior(estimate.area)
        metric = known.metric(estimate.metric) if known else None
        if known is None or (metric is not None and metric.gated):
            found.setdefault(estimate.area, {})[estimate.metric] = margin
    return found


def _named(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and bool(value) and all(isinstance(name, str) for name in value)


def _is_margin(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def read_rubric(path: Path | None) -> "Rubric":
    """A rubric file, or the micro-world's. PlumblineError for one that is not a rubric."""
    from pydantic import ValidationError

    from plumbline.errors import PlumblineError, first_fault
    from plumbline.microworld import microworld_rubric
    from plumbline.records import Rubric

    if path is None:
        return microworld_rubric()
    try:
        return Rubric.model_validate(read_yaml(path, "a rubric", consequence="nothing was judged by it"))
    except ValidationError as error:
        raise PlumblineError(
            f"{path} is not a rubric: {first_fault(error)}",
            consequence="nothing was judged by it",
            remedy="give id, version, owner, purpose and one rule per area with its margins",
        ) from error
