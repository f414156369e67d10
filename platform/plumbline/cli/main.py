"""The `plumb` command. Sub-commands are named here and imported only when they run, so that `--help` is quick.

Exit codes: 0 done (for `plumb gate`: PASS), 1 REGRESSED, 2 an error with a remedy, 3 INCONCLUSIVE, 130 interrupted,
141 nobody reads the output any more. An unforeseen fault is a 2 as well: Python's own 1 would read as REGRESSED.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import click

from plumbline import __version__
from plumbline.cli.lazy import LazyGroup
from plumbline.errors import PlumblineError

# name -> (module, attribute, one line for --help)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "loop": ("loop", "loop", "Run the whole loop on this machine, from rubric to release."),
    "train": ("train", "train", "Train an objective to an aligned policy, with Ray Train."),
    "export": ("export", "export", "Write a trained job's policy, merged or as an adapter."),
    "objective": ("objective", "objective", "Show an objective, its digest, and what its loss will see."),
    "probes": ("probes", "probes", "Show a training run's behaviour probes and samples."),
    "evaluate": ("evaluate", "evaluate", "Compare an aligned policy with the reference on held-out suites."),
    "gate": ("gate", "gate", "Turn a report and margins into a verdict and an exit code."),
    "report": ("report", "report", "Write a report as a page that a sceptic can read."),
    "suite": ("suite", "suite", "Look at held-out suites; check them against training data; see who read them."),
    "judge": ("judge", "judge", "Fit a refusal judge, and measure its errors on people's labels."),
    "guardrail": ("guardrail", "guardrail", "Fit a guardrail, measure it, and check texts with it."),
    "import": ("exchange", "import_", "Pair runs that inspect_ai or lm-eval logged, for the gate."),
    "tasks": ("exchange", "tasks", "Write a suite as tasks of inspect_ai or lm-eval."),
    "behaviors": ("contracts", "behaviors", "Print the ten behaviour areas as contracts."),
    "pressures": ("contracts", "pressures", "Print the five failure pressures as contracts."),
    "dataset": ("dataset", "dataset", "Import, read, compare, verify, describe and export versions."),
    "ingest": ("ingest", "ingest", "Turn collected events into the next dataset version."),
    "feedback": ("feedback", "feedback", "Import feedback events from a file; show what was quarantined."),
    "review": ("review", "review", "Have answers judged by two people, blind; agree, adjudicate, release."),
    "redact": ("redact", "redact", "Show a text after redaction, and how much redaction finds."),
    "consent": ("consent", "consent", "Give, withdraw, show and verify consent."),
    "erase": ("erase", "erase", "Withdraw and erase a person, in every version and on the disk."),
    "lineage": ("lineage", "lineage", "Trace a person, event, example, version or policy, both ways."),
    "release": ("release", "release", "Show or move the release pointer."),
    "serve": ("serve", "serve", "Serve a policy with KServe (OpenAI-compatible)."),
    "shadow": ("shadow", "shadow", "Serve users, pair what they asked with the aligned policy, and decide."),
    "collector": ("collector", "collector", "Receive feedback events and consent over HTTP."),
    "stores": ("stores", "stores_", "Migrate the ledger; look whether ledger and blobs work."),
    "smoke": ("smoke", "smoke", "Send a consented event and a question through an installation."),
    "render": ("render", "render", "Write a RayJob: training, evaluation or back-fill on a node pool."),
    "status": ("status", "status", "Say how a RayJob is, what its reason means, and what to do."),
    "doctor": ("doctor", "doctor", "Say what is missing on this machine or cluster."),
}


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


@contextlib.contextmanager
def notice_closed_output() -> Iterator[None]:
    """Turn a closed standard output into ReaderGone, before click or rich make it exit code 1: that is REGRESSED."""
    try:
        yield
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
            raise ReaderGone from error
        raise


class Plumb(LazyGroup):
    """The whole command, which notices that nobody reads its output any more."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with notice_closed_output():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with notice_closed_output():
            return super().invoke(ctx)


@click.group(cls=Plumb, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="plumb")
def cli() -> None:
    """Plumbline: from a rubric, consented data and live traffic to an aligned policy that its owners can defend."""


def main(argv: list[str] | None = None) -> Any:
    """Entry point: prints every fault as fact, consequence, remedy, and exits with its code."""
    try:
        cli.main(args=argv, prog_name="plumb", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        click.echo("plumb: interrupted; the same command goes on from the last checkpoint or finished stage", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except ReaderGone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own last flush would complain
        sys.exit(141)
    except Exception as error:
        if os.environ.get("PLUMBLINE_TRACEBACK"):
            raise
        fault = explain(error)
        click.echo(f"plumb: {fault}", err=True)
        sys.exit(fault.exit_code)


def explain(error: Exception) -> PlumblineError:
    """Any exception as a fault with a remedy. What nobody foresaw says how to see where it happened."""
    if isinstance(error, PlumblineError):
        return error
    if isinstance(error, click.ClickException):
        place = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "plumb"
        return PlumblineError(error.format_message(), consequence="nothing was done", remedy=f"see `{place} --help`")
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return PlumblineError(
            f"{where}{error.strerror}",
            consequence="the command stopped there; files and versions that were complete are intact",
            remedy="check the path, its permissions and the space on its disk, then run the same command again",
        )
    return PlumblineError(
        f"an unforeseen fault, {type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}",
        consequence="the command stopped there; files and versions that were complete are intact",
        remedy="set PLUMBLINE_TRACEBACK=1, run it again, and report what it prints",
    )
