"""A dataset line decides rightly in every world, and in a simulated one it comes to rest where it should."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.reconcile.dataset_line import (
    ActiveJob,
    Cancel,
    Head,
    LineObservation,
    LineSpec,
    PendingRun,
    Publish,
    Reject,
    RequestApproval,
    StartIngestion,
    StartRemoval,
    Step,
    Wait,
    ingestion_run_key,
    reconcile,
    removal_run_key,
)
from plumbline.records import digest_of

RUBRIC = digest_of("rubric")
SPEC = LineSpec(dataset="support", rubric=RUBRIC)
HEAD = Head(version=3, digest=digest_of("v3"), consent_sequence=10)
QUIET = LineObservation(head=HEAD, ledger_verifies=True, consent_sequence=12, inbox_sequence=40, sealed_sequence=40)
PENDING = PendingRun(
    run_key=digest_of("run"),
    stage="awaiting_approval",
    from_seq=41,
    to_seq=50,
    parent=HEAD.digest,
    rubric=RUBRIC,
    candidate=digest_of("candidate"),
)


def seen(**changes: Any) -> LineObservation:
    return dataclasses.replace(QUIET, **changes)


def action(observation: LineObservation, spec: LineSpec = SPEC) -> Any:
    decision = reconcile(spec, observation)
    assert len(decision.actions) == 1
    return decision.actions[0]


def condition(observation: LineObservation, kind: str) -> tuple[str, str]:
    found = {item.type: item for item in reconcile(SPEC, observation).conditions}
    return found[kind].status, found[kind].reason


# --- the cases by name ----------------------------------------------------------------------------------------


def test_a_line_with_nothing_new_is_ready() -> None:
    decision = reconcile(SPEC, QUIET)
    assert decision.actions == (Wait("NoNewEvents"),)
    assert decision.idle and decision.phase == "Ready"
    assert condition(QUIET, "Ready") == ("True", "UpToDate")
    assert condition(QUIET, "ConsentVerified") == ("True", "ChainVerified")


def test_new_events_are_sealed_into_a_run_named_by_its_inputs() -> None:
    found = action(seen(inbox_sequence=45))
    key = ingestion_run_key(dataset="support", parent=HEAD.digest, from_seq=41, to_seq=45, rubric=RUBRIC)
    assert found == StartIngestion(key, 41, 45, attempt=1)


def test_a_line_waits_until_enough_events_have_come() -> None:
    spec = dataclasses.replace(SPEC, min_new_events=10)
    assert action(seen(inbox_sequence=49), spec) == Wait("NoNewEvents")
    assert isinstance(action(seen(inbox_sequence=50), spec), StartIngestion)


def test_the_first_version_has_no_parent() -> None:
    found = action(seen(head=None, sealed_sequence=0))
    assert isinstance(found, StartIngestion) and (found.from_seq, found.to_seq) == (1, 40)


def test_a_withdrawal_comes_before_new_events() -> None:
    found = action(seen(withdrawn_subjects=1, inbox_sequence=99))
    key = removal_run_key(dataset="support", parent=HEAD.digest, consent_sequence=12)
    assert found == StartRemoval(key, 12)
    assert condition(seen(withdrawn_subjects=1), "ConsentVerified") == ("False", "WithdrawalPending")


def test_a_withdrawal_cancels_a_running_ingestion_and_then_removes() -> None:
    running = seen(withdrawn_subjects=1, job=ActiveJob(PENDING.run_key, "ingest"))
    assert action(running) == Cancel(PENDING.run_key, "WithdrawalFirst")
    assert isinstance(action(dataclasses.replace(running, job=None)), StartRemoval)


def test_a_removal_under_way_is_not_started_again() -> None:
    key = removal_run_key(dataset="support", parent=HEAD.digest, consent_sequence=12)
    assert action(seen(withdrawn_subjects=1, job=ActiveJob(key, "remove"))) == Wait("RunInProgress")


def test_suspension_pauses_adding_but_never_leaving() -> None:
    spec = dataclasses.replace(SPEC, suspended=True)
    assert action(seen(inbox_sequence=99), spec) == Wait("Suspended")
    assert isinstance(action(seen(withdrawn_subjects=1), spec), StartRemoval)


@pytest.mark.parametrize(
    ("verifies", "status", "reason"), [(None, "Unknown", "LedgerUnreachable"), (False, "False", "LedgerBroken")]
)
def test_a_ledger_that_does_not_verify_stops_everything(verifies: bool | None, status: str, reason: str) -> None:
    world = seen(ledger_verifies=verifies, inbox_sequence=99, withdrawn_subjects=2, pending=PENDING)
    decision = reconcile(SPEC, world)
    assert decision.actions == (Wait(reason),) and decision.phase == "Blocked"
    assert condition(world, "ConsentVerified") == (status, reason)
    assert condition(world, "Degraded") == ("True", reason)


def test_a_candidate_is_announced_once_and_published_when_approved() -> None:
    spec = dataclasses.replace(SPEC, approvals_required=2)
    one = dataclasses.replace(PENDING, approvals=1)
    assert action(seen(pending=one), spec) == RequestApproval(one.run_key, str(one.candidate), missing=1)
    asked = dataclasses.replace(one, approval_requested=True)
    assert action(seen(pending=asked), spec) == Wait("AwaitingApproval")
    both = dataclasses.replace(asked, approvals=2)
    assert action(seen(pending=both), spec) == Publish(both.run_key, str(both.candidate))


def test_a_candidate_that_was_turned_down_is_closed_and_never_published() -> None:
    run = dataclasses.replace(PENDING, approvals=5, rejections=1)
    assert action(seen(pending=run)) == Reject(run.run_key, str(run.candidate))
    assert condition(seen(pending=run), "Approved") == ("False", "Rejected")
    failed = seen(pending=run, failures={run.run_key: 3})
    assert action(failed) == Wait("RunFailed")


def test_a_publication_that_was_interrupted_is_carried_on() -> None:
    found = action(seen(pending=dataclasses.replace(PENDING, stage="publishing", approvals=1)))
    assert isinstance(found, Publish)


def test_a_run_whose_ground_moved_is_built_anew_under_another_key() -> None:
    for moved in ({"parent": digest_of("v2")}, {"rubric": digest_of("older rubric")}, {"withdrawn": 1}):
        run = dataclasses.replace(PENDING, approvals=1, **moved)
        found = action(seen(pending=run))
        assert isinstance(found, StartIngestion)
        assert found.replaces == run.run_key and found.run_key != run.run_key
        assert (found.from_seq, found.to_seq) == (41, 50)


def test_an_interrupted_run_keeps_its_key() -> None:
    found = action(seen(pending=dataclasses.replace(PENDING, stage="sealed", candidate=None)))
    assert found == StartIngestion(PENDING.run_key, 41, 50)


def test_a_run_that_keeps_failing_is_left_to_a_person() -> None:
    key = action(seen(inbox_sequence=45)).run_key
    assert action(seen(inbox_sequence=45, failures={key: 2})).attempt == 3
    failed = seen(inbox_sequence=45, failures={key: 3})
    assert action(failed) == Wait("RunFailed")
    assert condition(failed, "Degraded") == ("True", "RunFailed")


# --- in every world -------------------------------------------------------------------------------------------

digests = st.sampled_from([digest_of(name) for name in ("a", "b", "c")])
heads = st.none() | st.builds(Head, version=st.integers(1, 5), digest=digests, consent_sequence=st.integers(0, 9))
runs = st.none() | st.builds(
    PendingRun,
    run_key=digests,
    stage=st.sampled_from(["sealed", "awaiting_approval", "publishing"]),
    from_seq=st.integers(1, 5),
    to_seq=st.integers(5, 9),
    parent=st.none() | digests,
    rubric=digests,
    candidate=st.none() | digests,
    approvals=st.integers(0, 3),
    rejections=st.sampled_from([0, 0, 0, 1]),
    approval_requested=st.booleans(),
    withdrawn=st.integers(0, 2),
)
jobs = st.none() | st.builds(
    ActiveJob, run_key=digests, step=st.sampled_from(["ingest", "publish", "reject", "remove"])
)
worlds = st.builds(
    LineObservation,
    head=heads,
    ledger_verifies=st.sampled_from([True, True, False, None]),
    consent_sequence=st.integers(0, 20),
    inbox_sequence=st.integers(0, 20),
    sealed_sequence=st.integers(0, 20),
    withdrawn_subjects=st.integers(0, 2),
    pending=runs,
    job=jobs,
    failures=st.dictionaries(digests, st.integers(0, 4)),
)
specs = st.builds(
    LineSpec,
    dataset=st.just("support"),
    rubric=digests,
    approvals_required=st.integers(0, 2),
    min_new_events=st.integers(1, 5),
    max_attempts=st.integers(1, 3),
    suspended=st.booleans(),
)
STARTS = (StartIngestion, StartRemoval, Publish, Reject)


@settings(max_examples=500, deadline=None)
@given(specs, worlds)
def test_in_every_world_the_rules_hold(spec: LineSpec, world: LineObservation) -> None:
    decision = reconcile(spec, world)
    assert decision == reconcile(spec, world), "the same observation gives the same decision"
    (found,) = decision.actions

    if world.ledger_verifies is not True:
        assert isinstance(found, Wait), "nothing starts while consent is not verified"
    if world.job is not None:
        assert not isinstance(found, STARTS), "a line never has two runs"
    if isinstance(found, Cancel):
        assert world.withdrawn_subjects > 0, "only a withdrawal interrupts work"
    if world.head is not None and world.withdrawn_subjects > 0 and world.ledger_verifies:
        stops = {Wait("RunInProgress"), Wait("RemovalFailed")}
        assert isinstance(found, StartRemoval | Cancel) or found in stops, "removal comes before anything else"
    if isinstance(found, Publish):
        assert world.pending is not None and world.pending.rejections == 0
        assert world.pending.parent == (world.head.digest if world.head else None)
        assert world.pending.rubric == spec.rubric and world.pending.withdrawn == 0
        assert world.pending.approvals >= spec.approvals_required or world.pending.stage == "publishing"
    if isinstance(found, STARTS):
        assert 1 <= found.attempt <= spec.max_attempts

    assert [item.type for item in decision.conditions] == [
        "ConsentVerified",
        "Approved",
        "Published",
        "Degraded",
        "Ready",
    ]
    for item in decision.conditions:
        assert item.reason.isalnum() and item.message


# --- in a simulated world -------------------------------------------------------------------------------------


@dataclasses.dataclass
class World:
    """A small ledger and a small cluster. Publication checks consent and parent itself, as the real one does."""

    consented: set[int] = dataclasses.field(default_factory=set)
    withdrawn_at: dict[int, int] = dataclasses.field(default_factory=dict)
    consent_sequence: int = 0
    events: list[int] = dataclasses.field(default_factory=list)
    sealed: int = 0
    head: Head | None = None
    members: frozenset[int] = frozenset()
    pending: PendingRun | None = None
    candidate_members: frozenset[int] = frozenset()
    candidate_consent: int = 0
    job: tuple[Step, Any] | None = None
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    ledger: bool | None = True
    log: list[str] = dataclasses.field(default_factory=list)

    def lost(self, members: frozenset[int], since: int) -> set[int]:
        return {who for who in members if self.withdrawn_at.get(who, 0) > since or who not in self.consented}

    def observe(self) -> LineObservation:
        pending = self.pending
        if pending is not None and pending.candidate is not None:
            lost = self.lost(self.candidate_members, self.candidate_consent)
            pending = dataclasses.replace(pending, withdrawn=len(lost))
        return LineObservation(
            head=self.head,
            ledger_verifies=self.ledger,
            consent_sequence=self.consent_sequence,
            inbox_sequence=len(self.events),
            sealed_sequence=self.sealed,
            withdrawn_subjects=len(self.lost(self.members, self.head.consent_sequence)) if self.head else 0,
            pending=pending,
            job=ActiveJob(self.job[1].run_key, self.job[0]) if self.job else None,
            failures=dict(self.failures),
        )

    def interpret(self, found: Any) -> None:
        steps: dict[type, Step] = {StartIngestion: "ingest", StartRemoval: "remove", Publish: "publish"}
        if type(found) in steps:
            assert self.job is None, "two runs at once"
            self.job = (steps[type(found)], found)
        elif isinstance(found, Cancel):
            self.job = None
        elif isinstance(found, RequestApproval):
            assert self.pending is not None
            self.pending = dataclasses.replace(self.pending, approval_requested=True)

    def finish_job(self, well: bool) -> None:
        if self.job is None:
            return
        (step, found), self.job = self.job, None
        if not (well and self.ledger and self.work(step, found)):
            self.failures[found.run_key] = self.failures.get(found.run_key, 0) + 1

    def work(self, step: Step, found: Any) -> bool:
        parent = self.head.digest if self.head else None
        if step == "ingest":
            allowed = {who for who in self.events[found.from_seq - 1 : found.to_seq] if who in self.consented}
            self.candidate_members = (self.members | frozenset(allowed)) - self.lost(
                self.members, self.head.consent_sequence if self.head else 0
            )
            self.candidate_consent = self.consent_sequence
            candidate = digest_of([found.run_key, sorted(self.candidate_members), self.consent_sequence])
            self.pending = PendingRun(
                found.run_key, "awaiting_approval", found.from_seq, found.to_seq, parent, RUBRIC, candidate
            )
            return True
        if step == "remove":
            assert self.head is not None
            self.publish(self.members - self.lost(self.members, self.head.consent_sequence), found.run_key)
            return True
        run = self.pending
        assert run is not None and found.candidate == run.candidate
        if run.parent != parent or self.lost(self.candidate_members, self.candidate_consent):
            return False
        assert run.approvals >= SPEC.approvals_required
        self.sealed = run.to_seq
        self.pending = None
        self.publish(self.candidate_members, found.run_key)
        return True

    def publish(self, members: frozenset[int], key: str) -> None:
        assert self.ledger is True, "published without a verified ledger"
        assert members <= self.consented, "published somebody who does not consent"
        version = self.head.version + 1 if self.head else 1
        self.head = Head(version, digest_of([key, version]), self.consent_sequence)
        self.members = members
        self.log.append(f"v{version}")

    def happen(self, event: tuple[str, int]) -> None:
        what, who = event
        if what == "give":
            self.consent_sequence += 1
            self.consented.add(who)
        elif what == "withdraw" and who in self.consented:
            self.consent_sequence += 1
            self.consented.discard(who)
            self.withdrawn_at[who] = self.consent_sequence
        elif what == "event":
            self.events.append(who)
        elif what == "approve" and self.pending is not None and self.pending.candidate is not None:
            self.pending = dataclasses.replace(self.pending, approvals=self.pending.approvals + 1)
        elif what == "finish":
            self.finish_job(well=True)
        elif what == "crash":
            self.finish_job(well=False)
        elif what == "ledger":
            self.ledger = [True, False, None][who % 3]
        elif what == "look":
            self.interpret(reconcile(SPEC, self.observe()).actions[0])


happenings = st.tuples(
    st.sampled_from(
        [
            "give",
            "give",
            "withdraw",
            "event",
            "event",
            "approve",
            "finish",
            "finish",
            "crash",
            "ledger",
            "look",
            "look",
            "look",
        ]
    ),
    st.integers(0, 4),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(happenings, max_size=60))
def test_whatever_happens_the_line_comes_to_rest_with_everyone_who_consents_and_nobody_else(
    history: list[tuple[str, int]],
) -> None:
    world = World()
    for event in history:
        world.happen(event)

    world.ledger = True
    world.failures.clear()  # a person has looked
    for _ in range(30):
        decision = reconcile(SPEC, world.observe())
        if decision.idle and world.job is None and decision.actions != (Wait("AwaitingApproval"),):
            break
        world.interpret(decision.actions[0])
        world.happen(("finish", 0))
        world.happen(("approve", 0))
    else:
        raise AssertionError(f"no rest after 30 looks: {decision}")

    assert decision.phase in ("Ready", "Empty")
    assert world.sealed == len(world.events)
    assert world.members <= world.consented
    assert world.pending is None
