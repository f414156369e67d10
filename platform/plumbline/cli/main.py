"""The `plumb` command. Sub-commands are named here and imported only when they run, so that `--help` is quick.

Exit codes: 0 done (for `plumb gate`: PASS), 1 REGRESSED, 2 an error with a remedy, 3 INCONCLUSIVE, 130 interrupted.
"""

import importlib
import sys
from typing import Any

import click

from plumbline import __version__
from plumbline.errors import PlumblineError

# name -> (module, attribute, one line for --help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "loop": ("loop", "loop", "Run the whole loop on this machine, from rubric to release."),
    "train": ("train", "train", "Train an objective to an aligned policy, with Ray Train."),
    "objective": ("objective", "objective", "Show an objective and its digest."),
    "evaluate": ("evaluate", "evaluate", "Compare an aligned policy with the reference on held-out suites."),
    "gate": ("evaluate", "gate", "Turn a report and margins into a verdict and an exit code."),
    "behaviors": ("contracts", "behaviors", "Print the ten behaviour areas as contracts."),
    "pressures": ("contracts", "pressures", "Print the five failure pressures as contracts."),
    "dataset": ("data", "dataset", "Import, list, show, compare and verify dataset versions."),
    "ingest": ("data", "ingest", "Turn collected events into the next dataset version."),
    "feedback": ("data", "feedback", "Import feedback events from a file."),
    "consent": ("consent", "consent", "Give, withdraw, show and verify consent."),
    "lineage": ("lineage", "lineage", "Trace a subject or a policy through versions, both ways."),
    "release": ("release", "release", "Show or move the release pointer."),
    "serve": ("services", "serve", "Serve a policy with KServe (OpenAI-compatible)."),
    "router": ("services", "router", "Serve the reference and record pairs for the aligned policy."),
    "shadow-worker": ("services", "shadow_worker", "Ask the aligned policy what users asked the reference."),
    "collector": ("services", "collector", "Receive feedback events and consent over HTTP."),
    "render": ("render", "render", "Write a RayJob for an objective and a GPU node pool."),
    "doctor": ("doctor", "doctor", "Say what is missing on this machine or cluster."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use. Help texts come from `COMMANDS`, so listing imports nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(f"plumbline.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="plumb")
def cli() -> None:
    """Plumbline: from a rubric, consented data and live traffic to an aligned policy that its owners can defend."""


def main(argv: list[str] | None = None) -> Any:
    """Entry point: prints a PlumblineError as fact, consequence, remedy, and exits with its code."""
    try:
        cli.main(args=argv, prog_name="plumb", standalone_mode=False)
    except PlumblineError as error:
        click.echo(f"plumb: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("plumb: interrupted; the same command goes on from here", err=True)
        sys.exit(130)
