"""What is written for runs, versions, approvals and erasures fits the definitions, tells news once, names nobody."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.reconcile import resources
from plumbline.reconcile.approval import ApprovalObservation, judge
from plumbline.reconcile.crds import schema
from plumbline.reconcile.erasure_request import Erased, ErasureObservation, StartErasure, complete, reconcile_erasure
from plumbline.reconcile.ingestion_run import STAGES, RunObservation, RunState, describe
from plumbline.reconcile.leases import Sighting, claim
from plumbline.reconcile.resources import VersionLook
from plumbline.records import digest_of
from plumbline.records.resources import BY_KIND, IngestionRunSpec, VersionState

Json = dict[str, Any]
NOW, LATER = "2026-03-01T10:00:00Z", "2026-03-01T10:05:00Z"
CANDIDATE = digest_of("candidate")
LINE: Json = {
    "kind": "DatasetLine",
    "metadata": {"name": "support", "namespace": "demo", "uid": "u-1"},
    "spec": {"dataset": "support", "rubric": digest_of("rubric")},
}
RUN = resources.run_object(
    LINE, IngestionRunSpec(line="support", dataset="support", run_key=digest_of("run"), kind="ingestion")
)
REQUEST: Json = {
    "kind": "ErasureRequest",
    "metadata": {"name": "letter", "namespace": "demo", "uid": "u-3", "creationTimestamp": NOW},
    "spec": {"subject": digest_of("subject")},
}
APPROVAL: Json = {"kind": "Approval", "metadata": {"name": "a", "namespace": "demo", "uid": "u-4"}, "spec": {}}
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)


def fits(kind: str, half: str, value: Json) -> None:
    part = getattr(BY_KIND[kind], half)
    jsonschema.validate(value, {**schema(part), "additionalProperties": False})


# --- runs -----------------------------------------------------------------------------------------------------

runs = st.builds(
    RunObservation,
    readable=st.booleans(),
    stage=st.none() | st.sampled_from(STAGES),
    state=st.none() | st.sampled_from(get_args(RunState)),
    candidate=st.none() | st.just(CANDIDATE),
    approvals=st.integers(0, 3),
    rejections=st.integers(0, 2),
    sealed=st.none() | st.integers(0, 9),
    accepted=st.none() | st.integers(0, 9),
    rejected=st.dictionaries(st.sampled_from(["no_consent", "duplicate"]), st.integers(1, 5)),
    version=st.none() | st.integers(1, 9),
    job=st.booleans(),
    attempts=st.integers(0, 5),
)


@given(runs, st.sampled_from(["ingestion", "removal"]))
def test_any_run_has_a_status_that_fits_and_is_written_once(seen: RunObservation, kind: Any) -> None:
    decision = describe(kind, 1, 3, seen)
    status = resources.run_status(RUN, seen, decision, now=NOW)
    fits("IngestionRun", "status", status)
    shown = {**RUN, "status": status}
    assert not resources.says_more(shown, resources.run_status(shown, seen, decision, now=LATER))
    kinds = [condition.type for condition in decision.conditions]
    assert len(kinds) == len(set(kinds))
    assert all(item.observed_generation == 1 for item in resources.conditions(RUN, decision.conditions, now=NOW))


@given(runs)
def test_an_ended_run_says_so_whatever_else_is_seen(seen: RunObservation) -> None:
    phase = describe("ingestion", 1, 3, seen).phase
    ended = {"published": "Published", "no_change": "NoChange", "rejected": "Rejected", "superseded": "Superseded"}
    if seen.state in ended:
        assert phase == ended[seen.state]
    else:
        assert phase not in ended.values()


def test_stages_are_told_in_order() -> None:
    reached: list[int] = []
    for stage in STAGES:
        conditions = {
            item.type: item.status for item in describe("ingestion", 1, 3, RunObservation(stage=stage)).conditions
        }
        reached.append(sum(conditions[kind] == "True" for kind in ("InputsSealed", "ConsentVerified", "GuardsPassed")))
    assert reached == sorted(reached) and reached[0] == 1 and reached[-1] == 3


def test_a_run_names_its_line_and_goes_with_it() -> None:
    fits("IngestionRun", "spec", RUN["spec"])
    (owner,) = RUN["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["blockOwnerDeletion"]) == ("DatasetLine", "u-1", False)
    assert RUN["metadata"]["labels"] == {"plumbline.dev/dataset-line": "support"}
    long = resources.run_name("a" * 47 + ".b" * 50, digest_of("run"))
    assert len(long) <= 63 and "-." not in long and ".-" not in long


def test_what_an_unreadable_ledger_does_not_say_stays_as_it_was() -> None:
    seen = RunObservation(stage="split", state="open", sealed=4, accepted=3, attempts=1)
    shown = {**RUN, "status": resources.run_status(RUN, seen, describe("ingestion", 1, 3, seen), now=NOW)}
    blind = RunObservation(readable=False, attempts=2)
    after = resources.run_status(shown, blind, describe("ingestion", 1, 3, blind), now=LATER)
    assert (after["sealed"], after["stage"], after["attempts"]) == (4, "split", 2)
    assert {item["reason"] for item in after["conditions"]} >= {"LedgerUnreachable"}


def test_only_finished_runs_beyond_the_newest_are_dropped() -> None:
    def made(number: int) -> Json:
        meta = {"name": f"run-{number}", "creationTimestamp": f"2026-03-0{number}T00:00:00Z"}
        return {"metadata": meta, "spec": {"runKey": f"k{number}"}}

    found = [made(number) for number in (3, 1, 4, 2)]
    assert [item["metadata"]["name"] for item in resources.surplus(found, 2)] == ["run-1", "run-2"]
    assert [item["metadata"]["name"] for item in resources.surplus(found, 2, running=["k1"])] == ["run-2"]
    assert resources.surplus(found, 9) == []


# --- versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", get_args(VersionState))
def test_a_version_shows_how_it_stands(state: VersionState) -> None:
    look = VersionLook(
        version=4, digest=digest_of("v4"), parent=digest_of("v3"), run_key=digest_of("run"), consent_sequence=7,
        reason="ingest", state=state, examples=12, splits={"train": 10, "held_out": 2}, policies=(digest_of("p"),),
    )  # fmt: skip
    found = resources.version_object(LINE, look)
    fits("DatasetVersion", "spec", found["spec"])
    status = resources.version_status(found, look, now=NOW)
    fits("DatasetVersion", "status", status)
    (condition,) = status["conditions"]
    assert (condition["status"] == "False") == (state == "Tainted")
    assert found["metadata"]["name"] == "support-v4"


# --- approvals ------------------------------------------------------------------------------------------------

words = st.builds(
    ApprovalObservation,
    guarded=st.sampled_from(["", "the binding does not deny"]),
    ledger_verifies=st.sampled_from([True, False, None]),
    waiting=st.booleans(),
    authors=st.none() | st.frozensets(st.sampled_from(["s-a", "s-b"])),
    approver=st.none() | st.sampled_from(["s-a", "s-c"]),
    stored=st.none() | st.booleans(),
)


@given(words, st.booleans())
def test_a_word_is_recorded_only_when_everything_was_checked(seen: ApprovalObservation, approved: bool) -> None:
    decision = judge(CANDIDATE, approved, seen)
    fits("Approval", "status", resources.approval_status(APPROVAL, decision, now=NOW))
    if decision.verdict == "record":
        assert seen.ledger_verifies and not seen.guarded and seen.waiting and seen.stored is None
        assert seen.authors is not None and seen.approver is not None and seen.approver not in seen.authors
    assert (decision.condition.status == "True") == (decision.verdict in ("record", "recorded"))
    assert judge(CANDIDATE, approved, seen) == decision


# --- erasures -------------------------------------------------------------------------------------------------

done = st.builds(
    Erased,
    payloads=st.integers(0, 9),
    events=st.integers(0, 9),
    policies=st.integers(0, 3),
    proof=st.just(digest_of("proof")),
    completed_at=st.datetimes(datetime(2026, 2, 1), datetime(2026, 4, 1), timezones=st.just(UTC)),
)
erasures = st.builds(
    ErasureObservation,
    ledger_verifies=st.sampled_from([True, False, None]),
    known=st.booleans(),
    consent_holds=st.booleans(),
    heads=st.integers(0, 2),
    left=st.integers(0, 5),
    erased=st.none() | done,
    told=st.booleans(),
    job=st.booleans(),
    attempts=st.integers(0, 6),
)


@given(erasures, st.datetimes(datetime(2026, 2, 1), datetime(2026, 4, 1), timezones=st.just(UTC)))
def test_an_erasure_starts_only_for_somebody_who_withdrew_and_claims_only_what_is_so(
    seen: ErasureObservation, now: datetime
) -> None:
    spec = resources.erasure_spec(REQUEST)
    decision = reconcile_erasure(spec, seen, now)
    status = resources.erasure_status(REQUEST, spec, seen, decision, now=NOW)
    fits("ErasureRequest", "status", status)
    if isinstance(decision.action, StartErasure):
        assert seen.ledger_verifies and seen.known and not seen.consent_holds and not seen.job
        assert seen.attempts < spec.max_attempts and decision.action.attempt == seen.attempts + 1
        assert not complete(seen)
    if decision.phase == "Erased":
        assert seen.erased is not None and seen.ledger_verifies
        assert seen.told or (seen.left == 0 and seen.heads == 0)
        assert status["proof"] == digest_of("proof")
    else:
        assert "proof" not in status and "completedAt" not in status
    shown = {**REQUEST, "status": status}
    assert not resources.says_more(shown, resources.erasure_status(shown, spec, seen, decision, now=LATER))


@given(st.integers(0, 6))
def test_an_erasure_of_a_known_person_who_withdrew_always_ends(start: int) -> None:
    """Follow the decisions with a Job that always fails: it stops by itself, and says so."""
    spec, attempts = resources.erasure_spec(REQUEST), start
    for _ in range(10):
        seen = ErasureObservation(ledger_verifies=True, known=True, left=1, attempts=attempts)
        decision = reconcile_erasure(spec, seen, MIDNIGHT)
        if not isinstance(decision.action, StartErasure):
            break
        attempts += 1
    assert decision.phase == "Failed"


def test_without_a_deadline_it_is_a_day_from_the_request() -> None:
    assert resources.erasure_spec(REQUEST).deadline == resources.moment(NOW) + timedelta(hours=24)
    own = {**REQUEST, "spec": {**REQUEST["spec"], "deadline": "2026-03-01T12:00:00+02:00"}}
    assert resources.stamp(resources.erasure_spec(own).deadline) == NOW


# --- leases ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.floats(0.01, 20)), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.floats(-1e6, 1e6)),
)
def test_nobody_takes_a_lease_that_was_renewed_within_its_time(
    asks: list[tuple[str, float]], skew: dict[str, float]
) -> None:
    """In any order, with clocks that differ by days: whoever takes over has watched it unchanged for its whole time."""
    seconds, clock, lease = 15, 0.0, None
    remembered: dict[str, Sighting | None] = {}
    written_at = 0.0
    for who, pause in asks:
        clock += pause
        before = (lease or {}).get("spec", {}).get("holderIdentity")
        found = claim(
            lease, who, seconds, remembered.get(who), now=clock + skew.get(who, 0.0), stamp=f"{clock}{skew.get(who)}"
        )
        remembered[who] = found.seen
        if found.body is None:
            assert before not in (None, "", who)
            continue
        if before not in (None, who):
            assert clock - written_at > seconds
        lease, written_at = {"metadata": {"resourceVersion": "1"}, "spec": found.body}, clock


def test_a_lease_let_go_is_free_at_once_and_transitions_are_counted() -> None:
    taken = claim(None, "a", 15, None, now=0, stamp="t0").body
    assert taken is not None and taken["leaseTransitions"] == 1
    renewed = claim({"spec": taken}, "a", 15, None, now=5, stamp="t5").body
    assert renewed is not None and (renewed["acquireTime"], renewed["renewTime"]) == ("t0", "t5")
    assert renewed["leaseTransitions"] == 1
    free = {"spec": {**renewed, "holderIdentity": ""}}
    other = claim(free, "b", 15, None, now=6, stamp="t6").body
    assert other is not None and (other["holderIdentity"], other["leaseTransitions"]) == ("b", 2)


# --- nobody ---------------------------------------------------------------------------------------------------


@given(runs, erasures, words)
def test_no_status_holds_more_than_digests_counts_and_words_of_ours(
    run: RunObservation, erasure: ErasureObservation, word: ApprovalObservation
) -> None:
    spec = resources.erasure_spec(REQUEST)
    text = json.dumps(
        [
            resources.run_status(RUN, run, describe("ingestion", 1, 3, run), now=NOW),
            resources.erasure_status(REQUEST, spec, erasure, reconcile_erasure(spec, erasure, MIDNIGHT), now=NOW),
            resources.approval_status(APPROVAL, judge(CANDIDATE, True, word), now=NOW),
        ]
    )
    assert "s-a" not in text and "s-c" not in text
