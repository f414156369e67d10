"""Interleaved giving, withdrawing, expiring, posting, ingesting and crashing, against a small oracle.

The oracle knows nothing of the ledger: it keeps, per person, whether their consent holds, which of their lawful texts
wait, and how many examples of theirs must be in the head version.
"""

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plumbline.feedback import STAGES, load_manifest, withdraw_and_erase

MEMORY = Path("/dev/shm")  # durability is tested elsewhere; here thousands of commits may be quick
PEOPLE = ["ana", "ben"]
person = st.sampled_from(PEOPLE)
actions = st.one_of(
    st.tuples(st.just("give"), person, st.sampled_from([None, None, 1, 3])),
    st.tuples(st.just("withdraw"), person, st.booleans()),
    st.tuples(st.just("post"), person, st.none()),
    st.tuples(st.just("post"), person, st.none()),
    st.tuples(st.just("wait"), st.none(), st.integers(1, 2)),
    st.tuples(st.just("ingest"), st.none(), st.sampled_from([None, None, *STAGES])),
    st.tuples(st.just("ingest"), st.none(), st.none()),
)


class Killed(BaseException):
    pass


class World:
    """The house and the oracle, moved together by one action at a time."""

    def __init__(self, house: Any) -> None:
        self.house = house
        self.until: dict[str, datetime | None] = {}  # end of validity; None: no end; absent: nothing given
        self.waiting = dict.fromkeys(PEOPLE, 0)
        self.inside = dict.fromkeys(PEOPLE, 0)
        self.left: set[str] = set()  # withdrew since the last version
        self.posted = 0

    def holds(self, name: str) -> bool:
        until = self.until.get(name, datetime.min.replace(tzinfo=self.house.now.tzinfo))
        return until is None or until > self.house.now

    def give(self, name: str, hours: int | None) -> None:
        self.until[name] = None if hours is None else self.house.now + timedelta(hours=hours)
        self.house.desk.give(name, ["training"], self.house.notice, valid_until=self.until[name])

    def withdraw(self, name: str, thoroughly: bool) -> None:
        if not self.house.desk.show(name):
            return
        if self.until.pop(name, "nothing") != "nothing":
            self.waiting[name] = 0
            self.left.add(name)
        if not thoroughly:
            self.house.desk.withdraw(name)
            return
        withdraw_and_erase(self.house.ledger, self.house.blobs, self.house.desk, name)
        self.waiting[name] = 0
        self.drop_those_who_left()

    def drop_those_who_left(self) -> None:
        """Any new version, a removal too, is without everybody whose consent ended or who withdrew since the last
        one, even if they consented again in between."""
        stays = [name for name in PEOPLE if self.holds(name) and name not in self.left]
        self.inside = {name: count if name in stays else 0 for name, count in self.inside.items()}
        self.left.clear()

    def post(self, name: str, _: None) -> None:
        self.posted += 1
        self.house.post(self.house.rewrite(name, f"question number {self.posted}", f"answer number {self.posted}"))
        self.waiting[name] += self.holds(name)

    def wait(self, _: None, hours: int) -> None:
        self.house.wait(hours=hours)

    def ingest(self, _: None, killed_after: str | None) -> None:
        def failpoint(reached: str) -> None:
            if reached == killed_after:
                raise Killed

        try:
            self.house.ingest(on_stage=failpoint)
        except Killed:
            self.house.ledger.close()
            self.house.open()
            self.house.ingest()
        self.drop_those_who_left()
        for name in PEOPLE:
            self.inside[name] += self.waiting[name] if self.holds(name) else 0
            self.waiting[name] = 0

    def check(self) -> None:
        assert self.house.desk.verify().valid
        if self.house.ledger.publications.head("assistant") is None:
            return
        manifest = load_manifest(self.house.ledger, self.house.blobs, "assistant")
        assert manifest.balanced and manifest.computed_root() == manifest.root
        for name in PEOPLE:
            subject = self.house.names.of(name)
            assert sum(member.subject == subject for member in manifest.members) == self.inside[name], name


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(actions, min_size=8, max_size=22))
def test_no_interleaving_publishes_anybody_without_consent(house_class: Any, taken: list[tuple[str, Any, Any]]) -> None:
    root = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.exists() else None))
    world = World(house_class(root))
    try:
        for name, who, how in [("give", "ana", None), *taken, ("ingest", None, None)]:
            getattr(world, name)(who, how)
        world.check()
    finally:
        world.house.ledger.close()
        shutil.rmtree(root)
