"""The evaluation page: one self-contained file from an evaluation report and what the gate says of it; and as JSON.

Top-down as a sceptic reads: the verdict and why, who was compared, what is excluded, the forest, each area with its
contract, baselines and slices, refusals, judges, pressures, and the failure cases side by side. No script: the filters
are radio buttons and CSS, and the content security policy allows exactly one style sheet, by hash. Same inputs, same
bytes. What policies, people or other harnesses wrote is escaped, and hidden characters are made visible.
"""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from plumbline.console import evaluation_view as views
from plumbline.console.charts import difference_axis, legend_mark, rate_axis
from plumbline.console.evaluation_areas import area_parts
from plumbline.console.evaluation_cases import Cases, card_rows, cases, corrected_rows
from plumbline.console.pages import page_environment, resource, style_hash, write_whole
from plumbline.console.report import behaviour_contracts
from plumbline.console.view import Contracts
from plumbline.errors import PlumblineError
from plumbline.records import EvaluationReport, GateDecision

SUMMARY_SCHEMA = "plumbline.dev/evaluation-summary/v1"


def render_evaluation(
    report: EvaluationReport,
    decision: GateDecision | None,
    *,
    last_released: EvaluationReport | None = None,
    contracts: Contracts | None = None,
    source: str = "report.json",
) -> str:
    """The page as HTML. `decision` is the gate's about this report, None where nothing was held to a margin; `source`
    is the name of the file that holds the report whole.

    Raises PlumblineError for a decision about another report.
    """
    digest = report.digest
    _check(digest, decision, last_released)
    contracts = behaviour_contracts() if contracts is None else contracts
    who = views.compared(report)
    shown = cases(report, decision)
    css = resource("report.css") + resource("evaluation.css") + filter_rules(shown)
    parts, missed = area_parts(report, decision, who, contracts)
    template = page_environment().get_template("evaluation.html.j2")
    return template.render(
        report=report,
        report_digest=digest,
        decision=decision,
        decision_digest=decision.digest if decision else None,
        source=source,
        css=Markup(css),
        style_hash=style_hash(css),
        head=views.head(report, decision, last_released, who),
        who=who,
        excluded=views.excluded(report),
        forests=views.forests(report, decision, last_released),
        difference_axis=difference_axis(views.TICKS),
        rate_axis=rate_axis(),
        parts=parts,
        missed=missed,
        refusal=views.refusals(report, who),
        refusals_judged=any("refus" in e.metric or e.area == "harmlessness" for e in report.estimates),
        cards=card_rows(report, who),
        corrected=corrected_rows(report, who),
        marks=(legend_mark(2), legend_mark(3)),
        forest_legend=views.forest_legend(report, decision),
        same_for_sure=all(one.known == "verified" for one in who),
        pressures=views.pressures(report, who, contracts),
        cases=shown,
    )


def filter_rules(shown: Cases) -> str:
    """CSS that hides cases of other areas and of the other direction, and says so where none is left. Made of places
    on the page alone, never of names."""
    rules = [
        f'.case-browser:has(#f-{key}:checked) [data-area]:not([data-area="{key}"]) {{ display: none; }}'
        for key, _ in shown.areas
    ]
    rules += [
        f".case-browser:has(#f-{key}:checked):has(#t-{turn}:checked) .no-case {{ display: block; }}"
        for key, turn in shown.empty
    ]
    return "\n".join([*rules, ""])


def evaluation_summary(
    report: EvaluationReport,
    decision: GateDecision | None,
    *,
    last_released: EvaluationReport | None = None,
    contracts: Contracts | None = None,
) -> dict[str, Any]:
    """What the page says, as JSON, with nothing capped: the verdict, the report and the decision whole, and the five
    steps of every area and pressure in them."""
    contracts = behaviour_contracts() if contracts is None else contracts
    named = {e.area for e in report.estimates} | {reading.pressure for reading in report.pressures}
    return {
        "schema": SUMMARY_SCHEMA,
        "verdict": decision.verdict.value if decision else None,
        "exit_code": decision.verdict.exit_code if decision else None,
        "sentence": views.head(report, decision, last_released, views.compared(report)).sentence,
        "digests": {"report": report.digest, "decision": decision.digest if decision else None},
        "decision": decision.model_dump(mode="json") if decision else None,
        "report": report.model_dump(mode="json"),
        "contracts": {name: dict(steps) for name, steps in contracts.items() if name in named},
    }


def write_evaluation(page: str, path: Path) -> None:
    """Write the page whole or not at all. Raises PlumblineError; whatever stood there before still stands."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode("utf-8"))
    except OSError as error:
        raise PlumblineError(
            f"the page could not be written to {path}: {error.strerror or error}",
            consequence="there is no new page to read; the report itself is untouched",
            remedy="free space or choose a place that can be written with --out, and run the command again",
        ) from error


def _check(report: str, decision: GateDecision | None, last: EvaluationReport | None) -> None:
    if decision is not None and decision.report != report:
        raise PlumblineError(
            f"the decision is about report {decision.report}, not about {report}",
            consequence="the page would show one comparison and the verdict on another",
            remedy="decide this report, and render the page with that decision",
        )
    if decision is not None and decision.last_released != (last.digest if last else None):
        raise PlumblineError(
            "the decision and the page do not hold the same comparison with the policy released last",
            consequence="its rows could not be drawn",
            remedy="give the page the report that the gate was given",
        )
