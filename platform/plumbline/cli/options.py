"""Options that many commands share, and opening the stores that they name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from plumbline.feedback.pseudonyms import Pseudonyms
    from plumbline.stores import Ledger, LocalBlobs

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = Path(".plumbline")


def stores(command: F) -> F:
    """--ledger and --blobs, from PLUMBLINE_LEDGER and PLUMBLINE_BLOBS, by default under ./.plumbline."""
    for name, default, text in (
        ("blobs", FOLDER / "blobs", "Directory of the blobs."),
        ("ledger", FOLDER / "ledger.sqlite", "The ledger database."),
    ):
        command = click.option(
            f"--{name}",
            type=click.Path(path_type=Path),
            default=default,
            show_default=True,
            envvar=f"PLUMBLINE_{name.upper()}",
            help=text,
        )(command)
    return command


def as_json(command: F) -> F:
    return click.option("--json", "json_out", is_flag=True, help="Print JSON for machines.")(command)


def open_ledger(path: Path, *, must_exist: bool = False) -> "Ledger":
    """The ledger at `path`; a command that only reads does not make an empty one."""
    from plumbline.errors import PlumblineError
    from plumbline.stores import Ledger

    if must_exist and not path.is_file():
        raise PlumblineError(
            f"there is no ledger at {path}",
            consequence="there is nothing to read",
            remedy="name one with --ledger or PLUMBLINE_LEDGER, or import data first",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return Ledger(path)


def open_blobs(path: Path) -> "LocalBlobs":
    from plumbline.stores import LocalBlobs

    return LocalBlobs(path)


def tenant_key(ledger: Path) -> "Pseudonyms":
    """The key that makes pseudonyms: PLUMBLINE_TENANT_KEY (hexadecimal), or a file beside the ledger."""
    from plumbline.feedback.pseudonyms import Pseudonyms

    given = os.environ.get("PLUMBLINE_TENANT_KEY")
    if given:
        return Pseudonyms(bytes.fromhex(given))
    return Pseudonyms.load_or_create(ledger.with_name("tenant.key"))


def print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
