"""`plumb behaviors` and `plumb pressures`: the ten and the five, as their files state them."""

import click

from plumbline.cli.options import as_json, print_json

STEPS = ("target", "variable", "estimator", "rule", "regression_metric")


@click.command()
@click.argument("names", nargs=-1)
@as_json
def behaviors(names: tuple[str, ...], json_out: bool) -> None:
    """Print the behaviour areas: target, variable, estimator, rule and regression metric of each."""
    from plumbline.records import AREAS

    _print(names, AREAS, json_out)


@click.command()
@click.argument("names", nargs=-1)
@as_json
def pressures(names: tuple[str, ...], json_out: bool) -> None:
    """Print the failure pressures: what each watches and when it alarms."""
    from plumbline.records import PRESSURES

    _print(names, PRESSURES, json_out)


def _print(wanted: tuple[str, ...], known: tuple[str, ...], json_out: bool) -> None:
    from rich.console import Console

    from plumbline.errors import PlumblineError
    from plumbline.evaluation.contracts import contract

    for name in wanted:
        if name not in known:
            raise PlumblineError(
                f"{name!r} is none of them",
                consequence="nothing was printed",
                remedy="choose from " + ", ".join(known),
            )
    contracts = [contract(name) for name in wanted or known]
    if json_out:
        print_json([c.model_dump() for c in contracts])
        return
    console = Console(highlight=False)
    for c in contracts:
        console.print(f"[bold]{c.name.replace('_', ' ')}[/bold]")
        for number, step in enumerate(STEPS, 1):
            console.print(f"  {number}. [dim]{step.replace('_', ' ')}:[/dim] {getattr(c, step)}", markup=True)
        console.print()
