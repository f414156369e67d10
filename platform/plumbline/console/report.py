"""The report: one self-contained page and `summary.json`, from a `LoopStory` and from nothing else.

The page needs no network and no script: drawings are inline, filters are CSS, and its content security policy
allows exactly one style sheet, by hash. Two renderings of one story are the same bytes on any machine. Everything
that people or policies wrote is escaped, and characters that could hide or reorder text are made visible.
"""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from plumbline.console import view
from plumbline.console.cases import case_groups
from plumbline.console.charts import difference_axis, rate_axis
from plumbline.console.lineage import label_of, lineage_graph, names_of
from plumbline.console.pages import page_environment, resource, style_hash, write_whole
from plumbline.console.picture import loop_tall, loop_wide, training_of
from plumbline.console.shadow_view import shadow_views
from plumbline.console.story import LoopStory
from plumbline.console.words import headline, visible
from plumbline.errors import PlumblineError
from plumbline.records import AREAS, PRESSURES, digest_bytes

PAGE, SUMMARY = "report.html", "summary.json"
SUMMARY_SCHEMA = "plumbline.dev/loop-summary/v1"


def render_report(story: LoopStory, contracts: view.Contracts | None = None) -> str:
    """The page as HTML. `contracts` are the five steps by area and pressure; by default the installed ones."""
    contracts = behaviour_contracts() if contracts is None else contracts
    css = resource("report.css")
    names = names_of(story)
    edges = [
        (e.from_kind, label_of((e.from_kind, e.from_id), names), e.relation, e.to_kind,
         label_of((e.to_kind, e.to_id), names), e.from_id, e.to_id)
        for e in story.lineage
    ]  # fmt: skip
    template = page_environment().get_template("report.html.j2")
    return template.render(
        story=story,
        story_digest=story.digest,
        css=Markup(css),
        style_hash=style_hash(css),
        headline=headline(story),
        columns=view.columns(story),
        loop_wide=loop_wide(story),
        loop_tall=loop_tall(story),
        areas=view.area_blocks(story, contracts),
        rate_axis=rate_axis(),
        difference_axis=difference_axis(),
        refusal=view.refusal_view(story),
        gates=view.gate_views(story),
        groups=case_groups(story),
        case_areas=[
            area for area in AREAS if any(area == found for group in case_groups(story) for found, _, _ in group.areas)
        ],
        pressures=view.pressure_views(story, contracts),
        shadows=shadow_views(story),
        rejected=[view.reason_rows(dataset.rejected, "refused") for dataset in story.datasets],
        added=view.reason_rows(story.diff.added_by_slice, "added", {}) if story.diff else (),
        removed=view.reason_rows(story.diff.removed_by_slice, "removed", {}) if story.diff else (),
        trained=[(policy, training_of(story, policy)) for policy in story.policies if policy.objective],
        graph=lineage_graph(story),
        edges=edges,
        digests=digests(story),
        serving=visible(story.policy_name(story.serving)) if story.serving else None,
    )


def digests(story: LoopStory) -> dict[str, dict[str, str]]:
    """Every digest in the story, by kind and by the name people use."""
    found: dict[str, dict[str, str]] = {"story": {"story": story.digest}}
    if story.rubric is not None:
        found["rubric"] = {f"{story.rubric.id} {story.rubric.version}": story.rubric.digest}
    for policy in story.policies:
        parts = {part: getattr(policy, part) for part in ("weights", "tokenizer", "template", "objective", "dataset")}
        found.setdefault("policies", {})[policy.name] = policy.digest
        found.setdefault("policy parts", {}).update(
            {f"{policy.name} {part}": value for part, value in parts.items() if value}
        )
    for dataset in story.datasets:
        name = f"{dataset.dataset} v{dataset.version}"
        found.setdefault("datasets", {})[name] = dataset.digest
        found.setdefault("dataset parts", {}).update(
            {
                f"{name} root": dataset.root,
                f"{name} run key": dataset.run_key,
                f"{name} code": dataset.code,
                f"{name} consent head": dataset.consent_head,
            }
        )
    for report in story.reports:
        on = story.policy_name(report.aligned)
        found.setdefault("reports", {})[f"report on {on}"] = report.digest
        found["reports"] |= {f"suite for {on}": report.suite, f"decoder for {on}": report.decoder}
    for decision in story.decisions:
        found.setdefault("decisions", {})[f"gate on {story.policy_name(decision.aligned)}"] = decision.digest
    for shadow in story.shadows:
        found.setdefault("shadow pairs", {})[shadow.counts.experiment] = shadow.pairs
    for entry in story.releases:
        found.setdefault("releases", {})[f"{entry.release} {entry.sequence}"] = entry.digest
    for stage in story.stages:
        if stage.product:
            found.setdefault("stages", {})[stage.name] = stage.product
    return found


