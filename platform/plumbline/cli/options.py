"""Options that many commands share, and opening the stores that they name."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from plumbline.feedback.pseudonyms import Pseudonyms
    from plumbline.stores import BlobStore, Ledger

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = Path(".plumbline")
PORT = click.IntRange(0, 65535)
AT_LEAST_ONE = click.IntRange(min=1)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Workers(click.ParamType[int | tuple[int, int]]):
    """A number of workers, or MIN:MAX of an elastic run."""

    name = "N or MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, int]:
        if not isinstance(value, str):
            return cast(int | tuple[int, int], value)
        found = re.fullmatch(r"([1-9][0-9]*)(?::([1-9][0-9]*))?", value)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if low > high:
            self.fail(f"{value!r} is no number of workers: give N or MIN:MAX, from 1 up", param, ctx)
        return low if low == high else (low, high)


class Place(click.ParamType[Path | str]):
    """A path, or a URL, which stays the text that it is: a Path would fold its slashes."""

    name = "PATH or URL"

    def __init__(self, *starts: str) -> None:
        self.starts = starts

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if not isinstance(value, str):
            return cast(Path | str, value)
        if value.startswith(self.starts):
            return value
        if "://" in value:  # its own words are not repeated: it may hold a password
            self.fail(f"this URL does not begin with {' or '.join(self.starts)}", param, ctx)
        return Path(value)


def stores(command: F) -> F:
    """--ledger and --blobs, from PLUMBLINE_LEDGER and PLUMBLINE_BLOBS, by default under ./.plumbline."""
    sql = Place("postgresql://", "postgres://")
    for name, place, default, text in (
        ("blobs", Place("s3://"), FOLDER / "blobs", "The blobs: a directory or s3://BUCKET/PREFIX."),
        ("ledger", sql, FOLDER / "ledger.sqlite", "The ledger: an SQLite file or postgresql://USER@HOST/DATABASE."),
    ):
        command = click.option(
            f"--{name}",
            type=place,
            default=default,
            show_default=True,
            envvar=f"PLUMBLINE_{name.upper()}",
            help=text,
        )(command)
    return command


def superseded_too(command: F) -> F:
    text = "Allow a dataset version that is not its dataset's head, to repeat a run."
    return click.option("--superseded", is_flag=True, help=text)(command)


def as_json(command: F) -> F:
    return click.option("--json", "json_out", is_flag=True, help="Print JSON for machines.")(command)


def open_ledger(place: Path | str, *, must_exist: bool = False) -> "Ledger":
    """The ledger at a path or URL; a command that only reads does not make an empty one."""
    from plumbline.stores import Ledger

    return Ledger(place, must_exist=must_exist)


def open_blobs(place: Path | str, *, must_exist: bool = False) -> "BlobStore":
    """The blobs at a path or URL; a command that only reads does not make an empty directory."""
    from plumbline.errors import PlumblineError
    from plumbline.stores.blobs import open_blobs

    if must_exist and isinstance(place, Path) and not place.is_dir():
        raise PlumblineError(
            f"there are no blobs at {place}",
            consequence="there is nothing to read",
            remedy="name the directory with --blobs or PLUMBLINE_BLOBS",
        )
    return open_blobs(place)


def tenant_key(place: Path | str, store: "Ledger", *, identity: str = "", create: bool = False) -> "Pseudonyms":
    """The key that makes pseudonyms: PLUMBLINE_TENANT_KEY (hexadecimal), or the file `tenant.key` beside the ledger.

    Only a command that takes people in draws a new key (`create`), and only while the ledger knows nobody: under
    another key everyone in it would be a stranger, and "no consent is recorded" untrue. An `identity` that already
    is a pseudonym needs no key. A ledger on a server has no file beside it: every machine is given the same key.
    """
    from plumbline.errors import PlumblineError
    from plumbline.feedback.pseudonyms import PSEUDONYM, Pseudonyms

    given = os.environ.get("PLUMBLINE_TENANT_KEY")
    if given:
        try:
            return Pseudonyms(bytes.fromhex(given))
        except ValueError as error:
            raise PlumblineError(
                "PLUMBLINE_TENANT_KEY is not hexadecimal",
                consequence="nobody's pseudonym can be made, so nothing was done",
                remedy="give 16 bytes or more as hexadecimal digits, for example from `openssl rand -hex 32`",
            ) from error
    file = place.with_name("tenant.key") if isinstance(place, Path) else None
    here = file is not None and file.exists()
    if PSEUDONYM.match(identity) and not here:
        return Pseudonyms(bytes(16))  # makes no pseudonym here: this one is made
    if file is None:
        raise PlumblineError(
            f"the tenant key of {store.database} is not set",
            consequence="a person's pseudonym cannot be made, so nothing was looked up or recorded",
            remedy="set PLUMBLINE_TENANT_KEY to the same key on every machine (`openssl rand -hex 32` draws one),"
            " or pass the pseudonym (s-...) itself",
        )
    if not here and not (create and store.consent.head().sequence == 0):
        raise PlumblineError(
            f"the tenant key of {place} is not at {file}",
            consequence="a person's pseudonym cannot be made, so nothing was looked up or recorded",
            remedy="set PLUMBLINE_TENANT_KEY, put the key file back, or pass the pseudonym (s-...) itself",
        )
    return Pseudonyms.load_or_create(file)


def dataset_name(name: str) -> str:
    """`name`, if NAME@VERSION can be told apart and it can stand in a file name and a label."""
    from plumbline.errors import PlumblineError

    if NAME.fullmatch(name) is None:
        raise PlumblineError(
            f"{name!r} is no name for a dataset",
            consequence="nothing was read or published",
            remedy="use letters, digits, dot, dash and underscore, beginning with a letter or digit (at most 100)",
        )
    return name


def read_text(file: Path, what: str, *, consequence: str) -> str:
    """A UTF-8 file that a user named."""
    from plumbline.errors import PlumblineError

    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise PlumblineError(
            f"{file} is not {what}: {why}", consequence=consequence, remedy="name a readable UTF-8 file"
        ) from error


def read_yaml(file: Path, what: str, *, consequence: str) -> dict[str, Any]:
    """A YAML (or JSON) file that holds a mapping."""
    import yaml

    from plumbline.errors import PlumblineError

    try:
        read = yaml.safe_load(read_text(file, what, consequence=consequence))
        why = "" if isinstance(read, dict) else "it holds no mapping of keys to values"
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        why = f"{getattr(error, 'problem', None) or 'it is not YAML'}" + (f" (line {mark.line + 1})" if mark else "")
    if why:
        raise PlumblineError(f"{file} is not {what}: {why}", consequence=consequence, remedy="correct the file")
    return dict(read)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ray Train answers Ctrl-C with SystemExit(0), which would say "done"; it was interrupted."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's, for a reader that left
            raise
        raise KeyboardInterrupt from stop


def require_machine(workers: int, *, gpu: bool = False) -> None:
    """Refuse what this machine can never place: a local Ray would wait for the missing processor or GPU for ever."""
    from plumbline.errors import PlumblineError

    if os.environ.get("RAY_ADDRESS"):
        return  # a cluster may grow
    if gpu:
        import torch

        there, what = torch.cuda.device_count(), "GPUs"
    else:
        there, what = len(os.sched_getaffinity(0)), "processors"
    if workers > there:
        raise PlumblineError(
            f"{workers} workers need {workers} {what}, and this machine has {there}",
            consequence="nothing was trained: Ray would wait for them without end",
            remedy="use fewer --workers" + (", leave out --gpu" if gpu else "") + ", or set RAY_ADDRESS to a cluster",
        )


def print_json(value: Any) -> None:
    import json

    click.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
