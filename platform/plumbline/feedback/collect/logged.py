"""Traffic that KServe's payload logger reports: requests and responses of a chat, as context and nothing more.

The logger (InferenceService `spec.predictor.logger`) posts binary CloudEvents of two types, with one id for both:
`org.kubeflow.serving.inference.request` holds the OpenAI chat request, `.response` the completion. It is lossy: no
retry, only answers with status 200, a streamed body cut or labelled wrongly. So nothing may be concluded from an
event that is missing, and an event that is there is never a target: ingestion counts it as `logged_traffic`.

Whose conversation it is must be said, or no consent could carry it. The logger forwards nothing but the user's
request headers, in `ce-metadata`, if its `metadataHeaders` names `X-Plumbline-Subject` (a pseudonym) or
`X-Plumbline-Identity`. A gateway must set that header: a user who could set it could speak as somebody else.

Not taken, each with its reason: bodies of the v1 and v2 predict protocols, streamed bodies, text completions, tool
calls without text, and images.
"""

from typing import Any
from urllib.parse import unquote

from plumbline.feedback.collect.strict_json import Refused, parse_json
from plumbline.records import LOGGED_PREFIX

_HEADERS = ("X-Plumbline-Subject", "X-Plumbline-Identity")
_ROLES = {"developer": "system", "function": "tool"}
_PREDICT = frozenset({"instances", "predictions", "inputs", "outputs"})


def chat_data(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """An OpenAI chat request or completion as the data of an event, without its subject."""
    if _PREDICT & body.keys():
        raise Refused(400, "predict_body", "a predict body holds no conversation: log an OpenAI chat route")
    policy = body.get("model")
    common = {"policy": policy} if isinstance(policy, str) and len(policy) <= 200 else {}
    if kind == f"{LOGGED_PREFIX}request":
        asked = body.get("messages")
        if not isinstance(asked, list) or not asked:
            raise Refused(400, "not_chat", "a logged request is an OpenAI chat request with messages")
        return {**common, "messages": [_message(message) for message in asked], "answer": ""}
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if message is None:
        raise Refused(400, "not_chat", "a logged response is an OpenAI chat completion with a message")
    said = _message(message)
    return {**common, "messages": [said], "answer": said["content"]}


def subjects_in_metadata(metadata: Any) -> list[Any]:
    """The people whom forwarded request headers name; `ce-metadata` is {"Header-Name": ["value", ...]}."""
    if not isinstance(metadata, str):
        return []
    headers = parse_json(metadata.encode())
    if not isinstance(headers, dict):
        return []
    found = [value for name in _HEADERS for value in (headers.get(name) or []) if isinstance(headers[name], list)]
    return [unquote(value) for value in found if isinstance(value, str)]


def _message(message: Any) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str):
        raise Refused(400, "not_chat", "a logged message has no role")
    content = message.get("content")
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        words = [text for text in texts if isinstance(text, str)]
        content = "\n".join(words) if words and len(words) == len(content) else None
    if not isinstance(content, str):
        raise Refused(400, "not_text", "a logged message holds no text: a tool call, or an image")
    return {"role": _ROLES.get(role, role), "content": content}