def summary(story: LoopStory, page: str) -> dict[str, Any]:
    """What machines read: the headline, every digest, verdicts with numbers, accounting. `measured` alone holds
    times and versions, so that two runs are compared by everything else."""
    said = headline(story)
    return {
        "schema": SUMMARY_SCHEMA,
        "seed": story.seed,
        "ending": story.ending,
        "as_planned": said.as_planned,
        "headline": said.text,
        "serving": story.serving,
        "digests": {**digests(story), "page": {PAGE: digest_bytes(page.encode("utf-8"))}},
        "decisions": [
            {
                "policy": story.policy_name(decision.aligned),
                "verdict": decision.verdict.value,
                "exit_code": decision.verdict.exit_code,
                "errors": list(decision.errors),
                "metrics": [area.model_dump(mode="json", exclude={"explanation"}) for area in decision.areas],
            }
            for decision in story.decisions
        ],
        "rates": {
            f"{estimate.area}/{estimate.metric}": {
                story.policy_name(policy): score.model_dump(mode="json")
                for policy in (column.digest for column in view.columns(story))
                if (score := view.score_of(story, policy, estimate.area, estimate.metric)) is not None
            }
            for report in story.reports
            for estimate in report.estimates
        },
        "pressures": {
            story.policy_name(report.aligned): {reading.pressure: reading.alarm for reading in report.pressures}
            for report in story.reports
        },
        "datasets": [
            {
                "name": f"{dataset.dataset} v{dataset.version}",
                "examples": dataset.size,
                "sealed": dataset.sealed,
                "accepted": dataset.accepted,
                "rejected": dict(sorted(dataset.rejected.items())),
                "redactions": dict(sorted(dataset.redactions.items())),
                "balanced": dataset.balanced,
            }
            for dataset in story.datasets
        ],
        "shadow": [shadow.counts.model_dump(mode="json") for shadow in story.shadows],
        "exit_notes": list(story.exit_notes),
        "measured": {
            "seconds": {stage.name: stage.seconds for stage in story.stages},
            "versions": dict(sorted(story.versions.items())),
        },
    }


def write_report(story: LoopStory, out_dir: Path, contracts: view.Contracts | None = None) -> tuple[Path, Path]:
    """Write `report.html` and `summary.json`, each whole or not at all; returns their paths.

    Raises PlumblineError when the directory cannot be written; whatever stood there before still stands.
    """
    page = render_report(story, contracts)
    text = json.dumps(summary(story, page), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    paths = out_dir / PAGE, out_dir / SUMMARY
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, (page, text), strict=True):
            write_whole(path, content.encode("utf-8"))
    except OSError as error:
        raise PlumblineError(
            f"the report could not be written to {out_dir}: {error.strerror or error}",
            consequence="the loop's results are kept, but there is no new page to read",
            remedy="free space or choose a directory that can be written with --out, and run the command again",
        ) from error
    return paths


def behaviour_contracts() -> dict[str, tuple[tuple[str, str], ...]]:
    """The five steps of every area and pressure, as the evaluation room states them."""
    from plumbline.evaluation.contracts import STEPS, contract

    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for name in (*AREAS, *PRESSURES):
        stated = contract(name)
        texts = (stated.target, stated.variable, stated.estimator, stated.rule, stated.regression_metric)
        found[name] = tuple(zip(STEPS, texts, strict=True))
    return found
