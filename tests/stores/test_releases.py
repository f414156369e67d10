"""The release moves only to a policy with a PASS of its own, and lineage leads from a person to it and back."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import Adapter, Objective, Optimiser, Verdict, digest_of

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
