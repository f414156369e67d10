"""The router's OpenAPI document says what the router does: every path is there, and what it refuses has the shape."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from plumbline.policies.openai_error import SCHEMA as ERROR
from plumbline.records import DecoderSettings
from plumbline.shadow import Experiment, ShadowRun, start_shadow
from plumbline.shadow.openapi import document

EXPERIMENT = Experiment(name="described", salt="grain", decoder=DecoderSettings(max_tokens=4), max_body=2000)
CHAT = "/v1/chat/completions"


@pytest.fixture
def run(reference: Any, tmp_path: Path) -> Iterator[ShadowRun]:
    with start_shadow(reference.url, None, tmp_path, EXPERIMENT) as shadow:
        yield shadow


def ask(run: ShadowRun, method: str, path: str, body: Any = None) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(run.host, run.port, timeout=10)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, path, data, {"content-type": "application/json"})
    answer = connection.getresponse()
    try:
        return answer.status, answer.getheader("content-type", ""), answer.read()
    finally:
        connection.close()


def test_the_document_is_served_and_is_openapi(run: ShadowRun) -> None:
    status, media, body = ask(run, "GET", "/openapi.json")
    assert (status, media) == (200, "application/json")
    assert json.loads(body) == document("reference")
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra `test`)")
    schemathesis.openapi.from_dict(json.loads(body)).validate()


def test_every_operation_is_there_and_no_other_method(run: ShadowRun) -> None:
    question = {"model": "reference", "messages": [{"role": "user", "content": "who?"}]}
    for path, methods in document("reference")["paths"].items():
        for method, operation in methods.items():
            status, media, _ = ask(run, method.upper(), path, question if method == "post" else None)
            # the stub behind it has chat only, so a completion is its 404, passed on
            assert status == (404 if path.endswith("/v1/completions") else 200), path
            assert status == 404 or media.split(";")[0] in operation["responses"]["200"]["content"], path
        if path.startswith(("/v1", "/openai/v1")):
            assert ask(run, "DELETE", path)[0] == 405, path
    assert ask(run, "GET", "/v1/embeddings")[0] == 404


def test_what_the_router_refuses_has_the_shape_of_the_document(run: ShadowRun, reference: Any) -> None:
    question = {"messages": [{"role": "user", "content": "who?"}]}
    refused = [
        (400, b"{"),
        (400, b"[]"),
        (404, {**question, "model": "aligned"}),
        (413, {**question, "user": "x" * 3000}),
    ]
    described = document("reference")["paths"][CHAT]["post"]["responses"]
    for expected, body in refused:
        status, media, said = ask(run, "POST", CHAT, body)
        assert (status, media) == (expected, "application/json") and str(status) in described
        jsonschema.validate(json.loads(said), ERROR)
    reference.stop()
    status, _, said = ask(run, "POST", CHAT, question)
    reference.start()
    assert status == 502
    jsonschema.validate(json.loads(said), ERROR)


def test_bodies_that_fit_the_document_are_those_that_clients_send() -> None:
    schema = document("reference")["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    question = {"model": "reference", "messages": [{"role": "user", "content": "who?"}]}
    for more in ({}, {"stream": True}, {"stop": ["a"]}, {"stop": "a"}, {"seed": 3, "temperature": 0.5}, {"user": "u"}):
        jsonschema.validate({**question, **more}, schema)
    for wrong in ({"model": "aligned"}, {"messages": []}, {"temperature": 3}, {"max_tokens": 0}, {"top_p": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**question, **wrong}, schema)
