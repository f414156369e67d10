"""Reading requests: any JSON at all is either understood or refused in OpenAI's shape."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.policies.engine import TokenLogprob
from plumbline.records import DecoderSettings
from plumbline.serving import openai_answers as answers
from plumbline.serving import openai_api as wire
from plumbline.serving.openai_answers import Reply, Speller

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("temperature", "top_p", "seed", "max_tokens", "stop", "stream", "n", "tools", "messages", "stream_options")
FIELDS = (*FIELDS, "logprobs", "top_logprobs", "chat_template", "logit_bias", "response_format", "made_up")
OK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_any_field_of_any_type_is_understood_or_refused(asked: dict[str, object]) -> None:
    try:
        call = wire.parse(json.dumps(OK | asked).encode(), "chat", DecoderSettings(), context=100)
    except wire.ApiError as error:
        assert 400 <= error.status < 500
        assert error.body()["error"]["message"]
    else:
        assert call.messages and call.decoder.max_tokens < 100


@given(st.binary(max_size=64))
def test_any_bytes_are_understood_or_refused(raw: bytes) -> None:
    with pytest.raises(wire.ApiError):
        wire.parse(raw, "chat", DecoderSettings())


def test_what_a_request_leaves_open_is_the_policys() -> None:
    default = DecoderSettings(max_tokens=7, temperature=0.5, seed=3, stop=("x",))
    assert wire.parse(json.dumps(OK).encode(), "chat", default).decoder == default
    call = wire.parse(json.dumps(OK | {"max_completion_tokens": 9, "stop": "y"}).encode(), "chat", default)
    assert call.decoder == default.model_copy(update={"max_tokens": 9, "stop": ("y",)})


def test_text_parts_are_one_text_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = OK | {"messages": [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts}]}
    call = wire.parse(json.dumps(body).encode(), "chat", DecoderSettings())
    assert [(m.role, m.content) for m in call.messages] == [("system", "be brief"), ("user", "ab")]


def test_an_image_is_refused() -> None:
    body = OK | {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}
    with pytest.raises(wire.ApiError, match="must be text"):
        wire.parse(json.dumps(body).encode(), "chat", DecoderSettings())


def spell(before: Sequence[int], token: int) -> str:
    return chr(token)


def test_a_chat_completion_has_the_shape_that_clients_read() -> None:
    call = wire.parse(json.dumps(OK).encode(), "chat", DecoderSettings())
    body = answers.whole(call, "r1", Reply("h\xe9", "length", 2, prompt=5), spell)
    assert body["id"] == "chatcmpl-r1" and body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "h\xe9"
    assert body["choices"][0]["logprobs"] is None
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def test_log_probabilities_have_openais_shapes() -> None:
    noted = tuple(TokenLogprob(ord(c), -float(i), ((ord(c), -float(i)), (88, -9.0))) for i, c in enumerate("h\xe9"))
    reply = Reply("h\xe9", "stop", 3, 5, noted)
    chat = wire.parse(json.dumps(OK | {"logprobs": True, "top_logprobs": 2}).encode(), "chat", DecoderSettings())
    content = answers.whole(chat, "r", reply, spell)["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["h", "\xe9"]
    assert content[1]["bytes"] == [195, 169] and content[1]["logprob"] == -1.0
    assert content[1]["top_logprobs"][1] == {"token": "X", "logprob": -9.0, "bytes": [88]}
    text = wire.parse(b'{"model": "m", "prompt": "p", "logprobs": 2}', "text", DecoderSettings())
    legacy = answers.whole(text, "r", reply, spell)["choices"][0]["logprobs"]
    assert legacy == {
        "tokens": ["h", "\xe9"],
        "token_logprobs": [0.0, -1.0],
        "top_logprobs": [{"h": 0.0, "X": -9.0}, {"\xe9": -1.0, "X": -9.0}],
        "text_offset": [0, 1],
    }
    streamed = b"".join(answers.spoken(chat, "r", reply, spell))
    assert json.loads(streamed.split(b"\n\n")[1][6:])["choices"][0]["logprobs"]["content"] == content


def test_part_of_a_character_has_no_bytes_of_its_own() -> None:
    [entry] = Speller(lambda before, token: "\ufffd").take([TokenLogprob(1, -1.0, ())])
    assert entry["bytes"] is None


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"made_up": 0}, "made_up"),
        ({"prompt": "x"}, "prompt"),
        ({"n": True}, "n"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stop": [1]}, "stop"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages"),
        ({"messages": [{"role": {}, "content": "x"}]}, "messages"),
    ],
)
def test_what_would_change_the_answer_and_is_not_done_is_refused_by_name(asked: dict[str, object], param: str) -> None:
    with pytest.raises(wire.ApiError) as refused:
        wire.parse(json.dumps(OK | asked).encode(), "chat", DecoderSettings())
    assert refused.value.param == param


def test_what_changes_nothing_is_accepted() -> None:
    neutral = {"n": 1, "top_k": -1, "presence_penalty": 0.0, "tools": [], "user": "u", "metadata": {"a": "b"}}
    assert wire.parse(json.dumps(OK | neutral | {"logit_bias": None}).encode(), "chat", DecoderSettings()).top is None
