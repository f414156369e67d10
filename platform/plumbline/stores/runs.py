"""Runs, leases and approvals: who may work on a dataset line, how far the work is, and who agreed to it.

A run is a sealed range of inbox events on its way to a version; a dataset has at most one open run (a unique
index says so). A lease keeps two workers from doing the same work, but it is only a courtesy: a paused worker may
wake up after its lease ran out. What protects the data is the fencing token, checked in the publishing transaction.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.stores.database import Database, timestamp

RunState = Literal["open", "published", "no_change", "rejected", "superseded"]


class StaleLease(PlumblineError):
    """Somebody else took the line over; this worker's view is old and its commits are refused."""


@dataclass(frozen=True)
class Lease:
    """The right to work on a line. `token` grows with every taking-over; only the newest may publish."""

    name: str
    holder: str
    token: int


@dataclass(frozen=True)
class Run:
    run_key: str
    dataset: str
    parent: str | None
    from_sequence: int
    to_sequence: int
    rubric: str
    code: str
    stage: str
    candidate: str | None
    state: RunState


@dataclass(frozen=True)
class Approval:
    approver: str
    approved: bool
    reason: str


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    # --- leases -----------------------------------------------------------------------------------------------

    def acquire_lease(self, name: str, holder: str, *, seconds: float = 60.0) -> Lease:
        """Take a lease. PlumblineError while somebody else holds it, lives as far as this machine can tell, and the
        lease has not run out."""
        now = self._database.clock()
        expires = timestamp(now + timedelta(seconds=seconds))
        with self._database.transaction():
            row = self._database.row("SELECT * FROM lease WHERE name = ?", (name,))
            if row is None:
                self._database.insert("lease", name=name, holder=holder, token=1, expires_at=expires)
                return Lease(name, holder, 1)
            if row["holder"] != holder and row["expires_at"] > timestamp(now) and not _gone(row["holder"]):
                raise PlumblineError(
                    f"{name} is being worked on by {row['holder']}",
                    consequence="this worker does not start: two would build the same version twice",
                    remedy=f"wait until it ends, or until its lease runs out at {row['expires_at']}",
                )
            token = row["token"] + 1
            self._database.execute(
                "UPDATE lease SET holder = ?, token = ?, expires_at = ? WHERE name = ?", (holder, token, expires, name)
            )
            return Lease(name, holder, token)

    def renew_lease(self, lease: Lease, *, seconds: float = 60.0) -> None:
        """Hold on to a lease for longer. StaleLease when somebody else has it by now."""
        expires = timestamp(self._database.clock() + timedelta(seconds=seconds))
        with self._database.transaction():
            self.check_lease(lease)
            self._database.execute("UPDATE lease SET expires_at = ? WHERE name = ?", (expires, lease.name))

    def release_lease(self, lease: Lease) -> None:
        """Let the next holder in at once; the token stays, so that an old holder remains locked out."""
        self._database.execute(
            "UPDATE lease SET expires_at = '' WHERE name = ? AND token = ?",  # free by a clock that went back, too
            (lease.name, lease.token),
        )

    # --- runs -------------------------------------------------------------------------------------------------

    def open_run(self, dataset: str) -> Run | None:
        return self._run("SELECT * FROM run WHERE dataset = ? AND state = 'open'", (dataset,))

    def run(self, run_key: str) -> Run | None:
        return self._run("SELECT * FROM run WHERE run_key = ?", (run_key,))

    def start_run(self, run: Run) -> Run:
        """Seal a range of events into a run. Starting a run that exists returns it as it stands, opened again if
        it had been superseded."""
        with self._database.transaction():
            known = self.run(run.run_key)
            if known is not None:
                same = ("dataset", "parent", "from_sequence", "to_sequence", "rubric", "code")
                if known.state not in ("open", "superseded") or any(getattr(known, n) != getattr(run, n) for n in same):
                    raise PlumblineError(
                        f"the run key {run.run_key} was used for other events, or is done ({known.state})",
                        consequence="nothing was sealed: two runs of one name would share their stages",
                        remedy="name every run by a key of its own, or leave the key out",
                    )
                if known.state == "superseded":
                    self._database.execute("UPDATE run SET state = 'open' WHERE run_key = ?", (run.run_key,))
                    return self._known(run.run_key)
                return known
            self._database.insert("run", **vars(run))
            return run

    def advance_run(self, run_key: str, stage: str, *, state: RunState = "open", candidate: str | None = None) -> None:
        """Note how far a run is. Only an open run moves: a worker whose run was taken over cannot open it again."""
        self._database.execute(
            "UPDATE run SET stage = ?, state = ?, candidate = COALESCE(?, candidate)"
            " WHERE run_key = ? AND state = 'open'",
            (stage, state, candidate, run_key),
        )

    def sealed_sequence(self, dataset: str) -> int:
        """The last inbox sequence that a finished run of the dataset consumed; 0 when none has."""
        return int(
            self._database.value(
                "SELECT COALESCE(MAX(to_sequence), 0) FROM run"
                " WHERE dataset = ? AND state IN ('published', 'no_change', 'rejected')",
                (dataset,),
            )
        )

    def approve(self, candidate: str, approval: Approval) -> None:
        """Record a decision on a candidate digest. An approver's first word on a candidate stands."""
        self._database.execute(
            "INSERT INTO approval VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (candidate, approval.approver, int(approval.approved), approval.reason, self._database.now()),
        )

    def approvals(self, candidate: str) -> list[Approval]:
        rows = self._database.rows(
            "SELECT approver, approved, reason FROM approval WHERE candidate = ? ORDER BY approver", (candidate,)
        )
        return [Approval(row[0], bool(row[1]), row[2]) for row in rows]

    def check_lease(self, lease: Lease | None) -> None:
        """Raise StaleLease unless the lease is the newest; None (one process, no rival) passes."""
        if lease is None:
            return
        token = self._database.value("SELECT token FROM lease WHERE name = ?", (lease.name,))
        if token != lease.token:
            raise StaleLease(
                f"{lease.holder} works on {lease.name} under token {lease.token}, but {token} was handed out since",
                consequence="its commit is refused; the newer holder's work stands",
                remedy="start again: the run continues from what is stored",
            )

    def _run(self, sql: str, parameters: Sequence[Any]) -> Run | None:
        row = self._database.row(sql, parameters)
        return None if row is None else Run(**dict(row))

    def _known(self, run_key: str) -> Run:
        run = self.run(run_key)
        assert run is not None
        return run


def this_worker() -> str:
    """A name for the holder of a lease: `HOST/PID`, so that a worker on the same machine sees when it is gone."""
    return f"{socket.gethostname()}/{os.getpid()}"


def _gone(holder: str) -> bool:
    """Whether the holder was a process of this machine that is no more. Of other machines nothing is known."""
    host, _, process = holder.rpartition("/")
    if host != socket.gethostname() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
