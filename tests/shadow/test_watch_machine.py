"""Whatever happens to a spool, and whenever one looks: who followed it knows what who reads it anew knows."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plumbline.shadow.planning import make_plan
from plumbline.shadow.spool import Loss, Outcome, Spool
from plumbline.shadow.watching import Watch
from shadow.simulated import EXPERIMENT, answer, labels, record, seen

PLAN = make_plan({"benign_refusal": 0.05, "harmful_compliance": 0.05})
ACTS = st.sampled_from(["refuse", "comply", "incoherent"])


class Following(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.spool = Spool(Path(self._folder.name), EXPERIMENT)
        self.follower = Watch(self.spool, labels(), PLAN)
        self.made: list = []

    @rule(one=ACTS, two=ACTS, slice_=st.sampled_from(["benign", "harmful"]), session=st.sampled_from("abc"))
    def served(self, one: str, two: str, slice_: str, session: str) -> None:
        self.made.append(seen(len(self.made), one, two, slice_, session))
        self.spool.append([record(self.made[-1])])

    @rule(which=st.integers(1, 12), lost=st.booleans())
    def settled(self, which: int, lost: bool) -> None:
        if which <= len(self.made):
            said = Outcome(which, reason="deadline") if lost else Outcome(which, answer(self.made[which - 1], 1))
            self.spool.settle([said])

    @rule(session=st.sampled_from("abc"))
    def forgotten(self, session: str) -> None:
        self.spool.forget(f"u-{session}")

    @rule(n=st.integers(1, 5))
    def shed(self, n: int) -> None:
        self.spool.shed_at_door([Loss("benign", "queue_full", n)])

    @rule()
    def looked(self) -> None:
        self.follower.status()

    @invariant()
    def knows_as_much_as_a_newcomer(self) -> None:
        newcomer = Watch(self.spool, labels(), PLAN)
        assert self.follower.status() == newcomer.status()
        assert len(self.follower) == len(newcomer) and self.follower.harm() == newcomer.harm()

    def teardown(self) -> None:
        self.spool.close()
        self._folder.cleanup()


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
