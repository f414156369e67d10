"""`plumb guardrail`: fit a classifier of violations, see how often it errs, and try it on texts."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plumbline.cli.options import AT_LEAST_ONE, as_json, print_json
from plumbline.cli.printing import table
from plumbline.cli.shares import SHARE

if TYPE_CHECKING:
    from plumbline.records.judging import ErrorRate, GuardrailFile

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
POLICY_HELP = "A policy it guards, by digest or directory."


@click.group()
def guardrail() -> None:
    """A guardrail on what is asked or answered. Its threshold stands on a card with measured errors, or nowhere."""


@guardrail.command()
@click.option("--examples", type=FILE, required=True, help="Labelled texts, as JSON lines.")
@click.option("--calibration", type=FILE, help="Other texts to choose and measure on (default: half of the examples).")
@click.option("--policy", "policies", required=True, multiple=True, help=POLICY_HELP + " Repeatable.")
@click.option("--target-fpr", type=SHARE, required=True, help="The share of good texts that may be refused.")
@click.option("--flag-fpr", type=SHARE, help="Flag from a lower threshold, at this (larger) share of good texts.")
@click.option("--valid-days", type=AT_LEAST_ONE, default=90, show_default=True, help="Until the card expires.")
@click.option("--made", type=click.DateTime(), help="When it was calibrated, UTC (default: now).")
@click.option("--name", default="guardrail", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The guardrail's file.")
@as_json
def fit(
    examples: Path,
    calibration: Path | None,
    policies: tuple[str, ...],
    target_fpr: float,
    flag_fpr: float | None,
    valid_days: int,
    made: datetime | None,
    name: str,
    out: Path,
    json_out: bool,
) -> None:
    """Fit a guardrail for the sides that the examples are about: lines with `answer` are output, others input.

    Weights come from one set, the threshold and its errors from another; no text's twin (`cluster`) is in both.
    """
    from plumbline.errors import PlumblineError
    from plumbline.guardrail import fit_guardrail, read_examples, save_guardrail
    from plumbline.guardrail.examples import Split, halves

    if flag_fpr is not None and flag_fpr < target_fpr:
        raise PlumblineError(
            f"--flag-fpr {flag_fpr:g} is below --target-fpr {target_fpr:g}",
            consequence="nothing was fitted: whatever is flagged would be refused already",
            remedy="flag at a larger share of good texts than are refused",
        )
    read = read_examples(examples)
    split = halves(read) if calibration is None else Split(tuple(read), tuple(read_examples(calibration)))
    begin = (made or datetime.now(UTC)).replace(microsecond=0, tzinfo=UTC)
    file = fit_guardrail(
        split.train,
        split.calibration,
        name=name,
        policies=[digest_of_policy(policy) for policy in policies],
        target_false_positive=target_fpr,
        flag_false_positive=flag_fpr,
        made=begin,
        expires=begin + timedelta(days=valid_days),
    )
    save_guardrail(file, out)
    _show(file, json_out)
    if not json_out:
        click.echo(f"guardrail {file.digest} in {out}")


@guardrail.command()
@click.argument("file", metavar="GUARDRAIL", type=FILE)
@click.option("--html", type=click.Path(path_type=Path), help="Write the card as a page with ROC and calibration.")
@as_json
def card(file: Path, html: Path | None, json_out: bool) -> None:
    """Show what a guardrail was measured to do: FPR and FNR with intervals, by slice, and until when that holds."""
    from plumbline.guardrail import read_guardrail

    read = read_guardrail(file)
    if html is not None:
        from plumbline.console.judge_page import render_guardrail
        from plumbline.policies.files import write_durably

        html.parent.mkdir(parents=True, exist_ok=True)
        write_durably(html, render_guardrail(read, datetime.now(UTC)).encode("utf-8"))
    _show(read, json_out)


@guardrail.command()
@click.argument("texts", metavar="FILE|-", type=click.File("rb"))
@click.option("--guardrail", "file", type=FILE, required=True, help="The guardrail's file.")
@click.option("--policy", required=True, help=POLICY_HELP)
@click.option("--side", type=click.Choice(["input", "output"]), help="What plain lines are (default: its only side).")
@click.option("--calibration", type=FILE, help="Hold the card against this calibration set as well.")
@as_json
def check(texts: Any, file: Path, policy: str, side: str | None, calibration: Path | None, json_out: bool) -> None:
    """Print the decision on each line of FILE: plain text, or JSON with `messages` (and `answer`) or `text`.

    Exit codes: 0 all allowed or flagged, 1 at least one refused, 2 an error (also a card that does not hold).
    """
    from plumbline.errors import PlumblineError
    from plumbline.guardrail import Action, load, read_examples

    known = None if calibration is None else read_examples(calibration)
    guard = load(file, policy=digest_of_policy(policy), calibration=known)
    if side is None and len(guard.sides) == 1:
        side = guard.sides[0]
    rows = []
    for number, line in enumerate(texts.read().decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        messages, answer = read_line(line, number, side)
        decided = guard.check(messages, answer)
        rows.append((decided, answer if answer is not None else messages[-1].content if messages else ""))
    if not rows:
        raise PlumblineError(
            "there is no text to check",
            consequence="nothing was decided",
            remedy="give one text or JSON object per line",
        )
    if json_out:
        print_json([{"action": d.action.value, "score": d.score, "threshold": d.threshold, "text": t} for d, t in rows])
    else:
        table(
            ["action", "score", "threshold", "text"],
            [[d.action.value, f"{d.score:.3f}", f"{d.threshold:.3f}", _cut(t)] for d, t in rows],
        )
    sys.exit(1 if any(d.action is Action.REFUSE for d, _ in rows) else 0)


def read_line(line: str, number: int, side: str | None) -> tuple[Any, str | None]:
    """(messages, answer) of a line. Plain text is of the side given."""
    import json

    from plumbline.errors import PlumblineError
    from plumbline.records import Message, say

    try:
        held = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        held = None
    if isinstance(held, dict) and ("messages" in held or "answer" in held or "text" in held):
        try:
            messages = tuple(Message.model_validate(message) for message in held.get("messages") or ())
            answer = held.get("answer")
            if "text" in held and not messages:
                messages = (say("user", held["text"]),)
            if answer is not None and not isinstance(answer, str):
                raise ValueError("`answer` is no text")
            if answer is None and all(message.role != "user" for message in messages):
                raise ValueError("nobody asks anything")
        except (ValueError, TypeError) as error:
            raise PlumblineError(
                f"line {number} is JSON but holds no conversation",
                consequence="nothing was decided",
                remedy='give {"messages": [{"role": "user", "content": "..."}]}, with "answer" to check an answer',
            ) from error
        return messages, answer
    if side is None:
        raise PlumblineError(
            f"line {number} is plain text, and the guardrail has two sides",
            consequence="nothing was decided",
            remedy="say with --side whether the lines are input or output",
        )
    return ((say("user", line),), None) if side == "input" else ((), line)


def digest_of_policy(given: str) -> str:
    """A policy's digest, as given, or that of the policy in a directory (as `plumb evaluate` reports it)."""
    import re

    from plumbline.errors import PlumblineError
    from plumbline.policies.files import manifest_of, read_manifest, resolve
    from plumbline.records.canonical import DIGEST_PATTERN

    if re.match(DIGEST_PATTERN, given):
        return given
    path = Path(given)
    if not path.is_dir():
        raise PlumblineError(
            f"{given!r} is neither a policy's digest nor a directory",
            consequence="nothing was done: a guardrail belongs to policies that are named exactly",
            remedy="give sha256:... as `plumb evaluate` reports it, or the policy's directory",
        )
    manifest = read_manifest(path)
    if manifest is None:
        from plumbline.policies.local import load_template

        path = resolve(path)
        manifest = manifest_of(path, load_template(path).digest)
    return manifest.digest


