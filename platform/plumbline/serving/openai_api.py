"""The OpenAI wire format, requests in: what is asked, or an error in the shape that clients read. No torch, no server.

A parameter that would change the answer and is not supported is refused by name, and so is one that nobody knows;
ignoring it would serve something that was not asked for. Parameters that cannot change the answer (`user`, `metadata`,
`store`) are accepted. Answers are in `openai_answers`.
Format: https://platform.openai.com/docs/api-reference/chat .
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from plumbline.policies.openai_error import error_body
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
    "function_call": ("none", "auto"),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "top_k": (-1, 0),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "documents": ([],),
    "prompt_logprobs": (0,),
}
ABOUT_THE_TEMPLATE = ("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")
SUPPORTED = frozenset(
    ("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs")
)
OF_KIND: dict[Kind, frozenset[str]] = {
    "chat": frozenset(("messages", "max_completion_tokens", "top_logprobs")),
    "text": frozenset(("prompt",)),
}
WITHOUT_EFFECT = frozenset(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "parallel_tool_calls",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    )
)
MOST_LOGPROBS = 20
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
        return error_body(self.status, str(self), param=self.param, code=self.code)


@dataclass(frozen=True)
class Call:
    """A request understood: what to ask, how to decode, and how to answer. `top`: how many of the likeliest tokens to
    give beside each; None gives no log probabilities at all."""

    kind: Kind
    model: str
    messages: Conversation
    decoder: DecoderSettings
    stream: bool
    usage_in_stream: bool
    top: int | None = None


def parse(raw: bytes, kind: Kind, default: DecoderSettings, context: int | None = None) -> Call:
    """A call from a request body; settings it does not name are the policy's. Raises ApiError (400)."""
    body = read_object(raw)
    for name, value in body.items():
        _refuse_unsupported(name, value, kind)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model must name a policy", param="model")
    stream = body.get("stream") or False
    if not isinstance(stream, bool):
        raise ApiError(400, "stream must be true or false", param="stream")
    return Call(
        kind=kind,
        model=model,
        messages=_messages(body) if kind == "chat" else _prompt(body),
        decoder=decoder_of(body, default, context),
        stream=stream,
        usage_in_stream=_usage_wanted(body, stream),
        top=_top(body, kind),
    )


def _refuse_unsupported(name: str, value: Any, kind: Kind) -> None:
    if value is None or name in SUPPORTED or name in OF_KIND[kind] or name in WITHOUT_EFFECT:
        return
    if name not in NEUTRAL:
        raise ApiError(400, f"{name!r} is no parameter of this predictor", param=name)
    if not any(type(value) is type(neutral) and value == neutral for neutral in _as_numbers(NEUTRAL[name])):
        why = " the policy is asked in the template that its manifest names" * (name in ABOUT_THE_TEMPLATE)
        raise ApiError(
            400, f"{name}={value!r} is not supported by this predictor{':' * bool(why)}{why}"[:400], param=name
        )


def _as_numbers(neutral: tuple[Any, ...]) -> tuple[Any, ...]:
    """1 is 1.0 in JSON, but neither is true."""
    return (*neutral, *(float(value) for value in neutral if type(value) is int))


def _usage_wanted(body: Json, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise ApiError(400, "stream_options must be an object", param="stream_options")
    if not stream:
        raise ApiError(400, "stream_options is for stream=true", param="stream_options")
    wanted = options.get("include_usage")
    if wanted is not None and not isinstance(wanted, bool):
        raise ApiError(400, "stream_options.include_usage must be true or false", param="stream_options")
    return bool(wanted)


def _top(body: Json, kind: Kind) -> int | None:
    """How many likeliest tokens are wanted beside each; in completions `logprobs` is their number."""
    asked, top = body.get("logprobs"), body.get("top_logprobs") if kind == "chat" else None
    if kind == "chat" and not isinstance(asked, bool | None):
        raise ApiError(400, "logprobs must be true or false", param="logprobs")
    name, number = ("top_logprobs", top) if kind == "chat" else ("logprobs", asked)
    if number is not None and (type(number) is not int or not 0 <= number <= MOST_LOGPROBS):
        raise ApiError(400, f"{name} must be a whole number from 0 to {MOST_LOGPROBS}", param=name)
    if kind == "text":
        return number
    if number and not asked:
        raise ApiError(400, "top_logprobs needs logprobs=true", param="top_logprobs")
    return (number or 0) if asked else None


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
    if stop is not None and not isinstance(stop, str) and not _is_texts(stop):
        raise ApiError(400, "stop must be a text or a list of texts", param="stop")
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


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _messages(body: Json) -> Conversation:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages must be a non-empty list", param="messages")
    read: list[Message] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise ApiError(400, f"{where}.role must be one of {', '.join(ROLES)}", param="messages")
        if message.get("tool_calls") or message.get("function_call"):
            raise ApiError(400, f"{where} calls a tool; tools are not supported by this predictor", param="messages")
        read.append(Message.model_validate({"role": ROLES[role], "content": _content(message, where)}))
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
