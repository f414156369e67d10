"""An answer is the same text whichever way it comes, and a model's name in it changes without touching a word."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumbline.shadow.answers import NO_ANSWER, RenamedEvents, read_chat, read_events, renamed

TEXT = st.text(max_size=12).filter(lambda text: text.isprintable() or text.isspace())


def events(pieces: list[str], model: str = "aligned") -> bytes:
    deltas: list[Any] = [{"delta": {"content": piece}, "index": 0, "finish_reason": None} for piece in pieces]
    deltas.append({"delta": {}, "index": 0, "finish_reason": "stop"})
    lines = [b"data: " + json.dumps({"model": model, "choices": [one]}).encode() + b"\n\n" for one in deltas]
    return b": a comment\n\n" + b"".join(lines) + b"data: [DONE]\n\n"


@given(pieces=st.lists(TEXT, max_size=6), cuts=st.lists(st.integers(0, 900), max_size=8))
def test_a_stream_torn_anywhere_is_renamed_whole_and_says_the_same(pieces: list[str], cuts: list[int]) -> None:
    stream = events(pieces)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    renaming = RenamedEvents("reference")
    passed = b"".join(renaming.feed(stream[i:j]) for i, j in itertools.pairwise(edges)) + renaming.rest()
    models = {json.loads(line[6:])["model"] for line in passed.split(b"\n") if line.startswith(b"data: {")}
    assert models == {"reference"}
    assert read_events(passed) == read_events(stream)
    assert read_events(passed)[0].text == "".join(pieces)


def test_an_event_passes_as_soon_as_its_line_is_whole() -> None:
    renaming = RenamedEvents("reference")
    first, rest = events(["one", "two"]).split(b"\n\ndata: ", 2)[1:]
    assert b'"one"' in renaming.feed(b"data: " + first + b"\n\nda")
    assert renaming.feed(b"ta: {") == b""
    assert renaming.rest() == b"data: {"
    assert rest


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"object": "x"}', b"\xff", b"[" * 100_000])
def test_bytes_that_name_no_model_are_left_alone(body: bytes) -> None:
    assert renamed(body, "reference") == body


def test_calls_of_tools_are_text_without_their_random_ids_streamed_or_not() -> None:
    call = {"id": "call_x9", "type": "function", "function": {"name": "find", "arguments": '{"what": "lamp"}'}}
    whole = {"choices": [{"message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}]}
    said = read_chat(whole)
    assert json.loads(said.text) == [{"name": "find", "arguments": '{"what": "lamp"}'}]
    deltas = [
        {"tool_calls": [{"index": 0, "id": "call_z", "function": {"name": "find", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"what": '}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"lamp"}'}}]},
    ]
    stream = b"".join(b"data: " + json.dumps({"choices": [{"delta": one}]}).encode() + b"\n\n" for one in deltas)
    streamed, done = read_events(stream + b"data: [DONE]\n\n")
    assert done and streamed.text == said.text
    both = {"choices": [{"message": {"content": "Let me look.", "tool_calls": [call]}}]}
    assert read_chat(both).text.startswith("Let me look.\n[{")


def test_an_answer_without_text_or_calls_is_none() -> None:
    for body in ({"choices": []}, {"choices": [{"message": {"content": None}}]}, {"choices": [{"message": {}}]}, []):
        with pytest.raises(NO_ANSWER):
            read_chat(body)
