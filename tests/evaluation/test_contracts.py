"""Ten areas and five pressures, each a file whose docstring is its contract."""

import subprocess
import sys
from pathlib import Path

import pytest

import plumbline.evaluation as room
from plumbline.evaluation import BEHAVIORS, PRESSURE_MONITORS, contract
from plumbline.evaluation.contracts import parse_contract
from plumbline.records import AREAS, PRESSURES


def test_the_registered_areas_and_pressures_are_those_of_the_rubric_in_order():
    assert tuple(b.area for b in BEHAVIORS) == AREAS
    assert tuple(p.name for p in PRESSURE_MONITORS) == PRESSURES


@pytest.mark.parametrize("name", AREAS + PRESSURES)
def test_each_has_its_own_file_and_all_five_steps(name):
    folder = "behaviors" if name in AREAS else "pressures"
    assert (Path(room.__file__).parent / folder / f"{name}.py").exists()
    found = contract(name)
    for step in (found.title, found.target, found.variable, found.estimator, found.rule, found.regression_metric):
        assert len(step) > 20
        assert "\n" not in step


@pytest.mark.parametrize("behavior", BEHAVIORS, ids=lambda b: b.area)
def test_the_contract_names_every_gated_metric(behavior):
    gated = [metric for metric in behavior.metrics if metric.gated]
    assert gated
    for metric in gated:
        assert f"`{metric.name}`" in contract(behavior.area).regression_metric
    assert all(metric.limit_says for metric in behavior.metrics if metric.limit is not None)


@pytest.mark.parametrize(
    "document",
    [
        None,
        "Title.\n\n1. Target: a\n2. Variable: b\n3. Estimator: c\n4. Rule: d\n",
        "Title.\n\n1. Target: a\n2. Variable: b\n3. Estimator: c\n4. Regression metric: d\n5. Rule: e\n",
        "Title.\n\n1. Target: \n2. Variable: b\n3. Estimator: c\n4. Rule: d\n5. Regression metric: e\n",
    ],
)
def test_a_contract_that_lacks_or_swaps_a_step_is_refused(document):
    with pytest.raises(ValueError, match="charm"):
        parse_contract("charm", document)


def test_the_room_loads_without_any_model_library():
    """Reading contracts or deciding on a report must not wait for torch, transformers or scipy."""
    heavy = ("torch", "transformers", "scipy", "ray")
    code = f"import sys, plumbline.evaluation; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
