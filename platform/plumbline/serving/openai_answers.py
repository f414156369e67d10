"""The OpenAI wire format, answers out: whole, in server-sent events, with usage and log probabilities."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from plumbline.policies.engine import TokenLogprob
from plumbline.serving.openai_api import Call, Json

Spell = Callable[[Sequence[int], int], str]
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Reply:
    """What a request is answered with. `finish` is `stop`, `length` or `content_filter`; `blocked` names the side whose
    guardrail refused. `tokens` were generated, also where they are withheld; `prompt` were read."""

    text: str
    finish: str
    tokens: int
    prompt: int
    noted: tuple[TokenLogprob, ...] = ()
    first_token_s: float | None = None
    blocked: str | None = None


@dataclass
class Speller:
    """The text of each token of one answer, in order. A token that adds none of its own, or only part of a character,
    is given as the tokenizer shows it; `bytes` is then null."""

    spell: Spell
    before: list[int] = field(default_factory=list)
    offset: int = 0

    def take(self, noted: Iterable[TokenLogprob]) -> list[Json]:
        """Chat's entries, with the `offset` that completions give."""
        entries: list[Json] = []
        for one in noted:
            top = [self._entry(token, logprob) for token, logprob in one.top]
            mine = self._entry(one.token, one.logprob)
            entries.append({**mine, "top_logprobs": top, "offset": self.offset})
            self.before.append(one.token)
            self.offset += len(mine["token"])
        return entries

    def _entry(self, token: int, logprob: float) -> Json:
        text = self.spell(self.before, token)
        whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode("utf-8")) if whole else None}


def logprobs_of(call: Call, entries: Sequence[Json]) -> Json | None:
    """In the shape of the call's kind; None when none were asked for."""
    if call.top is None:
        return None
    if call.kind == "chat":
        chosen = [{key: value for key, value in entry.items() if key != "offset"} for entry in entries]
        return {"content": chosen, "refusal": None}
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [{top["token"]: top["logprob"] for top in entry["top_logprobs"]} for entry in entries],
        "text_offset": [entry["offset"] for entry in entries],
    }


def usage(reply: Reply) -> Json:
    return {
        "prompt_tokens": reply.prompt,
        "completion_tokens": reply.tokens,
        "total_tokens": reply.prompt + reply.tokens,
    }


def whole(call: Call, request_id: str, reply: Reply, spell: Spell) -> Json:
    """The body of an answer that is not streamed."""
    entries = Speller(spell).take(reply.noted) if call.top is not None else []
    choice: Json = {"index": 0, "finish_reason": reply.finish, "logprobs": logprobs_of(call, entries)}
    if call.kind == "chat":
        choice["message"] = {"role": "assistant", "content": reply.text, "refusal": None}
    else:
        choice["text"] = reply.text
    kind = "chat.completion" if call.kind == "chat" else "text_completion"
    return {**_head(call, request_id, kind), "choices": [choice], "usage": usage(reply)}


def chunk(
    call: Call,
    request_id: str,
    text: str | None,
    finish: str | None = None,
    *,
    first: bool = False,
    entries: Sequence[Json] | None = None,
) -> bytes:
    """One server-sent event of a streamed answer."""
    said = None if entries is None else logprobs_of(call, entries)
    choice: Json = {"index": 0, "finish_reason": finish, "logprobs": said}
    if call.kind == "chat":
        delta: Json = {"role": "assistant"} if first else {}
        choice["delta"] = delta | ({"content": text} if text is not None else {})
    else:
        choice["text"] = text or ""
    return event({**_head(call, request_id, _stream_kind(call)), "choices": [choice]})


def last_chunks(call: Call, request_id: str, reply: Reply) -> Iterable[bytes]:
    """How it ended, its usage where that was asked for, and the end."""
    yield chunk(call, request_id, None, reply.finish)
    if call.usage_in_stream:
        yield event({**_head(call, request_id, _stream_kind(call)), "choices": [], "usage": usage(reply)})
    yield DONE


def spoken(call: Call, request_id: str, reply: Reply, spell: Spell) -> Iterable[bytes]:
    """A stream of an answer that is already whole."""
    if call.kind == "chat":
        yield chunk(call, request_id, "", first=True)
    if reply.text:
        entries = Speller(spell).take(reply.noted) if call.top is not None else None
        yield chunk(call, request_id, reply.text, entries=entries)
    yield from last_chunks(call, request_id, reply)


def dumps(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def event(value: Json) -> bytes:
    return b"data: " + dumps(value) + b"\n\n"


def _stream_kind(call: Call) -> str:
    return "chat.completion.chunk" if call.kind == "chat" else "text_completion"


def _head(call: Call, request_id: str, kind: str) -> Json:
    prefix = "chatcmpl-" if call.kind == "chat" else "cmpl-"
    return {"id": prefix + request_id, "object": kind, "created": int(time.time()), "model": call.model}
