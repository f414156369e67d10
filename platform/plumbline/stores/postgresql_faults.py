"""PostgreSQL's faults in the house's words: what was seen, what follows, what to do. Never a password, never a row.

The server's message is quoted by its first line only: its details quote the values of rows.
"""

from typing import TYPE_CHECKING, Any

from plumbline.errors import PlumblineError
from plumbline.stores.database import ConstraintViolation, LedgerUnavailable

if TYPE_CHECKING:
    import psycopg

_NOTHING = "nothing was changed"
_WAIT = "wait for it to finish, or end it (pg_stat_activity shows it), then start the same command again"
# By SQLSTATE, or by its class of two letters: (what is the matter with the ledger, what to do).
_KNOWN = {
    "55P03": ("is locked by another process", _WAIT),
    "25P03": ("was left waiting inside a transaction", "start the same command again"),
    "40001": ("was changed by somebody beside plumbline", "start the same command again"),
    "40P01": ("was locked by somebody beside plumbline", "start the same command again"),
    "57014": ("stopped the statement", "start the same command again"),
    "25006": ("is read-only: the server is a standby", "name the primary server"),
    "53": ("is short of resources", "free disk space, memory or connections of the server and start again"),
    "42501": ("does not let this user in", "GRANT the user USAGE and CREATE on the schema, or use the owner of it"),
    "42P07": ("has a table of that name already", "name a schema that is empty or holds a ledger"),
}


def fault(ledger: object, error: "psycopg.Error", *, lost: bool, committing: bool) -> PlumblineError:
    state, text = error.sqlstate or "", _first_line(error)
    if lost:
        return LedgerUnavailable(
            f"the connection to the ledger {ledger} was lost: {text}",
            consequence="it is unknown whether the last commit was made" if committing else _NOTHING,
            remedy="start the same command again: what is stored already is found, not repeated",
        )
    if state.startswith("23"):
        return ConstraintViolation(
            f"the ledger {ledger} refuses: {text}",
            consequence=_NOTHING,
            remedy="leave history as it is; if a command of plumbline did this, report it with the command",
        )
    if state.startswith(("XX001", "XX002", "58030")):
        return PlumblineError(
            f"the ledger {ledger} is damaged: {text}",
            consequence="nothing is read from it and nothing is published",
            remedy="restore it from a backup; published manifests and blobs are untouched",
        )
    known = _KNOWN.get(state) or _KNOWN.get(state[:2])
    if known is not None:
        return LedgerUnavailable(f"the ledger {ledger} {known[0]}: {text}", consequence=_NOTHING, remedy=known[1])
    return PlumblineError(
        f"the ledger {ledger} cannot do this: {text}",
        consequence=_NOTHING,
        remedy="check the server's log and version; if this repeats, report it with the command",
    )


def no_connection(ledger: object, error: "psycopg.Error") -> PlumblineError:
    return LedgerUnavailable(
        f"the ledger {ledger} cannot be reached: {_first_line(error)}",
        consequence="nothing was read or changed",
        remedy="check that the server runs and lets this user in; give the password by PGPASSWORD or ~/.pgpass",
    )


def unreadable_url() -> PlumblineError:
    return PlumblineError(
        "the ledger's URL cannot be read (it is not shown: it may hold a password)",
        consequence="nothing was read or changed",
        remedy="write postgresql://USER@HOST:PORT/DATABASE, with %XX for characters that are special in a URL",
    )


def not_durable(ledger: object) -> PlumblineError:
    return PlumblineError(
        f"the server of {ledger} runs with fsync or full_page_writes off",
        consequence="it is not used: a power cut could take back a withdrawal that was acknowledged",
        remedy="set fsync=on and full_page_writes=on",
    )


def no_schema(ledger: object) -> PlumblineError:
    return PlumblineError(
        f"{ledger} has none of the schemas of its search path",
        consequence="there is no place for the ledger's tables",
        remedy="CREATE SCHEMA it, or name another with ?options=-csearch_path%3DNAME in the URL",
    )


def not_installed() -> PlumblineError:
    return PlumblineError(
        "psycopg is not installed",
        consequence="a ledger in PostgreSQL cannot be opened",
        remedy="pip install 'plumbline[postgresql]'",
    )


def _first_line(error: Any) -> str:
    said = error.diag.message_primary if error.diag is not None else None
    return str(said or next(iter(str(error).strip().splitlines()), type(error).__name__))
