"""Reading requests: any JSON at all is either understood or refused in OpenAI's shape."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.policies.base import Completion
from plumbline.records import DecoderSettings
from plumbline.serving import openai_api as wire

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("temperature", "top_p", "seed", "max_tokens", "stop", "stream", "n", "tools", "messages", "stream_options")
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


def test_a_chat_completion_has_the_shape_that_clients_read() -> None:
    call = wire.parse(json.dumps(OK).encode(), "chat", DecoderSettings())
    body = wire.whole(call, "r1", Completion("hé", "length", 2), prompt_tokens=5)
    assert body["id"] == "chatcmpl-r1" and body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "hé"
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
