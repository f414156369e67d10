"""What a shadow evaluation does next, what its Jobs are, and that its status shows no other policies' verdict."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.reconcile import shadow_objects
from plumbline.reconcile.crds import schema
from plumbline.reconcile.dataset_line import Wait
from plumbline.reconcile.kubernetes import JobSettings
from plumbline.reconcile.shadow_evaluation import (
    KILLED,
    REASONS,
    EvaluationObservation,
    EvaluationSpec,
    StartStep,
    reconcile_evaluation,
)
from plumbline.reconcile.shadow_steps import observe
from plumbline.records import ShadowCounts, Verdict, digest_of
from plumbline.records.resources import BY_KIND
from plumbline.records.shadow import STEPS, ShadowStatus, ShadowStep, ShadowVerdict
from plumbline.shadow.planning import make_plan
from plumbline.stores import Ledger
from plumbline.stores.shadow_steps import ShadowSteps

Json = dict[str, Any]
NOW = datetime(2026, 3, 1, 10, tzinfo=UTC)
STAMP = "2026-03-01T10:00:00Z"
ONE, TWO, THREE, KEY = (digest_of(name) for name in ("one", "two", "three", "key"))
SPEC = EvaluationSpec("first", ONE, TWO)
LIVE = EvaluationSpec("first", ONE, TWO, live=True)
PLAN = make_plan({"benign_refusal": 0.02})
EVALUATION: Json = {
    "kind": "ShadowEvaluation",
    "metadata": {"name": "first", "namespace": "demo", "uid": "u-1"},
    "spec": {
        "experiment": "first",
        "reference": ONE,
        "aligned": TWO,
        "source": {"requests": {"path": "requests/first.jsonl", "consentedBy": "InventedPeople"}},
        "margins": {"benignRefusal": "0.02"},
    },
}
SETTINGS = JobSettings(
    image="plumbline:test",
    service_account="plumbline",
    claim="data",
    reference_url="http://a/v1",
    aligned_url="http://b/v1",
)


def step(name: Any, reason: str = "Done", **more: Any) -> ShadowStep:
    return ShadowStep(evaluation=KEY, step=name, reason=reason, **more)


def done(*names: str) -> dict[Any, ShadowStep]:
    return {name: step(name) for name in names}


def verdict(said: Verdict = Verdict.PASS, *, decided: bool = True, name: str = "first", **more: Any) -> ShadowVerdict:
    found: Json = {
        "experiment": ONE,
        "reference": ONE,
        "aligned": TWO,
        "mode": "shadow",
        "plan": PLAN,
        "aa": None,
        **more,
    }
    counts = ShadowCounts(experiment=name, spooled=3, paired=2, shed={"no_consent": 1})
    rest: Json = {"judge": "", "pairs": ONE, "n": 2, "sessions": 2, "counts": counts, "losses": (), "requirements": ()}
    return ShadowVerdict(name=name, verdict=said, decided=decided, **found, **rest)


def monitor(
    digests: dict[str, tuple[str, ...]], *, tripped: str | None = None, experiment: str = "first"
) -> ShadowStatus:
    return ShadowStatus(
        experiment=experiment, experiment_digest=ONE, mode="shadow", plan=ONE,
        counts=ShadowCounts(experiment=experiment, spooled=5, paired=5), sessions=4, requirements={}, slices={},
        refusals={}, losses=(), lost_share={"all": 0.0}, latency_ms={}, first_ms={}, tokens={}, same_text=1.0,
        digests=digests, tripped=tripped, stopped=tripped is not None, verdict=Verdict.INCONCLUSIVE,
    )  # fmt: skip


OURS, OTHERS = {"reference": (ONE,), "aligned": (TWO,)}, {"reference": (ONE,), "aligned": (THREE,)}
See = EvaluationObservation
TABLE: list[tuple[EvaluationSpec, EvaluationObservation, Any, str, dict[str, tuple[str, str]]]] = [
    (SPEC, See(), StartStep("aa", 1), "AA", {"AASound": ("Unknown", "NotYet"), "Decided": ("False", "NotYet")}),
    (SPEC, See(ledger=False), Wait("LedgerUnreachable"), "Blocked", {"Degraded": ("True", "LedgerUnreachable")}),
    (SPEC, See(job="aa"), Wait("InProgress"), "AA", {}),
    (SPEC, See(endpoints=False), Wait("NoEndpoints"), "Blocked", {"Comparable": ("False", "NoEndpoints")}),
    (SPEC, See(steps=done("aa")), StartStep("plan", 1), "Planning", {"AASound": ("True", "Sound")}),
    (
        SPEC,
        See(steps={"aa": step("aa", alarm=True)}),
        Wait("Unsound"),
        "Unsound",
        {"AASound": ("False", "Unsound"), "Degraded": ("True", "Unsound")},
    ),
    (
        SPEC,
        See(steps={"aa": step("aa", sessions=12, planned=100)}),
        StartStep("plan", 1),
        "Planning",
        {"AASound": ("False", "TooFewSessions")},
    ),
    (SPEC, See(steps=done("aa", "plan")), StartStep("pairs", 1), "Pairing", {"Planned": ("True", "PlanWritten")}),
    (
        SPEC,
        See(steps={**done("aa", "plan"), "pairs": step("pairs", "EndpointUnreachable")}, failures={"pairs": 1}),
        StartStep("pairs", 2),
        "Pairing",
        {"Comparable": ("False", "EndpointUnreachable"), "Degraded": ("True", "EndpointUnreachable")},
    ),
    (
        SPEC,
        See(steps=done("aa", "plan"), failures={"pairs": 3}),
        Wait("StepFailed"),
        "Failed",
        {"Degraded": ("True", "StepFailed")},
    ),
    (
        SPEC,
        See(steps=done("aa"), failures={"plan": 2}, failed_at=NOW - timedelta(seconds=15)),
        Wait("BackingOff"),
        "Planning",
        {},
    ),
    (
        SPEC,
        See(steps=done("aa"), failures={"plan": 2}, failed_at=NOW - timedelta(seconds=20)),
        StartStep("plan", 3),
        "Planning",
        {},
    ),
    (
        SPEC,
        See(steps={**done("aa", "plan"), "pairs": step("pairs", KILLED)}, failures={"pairs": 1}),
        StartStep("verdict", 1),
        "Deciding",
        {"KillSwitch": ("True", "Thrown")},
    ),
    (SPEC, See(steps=done(*STEPS), verdict=verdict()), Wait("Decided"), "Decided", {"Decided": ("True", "Pass")}),
    (
        SPEC,
        See(steps=done(*STEPS), verdict=verdict(Verdict.INCONCLUSIVE, decided=False)),
        Wait("Undecided"),
        "Undecided",
        {"Decided": ("False", "Inconclusive")},
    ),
    (SPEC, See(steps=done(*STEPS)), Wait("VerdictMissing"), "Undecided", {"Degraded": ("True", "VerdictMissing")}),
    (LIVE, See(), Wait("Watching"), "Watching", {"Comparable": ("Unknown", "MonitorUnreachable")}),
    (LIVE, See(monitor=monitor({})), Wait("Watching"), "Watching", {"Comparable": ("Unknown", "NotYet")}),
    (LIVE, See(monitor=monitor(OURS)), Wait("Watching"), "Watching", {"Comparable": ("True", "SamePolicies")}),
    (
        LIVE,
        See(monitor=monitor(OTHERS, tripped="harm")),
        Wait("Watching"),
        "Watching",
        {"Comparable": ("False", "OtherPolicies"), "KillSwitch": ("False", "NotThrown")},
    ),
    (LIVE, See(monitor=monitor(OURS, tripped="harm")), Wait("Watching"), "Stopped", {"KillSwitch": ("True", "Thrown")}),
    (LIVE, See(verdict=verdict(Verdict.REGRESSED)), Wait("Decided"), "Decided", {"Decided": ("True", "Regressed")}),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "seen", "action", "phase", "said"), TABLE)
def test_what_is_next_follows_from_what_was_seen(
    spec: EvaluationSpec, seen: EvaluationObservation, action: Any, phase: str, said: dict[str, tuple[str, str]]
) -> None:
    decision = reconcile_evaluation(spec, seen, NOW)
    assert (decision.action, decision.phase) == (action, phase)
    found = {one.type: (one.status, one.reason) for one in decision.conditions}
    assert {kind: found[kind] for kind in said} == said
    assert set(found) == {"AASound", "Planned", "Comparable", "Decided", "KillSwitch", "Degraded"}


def test_every_fault_has_a_fact_and_a_remedy() -> None:
    for reason in REASONS:
        seen = See(steps={"aa": step("aa", reason)}, failures={"aa": 3})
        (degraded,) = [one for one in reconcile_evaluation(SPEC, seen, NOW).conditions if one.type == "Degraded"]
        assert degraded.reason == reason and degraded.message.count(";") >= 2 and "make it again" in degraded.message


reasons = st.sampled_from(["Done", *REASONS])
observations = st.builds(
    EvaluationObservation,
    ledger=st.booleans(),
    steps=st.dictionaries(st.sampled_from(STEPS), reasons).map(
        lambda found: {name: step(name, reason) for name, reason in found.items()}
    ),
    verdict=st.none() | st.just(verdict()) | st.just(verdict(Verdict.ERROR, decided=False)),
    job=st.none() | st.sampled_from(STEPS),
    failures=st.dictionaries(st.sampled_from(STEPS), st.integers(0, 5)),
    failed_at=st.none() | st.just(NOW) | st.just(NOW - timedelta(hours=1)),
    endpoints=st.booleans(),
    monitor=st.none() | st.sampled_from([monitor({}), monitor(OURS), monitor(OTHERS), monitor(OURS, tripped="harm")]),
)


@given(observations, st.sampled_from([SPEC, LIVE]))
def test_nothing_is_started_out_of_turn_twice_or_too_often_and_every_status_fits(
    seen: EvaluationObservation, spec: EvaluationSpec
) -> None:
    decision = reconcile_evaluation(spec, seen, NOW)
    if isinstance(decision.action, StartStep):
        assert seen.ledger and not spec.live and seen.job is None
        before = STEPS[: STEPS.index(decision.action.step)]
        assert all(seen.steps[name].done or seen.steps[name].reason == KILLED for name in before)
        assert not (decision.action.step in seen.steps and seen.steps[decision.action.step].done)
        assert decision.action.attempt == seen.failures.get(decision.action.step, 0) + 1 <= spec.max_attempts
    status = shadow_objects.evaluation_status(EVALUATION, spec, seen, decision, now=STAMP)
    part = BY_KIND["ShadowEvaluation"].status
    jsonschema.validate(status, {**schema(part), "additionalProperties": False})
    if spec.live and seen.monitor is not None and seen.monitor.digests == OTHERS:
        assert "paired" not in status, "counts of other policies"
    again = {**EVALUATION, "status": status}
    later = shadow_objects.evaluation_status(again, spec, seen, decision, now="2026-03-01T11:00:00Z")
    assert later == status, "a status that says nothing new wakes nobody"


def test_while_the_ledger_is_away_what_was_known_of_an_evaluation_stands() -> None:
    def status(about: Json, seen: EvaluationObservation, spec: EvaluationSpec = SPEC) -> Json:
        return shadow_objects.evaluation_status(about, spec, seen, reconcile_evaluation(spec, seen, NOW), now=STAMP)

    def said(shown: Json) -> dict[str, str]:
        return {item["type"]: item["reason"] for item in shown["conditions"]}

    decided = status(EVALUATION, See(steps=done(*STEPS), verdict=verdict()))
    away = See(ledger=False, failures={"aa": 1})
    shown = status({**EVALUATION, "status": decided}, away)
    assert said(shown) == {**said(decided), "Degraded": "LedgerUnreachable"} and said(shown)["Decided"] == "Pass"
    assert shown["phase"] == "Blocked" and shown["verdict"] == "PASS" and "step" not in shown

    tried = status(EVALUATION, See(steps=done("aa", "plan"), failures={"pairs": 2}))
    shown = status({**EVALUATION, "status": tried}, away)
    assert (shown["step"], shown["attempts"]) == ("pairs", 2), "failed attempts are not forgotten with their Jobs"

    watched = status(EVALUATION, See(monitor=monitor(OURS)), LIVE)
    tripped = See(ledger=False, monitor=monitor(OURS, tripped="harm"))
    assert said(status({**EVALUATION, "status": watched}, tripped, LIVE))["KillSwitch"] == "Thrown"


# --- Jobs -----------------------------------------------------------------------------------------------------


def job(name: Any, attempt: int = 1, outcome: str | None = None, evaluation: Json = EVALUATION) -> Json:
    found = shadow_objects.step_job(StartStep(name, attempt), evaluation, SETTINGS)
    if outcome:
        at = {"lastTransitionTime": STAMP}
        found["status"] = {"conditions": [{"type": outcome, "status": "True", **at}]}
    return found


def test_a_step_is_a_job_of_one_name_that_runs_the_command_that_exists() -> None:
    from plumbline.cli.main import cli

    first, again = job("pairs"), job("pairs")
    assert first == again and first["metadata"]["name"].startswith("first-pairs-")
    assert job("pairs", 2)["metadata"]["name"] != first["metadata"]["name"] != job("aa")["metadata"]["name"]
    other = {**EVALUATION, "metadata": {**EVALUATION["metadata"], "uid": "u-2"}}
    assert job("pairs", evaluation=other)["metadata"]["name"] != first["metadata"]["name"], "made again, it begins anew"
    assert first["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert first["metadata"]["labels"]["app.kubernetes.io/component"] == "evaluation"
    arguments = first["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--requests=/data/requests/first.jsonl" in arguments and "--margin=benign_refusal=0.02" in arguments
    command: Any = cli
    import click

    for word in ("shadow", "evaluate"):
        command = command.get_command(click.Context(command), word)
    command.make_context("evaluate", arguments[2:])


def test_a_spool_has_a_volume_also_where_ledger_and_blobs_are_on_servers() -> None:
    servers = JobSettings(
        image="i", service_account="s", ledger_secret="l", blobs="s3://b", spools_claim="policies",
        data="/spools", spools="/spools/spools", reference_url="http://a/v1", aligned_url="http://b/v1",
    )  # fmt: skip
    pod = shadow_objects.step_job(StartStep("aa", 1), EVALUATION, servers)["spec"]["template"]["spec"]
    assert {"name": "spools", "persistentVolumeClaim": {"claimName": "policies"}} in pod["volumes"]
    assert {"name": "spools", "mountPath": "/spools"} in pod["containers"][0]["volumeMounts"]
    assert not [item for item in job("aa")["spec"]["template"]["spec"]["volumes"] if item["name"] == "spools"]


def test_attempts_are_counted_by_step_and_outlive_their_jobs() -> None:
    jobs = [job("aa", 1, "Failed"), job("aa", 2, "Complete"), job("plan", 1, "Complete"), job("pairs", 1)]
    running, failures, at = shadow_objects.attempts(EVALUATION, jobs, done("aa"))
    assert running == "pairs"
    assert failures["aa"] == 1 and failures["plan"] == 1, "one that ended well and left nothing achieved nothing"
    assert failures["pairs"] == 0 and at is None
    remembered = {**EVALUATION, "status": {"step": "plan", "attempts": 2}}
    assert shadow_objects.attempts(remembered, [], done("aa"))[1]["plan"] == 2
    assert shadow_objects.attempts(EVALUATION, [job("plan", 1, "Failed")], done("aa"))[2] == NOW


# --- the ledger -----------------------------------------------------------------------------------------------


def test_a_verdict_about_other_policies_or_another_experiment_is_never_this_ones(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for said in (verdict(aligned=THREE), verdict(name="second", experiment=TWO), verdict(mode="aa")):
            ledger.releases.record_shadow(said)
        steps = ShadowSteps(ledger.database)
        for name in STEPS:
            steps.record(step(name, experiment=ONE if name == "pairs" else None))
        for spec in (SPEC, LIVE):
            assert observe(ledger, KEY, spec).verdict is None
        ours = verdict()
        ledger.releases.record_shadow(ours)
        for spec in (SPEC, LIVE):
            assert observe(ledger, KEY, spec).verdict == ours
        assert observe(ledger, digest_of("another object"), SPEC).verdict is None, "its own steps are not done"
        stopped = verdict(Verdict.REGRESSED, tripped="harm")
        ledger.releases.record_shadow(stopped)
        assert observe(ledger, KEY, LIVE).verdict == stopped, "a kill switch ends a PASS"


def test_a_step_that_is_done_stays_done_and_a_report_holds_nobodys_words(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        steps = ShadowSteps(ledger.database)
        steps.record(step("aa", "EndpointUnreachable"))
        steps.record(step("aa", sessions=3))
        steps.record(step("aa", "StepFailed"))
        (kept,) = steps.of(KEY)
        assert kept.done and kept.sessions == 3
    with pytest.raises(ValueError, match="reason"):
        step("aa", "somebody wrote this")
    assert set(json.loads(kept.model_dump_json())) == {
        "evaluation", "step", "reason", "experiment", "counts", "sessions", "alarm", "planned", "result",
    }  # fmt: skip
