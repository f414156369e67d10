"""Two to four processes on one dataset line, one of them stopped past its lease and woken again.

What protects the line is not that only one works on it but the fencing token, checked in the publishing transaction.
So the worst is staged: a worker that has decided everything and stands before its commit is stopped (SIGSTOP); its
lease runs out on the others' clock; they take the line over and publish, the same run or, under another rubric, another
one; then the first wakes (SIGCONT) and commits what it had.

A *stale commit* is a publication by a token older than one that had published before it.
"""

import itertools
import os
import signal
import time
import traceback
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from plumbline.errors import PlumblineError
from plumbline.feedback import STAGES
from plumbline.records import digest_of
from plumbline.stores import StaleLease
from soak.stories import DATASET, PEOPLE, RUBRIC, Store, outcome, prepare

LEASE_OVER = timedelta(minutes=10)
OTHER_RUBRIC = digest_of("another rubric")


@dataclass
class Rivals:
    """What became of the rounds: how often the woken worker was refused, and what must stay empty."""

    rounds: int = 0
    refused: int = 0
    replayed: int = 0
    versions: int = 0
    stale: int = 0
    findings: list[str] = field(default_factory=list)


def paused_and_resumed(folder: Path, found: Rivals, *, stage: str, rivals: int, rubric: str) -> Rivals:
    """One worker sleeps behind `stage` while `rivals` others go through the line, the last under `rubric`."""
    prepare(folder / "store", "ingest")
    sleeper = os.fork()
    if sleeper == 0:
        os._exit(_work(folder / "store", "sleeper", stop_after=stage))
    _, status = os.waitpid(sleeper, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        found.findings.append(f"the sleeper never came to {stage}")
        return found
    for number in range(rivals):
        with Store(folder / "store", skew=LEASE_OVER * (number + 1), holder=f"rival {number}") as store:
            if number:
                store.post([store.event(PEOPLE[number], "rewrite", f"what came in round {number}", text="a cup")])
            store.ingest(rubric if number == rivals - 1 else RUBRIC)
    os.kill(sleeper, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(sleeper, 0)[1])
    found.rounds += 1
    found.refused += code == _REFUSED
    found.replayed += code == 0
    if code not in (0, _REFUSED):
        found.findings.append(f"the sleeper behind {stage} ended with {code}")
    with Store(folder / "store", skew=LEASE_OVER * 100, holder="next") as store:  # takes up what a refused one left
        store.ingest(rubric)
    _check(folder / "store", found)
    return found


def at_once(folder: Path, found: Rivals, *, workers: int, rounds: int = 6) -> Rivals:
    """Workers that all land the same events and ingest what they can, under leases that run out at once."""
    prepare(folder / "store", "land")
    children = []
    for number in range(workers):
        child = os.fork()
        if child == 0:
            os._exit(_hurry(folder / "store", number, rounds))
        children.append(child)
    for child in children:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != 0:
            found.findings.append(f"a worker ended with {code}")
    with Store(folder / "store", skew=LEASE_OVER * 100) as store:
        store.ingest()
        posted = workers * rounds
        if store.ledger.inbox.last_sequence() != posted:
            found.findings.append(f"{store.ledger.inbox.last_sequence()} events of {posted} in the inbox")
    found.rounds += 1
    _check(folder / "store", found)
    return found


_REFUSED = 17


def _work(root: Path, holder: str, *, stop_after: str) -> int:
    def stop(reached: str) -> None:
        if reached == stop_after:
            os.kill(os.getpid(), signal.SIGSTOP)

    try:
        with Store(root, holder=holder) as store:
            store.ingest(on_stage=stop)
    except StaleLease:
        return _REFUSED
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _hurry(root: Path, number: int, rounds: int) -> int:
    """Every worker's clock is ahead of the one before, so that nobody's lease keeps anybody out for long."""
    try:
        for round in range(rounds):
            skew = LEASE_OVER * (number + 4 * round)
            with Store(root, skew=skew, holder=f"worker {number}") as store:
                person = PEOPLE[(number + round) % len(PEOPLE)]
                store.post([store.event(person, "rewrite", f"what is {number} in {round}", text=f"it is {number}")])
                try:
                    store.ingest()
                except StaleLease:
                    continue
                except PlumblineError as error:  # somebody else is at it: events wait
                    if "is being worked on" not in error.fact:
                        raise
                    time.sleep(0.01)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _check(root: Path, found: Rivals) -> None:
    with Store(root) as store:
        came = outcome(store)
        found.findings += came.problems
        rows = store.ledger.database.rows(
            "SELECT fencing_token FROM publication WHERE dataset = ? AND reason = 'ingest' ORDER BY version", (DATASET,)
        )
        tokens = [int(row[0]) for row in rows]
        found.versions += len(tokens)
        found.stale += sum(later < earlier for earlier, later in itertools.pairwise(tokens))
        if waiting := store.ledger.runs.open_run(DATASET):
            found.findings.append(f"a run was left open at {waiting.stage}")


def rivalry(folder: Path, *, stages: tuple[str, ...] = STAGES, workers: tuple[int, ...] = (2, 3, 4)) -> Rivals:
    """Every stage as the place to sleep, two to four workers, both endings; then workers at once."""
    found = Rivals()
    for number, stage in enumerate(stages):
        for rubric in (RUBRIC, OTHER_RUBRIC):
            place = folder / f"{stage}-{rubric[7:12]}"
            rivals = workers[number % len(workers)] - 1
            paused_and_resumed(place, found, stage=stage, rivals=rivals, rubric=rubric)
    for count in workers:
        at_once(folder / f"at-once-{count}", found, workers=count)
    return found
