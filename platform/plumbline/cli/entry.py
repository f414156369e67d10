"""What the entry points of RayJobs (`jobs/*.py`) have in common: their plan, their workers, and how they end."""

import argparse
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from plumbline.cli.main import explain
from plumbline.cli.options import Workers, read_text
from plumbline.errors import PlumblineError, first_fault
from plumbline.records import Record

R = TypeVar("R", bound=Record)


def entry(name: str, about: str, option: str, run: Callable[[Path, str, Path], str]) -> None:
    """Run `run(document, run name, storage)` and print what it says. Exit codes: 0 done, 2 an error with a remedy,
    130 interrupted."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument(option, dest="document", type=Path, required=True)
    parser.add_argument("--run-name", required=True)
    parser.add_argument("--storage", type=Path, required=True)
    options = parser.parse_args()
    try:
        said = run(options.document, checked_name(options.run_name), options.storage)
    except (KeyboardInterrupt, SystemExit):  # Ray answers Ctrl-C with SystemExit(0)
        print(f"{name}: interrupted; the same command goes on from where it was", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PLUMBLINE_TRACEBACK"):
            raise
        print(f"{name}: {explain(error)}", file=sys.stderr)
        sys.exit(explain(error).exit_code)
    print(said)


def checked_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is None:
        raise PlumblineError(
            f"{name!r} is no name for a run",
            consequence="nothing was done",
            remedy="use letters, digits, dot, dash and underscore: it names folders below --storage",
        )
    return name


def workers_of(variable: str) -> int | tuple[int, int]:
    """Ray workers, N or MIN:MAX, from the environment; 1 where it is not set."""
    import click

    said = os.environ.get(variable, "1")
    try:
        return Workers().convert(said, None, None)
    except click.BadParameter as error:
        raise PlumblineError(
            f"{variable} is {said!r}",
            consequence="nothing was done",
            remedy="give the number of Ray workers, 1 or more, or MIN:MAX",
        ) from error


def read_record(file: Path, kind: type[R], what: str, remedy: str) -> R:
    """The document that the ConfigMap carries."""
    from pydantic import ValidationError

    consequence = "nothing was done"
    try:
        return kind.model_validate_json(read_text(file, what, consequence=consequence))
    except ValidationError as error:
        raise PlumblineError(
            f"{file} is not {what}: {first_fault(error)}", consequence=consequence, remedy=remedy
        ) from error


def on_storage(said: str, storage: Path) -> Path:
    """A path of a plan: a relative one lies on the storage."""
    return storage / said  # an absolute path stays what it is
