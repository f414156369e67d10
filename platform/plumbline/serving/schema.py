"""The predictor's OpenAPI document: the routes that are meant for clients, exactly as they answer.

KServe's SDK would describe its own routes from its types, and ours not at all, since a request is read by
`openai_api`. Served at /openapi.json.
"""

from plumbline.policies.openai_error import SCHEMA as ERROR
from plumbline.serving.openai_api import MOST_LOGPROBS, NEUTRAL, ROLES, WITHOUT_EFFECT, Json

PREFIXES = ("/openai/v1", "/v1")
NUMBER_OR_NULL = ["number", "null"]
TEXTS = {"type": "array", "items": {"type": "string"}}
DIGEST = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64}|none)$"}
STATED = {
    "x-request-id": "The request's own, or one made for it.",
    "x-plumbline-policy": "Digest of the policy's manifest.",
    "x-plumbline-template": "Digest of its chat template.",
    "x-plumbline-dataset": "Digest of the dataset version it was trained on, or none.",
    "x-plumbline-rubric": "Digest of the rubric, or none.",
    "x-plumbline-decoder": "Digest of the decoder settings of this answer.",
}


def document(models: list[str], context: int) -> Json:
    """OpenAPI 3.1 for a predictor that serves `models`; no more tokens than `context` can be asked for."""
    paths: Json = {}
    for prefix in PREFIXES:
        paths[f"{prefix}/chat/completions"] = {"post": _post("chat", models, context)}
        paths[f"{prefix}/completions"] = {"post": _post("text", models, context)}
        paths[f"{prefix}/models"] = {"get": _get("The policies that are served.", "Models")}
        paths[f"{prefix}/models/{{name}}"] = {
            "get": _get("One policy and the digests of what made it.", "Model") | {"parameters": [_named(models)]}
        }
        paths[f"{prefix}/models/{{name}}"]["get"]["responses"]["404"] = _error("No policy has that name.")
    paths["/v1/models/{name}:predict"] = {"post": _predict(models)}
    paths["/v2/health/live"] = {"get": _health("Whether the process lives.")}
    paths["/v2/health/ready"] = {"get": _health("Whether every policy is loaded and its guardrails' cards hold.")}
    paths["/v2/health/ready"]["get"]["responses"]["503"] = _health("Not ready.")["responses"]["200"]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Plumbline predictor", "version": "1"},
        "paths": paths,
        "components": {"schemas": {"Error": ERROR, "Completion": COMPLETION, "Model": MODEL, "Models": MODELS}},
    }


def _post(kind: str, models: list[str], context: int) -> Json:
    answer = {"schema": {"$ref": "#/components/schemas/Completion"}}
    return {
        "summary": "Chat in the policy's template." if kind == "chat" else "Raw text, no template.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _request(kind, models, context)}},
        },
        "responses": {
            "200": {
                "description": "The answer; server-sent events with stream=true.",
                "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in STATED.items()},
                "content": {"application/json": answer, "text/event-stream": {"schema": {"type": "string"}}},
            },
            "400": _error("Something asked for is not supported, not known or does not fit; `param` names it."),
            "404": _error("No policy has that name."),
            "413": _error("The body is over 1 MiB."),
            "503": _error("Overloaded (retry-after says for how long), or a guardrail's card has expired."),
        },
    }


