"""The OpenAI wire format that the predictor speaks: requests in, answers and errors out. No torch, no server.

A parameter that would change the answer and is not supported is refused by name; ignoring it would serve something
that nobody asked for. Parameters that cannot change the answer (`user`, `metadata`, `store`) are accepted.
Format: https://platform.openai.com/docs/api-reference/chat .
"""

import json
import time
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from plumbline.policies.base import Completion
from plumbline.records import Conversation, DecoderSettings, Message

Json = dict[str, Any]
Kind = Literal["chat", "text"]

# Parameter -> the values that mean "not asked for". Anything else is refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "echo": (False,),
    "suffix": ("",),
}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
SEEDS = range(-(2**63), 2**63)


class ApiError(Exception):
    """An error in the shape that OpenAI clients read: status, message, and the parameter at fault."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def body(self) -> Json:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Call:
    """A request understood: what to ask, how to decode, and how to answer."""

    kind: Kind
    model: str
    messages: Conversation
    decoder: DecoderSettings
    stream: bool
    usage_in_stream: bool


def parse(raw: bytes, kind: Kind, default: DecoderSettings, context: int | None = None) -> Call:
    """A call from a request body; settings it does not name are the policy's. Raises ApiError (400)."""
    body = read_object(raw)
    for name, neutral in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in neutral:
            raise ApiError(400, f"{name}={body[name]!r} is not supported by this predictor", param=name)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model must name a policy", param="model")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise ApiError(400, "stream must be true or false", param="stream")
    options = body.get("stream_options") or {}
    return Call(
        kind=kind,
        model=model,
        messages=_messages(body) if kind == "chat" else _prompt(body),
        decoder=decoder_of(body, default, context),
        stream=stream,
        usage_in_stream=isinstance(options, dict) and bool(options.get("include_usage")),
    )


def read_object(raw: bytes) -> Json:
    """A JSON object, or ApiError. Lone surrogates are refused here, since no tokenizer can take them."""
    try:
        body = json.loads(raw)
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError(400, "the body must be a JSON object")
    return body


def decoder_of(body: Json, default: DecoderSettings, context: int | None = None) -> DecoderSettings:
    """Decoder settings of a request over the policy's defaults. `max_completion_tokens` is `max_tokens`."""
    asked = {name: body[name] for name in ("temperature", "top_p", "seed") if body.get(name) is not None}
    limit = body.get("max_tokens") if body.get("max_completion_tokens") is None else body["max_completion_tokens"]
    if limit is not None:
        asked["max_tokens"] = limit
    stop = body.get("stop")
    if stop is not None:
        asked["stop"] = (stop,) if isinstance(stop, str) else stop
    for name, value in asked.items():
        if isinstance(value, bool) or (name != "stop" and isinstance(value, str)):
            raise ApiError(400, f"{name} must be a number", param=name)
    try:
        decoder = DecoderSettings.model_validate({**default.model_dump(), **asked})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ApiError(400, f"{name}: {first['msg']}", param=name) from error
    if decoder.seed not in SEEDS:
        raise ApiError(400, "seed must fit in 64 bits", param="seed")
    if limit is not None and context is not None and decoder.max_tokens >= context:
        raise ApiError(
            400,
            f"max_tokens={decoder.max_tokens} leaves no room for a prompt in a context of {context} tokens",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return decoder


def _messages(body: Json) -> Conversation:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a non-empty list", param="messages")
    read: list[Message] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ApiError(400, f"{where}.role must be one of {', '.join(ROLES)}", param="messages")
        read.append(Message.model_validate({"role": ROLES[message["role"]], "content": _content(message, where)}))
    return tuple(read)


def _content(message: Json, where: str) -> str:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ApiError(400, f"{where}.content must be text", param="messages")
    return content


def _prompt(body: Json) -> Conversation:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise ApiError(400, "prompt must be one non-empty text", param="prompt")
    return (Message(role="user", content=prompt),)


def usage(prompt_tokens: int, completion: Completion) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion.tokens,
        "total_tokens": prompt_tokens + completion.tokens,
    }


def whole(call: Call, request_id: str, completion: Completion, prompt_tokens: int) -> Json:
    """The body of an answer that is not streamed."""
    choice: Json = {"index": 0, "finish_reason": completion.finish, "logprobs": None}
    if call.kind == "chat":
        choice["message"] = {"role": "assistant", "content": completion.text, "refusal": None}
    else:
        choice["text"] = completion.text
    kind = "chat.completion" if call.kind == "chat" else "text_completion"
    return {**_head(call, request_id, kind), "choices": [choice], "usage": usage(prompt_tokens, completion)}


def chunk(call: Call, request_id: str, text: str | None, finish: str | None = None, *, first: bool = False) -> bytes:
    """One server-sent event of a streamed answer."""
    choice: Json = {"index": 0, "finish_reason": finish, "logprobs": None}
    if call.kind == "chat":
        delta: Json = {"role": "assistant"} if first else {}
        choice["delta"] = delta | ({"content": text} if text is not None else {})
    else:
        choice["text"] = text or ""
    return event({**_head(call, request_id, _stream_kind(call)), "choices": [choice]})


def usage_chunk(call: Call, request_id: str, prompt_tokens: int, completion: Completion) -> bytes:
    head = _head(call, request_id, _stream_kind(call))
    return event({**head, "choices": [], "usage": usage(prompt_tokens, completion)})


def dumps(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def event(value: Json) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _stream_kind(call: Call) -> str:
    return "chat.completion.chunk" if call.kind == "chat" else "text_completion"


def _head(call: Call, request_id: str, kind: str) -> Json:
    prefix = "chatcmpl-" if call.kind == "chat" else "cmpl-"
    return {"id": prefix + request_id, "object": kind, "created": int(time.time()), "model": call.model}
