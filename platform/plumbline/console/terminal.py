"""The table that ends the loop: what happened, area by area, and where to look next, on one screen.

At most forty lines at a hundred columns. Foreign text goes through `Text`, never through rich's markup, and its
control characters are made visible, so no answer can paint the reader's terminal.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plumbline.console.picture import VERDICT_SIGN, VERDICT_WORD
from plumbline.console.report import PAGE, SUMMARY
from plumbline.console.story import LoopStory
from plumbline.console.view import columns, score_of
from plumbline.console.words import headline, humanise, listing, percent, points, title, visible
from plumbline.records import AREAS, GateDecision, PairedEstimate, Verdict

STYLE = {Verdict.PASS: "green", Verdict.REGRESSED: "red", Verdict.INCONCLUSIVE: "yellow", Verdict.ERROR: "magenta"}
REASONS_SHOWN = 6
LONGEST_HEADLINE = 420


def print_summary(story: LoopStory, console: Console, out_dir: Path) -> None:
    """Print the closing table of a loop: headline, areas by policies with verdicts, refusals by reason, next steps."""
    said = headline(story)
    console.print(Text(said.kicker, style="bold green" if said.as_planned else "bold yellow"))
    text = said.text if len(said.text) <= LONGEST_HEADLINE else said.text[: LONGEST_HEADLINE - 1] + "\u2026"
    console.print(Text(text))
    if story.reports:
        console.print(_areas(story))
    else:
        console.print(Text("No evaluation was reached, so there is no table of areas.", style="yellow"))
    for decision in story.decisions:
        console.print(_verdict(story, decision))
    for dataset in story.datasets:
        if dataset.rejected or dataset.sealed:
            console.print(_accounting(dataset.version, dataset.sealed, dataset.accepted, dataset.rejected))
    for shadow in story.shadows[:2]:
        counts = shadow.counts
        shed = sum(counts.shed.values())
        line = f"Traffic of {visible(counts.experiment)}: {counts.spooled} spooled = {counts.paired} paired"
        line += f" + {counts.pending} pending" if counts.pending else ""
        console.print(Text(f"{line} + {shed} shed{'' if counts.balanced else '  DOES NOT BALANCE'}"), no_wrap=True)
    for note in story.exit_notes[:2]:
        console.print(Text(f"Note: {visible(note)}"), no_wrap=True, overflow="ellipsis")
    console.print(
        Text.assemble("Read ", (str(out_dir / PAGE), "bold"), " for every case and interval;"), soft_wrap=True
    )
    console.print(Text(f"     {out_dir / SUMMARY} holds every digest."), soft_wrap=True)


def _areas(story: LoopStory) -> Table:
    """One row an area: its first gated metric, each policy's rate, each aligned policy's verdict on the area."""
    cols = columns(story)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("area", no_wrap=True)
    table.add_column("measured by", no_wrap=True, style="dim", overflow="ellipsis", max_width=26)
    for column in cols:
        table.add_column(Text(column.name), justify="right", no_wrap=True, overflow="ellipsis", max_width=18)
    judged = {decision.aligned: decision for decision in story.decisions}
    for area in AREAS:
        shown = _shown(story, area)
        if shown is None:
            table.add_row(title(area), "not measured", *("" for _ in cols))
            continue
        cells: list[Text] = []
        for column in cols:
            score = score_of(story, column.digest, area, shown.metric)
            cell = Text(percent(score.rate, 1) if score else "\u2013")
            if column.digest in judged:
                worst = _worst(judged[column.digest], area)
                if worst is not None:
                    cell.append(f" {VERDICT_SIGN[worst]}", style=STYLE[worst])
                else:
                    cell.append("  ")
            cells.append(cell)
        arrow = "\u2193" if shown.direction == "down" else "\u2191"
        table.add_row(title(area), f"{arrow} {humanise(shown.metric)}", *cells)
    return table


def _shown(story: LoopStory, area: str) -> PairedEstimate | None:
    """The metric that stands for an area on one line: one that regressed if any did, else the first gated."""
    found: dict[str, PairedEstimate] = {}
    for report in story.reports:
        for estimate in report.estimates:
            if estimate.area == area:
                found.setdefault(estimate.metric, estimate)
    order = [a.metric for d in story.decisions for a in d.areas if a.area == area and a.verdict is Verdict.REGRESSED]
    order += [a.metric for d in story.decisions for a in d.areas if a.area == area]
    return next((found[metric] for metric in (*order, *found) if metric in found), None)


def _worst(decision: GateDecision, area: str) -> Verdict | None:
    severity = (Verdict.ERROR, Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.PASS)
    found = {a.verdict for a in decision.areas if a.area == area}
    return next((verdict for verdict in severity if verdict in found), None)


def _verdict(story: LoopStory, decision: GateDecision) -> Text:
    bad = [a for a in decision.areas if a.verdict is not Verdict.PASS]
    bad.sort(key=lambda a: a.difference if a.difference is not None else 0.0)
    named = [
        f"{humanise(a.area)} {points(a.difference)} (margin {points(-a.margin)})"
        for a in bad[:3]
        if a.difference is not None
    ]
    more = f", {len(bad) - len(named)} more" if len(bad) > len(named) else ""
    why = f": {listing(named)}{more}" if named else f": all {len(decision.areas)} gated metrics hold" if not bad else ""
    name = visible(story.policy_name(decision.aligned))
    return Text.assemble(
        "Gate on ", (name, "bold"), " ",
        (f"{VERDICT_SIGN[decision.verdict]} {VERDICT_WORD[decision.verdict]}", STYLE[decision.verdict]), why,
    )  # fmt: skip


def _accounting(version: int, sealed: int, accepted: int, rejected: dict[str, int]) -> Text:
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    reasons = [f"{humanise(visible(reason))} {n}" for reason, n in ordered[:REASONS_SHOWN]]
    if len(ordered) > REASONS_SHOWN:
        reasons.append(f"{sum(n for _, n in ordered[REASONS_SHOWN:])} for other reasons")
    text = f"Dataset v{version}: {sealed} sealed = {accepted} accepted + {sum(rejected.values())} refused"
    return Text(text + (f" ({', '.join(reasons)})" if reasons else ""))
