"""Whatever people say, routers write and workers do, in any order: after a sweep what is left is what ought to be."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from plumbline.shadow import Outcome, Spool
from plumbline.shadow.sweeping import SWEPT, sweep
from plumbline.stores import Ledger
from shadow.leavers import ANA, ANSWER, BEN, EVA, EXPERIMENT, House, on_disk, record, words

PEOPLE = st.sampled_from([ANA, BEN, EVA])


class Life(RuleBasedStateMachine):
    """Consent is given and ended, records are looked up and written, in any order; what ought to be left is known."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="swept-"))
        self.house = House(Ledger(self.folder / "ledger.sqlite"))
        self.spool = Spool(self.folder / "spool", EXPERIMENT)
        self.looked_up: list[tuple[str, int, str]] = []  # by a router, on the way to the disk
        self.written: list[tuple[str, int, str]] = []
        self.ends: dict[str, int] = {}
        self.n = 0
        for person in (ANA, BEN, EVA):  # nobody is recorded whom the ledger does not know
            self.house.says(person, "given")

    @rule(person=PEOPLE, action=st.sampled_from(["given", "withdrawn", "refused", "expired"]))
    def somebody_speaks(self, person: str, action: str) -> None:
        entry = self.house.says(person, action)
        if action != "given":
            self.ends[person] = entry

    @rule(person=PEOPLE)
    def somebody_is_erased(self, person: str) -> None:
        """By an entry that is not about evaluation, as a withdrawal of all that was given is."""
        self.house.ledger.consent.append(person, "withdrawn", ["training"], self.house.notice)
        self.house.erases(person)
        self.ends[person] = self.house.head() + 1
        self.house.says(f"s-{9:032x}", "given")  # the ledger goes on

    @rule(person=PEOPLE, at_once=st.booleans())
    def somebody_is_recorded(self, person: str, at_once: bool) -> None:
        self.n += 1
        self.looked_up.append((person, self.house.head(), f"words {self.n}"))
        if at_once:
            self.what_waited_is_written(1)

    @rule(n=st.integers(1, 3))
    def what_waited_is_written(self, n: int) -> None:
        for _ in range(min(n, len(self.looked_up))):
            person, entry, said = self.looked_up.pop()
            self.spool.append([record(person, said)], consented=entry)
            self.written.append((person, entry, said))

    @rule(number=st.integers(1, 20))
    def one_is_paired(self, number: int) -> None:
        self.spool.settle([Outcome(number, replayed=ANSWER)])

    @rule()
    def it_is_swept(self) -> None:
        sweep(self.spool, self.house.leaving)
        self.written = [one for one in self.written if self.ends.get(one[0], 0) <= one[1]]
        assert words(self.spool) == [said for _, _, said in self.written]
        kept, left = on_disk(self.spool.directory), {said for _, _, said in self.written}
        gone = {f'"words {i}"' for i in range(1, self.n + 1) if f"words {i}" not in left}
        assert not [said for said in gone if said.encode() in kept]

    @rule()
    def the_worker_is_killed_in_between(self) -> None:
        told = self.spool.told(SWEPT)
        sweep(self.spool, self.house.leaving)
        if told:
            self.spool.tell(SWEPT, told)  # before it noted how far it was
        self.it_is_swept()

    @rule()
    def another_process_begins(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder / "spool", EXPERIMENT)

    def teardown(self) -> None:
        self.it_is_swept()
        self.spool.close()
        self.house.ledger.close()
        shutil.rmtree(self.folder)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
