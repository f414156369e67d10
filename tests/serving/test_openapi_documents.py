"""Schemathesis against predictor and router: whatever fits their OpenAPI documents, and whatever does not, no 5xx.

Bounded and derandomised. The router's document describes bodies in detail, and the predictor speaks the same API: so it
is asked by both documents.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from plumbline.records import DecoderSettings
from plumbline.serving import PredictorProcess
from plumbline.shadow import Experiment, ShadowRun, start_shadow
from plumbline.shadow.openapi import document

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra `test`)")

OURS = r"^((/openai)?/v1/(chat/completions|completions|models|models/[^/]+)|/v2/health/[a-z]+)$"
BOUNDED = settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def router(predictor: PredictorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShadowRun]:
    experiment = Experiment(name="fuzzed", salt="grain", decoder=DecoderSettings(max_tokens=4))
    folder: Path = tmp_path_factory.mktemp("fuzzed")
    with start_shadow(
        predictor.openai_url, predictor.openai_url, folder, experiment, consent=lambda subject: True
    ) as shadow:
        yield shadow


def ask_by(schema: Any, url: str) -> list[tuple[str, int]]:
    """Every operation of a document, with bodies that fit it and bodies that do not: labels and statuses."""
    seen: list[tuple[str, int]] = []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            with contextlib.suppress(*nothing_to_say()):
                asked(operation, operation.as_strategy(generation_mode=mode), url, seen)
    return seen


def asked(operation: Any, cases: Any, url: str, seen: list[tuple[str, int]]) -> None:
    @BOUNDED
    @given(case=cases)
    def ask(case: Any) -> None:
        body = case.body if isinstance(case.body, dict) else {}
        if isinstance(body.get("max_tokens"), int):
            body["max_tokens"] = min(body["max_tokens"], 8)  # a policy that runs to its limit only takes time
        if isinstance(body.get("temperature"), float) and body["temperature"] < 1e-3:
            body["temperature"] = 0.5  # TEMP
        response = case.call(base_url=url, timeout=30)
        seen.append((operation.label, response.status_code))
        assert response.status_code < 500, (operation.label, case.body, response.text)

    ask()


def nothing_to_say() -> tuple[type[Exception], ...]:
    """An operation without parameters has no negative cases."""
    from hypothesis.errors import Unsatisfiable

    return (Unsatisfiable,)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["its own document", "the router's document"])
def test_no_request_makes_the_predictor_fail(predictor: PredictorProcess, by: str) -> None:
    own: Callable[[], Any] = lambda: schemathesis.openapi.from_url(f"{predictor.url}/openapi.json")  # noqa: E731
    schema = own() if by == "its own document" else schemathesis.openapi.from_dict(document("reference"))
    seen = ask_by(schema.include(path_regex=OURS), predictor.url)
    asked_for = {label for label, _ in seen}
    assert {"POST /v1/chat/completions", "POST /openai/v1/completions", "GET /v1/models"} <= asked_for
    if by == "the router's document":
        answered = {label for label, status in seen if status == 200}
        assert "POST /v1/chat/completions" in answered, "only refusals were tried"


@pytest.mark.slow
def test_no_request_makes_the_router_fail(router: ShadowRun) -> None:
    schema = schemathesis.openapi.from_url(f"{router.url}/openapi.json")
    seen = ask_by(schema, router.url)
    described = document("reference")["paths"].items()
    operations = {f"{method.upper()} {path}" for path, methods in described for method in methods}
    assert operations - {label for label, _ in seen} <= {"GET /openapi.json"}, "schemathesis read that one itself"
    assert "POST /v1/chat/completions" in {label for label, status in seen if status == 200}, "only refusals were tried"
    assert router.drain(60)
    assert router.counts().balanced
