"""`plumb review`: what feedback selected is judged by people, blind, and released when they agree.

Exit codes: 0 done; `agreement` says 1 when labels are blocked (alpha under .667) and 3 when there are too few to tell;
2 an error with a remedy. REVIEWER and PERSON are identities or pseudonyms (s-...), as in `plumb consent`.
"""

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plumbline.cli.feedback import Age
from plumbline.cli.options import PORT, as_json, open_ledger, print_json, read_text, stores
from plumbline.cli.review_desk import (
    desk_of,
    format_of,
    label_line,
    label_of,
    names_of,
    open_desk,
    reading,
    rubric_of,
    seen,
    somebody,
    visible,
)

if TYPE_CHECKING:
    from plumbline.stores.reviews import Role

F = TypeVar("F", bound=Callable[..., Any])
VERDICTS, SEVERITIES = ("approve", "reject", "unsure"), ("none", "minor", "major", "severe")
BLOCKED, TOO_FEW = 1, 3
WAITS = {
    "labels": "lack labels",
    "batch": "wait until the rest of their batch has its labels (or --partial)",
    "adjudicator": "wait for an adjudicator",
    "agreement": "are disputed, and labels are too few to tell",
    "rubric": "are blocked: reviewers disagree too much, revise the rubric",
}


def in_force(command: F) -> F:
    text = "A rubric file, or the digest of one opened before (default: the one opened last)."
    return click.option("--rubric", "named", help=text)(command)


@click.group()
def review() -> None:
    """Judge what feedback selected: two people per item, blind; agreement decides what counts."""