def _request(kind: str, models: list[str], context: int) -> Json:
    fields: Json = {
        "model": {"type": "string", "enum": models},
        "stream": {"type": ["boolean", "null"]},
        "max_tokens": {"type": ["integer", "null"], "minimum": 1, "maximum": context - 1},
        "temperature": {"type": NUMBER_OR_NULL, "minimum": 0, "maximum": 2},
        "top_p": {"type": NUMBER_OR_NULL, "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
        "stop": {"anyOf": [{"type": "null"}, {"type": "string"}, TEXTS]},
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": {"type": ["boolean", "null"]}},
        },
    }
    number = {"type": ["integer", "null"], "minimum": 0, "maximum": MOST_LOGPROBS}
    if kind == "chat":
        fields["messages"] = {"type": "array", "minItems": 1, "items": MESSAGE}
        fields["max_completion_tokens"] = fields["max_tokens"]
        fields |= {"logprobs": {"type": ["boolean", "null"]}, "top_logprobs": number}
    else:
        fields["prompt"] = {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "minLength": 1}},
            ]
        }
        fields["logprobs"] = number
    fields |= {name: {"enum": [None, *values]} for name, values in NEUTRAL.items()}
    fields |= {name: {} for name in sorted(WITHOUT_EFFECT)}
    return {
        "type": "object",
        "required": ["model", "messages" if kind == "chat" else "prompt"],
        "properties": fields,
        "additionalProperties": False,
    }


def _named(models: list[str]) -> Json:
    return {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": models}}


def _get(summary: str, schema: str) -> Json:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"summary": summary, "responses": {"200": {"description": summary, "content": content}}}


def _predict(models: list[str]) -> Json:
    row = {"type": "object", "required": ["messages"], "properties": {"messages": {"type": "array", "items": MESSAGE}}}
    rows = {"type": "object", "required": ["instances"], "properties": {"instances": {"type": "array", "items": row}}}
    failed = {"description": "In KServe's shape or OpenAI's.", "content": {"application/json": {"schema": {}}}}
    return {
        "summary": "KServe's V1 protocol: one answer per instance, whose fields are those of chat completions.",
        "parameters": [_named(models)],
        "requestBody": {"required": True, "content": {"application/json": {"schema": rows}}},
        "responses": {
            "200": {"description": "`predictions`, in order.", "content": {"application/json": {"schema": {}}}},
            "400": failed,
            "404": failed,
            "422": failed,
            "503": failed,
        },
    }


def _health(summary: str) -> Json:
    schema = {"type": "object", "properties": {"ready": {"type": "boolean"}, "live": {"type": "boolean"}}}
    ok = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {"summary": summary, "responses": {"200": ok}}


def _error(text: str) -> Json:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


_TEXT_OR_PARTS = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            },
        },
    ]
}
MESSAGE: Json = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"type": "string", "enum": list(ROLES)}, "content": _TEXT_OR_PARTS},
}
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
COMPLETION: Json = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {
        "id": {"type": "string"},
        "object": {"enum": ["chat.completion", "text_completion"]},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "required": ["index", "finish_reason", "logprobs"],
                "properties": {
                    "index": {"const": 0},
                    "finish_reason": {"enum": ["stop", "length", "content_filter"]},
                    "logprobs": {"type": ["object", "null"]},
                    "text": {"type": "string"},
                    "message": {
                        "type": "object",
                        "required": ["role", "content", "refusal"],
                        "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}},
                    },
                },
            },
        },
        "usage": {
            "type": "object",
            "required": list(_USAGE),
            "properties": {name: {"type": "integer", "minimum": 0} for name in _USAGE},
        },
    },
}
MODEL: Json = {
    "type": "object",
    "required": ["name", "ready", "id", "object", "created", "owned_by", "max_model_len", "plumbline"],
    "properties": {
        "name": {"type": "string"},
        "ready": {"type": "boolean"},
        "id": {"type": "string"},
        "object": {"const": "model"},
        "max_model_len": {"type": "integer"},
        "plumbline": {
            "type": "object",
            "required": ["policy", "template", "dataset", "rubric", "decoder"],
            "properties": dict.fromkeys(("policy", "template", "dataset", "rubric", "decoder"), DIGEST),
        },
    },
}
MODELS: Json = {
    "type": "object",
    "required": ["models", "object", "data"],
    "properties": {
        "models": {"type": "array", "items": {"type": "string"}},
        "object": {"const": "list"},
        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    },
}
