"""Private suites: every reading stands in a log beside the file, and a budget bounds how many there are.

A held-out set wears out: whoever tries twenty policies on it and keeps the best has tuned on it. So a private suite's
terms may name a `query_budget`, and `open_suite` is the way to its items: it appends a line to `FILE.access.jsonl`
*before* it hands them out, fsynced and under a lock, so that two processes cannot spend the last reading twice.

    who          the operating system's user, or the actor that was named
    when         UTC
    purpose      evaluate, check, show, sample, ...
    suite        the suite's digest
    policies     digests of the policies that were asked
    cost         1, or 0 where the same policies are asked the same suite again: a resumed run learns nothing new

The items are never in the log. It is a record and no lock: whoever may read the file can read it without Plumbline,
which is what the file's permissions are for.
"""

import fcntl
import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from plumbline.errors import PlumblineError
from plumbline.evaluation.suites.files import read_suite
from plumbline.records import Digest, Record, Suite, short

EVALUATE = "evaluate"
LONGEST = 200  # characters of a purpose or an actor


class Access(Record):
    """One reading of a private suite."""

    schema_id = "plumbline.dev/suite-access/v1"

    who: str = Field(min_length=1, max_length=LONGEST)
    when: str
    purpose: str = Field(min_length=1, max_length=LONGEST)
    suite: Digest
    policies: tuple[Digest, ...] = ()
    cost: int = Field(default=1, ge=0)


def open_suite(path: Path, *, purpose: str, policies: Sequence[str] = (), actor: str | None = None) -> Suite:
    """A suite of any kind that is understood; the reading of a private one is logged first and counts.

    `policies` are digests of the policies that will be asked. Raises PlumblineError when the budget is spent, or when
    the log cannot be written: a reading that leaves no trace is not given.
    """
    suite = read_suite(path, logged=True)
    if suite.terms.private:
        _log(path, suite, purpose, tuple(sorted(policies)), actor or _user())
    return suite


def read_log(path: Path) -> list[Access]:
    """Readings of the suite at `path`, oldest first; none where there is no log. A line that cannot be read is left out
    here and counts as a reading in the budget."""
    return [access for access in _parse(log_of(path)) if access is not None]


def spent(path: Path) -> int:
    """What the readings so far have cost."""
    return sum(1 if access is None else access.cost for access in _parse(log_of(path)))


def log_of(path: Path) -> Path:
    """Beside the file itself, by whatever link it was named."""
    real = path.resolve()
    return real.with_name(real.name + ".access.jsonl")


def _log(path: Path, suite: Suite, purpose: str, policies: tuple[str, ...], who: str) -> None:
    log, budget = log_of(path), suite.terms.query_budget
    try:
        with log.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            known = _parse(log)
            same = (suite.digest, purpose, policies)
            again = same[1] == EVALUATE and bool(policies) and same in {
                (access.suite, access.purpose, access.policies) for access in known if access is not None
            }  # fmt: skip
            used = sum(1 if access is None else access.cost for access in known)
            if budget is not None and not again and used >= budget:
                raise PlumblineError(
                    f"the query budget of the private suite {suite.name} is spent: {used} of {budget} readings",
                    consequence="nothing was read; more answers would tune the policy to this suite",
                    remedy=f"ask its owner ({suite.terms.owner or 'named nowhere'}) for a larger query_budget or fresh"
                    " items; `plumb suite log` shows who read it",
                )
            access = Access(
                who=who,
                when=datetime.now(UTC).isoformat(timespec="seconds"),
                purpose=purpose,
                suite=suite.digest,
                policies=policies,
                cost=0 if again else 1,
            )
            torn = b"" if _ends_a_line(log) else b"\n"
            stream.write(torn + access.model_dump_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            if not known:
                _sync(log.parent)
    except OSError as error:
        raise PlumblineError(
            f"the access log {log} cannot be written ({error.strerror})",
            consequence="the private suite was not read: a reading that leaves no trace is not given",
            remedy="make the folder of the suite writable for whoever evaluates, or free space on that disk",
        ) from error
    except ValidationError as error:
        raise PlumblineError(
            f"this reading of {path.name} cannot be logged: {error.errors()[0]['msg']}",
            consequence="the private suite was not read",
            remedy=f"name a purpose and an actor of 1 to {LONGEST} characters, and policies by digest",
        ) from error


def _parse(log: Path) -> list[Access | None]:
    found: list[Access | None] = []
    for line in log.read_text("utf-8", errors="replace").split("\n") if log.is_file() else ():
        if line.strip():
            try:
                found.append(Access.model_validate(json.loads(line)))
            except (ValueError, RecursionError):
                found.append(None)
    return found


def _ends_a_line(log: Path) -> bool:
    return log.read_bytes()[-1:] in (b"", b"\n")


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return f"uid {os.getuid()}"


def describe(access: Access) -> str:
    """One line for people."""
    asked = f" of {', '.join(short(policy) for policy in access.policies)}" if access.policies else ""
    return f"{access.when}  {access.who}  {access.purpose}{asked}  suite {short(access.suite)}  cost {access.cost}"
