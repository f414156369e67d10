"""Whatever is done to a spool, in whatever order: spooled == paired + shed + pending, at every look."""

import resource
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from plumbline.records import Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Loss, Outcome, Spool

EXPERIMENT = Experiment(name="e", salt="grain", max_pending=20, max_record=2_000)
ANSWER = Answer(text="yes", finish="stop", latency_ms=1.0, tokens=1)
SLICES = st.sampled_from(["benign", "harmful"])
PEOPLE = st.sampled_from(["ana", "ben", "eva"])
WHICH = st.integers(1, 40)


class Life(RuleBasedStateMachine):
    """A spool, what was ever offered to it, and a reader who follows its changes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="spool-"))
        self.spool = Spool(self.folder, EXPERIMENT)
        self.offered: Counter[str] = Counter()
        self.taken: set[str] = set()
        self.thrown: list[str] = []
        self.seen: dict[int, str] = {}
        self.read_to = 0

    def record(self, slice_: str, subject: str, text: str = "hi") -> SpoolRecord:
        self.offered[slice_] += 1
        return SpoolRecord(
            request=f"r{self.offered.total()}",
            experiment="e",
            session="s",
            subject=subject,
            slice=slice_,
            messages=(say("user", text),),
            decoder=DecoderSettings(),
            answer=ANSWER,
        )

    @rule(n=st.integers(0, 12), slice_=SLICES, subject=PEOPLE)
    def requests_are_recorded(self, n: int, slice_: str, subject: str) -> None:
        self.spool.append([self.record(slice_, subject) for _ in range(n)])

    @rule(slice_=SLICES, subject=PEOPLE)
    def one_is_too_large(self, slice_: str, subject: str) -> None:
        assert self.spool.append([self.record(slice_, subject, "x" * 3000)]) == Counter(oversize=1)

    @rule(n=st.integers(1, 3), slice_=SLICES, reason=st.sampled_from(["no_consent", "queue_full"]))
    def some_are_refused_at_the_door(self, n: int, slice_: str, reason: str) -> None:
        self.offered[slice_] += n
        self.spool.shed_at_door([Loss(slice_, reason, n)])

    @rule(number=st.integers(1, 9), slice_=SLICES, subject=PEOPLE, lost=st.booleans())
    def a_line_is_taken_once(self, number: int, slice_: str, subject: str, lost: bool) -> None:
        name = f"line-{number}"
        assert (name in self.spool.marks()) == (name in self.taken)
        if name in self.taken:
            return
        self.taken.add(name)
        if lost:
            self.offered[slice_] += 1
            self.spool.take([], [Loss(slice_, "reference_error", 1)], [name])
        elif self.spool.waiting() < EXPERIMENT.max_pending:
            self.spool.take([self.record(slice_, subject)], [], [name])
        else:
            self.taken.remove(name)

    @rule(number=WHICH)
    def one_is_paired(self, number: int) -> None:
        self.spool.settle([Outcome(number, replayed=ANSWER)])

    @rule(number=WHICH, reason=st.sampled_from(["deadline", "error", "withdrawn"]))
    def one_is_lost(self, number: int, reason: str) -> None:
        self.spool.settle([Outcome(number, reason=reason)])

    @rule(subject=PEOPLE)
    def somebody_is_forgotten(self, subject: str) -> None:
        self.spool.forget(subject)
        assert subject not in self.spool.subjects()
        assert all(pair.spooled.subject != subject for pair in self.spool.pairs())

    @rule()
    def what_waits_is_given_up(self) -> None:
        self.spool.shed_pending("closed")

    @rule(slice_=SLICES, subject=PEOPLE)
    def the_disk_is_full(self, slice_: str, subject: str) -> None:
        record = self.record(slice_, subject)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = (self.folder / "spool.sqlite-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            assert sum(self.spool.append([record]).values()) in (0, 1)  # a log that is reused has room
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    @rule(reason=st.sampled_from(["harm", "latency"]))
    def the_switch_is_thrown(self, reason: str) -> None:
        self.spool.trip(reason)
        self.thrown = self.thrown or [reason]

    @rule()
    def the_switch_is_taken_back(self) -> None:
        self.spool.reset_trip()
        self.thrown = []

    @rule()
    def the_process_ends_and_another_begins(self) -> None:
        self.spool.shed_at_door([])  # what the disk had not taken is written with the next that it takes
        self.spool.close()
        self.spool = Spool(self.folder, EXPERIMENT)

    @invariant()
    def everything_is_accounted_for(self) -> None:
        counts = self.spool.counts()
        assert counts.balanced and counts.spooled == self.offered.total()
        assert counts.pending == self.spool.waiting() <= EXPERIMENT.max_pending
        by_reason: Counter[str] = Counter()
        by_slice: Counter[str] = Counter()
        for loss in self.spool.losses():
            by_reason[loss.reason] += loss.n
            by_slice[loss.slice] += loss.n
        assert dict(by_reason) == counts.shed
        for _, record in self.spool.pending(99):
            by_slice[record.slice] += 1
        for pair in self.spool.pairs():
            by_slice[pair.spooled.slice] += 1
        assert by_slice == self.offered

    @invariant()
    def who_follows_the_changes_holds_the_pairs_that_there_are(self) -> None:
        while page := self.spool.changes(self.read_to, 3):
            for change in page:
                self.seen.pop(change.seq, None)
                if change.pair is not None:
                    self.seen[change.seq] = change.pair.spooled.request
            self.read_to = page[-1].number
        assert [self.seen[seq] for seq in sorted(self.seen)] == [p.spooled.request for p in self.spool.pairs()]

    @invariant()
    def the_switch_is_as_it_was_left(self) -> None:
        assert self.spool.tripped() == (self.thrown[0] if self.thrown else None)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
