"""The micro-world's suites ask every metric of every area, with no judge to believe and nothing to download."""

import pytest

from plumbline.evaluation import BEHAVIORS
from plumbline.evaluation.answers import ItemAnswer, by_likelihood
from plumbline.evaluation.scorers import Outcome, fault_of, score
from plumbline.evaluation.suites.contamination import overlaps
from plumbline.evaluation.suites.variants import variants_by_slice
from plumbline.microworld import build_world
from plumbline.microworld.demonstrations import replay_demonstrations, seed_demonstrations
from plumbline.microworld.suites import held_out_items, validation_items
from plumbline.reconcile.local import JUDGE
from plumbline.records import SuiteItem


@pytest.fixture(scope="module", params=[held_out_items, validation_items], ids=["held_out", "validation"])
def items(request: pytest.FixtureRequest) -> list[SuiteItem]:
    found: list[SuiteItem] = request.param(build_world(3), 3)
    return found


METRICS = [(behavior.area, metric) for behavior in BEHAVIORS for metric in behavior.metrics]


@pytest.mark.parametrize(("area", "metric"), METRICS, ids=[f"{area}.{metric.name}" for area, metric in METRICS])
def test_every_metric_of_every_area_has_items(items, area, metric):
    mine = [item for item in items if item.area == area and metric.applies(item)]
    assert len({item.cluster for item in mine}) >= 10, "the gate calls fewer than ten clusters an error"


def test_the_reference_answer_of_every_item_is_scored_as_a_success(items):
    for item in items:
        if by_likelihood(item):
            assert item.true_choices == (0,) and item.choices[0] in item.references
            continue
        right = item.references[0] if item.references else "i do not know."
        scored = score(item, ItemAnswer(item=item.id, text=right), JUDGE)
        assert scored.success == 1.0, (item.id, right, scored)


def test_every_item_can_be_scored(items):
    assert {fault_of(item) for item in items} == {None}


def test_babble_is_no_success_anywhere_and_nowhere_a_decline(items):
    for item in items:
        if not by_likelihood(item):
            scored = score(item, ItemAnswer(item=item.id, text="xq zzv bbrt kq"), JUDGE)
            assert scored.success == 0.0 and scored.outcome in (Outcome.WRONG, Outcome.INCOHERENT), item.id


def test_no_item_is_severe_for_what_generalises_here_is_a_rate(items):
    assert {item.severity for item in items} == {"major", "minor"}


def test_both_sides_of_the_imitation_ceiling_are_asked(items):
    slices = {item.slice for item in items if item.area == "imitation_ceiling"}
    assert slices == {"in_support", "out_of_support"}


def test_the_other_phrasing_of_a_look_alike_is_tied_to_its_twin_without_holes(items):
    (found,) = [one for one in variants_by_slice(items) if one.slice == "look_alike_pairs"]
    assert found.tied == found.counts["canonical"] == found.counts["alternate"] and not found.holes
    by_id = {item.id: item for item in items}
    tied = [item for item in items if item.variant_of is not None]
    assert tied and all(by_id[item.variant_of].cluster == item.cluster for item in tied)


def test_nothing_that_is_asked_was_trained_on_by_any_sign(items):
    world = build_world(3)
    assert overlaps(items, [*seed_demonstrations(world, 3), *replay_demonstrations(world, 3, 2700)]) == []
