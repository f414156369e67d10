"""Interleaved giving, withdrawing, expiring, posting, ingesting, approving and crashing, against a small oracle.

The oracle knows nothing of the ledger: it keeps, per person, whether their consent holds, how many of their lawful
texts wait, how many are sealed in a run that waits for its approval, and how many examples of theirs must be in the
head version. After a crash it asks the store one thing: how far the run had come. What must be in it then, it knows.

A crash is an exception, which nothing in the product catches, at a step towards the disk that hypothesis draws
(tests/soak/failpoints.py). Both backends run; on PostgreSQL every history has a schema and a bucket of its own.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from backends import postgresql, s3
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from plumbline.feedback import STAGES, load_manifest, members_of, verify, withdraw_and_erase
from plumbline.stores import Approval
from plumbline.stores.blobs import open_blobs
from soak.failpoints import Failpoints, watching
from soak.kills import MEMORY
from soak.stories import DATASET, START, Store

PEOPLE = ("ana", "ben")
people = st.sampled_from(PEOPLE)
MANY = int(os.environ.get("SOAK_HISTORIES", "5"))  # on servers; fifty times as many on files. `make soak` sets 60


class Killed(BaseException):
    """Stands for a kill: nothing in the product may catch it."""


def killed() -> None:
    raise Killed


class Interleavings(RuleBasedStateMachine):
    """The store and the oracle, moved together by one action at a time."""

    places: Callable[[Path], dict[str, Any]] = staticmethod(lambda _: {})

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.exists() else None))
        self.store = Store(self.root, **self.places(self.root))
        self.store.__enter__()
        self.until: dict[str, datetime | None] = {}  # end of validity; None: no end; absent: nothing holds
        self.gave: set[str] = set()
        self.waiting: Counter[str] = Counter()  # lawful and in no run
        self.sealed: Counter[str] | None = None  # lawful and in the run that waits; None: no run waits
        self.inside: Counter[str] = Counter()
        self.left: set[str] = set()  # withdrew since the last version
        self.posted = self.version = 0

    def teardown(self) -> None:
        self.store.__exit__()
        shutil.rmtree(self.root)

    # --- people -------------------------------------------------------------------------------------------------------

    @rule(name=people, hours=st.sampled_from([None, None, 1, 3]))
    def give(self, name: str, hours: int | None) -> None:
        until = None if hours is None else self.store.clock() + timedelta(hours=hours)
        self.store.desk.give(name, ["training"], self.store.notice, valid_until=until)
        self.until[name] = until
        self.gave.add(name)

    @rule(name=people)
    def post(self, name: str) -> None:
        self.posted += 1
        text = f"answer number {self.posted}"
        self.store.post([self.store.event(name, "rewrite", f"question number {self.posted}", text=text)])
        self.waiting[name] += self.holds(name)

    @precondition(lambda self: self.gave)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.gave)))
        self.store.desk.withdraw(name)
        self.forget(name)

    @precondition(lambda self: self.gave)
    @rule(data=st.data())
    def withdraw_and_be_erased(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.gave)))
        self.forget(name)
        withdraw_and_erase(self.store.ledger, self.store.blobs, self.store.desk, name)
        if self.must_go():
            self.version_without()

    @rule(hours=st.integers(1, 2))
    def wait(self, hours: int) -> None:
        self.store.skew += timedelta(hours=hours)

    # --- runs ---------------------------------------------------------------------------------------------------------

    @rule()
    def ingest(self) -> None:
        self.store.ingest()
        self.conclude()

    @precondition(lambda self: not self.must_go())
    @rule()
    def propose(self) -> None:
        """A run that nobody decides yet."""
        self.store.ingest(approve=None)
        self.seal()
        if not self.lawful(self.sealed or Counter()):
            self.sealed = None

    @precondition(lambda self: not self.must_go())
    @rule()
    def refuse(self) -> None:
        """A run whose candidate is decided against: its events are used up, the version stays."""
        self.store.ingest(approve=lambda *_: Approval("data-owner", False, "no"))
        self.seal()
        self.sealed = None

    @precondition(lambda self: self.gave and +self.waiting)
    @rule(stage=st.sampled_from(STAGES), data=st.data())
    def ingest_while_somebody_withdraws(self, stage: str, data: st.DataObject) -> None:
        """Between two stages, the last moment before the commit among them."""
        name = data.draw(st.sampled_from(sorted(self.gave)))
        left: list[str] = []

        def leave(reached: str) -> None:
            if reached == stage and not left:
                self.store.desk.withdraw(name)
                left.append(name)

        head = self.where()[0]
        self.store.ingest(on_stage=leave)
        if stage == "published":  # the withdrawal came after the version
            self.conclude()
        if left:
            self.forget(name)
        if stage != "published":
            if self.where()[0] > head:
                self.conclude()
            else:  # nothing was left to publish; those who must go do so in the next run
                self.seal()
                assert not self.lawful(self.sealed or Counter())
                self.sealed = None

    @precondition(lambda self: self.until)
    @rule(data=st.data())
    def withdraw_and_consent_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.until)))
        self.store.desk.withdraw(name)
        self.forget(name)
        self.give(name, None)

    @rule(step=st.integers(1, 70))
    def crash(self, step: int) -> None:
        """A run that is cut off before some step, and nothing that takes it up yet."""
        self.store.__exit__()
        before = self.where()
        try:
            with watching(Failpoints(step, killed), self.root):
                self.store.__enter__()
                self.store.ingest()
        except Killed:
            pass
        finally:
            self.store.__exit__()
            self.store.__enter__()
        head, used, waiting = self.where()
        if head > before[0] or used > before[1]:
            self.conclude()
        elif waiting:
            self.seal()

    # --- the oracle ---------------------------------------------------------------------------------------------------

    def holds(self, name: str) -> bool:
        until = self.until.get(name, START - timedelta(days=1))
        return until is None or until > self.store.clock()

    def lawful(self, texts: Counter[str]) -> Counter[str]:
        return Counter({name: count for name, count in texts.items() if count and self.holds(name)})

    def must_go(self) -> set[str]:
        """Who is in the head version and may not be in the next one, even if they consented again in between."""
        return {name for name, count in self.inside.items() if count and (name in self.left or not self.holds(name))}

    def forget(self, name: str) -> None:
        if self.until.pop(name, "nothing") != "nothing":
            self.left.add(name)
        self.waiting[name] = 0
        if self.sealed is not None:
            self.sealed[name] = 0

    def seal(self) -> None:
        if self.sealed is None:
            self.sealed, self.waiting = self.waiting, Counter()

    def version_without(self) -> None:
        """A new version, whatever it adds, is without everybody who must go. Runs on the old one are built anew."""
        for name in self.must_go():
            self.inside[name] = 0
        self.left.clear()
        if self.sealed is not None:
            self.waiting, self.sealed = self.waiting + self.sealed, None

    def conclude(self) -> None:
        self.seal()
        added, self.sealed = self.lawful(self.sealed or Counter()), None
        if added or self.must_go():
            self.version_without()
            self.inside += added

    def where(self) -> tuple[int, int, bool]:
        """How far the store is: its head, the last event used up, and whether a run waits."""
        with Store(self.root, ledger_at=self.store.ledger_at, open_blobs=self.store.open_blobs) as store:
            head = store.ledger.publications.head(DATASET)
            runs = store.ledger.runs
            return (head.version if head else 0, runs.sealed_sequence(DATASET), runs.open_run(DATASET) is not None)

    @invariant()
    def the_head_holds_what_it_must(self) -> None:
        assert self.store.desk.verify().valid
        if self.store.ledger.publications.head(DATASET) is None:
            assert not +self.inside
            return
        version = members(self.store)
        assert version == {self.store.names.of(name): count for name, count in self.inside.items() if count}


def members(store: Store) -> Counter[str]:
    manifest = load_manifest(store.ledger, store.blobs, DATASET)
    assert manifest.balanced and verify(store.ledger, store.blobs, manifest).problems == ()
    return Counter(str(member.subject) for member in members_of(store.ledger, DATASET))


def run(machine: type[Interleavings], histories: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=histories, stateful_step_count=24, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.slow
def test_no_interleaving_publishes_anybody_without_consent() -> None:
    run(Interleavings, 50 * MANY)


@pytest.mark.slow
def test_no_interleaving_does_on_a_server_either() -> None:
    """PostgreSQL and S3."""
    database, buckets = postgresql(), s3()

    class OnServers(Interleavings):
        @staticmethod
        def places(_: Path) -> dict[str, Any]:
            bucket = buckets.bucket()
            return {"ledger_at": database.schema(), "open_blobs": lambda: open_blobs(bucket)}

    run(OnServers, MANY)
