"""The release moves only to a policy with a PASS of its own, and lineage leads from a person to it and back."""

import importlib.util
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import evidence
from plumbline.errors import PlumblineError
from plumbline.records import Adapter, Objective, Optimiser, Verdict, digest_of
from plumbline.records.shadow import ShadowVerdict

_spec = importlib.util.spec_from_file_location("stores_conftest", Path(__file__).with_name("conftest.py"))
assert _spec is not None and _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def test_the_first_release_needs_no_decision_and_the_next_one_does(desk: Any) -> None:
    releases = desk.ledger.releases
    reference, aligned = digest_of("reference"), digest_of("aligned")
    first = releases.move_release("assistant", reference, None, "what users have", "owner")
    assert (first.sequence, first.policy) == (1, reference)
    with pytest.raises(PlumblineError, match="no gate decision"):
        releases.move_release("assistant", aligned, None, "looks fine", "owner")
    passed = releases.record_decision(make.decision(aligned))
    assert releases.move_release("assistant", aligned, passed, "gate passed", "owner").sequence == 2
    assert releases.current_release("assistant").policy == aligned
    assert [entry.policy for entry in releases.release_history("assistant")] == [reference, aligned]


@pytest.mark.parametrize("verdict", [Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_only_a_pass_moves_a_release(desk: Any, verdict: Verdict) -> None:
    releases, aligned = desk.ledger.releases, digest_of("aligned")
    decision = releases.record_decision(make.decision(aligned, verdict))
    with pytest.raises(PlumblineError, match=verdict.value):
        releases.move_release("assistant", aligned, decision, "please", "owner")
    assert releases.current_release("assistant") is None


def test_a_pass_for_another_policy_or_one_that_is_not_stored_moves_nothing(desk: Any) -> None:
    releases = desk.ledger.releases
    other = releases.record_decision(make.decision(digest_of("other")))
    with pytest.raises(PlumblineError, match="is about policy"):
        releases.move_release("assistant", digest_of("aligned"), other, "please", "owner")
    with pytest.raises(PlumblineError, match="is not stored"):
        releases.move_release("assistant", digest_of("aligned"), digest_of("made up"), "please", "owner")


def test_a_pass_against_anything_but_what_users_have_moves_nothing(desk: Any) -> None:
    releases, aligned = desk.ledger.releases, digest_of("aligned")
    releases.move_release("assistant", digest_of("what users have"), None, "first", "owner")
    passed = releases.record_decision(make.decision(aligned))  # against digest_of("reference")
    with pytest.raises(PlumblineError, match="compares with .* users have"):
        releases.move_release("assistant", aligned, passed, "please", "owner")


def test_releasing_again_what_is_released_changes_nothing(desk: Any) -> None:
    releases = desk.ledger.releases
    for _ in range(3):
        releases.move_release("assistant", digest_of("reference"), None, "again", "owner")
    assert len(releases.release_history("assistant")) == 1


def test_lineage_leads_from_a_person_to_every_release_and_back(desk: Any) -> None:
    desk.give("s-ana")
    desk.give("s-ben")
    ledger = desk.ledger
    first = desk.candidate("s-ana", "s-ben")
    first.publish()
    second = desk.candidate("s-ben", version=2, parent=first.digest, run="removal")
    second.publish()

    trained = ledger.releases.record_policy(make.policy("aligned-1", dataset=first.digest))
    built_on = ledger.releases.record_policy(make.policy("aligned-2", dataset=second.digest, base=trained))
    clean = ledger.releases.record_policy(make.policy("aligned-3", dataset=second.digest))
    ledger.releases.move_release("assistant", trained, None, "first", "owner")

    ana = ledger.lineage.of_subject("s-ana")
    assert [version.version for version in ana.versions] == [1]
    assert [(found.policy, found.direct) for found in ana.policies] == [(trained, True), (built_on, False)]
    assert ana.releases == (("assistant", 1, trained),)
    ben = ledger.lineage.of_subject("s-ben")
    assert {found.policy for found in ben.policies} == {trained, built_on, clean}
    assert ledger.lineage.of_subject("s-nobody").policies == ()

    found = ledger.lineage.of_policy(built_on)
    assert [(name, version) for _, name, version in found.datasets] == [("assistant", 2), ("assistant", 1)]
    assert (found.ancestors, found.subjects) == ((trained,), 2)
    assert ledger.lineage.of_policy(digest_of("unknown")) is None
    assert [
        (member.added_in, member.removed_in) for member in ledger.lineage.of_example(first.changes.added[0].address)
    ]


def test_replayed_versions_count_as_training_data(desk: Any) -> None:
    desk.give("s-ana")
    manifest = desk.candidate("s-ana")
    manifest.publish()
    policy = make.policy("aligned", dataset=digest_of("main"))
    objective = Objective(
        dataset=digest_of("main"),
        base_policy=digest_of("reference"),
        template=digest_of("template"),
        rubric=digest_of("rubric"),
        replay=manifest.digest,
        replay_share=0.2,
        adapter=Adapter(),
        optimiser=Optimiser(learning_rate=0.001),
    )
    desk.ledger.releases.record_policy(policy, objective)
    assert [found.policy for found in desk.ledger.lineage.of_subject("s-ana").policies] == [policy.digest]


def test_held_out_examples_train_nobody(desk: Any) -> None:
    desk.give("s-ana")
    manifest = desk.candidate("s-ana", split="held_out")
    manifest.publish()
    desk.ledger.releases.record_policy(make.policy("aligned", dataset=manifest.digest))
    assert desk.ledger.lineage.of_subject("s-ana").policies == ()
    assert len(desk.ledger.lineage.of_subject("s-ana").versions) == 1


def test_only_known_remediations_are_recorded(desk: Any) -> None:
    policy = desk.ledger.releases.record_policy(make.policy("aligned"))
    with pytest.raises(PlumblineError, match="not a remediation"):
        desk.ledger.releases.flag(policy, "s-ana", "unlearned", reason="magic", actor="nobody")
    for _ in range(2):
        desk.ledger.releases.flag(policy, "s-ana", "retrain", reason="withdrew", actor="owner")
    assert desk.ledger.releases.flags(policy) == [("s-ana", "retrain", "withdrew")]


# --- promotion with a shadow, and the way back ------------------------------------------------------------------------


def shadow(
    aligned: str, verdict: Verdict = Verdict.PASS, *, experiment: str = "e", decided: bool = True
) -> ShadowVerdict:
    return evidence.shadow(digest_of("reference"), aligned, verdict, experiment=experiment, decided=decided)


WHO = {"reason": "because", "actor": "owner"}
REFERENCE, ALIGNED, NEXT = digest_of("reference"), digest_of("aligned"), digest_of("next")


@pytest.fixture
def releases(desk: Any) -> Any:
    """A release that names the reference, and a PASS of the gate for `ALIGNED` against it."""
    desk.ledger.releases.promote("assistant", REFERENCE, **WHO)
    desk.ledger.releases.record_decision(make.decision(ALIGNED))
    return desk.ledger.releases


def test_a_promotion_takes_a_gate_and_a_shadow_that_pass_for_those_very_digests(releases: Any) -> None:
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS about it"):
        releases.promote("assistant", ALIGNED, **WHO)
    releases.record_shadow(shadow(NEXT))
    releases.record_shadow(shadow(ALIGNED).model_copy(update={"reference": NEXT}))
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS about it"):
        releases.promote("assistant", ALIGNED, **WHO)
    passed = releases.record_shadow(shadow(ALIGNED))
    with pytest.raises(PlumblineError, match="no gate decision compares it"):
        releases.promote("assistant", NEXT, **WHO)
    moved = releases.promote("assistant", ALIGNED, **WHO)
    assert (moved.action, moved.policy, moved.previous, moved.shadow) == ("promote", ALIGNED, REFERENCE, passed)
    assert moved.decision == make.decision(ALIGNED).digest and moved.without_shadow is None
    assert releases.promote("assistant", ALIGNED, **WHO) == moved, "it stands there already"
    assert releases.current_release("assistant").policy == ALIGNED


@pytest.mark.parametrize("verdict", [Verdict.REGRESSED, Verdict.INCONCLUSIVE, Verdict.ERROR])
def test_only_a_shadow_that_passed_promotes(releases: Any, verdict: Verdict) -> None:
    releases.record_shadow(shadow(ALIGNED, verdict))
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS"):
        releases.promote("assistant", ALIGNED, **WHO)
    assert releases.current_release("assistant").policy == REFERENCE


def test_a_shadow_does_not_stand_in_for_the_gate(desk: Any) -> None:
    releases = desk.ledger.releases
    releases.promote("assistant", REFERENCE, **WHO)
    releases.record_shadow(shadow(ALIGNED))
    with pytest.raises(PlumblineError, match="no gate decision compares it"):
        releases.promote("assistant", ALIGNED, **WHO)
    releases.record_decision(make.decision(ALIGNED, Verdict.REGRESSED))
    with pytest.raises(PlumblineError, match="is REGRESSED"):
        releases.promote("assistant", ALIGNED, **WHO)
    with pytest.raises(PlumblineError, match="is REGRESSED"):
        releases.promote("assistant", ALIGNED, **WHO, without_shadow="in a hurry")


def test_a_later_regression_takes_a_pass_away_and_what_was_not_decided_does_not(desk: Any, releases: Any) -> None:
    releases.record_shadow(shadow(ALIGNED))
    assert releases.passing_shadow(REFERENCE, ALIGNED) == shadow(ALIGNED)
    desk.now += timedelta(hours=1)
    releases.record_shadow(shadow(ALIGNED, Verdict.INCONCLUSIVE, experiment="again", decided=False))
    assert releases.passing_shadow(REFERENCE, ALIGNED) is not None
    desk.now += timedelta(hours=1)
    releases.record_shadow(shadow(ALIGNED, Verdict.REGRESSED, experiment="again"))
    assert releases.passing_shadow(REFERENCE, ALIGNED) is None
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS"):
        releases.promote("assistant", ALIGNED, **WHO)


def test_an_old_shadow_is_refused(desk: Any, releases: Any) -> None:
    releases.record_shadow(shadow(ALIGNED))
    desk.now += timedelta(days=31)
    with pytest.raises(PlumblineError, match="is older than 30 days"):
        releases.promote("assistant", ALIGNED, **WHO)
    assert releases.passing_shadow(REFERENCE, ALIGNED, max_age=timedelta(days=30)) is None
    assert releases.promote("assistant", ALIGNED, **WHO, max_age=timedelta(days=60)).policy == ALIGNED


def test_going_without_a_shadow_leaves_a_line_for_good(desk: Any, releases: Any) -> None:
    moved = releases.promote("assistant", ALIGNED, **WHO, without_shadow="no traffic yet")
    assert (moved.shadow, moved.without_shadow) == (None, "no traffic yet")
    assert releases.release_audit("assistant")[-1] == moved
    outsider = desk.raw()
    for statement in (
        "UPDATE release_audit SET without_shadow = NULL",
        "DELETE FROM release_audit",
        "UPDATE shadow_verdict SET verdict = 'PASS'",
        "DELETE FROM shadow_verdict",
    ):
        releases.record_shadow(shadow(NEXT, Verdict.REGRESSED))
        with pytest.raises(Exception, match="append-only"):
            outsider.execute(statement)


def test_a_rollback_needs_a_reason_and_no_verdict_and_goes_back_step_by_step(desk: Any, releases: Any) -> None:
    with pytest.raises(PlumblineError, match="names no policy before the present one"):
        releases.rollback("assistant", **WHO)
    first = releases.promote("assistant", ALIGNED, **WHO, without_shadow="first of its kind")
    following = make.decision(NEXT).model_copy(update={"reference": ALIGNED})
    releases.record_decision(following)
    releases.promote("assistant", NEXT, **WHO, without_shadow="second of its kind")
    back = releases.rollback("assistant", reason="users complain", actor="on call")
    assert (back.action, back.policy, back.previous, back.decision) == ("rollback", ALIGNED, NEXT, first.decision)
    again = releases.rollback("assistant", **WHO)
    assert (again.policy, again.previous) == (REFERENCE, ALIGNED), "not to what was just rolled back"
    with pytest.raises(PlumblineError, match="names no policy before"):
        releases.rollback("assistant", **WHO)
    audit = releases.release_audit("assistant")
    assert [entry.action for entry in audit] == ["promote", "promote", "promote", "rollback", "rollback"]
    assert [entry.sequence for entry in audit] == [1, 2, 3, 4, 5] and audit[3].reason == "users complain"


def test_what_was_rolled_back_needs_a_shadow_from_after_that(desk: Any, releases: Any) -> None:
    releases.record_shadow(shadow(ALIGNED))
    releases.promote("assistant", ALIGNED, **WHO)
    desk.now += timedelta(hours=1)
    releases.rollback("assistant", **WHO)
    with pytest.raises(PlumblineError, match="it was rolled back"):
        releases.promote("assistant", ALIGNED, **WHO)
    desk.now += timedelta(hours=1)
    later = releases.record_shadow(shadow(ALIGNED, experiment="after the fix"))
    assert releases.promote("assistant", ALIGNED, **WHO).shadow == later


def test_what_was_decided_about_an_experiment_first_is_what_counts(desk: Any, releases: Any) -> None:
    verdict = shadow(ALIGNED, Verdict.INCONCLUSIVE)
    assert releases.decided_shadow(verdict.experiment, REFERENCE, ALIGNED) is None
    releases.record_shadow(shadow(ALIGNED, Verdict.INCONCLUSIVE, decided=False))
    assert releases.decided_shadow(verdict.experiment, REFERENCE, ALIGNED) is None
    digest = releases.record_shadow(verdict)
    desk.now += timedelta(hours=1)
    releases.record_shadow(verdict.model_copy(update={"verdict": Verdict.PASS, "n": 9}))
    assert releases.decided_shadow(verdict.experiment, REFERENCE, ALIGNED).digest == digest
    assert releases.shadow_verdict(digest) == verdict and releases.shadow_verdict(digest_of("none")) is None
    with pytest.raises(PlumblineError, match="no shadow verdict says PASS"):  # two who asked at once, say
        releases.promote("assistant", ALIGNED, **WHO)


def test_moves_without_an_audit_line_are_history_too(desk: Any, releases: Any) -> None:
    releases.move_release("assistant", ALIGNED, make.decision(ALIGNED).digest, "as the loop does", "loop")
    assert [(entry.action, entry.policy) for entry in releases.release_audit("assistant")] == [
        ("promote", REFERENCE), ("move", ALIGNED)]  # fmt: skip
    assert releases.rollback("assistant", **WHO).policy == REFERENCE
