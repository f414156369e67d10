"""The router's OpenAPI document: what it takes and what it answers, small and true.

Only what the router itself decides is described. Whatever else a request holds goes to the policy as it is, and so the
schemas are open; answers with status 200 are the policy's.
"""

from typing import Any

from plumbline import __version__
from plumbline.policies.openai_error import SCHEMA as ERROR

Json = dict[str, Any]

DECODER: Json = {
    "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": 32768},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2},
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "seed": {"type": ["integer", "null"]},
    "stop": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}]},
    "stream": {"type": ["boolean", "null"], "description": "Answer with server-sent events, as they come."},
    "n": {"type": ["integer", "null"], "description": "More than 1 passes through, and becomes no pair."},
}
MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "object", "required": ["type"]}},
            ]
        },
    },
}
REQUEST_HEADERS = {
    "x-plumbline-session": "Whose conversation it is, for sampling; kept as a keyed pseudonym. Set by the gateway.",
    "x-plumbline-subject": "Pseudonym of the person whose consent counts. Set by the gateway; nobody without it.",
    "x-plumbline-slice": "Slice of the comparison. Set by the gateway.",
    "x-request-id": "Names the request in both policies' logs; drawn where it is missing.",
}


def document(reference_model: str) -> Json:
    """OpenAPI 3.1 of a router whose users may name `reference_model`."""
    model: Json = {"type": "string", "const": reference_model}
    chat = _body(
        {"model": model, "messages": {"type": "array", "minItems": 1, "items": MESSAGE}, **DECODER}, "messages"
    )
    text = _body({"model": model, "prompt": {"type": "string"}, **DECODER}, "prompt")
    paths: Json = {
        "/healthz": {"get": _plain("Whether the router runs.", "application/json")},
        "/metrics": {"get": _plain("Prometheus metrics.", "text/plain")},
        "/openapi.json": {"get": _plain("This document.", "application/json")},
    }
    for prefix in ("/openai/v1", "/v1"):
        paths[f"{prefix}/chat/completions"] = {"post": _ask("Ask the reference; recorded for comparison.", chat)}
        paths[f"{prefix}/completions"] = {"post": _ask("Ask the reference for raw text; not recorded.", text)}
        paths[f"{prefix}/models"] = {"get": _plain("The one model that can be named.", "application/json")}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Plumbline shadow router",
            "version": __version__,
            "description": "OpenAI-compatible. Users are answered by the reference; what was asked and answered is "
            "recorded, with consent, for the comparison with the aligned policy.",
        },
        "paths": paths,
        "components": {"schemas": {"Error": ERROR}},
    }


def _body(properties: Json, needed: str) -> Json:
    schema = {"type": "object", "required": ["model", needed], "properties": properties}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _plain(summary: str, media: str) -> Json:
    return {"summary": summary, "responses": {"200": {"description": "It does.", "content": {media: {}}}}}


def _ask(summary: str, body: Json) -> Json:
    refused = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    answered = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    headers = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in REQUEST_HEADERS.items()
    ]
    return {
        "summary": summary,
        "parameters": headers,
        "requestBody": body,
        "responses": {
            "200": {"description": "The policy's answer, byte for byte.", "content": answered},
            "400": {"description": "The body is no JSON object, or the policy refuses what it asks.", **refused},
            "404": {"description": "No such model.", **refused},
            "413": {"description": "The body is larger than the experiment allows.", **refused},
            "502": {"description": "The policy cannot be reached.", **refused},
            "504": {"description": "The policy did not answer in time.", **refused},
            "default": {"description": "The policy's own refusal.", "content": {"application/json": {}}},
        },
    }
