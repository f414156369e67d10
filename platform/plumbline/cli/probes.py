"""`plumb probes`: what a training run's behaviour probes saw, step by step, with samples of what the policy said."""

import json
from pathlib import Path
from typing import Any

import click

from plumbline.cli.options import as_json, print_json

LONGEST = 240  # characters of a prompt or an answer


@click.command()
@click.argument("job", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--step", type=click.IntRange(min=1), help="Samples of this step (default: the last one probed).")
@click.option("--samples", type=click.IntRange(min=0), default=5, show_default=True, help="Samples to show.")
@as_json
def probes(job: Path, step: int | None, samples: int, json_out: bool) -> None:
    """Show the behaviour probes of the training job in folder JOB, while it runs or after it.

    Rates by step, against those of the base policy, and samples of the answers beside the base policy's own.
    """
    lines, base = read_probes(job)
    chosen = lines[-1] if step is None else next((line for line in lines if line["step"] == step), None)
    if chosen is None:
        from plumbline.errors import PlumblineError

        raise PlumblineError(
            f"step {step} of {job} was not probed",
            consequence="there is nothing to show",
            remedy=f"name one of {', '.join(str(line['step']) for line in lines)}",
        )
    if json_out:
        print_json({"base": base, "probes": lines})
        return
    show(lines, base, chosen, samples)


def read_probes(job: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines of JOB/probes.jsonl and what the base policy said. A line that is being written is left for later."""
    from plumbline.errors import PlumblineError
    from plumbline.policies.files import read_lines

    file, base = job / "probes.jsonl", job / "probes" / "base.json"
    lines = read_lines(file) if base.is_file() else []
    if not lines:
        raise PlumblineError(
            f"{job} holds no probes",
            consequence="there is nothing to show",
            remedy="name a suite under `probes:` in the objective, and wait for the first probed step",
        )
    return lines, json.loads(base.read_text("utf-8"))


def show(lines: list[dict[str, Any]], base: dict[str, Any], chosen: dict[str, Any], samples: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from plumbline.console.words import humanise, percent

    console = Console()
    names = list(base["rates"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("step", justify="right")
    for name in names:
        table.add_column(humanise(name), justify="right")
    table.add_row("base", *(percent(base["rates"][name]) for name in names))
    for line in lines:
        cells = [percent(line["rates"][name]) + (" ✕" if name in line["breaches"] else "") for name in names]
        table.add_row(str(line["step"]), *cells)
    console.print(table)
    if any(line["breaches"] for line in lines):
        console.print("✕ is worse than the base policy by more than its margin: the run stops there.")
    before = {sample["prompt"]: sample for sample in base["samples"]}
    for sample in chosen["samples"][:samples]:
        was = before.get(sample["prompt"])
        console.print(Text(f"\n{humanise(sample['probe'])} · {one_line(sample['prompt'])}", style="bold"))
        for who, said in (("base", was), (f"step {chosen['step']}", sample)):
            if said is not None:
                console.print(Text(f"  {who:<10} {one_line(said['answer']) or '(nothing)'}  [{said['verdict']}]"))


def one_line(text: str) -> str:
    """Text as it may stand on a terminal: control characters visible, line ends as ↵, long answers cut."""
    from plumbline.console.words import visible

    flat = visible(text.strip().replace("\n", " ↵ "))
    return flat if len(flat) <= LONGEST else flat[:LONGEST] + " …"