def _show(file: "GuardrailFile", json_out: bool) -> None:
    from plumbline.records import short

    if json_out:
        sides = [side.card.model_dump(mode="json") for side in file.sides]
        print_json({"digest": file.digest, "name": file.name, "cards": sides})
        return
    for side in file.sides:
        held = side.card
        click.echo(
            f"{held.side}: for {', '.join(short(policy) for policy in held.policies)}, from {held.made:%Y-%m-%d} until "
            f"{held.expires:%Y-%m-%d}, AUROC {held.auroc.area:.3f} ({held.auroc.low:.3f} to {held.auroc.high:.3f})"
        )
        rows = [
            [word, "all", f"{at.threshold:.3f}", _rate(at.false_positive), _rate(at.false_negative)]
            for word, at in (("refuse", held.refuse), ("flag", held.flag))
            if at is not None
        ]
        rows += [["refuse", one.slice, "", _rate(one.false_positive), _rate(one.false_negative)] for one in held.slices]
        table(["", "slice", "from", "FPR", "FNR"], rows)
        if held.refuse.false_positive.rate > held.refuse.target_false_positive:
            click.echo(
                f"the measured FPR is above the target of {held.refuse.target_false_positive:.1%}: "
                "calibrate on more texts, or aim lower"
            )


def _rate(rate: "ErrorRate") -> str:
    return f"{rate.rate:.3f}  {rate.low:.3f} to {rate.high:.3f} ({rate.errors} of {rate.n})" if rate.n else "no case"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 80 else flat[:80] + " ..."