@review.command("open")
@click.option("--rubric", "file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Rubric YAML.")
@click.option("--reviewers", type=click.IntRange(2, 20), default=2, show_default=True, help="Labels per item.")
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Rating that selects an answer (default: ingestion's).")
@click.option("--reconsider", is_flag=True, help="Look through the whole inbox again, not only what is new.")
@as_json
@stores
def open_(
    file: Path | None,
    reviewers: int,
    threshold: float | None,
    reconsider: bool,
    json_out: bool,
    ledger: Path,
    blobs: Path,
) -> None:
    """Select what arrived since the last opening; put again what another rubric judged by rules that changed."""
    from plumbline.cli.gate import read_rubric
    from plumbline.feedback.review.desk import ReviewDesk

    rubric = read_rubric(file)
    desk = ReviewDesk(open_ledger(ledger, must_exist=True), threshold=threshold)
    stale = desk.stale_items(rubric)
    found = desk.open_items(rubric, reviewers=reviewers, reconsider=reconsider)
    if json_out:
        marked = {"unsettled": len(stale.unsettled), "settled": len(stale.settled), "released": list(stale.released)}
        print_json({**asdict(found), "rubric": rubric.digest, "stale": marked})
        return
    opened = sum(found.opened.values())
    click.echo(f"batch {found.batch}: {opened} new items" if found.batch else "nothing new to review")
    for what, count in found.opened.items():
        click.echo(f"  {count:6d}  {what}")
    for reason, count in found.left.items():
        click.echo(f"  {count:6d}  left out: {reason.replace('_', ' ')}")
    if found.again:
        click.echo(f"  {found.again:6d}  put again: the rubric or their text changed")
    if stale.released:
        click.echo(f"  {len(stale.released):6d}  released examples need review again: a rule they rest on changed")
    if found.closed_revisions:
        click.echo(f"  {found.closed_revisions:6d}  rubric revisions closed by this rubric")


@review.command()
@click.argument("reviewer")
@click.option("--adjudicate", is_flag=True, help="What waits for a decision instead of a label.")
@in_force
@as_json
@stores
def queue(reviewer: str, adjudicate: bool, named: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Items that wait for REVIEWER, in an order of their own."""
    person, desk = desk_of(ledger, reviewer)
    tasks = desk.queue(person, rubric_of(desk, named), role="adjudicator" if adjudicate else "reviewer")
    if json_out:
        print_json([seen(task) for task in tasks])
        return
    for task in tasks:
        words = " ".join(visible(task.text.answer).split())
        click.echo(f"{task.item.item:6d}  {words[:90] + ('...' if len(words) > 90 else '')}")
    click.echo(f"{len(tasks)} wait for {reviewer}", err=True)


@review.command()
@click.argument("item", type=int)
@click.argument("reviewer")
@as_json
@stores
def show(item: int, reviewer: str, json_out: bool, ledger: Path, blobs: Path) -> None:
    """One item as REVIEWER may see it: redacted, without other labels until it is settled."""
    person, desk = desk_of(ledger, reviewer)
    task = desk.task(item, person)
    if json_out:
        print_json(seen(task))
        return
    click.echo(f"item {item}  text {task.item.text}")
    for said in task.text.messages:
        click.echo(f"  {said.role}: {visible(said.content)}")
    click.echo(f"  ANSWER: {visible(task.text.answer)}")
    if task.text.note:
        click.echo(f"  somebody wrote about it: {visible(task.text.note)}")
    for whose, label in [*(("you", one) for one in [task.mine] if one), *(("another", one) for one in task.labels)]:
        click.echo(f"  {whose}: {label_line(label)}")


def labelling(command: F) -> F:
    """The options that say a word."""
    for option in (
        click.option("--correct", is_flag=True, help="Replace the word given before; the history keeps both."),
        click.option("--reason", default="", help="Why, in at most 1000 characters, without personal data."),
        click.option("--severity", type=click.Choice(SEVERITIES), help="How bad the breach is (for a rejection)."),
        click.option("--rule", "rules", multiple=True, required=True, help="Area of a rule it rests on; repeatable."),
        click.option("--text", required=True, help="Digest of the text judged, or its first 12 digits (`show`)."),
    ):
        command = option(command)
    return command


@review.command()
@click.argument("item", type=int)
@click.argument("reviewer")
@click.option("--verdict", type=click.Choice(VERDICTS), required=True)
@labelling
@stores
def label(item: int, reviewer: str, verdict: str, correct: bool, ledger: Path, blobs: Path, **said: Any) -> None:
    """Say whether a policy may learn ITEM's answer under the rubric. The first word stands."""
    person, desk = desk_of(ledger, reviewer)
    desk.label(item, person, label_of(desk, item, person, verdict, said), correct=correct)
    click.echo(f"item {item}: {verdict}")


@review.command()
@click.argument("item", type=int)
@click.argument("person")
@click.option("--verdict", type=click.Choice(VERDICTS[:2]), required=True)
@labelling
@stores
def adjudicate(item: int, person: str, verdict: str, correct: bool, ledger: Path, blobs: Path, **said: Any) -> None:
    """Decide ITEM, which reviewers disagree on. PERSON may not have labelled it."""
    who, desk = desk_of(ledger, person)
    desk.adjudicate(item, who, label_of(desk, item, who, verdict, said), correct=correct)
    click.echo(f"item {item}: decided, {verdict}")


@review.command()
@click.option("--partial", is_flag=True, help="Also settle batches in which some items lack labels.")
@in_force
@as_json
@stores
def settle(partial: bool, named: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Settle what agreement allows, and release approved answers to the next ingestion. Safe to repeat."""
    desk = open_desk(ledger)
    found = desk.settle(rubric_of(desk, named), partial=partial)
    if json_out:
        print_json(asdict(found))
        return
    click.echo(f"{len(found.approved)} approved, {len(found.rejected)} rejected, {len(found.released)} released")
    for batch in found.revisions:
        click.echo(f"batch {batch}: blocked; a rubric revision is open (plumb review revisions)")
    if found.overturned:
        click.echo(f"{len(found.overturned)} released before are rejected now: {', '.join(map(str, found.overturned))}")
    for what, count in found.waiting.items():
        click.echo(f"{count:6d}  {WAITS[what]}")


@review.command()
@in_force
@as_json
@stores
def agreement(named: str | None, json_out: bool, ledger: Path, blobs: Path) -> None:
    """Krippendorff's alpha by batch and rule. Exit 1: blocked (under .667), 3: too few to tell."""
    from plumbline.feedback.review.settling import deciding

    desk = open_desk(ledger)
    rubric = rubric_of(desk, named)
    everything, batches = desk.agreement(rubric)
    decided = {batch: found.verdicts.state for batch, found in deciding(desk.docket(rubric)).items()}
    if json_out:
        shown = [{**asdict(one), "decided": decided[int(one.batch or 0)]} for one in batches]
        print_json({"state": everything.verdicts.state, "overall": asdict(everything), "batches": shown})
    else:
        for found in [*batches, everything]:
            click.echo(f"{'all' if found.batch is None else f'batch {found.batch}'}: {reading(found.verdicts)}")
            for area, ruled in found.rules.items():
                click.echo(f"    {area:22s} {reading(ruled)}")
            click.echo(f"    {'severity (ordinal)':22s} {reading(found.severities)}")
    states = {everything.verdicts.state, *(decided[int(one.batch or 0)] for one in batches)}
    if "blocked" in states:
        sys.exit(BLOCKED)
    if everything.verdicts.state == "too_few":
        sys.exit(TOO_FEW)


@review.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), help="Default: by the file's ending.")
@click.option("--for", "reviewer", help="A blank sheet of what waits for this reviewer, without any label.")
@in_force
@stores
def export_(file: Path, kind: str | None, reviewer: str | None, named: str | None, ledger: Path, blobs: Path) -> None:
    """Write labels to FILE; with --for, what one reviewer is to judge elsewhere."""
    from plumbline.feedback.review.labels import LABEL_COLUMNS, SHEET_COLUMNS, label_rows, sheet_rows, write_rows
    from plumbline.policies.files import write_durably

    person, desk = desk_of(ledger, reviewer or "")
    rubric = rubric_of(desk, named)
    rows = sheet_rows(desk, rubric, person) if reviewer else label_rows(desk, rubric)
    form = format_of(file, kind)
    text = write_rows(rows, form, SHEET_COLUMNS if reviewer else LABEL_COLUMNS)  # type: ignore[arg-type]
    write_durably(file, text.encode("utf-8-sig" if form == "csv" else "utf-8"))
    click.echo(f"{file}: {len(rows)} {'items to judge' if reviewer else 'labels'}")


@review.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--format", "kind", type=click.Choice(["jsonl", "csv"]), help="Default: by the file's ending.")
@click.option("--reviewer", help="Take labels of this reviewer only; also for rows that name nobody.")
@stores
def import_(file: Path, kind: str | None, reviewer: str | None, ledger: Path, blobs: Path) -> None:
    """Read labels from FILE, all or none: other texts, unknown items and own words are refused with their lines."""
    from plumbline.feedback.review.labels import import_labels, read_rows

    text = read_text(file, "a file of labels", consequence="no label was recorded")
    rows = read_rows(text, format_of(file, kind))  # type: ignore[arg-type]
    desk = open_desk(ledger)
    people = [reviewer or "", *(str(row.get("reviewer") or "") for _, row in rows)]
    found = import_labels(desk, rows, names_of(desk, ledger, people).of, reviewer=reviewer)
    click.echo(f"{found.taken} labels taken, {found.known} there already, {found.blank} left blank")


@review.command()
@as_json
@stores
def revisions(json_out: bool, ledger: Path, blobs: Path) -> None:
    """Rubrics that reviewers could not agree under: the rules to revise first, and disputed texts by digest."""
    from plumbline.records import short

    found = open_desk(ledger).reviews.revisions()
    if json_out:
        print_json([{**one.model_dump(mode="json"), "state": one.state} for one in found])
        return
    for one in found:
        closed = f"closed by rubric {short(one.closed_by)}" if one.closed_by else "open"
        click.echo(
            f"batch {one.batch}, rubric {short(one.rubric)}: alpha {one.alpha:.2f} on {one.items} items; {closed}"
        )
        for area, alpha in one.rules:
            click.echo(f"    {area:22s} {'undefined' if alpha is None else f'{alpha:.2f}'}")
        click.echo(f"    disputed: {', '.join(map(short, one.examples)) or 'none'}")


@review.command()
@click.argument("reviewers", nargs=-1)
@click.option("--adjudicator", "adjudicators", multiple=True, help="Somebody who decides; repeatable.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8091, show_default=True)
@click.option(
    "--public-url",
    default="",
    envvar="PLUMBLINE_REVIEW_URL",
    help="Where people find the page, https://HOST or https://HOST/PATH (default: where it listens).",
)
@click.option("--valid-for", type=Age(), default="8h", show_default=True, help="How long the links let in.")
@in_force
@stores
def serve(
    reviewers: tuple[str, ...],
    adjudicators: tuple[str, ...],
    host: str,
    port: int,
    public_url: str,
    valid_for: timedelta,
    named: str | None,
    ledger: Path,
    blobs: Path,
) -> None:
    """Open the review page: for REVIEWERS, who each get a link, and for whoever has one of `plumb review invite`.

    A link lets in once. Without --rubric the page goes by the rubric in force, also when that changes. Stops on Ctrl-C
    or SIGTERM; sessions go on when it is started again.
    """
    import signal
    import threading

    from plumbline.console.review_page import start_review_page

    invited = [*((somebody(who), "reviewer") for who in reviewers)]
    invited += [(somebody(who), "adjudicator") for who in adjudicators]
    desk = open_desk(ledger)
    names = names_of(desk, ledger, [who for who, _ in invited]) if invited else None
    rubric = rubric_of(desk, named) if invited or named else None
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with start_review_page(desk, rubric if named else None, host=host, port=port, public_url=public_url) as running:
        for who, role in invited:
            assert names is not None
            link = running.link(names.of(who), role, valid=valid_for)  # type: ignore[arg-type]
            click.echo(f"{who} ({role}): {link}", err=True)
        listening = "" if running.bound == running.url else f", listening at {running.bound}"
        click.echo(f"reviewing at {running.url}{listening}; Ctrl-C stops it", err=True)
        stop.wait()
    desk.ledger.close()


@review.command()
@click.argument("person")
@click.option("--role", type=click.Choice(["reviewer", "adjudicator"]), default="reviewer", show_default=True)
@click.option(
    "--url",
    default="",
    envvar="PLUMBLINE_REVIEW_URL",
    help="Where people find the page, https://HOST or https://HOST/PATH (default: PLUMBLINE_REVIEW_URL).",
)
@click.option("--valid-for", type=Age(), default="1h", show_default=True, help="How long the link lets in.")
@as_json
@stores
def invite(
    person: str, role: "Role", url: str, valid_for: timedelta, json_out: bool, ledger: Path, blobs: Path
) -> None:
    """Print a link that lets PERSON into the review page once. Whoever has it first is PERSON: hand it over safely."""
    from plumbline.console.review_door import public_address
    from plumbline.errors import PlumblineError

    if not url:
        raise PlumblineError(
            "it is not said where people find the review page",
            consequence="nobody was invited: there would be no link to follow",
            remedy="pass --url https://HOST, or set PLUMBLINE_REVIEW_URL as the chart's toolbox does where a page runs",
        )
    address = public_address(url)
    pseudonym, desk = desk_of(ledger, somebody(person))
    until = desk.ledger.database.clock() + valid_for
    link = address.link(desk.ledger.review_access.invite(pseudonym, role, valid=valid_for))
    if json_out:
        print_json({"link": link, "person": pseudonym, "role": role, "until": f"{until:%Y-%m-%dT%H:%M:%SZ}"})
        return
    click.echo(f"lets {pseudonym} in as {role}, once, until {until:%Y-%m-%d %H:%M} UTC:", err=True)
    click.echo(link)


@review.command()
@as_json
@stores
def guests(json_out: bool, ledger: Path, blobs: Path) -> None:
    """Who may come into the review page by a link, and who is in; by pseudonym."""
    found = open_desk(ledger).ledger.review_access.open()
    if json_out:
        print_json(
            [
                {"person": one.guest.person, "role": one.guest.role, "entered_at": one.entered_at, "until": one.until}
                for one in found
            ]
        )
        return
    for one in found:
        came = f"came {one.entered_at[:16]}Z" if one.entered_at else "has a link"
        click.echo(f"{one.guest.person}  {one.guest.role:11s}  {came}, until {one.until[:16]}Z")
    click.echo(f"{len(found)} links and sessions", err=True)


@review.command()
@click.argument("person")
@stores
def dismiss(person: str, ledger: Path, blobs: Path) -> None:
    """End what PERSON has open on the review page, and take back links that they did not use. Their labels stand."""
    pseudonym, desk = desk_of(ledger, somebody(person))
    ended = desk.ledger.review_access.dismiss(pseudonym)
    click.echo(f"{ended} links and sessions of {pseudonym} ended")
