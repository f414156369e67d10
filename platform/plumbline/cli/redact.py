"""`plumb redact FILE|-` shows a text as training would see it; `plumb redact check` measures how much is found."""

import sys
from pathlib import Path
from typing import Any

import click

from plumbline.cli.options import as_json, print_json, read_text


class TextOrCheck(click.Group):
    """A group whose first argument is a file unless it is the name of a command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "show", show, args


@click.group(cls=TextOrCheck, invoke_without_command=False, subcommand_metavar="check | FILE | -")
def redact() -> None:
    """Show FILE (or standard input, "-") after redaction, or `check` how much redaction finds.

    A file that is named "check" is read as "./check".
    """


@click.command()
@click.argument("file")
def show(file: str) -> None:
    """Print the text after redaction; what was found is counted on standard error."""
    from plumbline.feedback.redaction.redact import NOT_DETECTED
    from plumbline.feedback.redaction.redact import redact as redacted

    if file == "-":
        text = sys.stdin.read()
    else:
        text = read_text(Path(file), "a text", consequence="nothing was redacted")
    result = redacted(text)
    click.echo(result.text, nl=False)
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result.counts.items()))
    click.echo(f"found: {counts or 'nothing'}; not looked for: {', '.join(NOT_DETECTED)}", err=True)


@redact.command()
@as_json
def check(json_out: bool) -> None:
    """Recall and precision per class on the labelled set, with 95 % intervals."""
    from plumbline.feedback.redaction.check import NEGATIVES, measure, rules_digest
    from plumbline.feedback.redaction.redact import NOT_DETECTED
    from plumbline.records.canonical import short

    halves = {"held_out": measure("held_out"), "tuned": measure("tuned")}
    if json_out:
        figures: dict[str, Any] = {
            half: {name: one.figures() for name, one in got.items()} for half, got in halves.items()
        }
        print_json({**figures, "not_detected": list(NOT_DETECTED), "rules": rules_digest()})
        return
    words = {
        "held_out": "held out: formats and sentences that tuned nothing",
        "tuned": "tuned: what the rules were written on",
    }
    for half, found in halves.items():
        click.echo(f"{words[half]} ({NEGATIVES} hard negatives beside)")
        click.echo(f"  {'':12} {'recall':>7}  {'95 %':15} {'n':>5}  {'precision':>9}  {'95 %':15} {'finds':>5}")
        for name, one in found.items():
            recall, precision = ("{:.3f} to {:.3f}".format(*i) for i in (one.recall_interval, one.precision_interval))
            row = f"{one.recall:7.3f}  {recall:15} {one.planted:5d}  {one.precision:9.3f}  {precision:15}"
            click.echo(f"  {name:12} {row} {one.flagged:5d}")
    for name in NOT_DETECTED:
        click.echo(f"{name}: not detected")
    click.echo(f"rules {short(rules_digest())}; the set is drawn from seeds, and real people write in more ways")
