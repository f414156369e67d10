"""What is taken without a record is what the record would have taken: the same events, the same bytes, no others."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hostile_events import attacks, good
from plumbline.feedback import Pseudonyms, import_file
from plumbline.feedback.collect.events import bind, take
from plumbline.feedback.collect.plain import _RULES, plain, plain_line
from plumbline.feedback.collect.strict_json import Refused, parse_json
from plumbline.records import TYPE_PREFIX, FeedbackData, FeedbackEvent
from plumbline.stores.inbox import Landed, stored_form

NAMES = Pseudonyms(b"tenant key of the tests")
ANA = NAMES.of("ana@example.org")
KINDS = ["rating", "rewrite", "comparison", "report", "comment"]

anything = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
odd = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), anything, st.just([]), st.just({}), st.just("x" * 201)
)


@st.composite
def mostly(draw: st.DrawFn, usual: list[Any], *others: Any) -> Any:
    """One of the usual values, and now and then what is not usual."""
    if draw(st.integers(0, 9)):
        return draw(st.sampled_from(usual))
    return draw(st.one_of(anything, *(st.just(other) for other in others)))


label = mostly(["benign", "en", "unlabelled", "canonical", "x" * 64], "a\n", "ü", "", "x" * 65)
name = mostly(["", "reference-1", "ü b", "x" * 200], "a\x00b", "a\x9f", "\u200b", "x" * 201)
person = mostly([ANA, "ana@example.org"], "ben", " ", "", NAMES.of("ben"))
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": anything})
odd_message = st.one_of(message, odd, st.fixed_dictionaries({"role": odd}, optional={"content": odd, "name": odd}))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "subject": mostly([ANA], "ana@example.org", NAMES.of("ben")),
    "author": mostly([ANA, NAMES.of("ben")], "ana", ANA + "\n"),
    "slice": label,
    "language": label,
    "phrasing": label,
    "conversation": name,
    "policy": name,
    "rubric": name,
    "score": st.one_of(mostly([1, -1, 0, -0.0, 1e-7, 0.1], 2, True, 1.5), st.floats(-1, 1)),
    "text": st.one_of(mostly(["it shines", '"', "\\", "a\u2028b"], "", " \n"), anything),
    "rejected": anything,
    "preferred": mostly(["reference", "aligned", "tie"], "neither"),
    "original": st.just(1),
}
ATTRIBUTES: dict[str, st.SearchStrategy[Any]] = {
    "specversion": mostly(["1.0"], "0.3"),
    "subject": person,
    "time": mostly(["2026-01-01T00:00:00Z", "", "x" * 64], "x" * 65, "\x00"),
    "datacontenttype": mostly(["application/json"], "application/cloudevents+json", "text/plain"),
    "traceparent": mostly(["00-a", "00-b"], 1, None, {}),
    "data_base64": st.sampled_from(["e30=", None]),
}


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Events of which many are good, and the others are not by a little; fields in any order."""
    data: dict[str, Any] = {"messages": draw(st.lists(message, min_size=1, max_size=3)), "answer": draw(anything)}
    kind = draw(st.sampled_from(KINDS))
    wanted = {"rating": ["score"], "comparison": ["preferred", "rejected"]}.get(kind, ["text"])
    wanted += draw(st.lists(st.sampled_from(list(FIELDS)[: -1 if draw(st.booleans()) else None]), max_size=4))
    data |= {field: draw(FIELDS[field]) for field in dict.fromkeys(wanted)}
    raw: dict[str, Any] = {
        "id": draw(mostly(["1", "x" * 200], "", "a\x7fb", "x" * 201)),
        "source": "app",
        "type": TYPE_PREFIX + kind,
        "subject": "ana@example.org",
    }
    raw |= {field: draw(ATTRIBUTES[field]) for field in draw(st.lists(st.sampled_from(list(ATTRIBUTES)), max_size=3))}
    raw["data"] = data
    for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
        change = draw(st.sampled_from(["value", "field", "attribute", "message", "missing", "type"]))
        if change == "value":
            data[draw(st.sampled_from(list(data)))] = draw(odd)
        elif change == "field":
            data[draw(anything)] = draw(odd)
        elif change == "attribute":
            raw[draw(st.sampled_from(list(raw)))] = draw(odd)
        elif change == "message":
            data["messages"] = draw(st.lists(odd_message, max_size=2))
        elif change == "missing":
            where = draw(st.sampled_from([raw, data]))
            where.pop(draw(st.sampled_from(list(where))))
        else:
            raw["type"] = draw(st.sampled_from([TYPE_PREFIX + "poem", "dev.plumbline.review.approved", "", 1]))
        if not isinstance(raw.get("data"), dict) or not data:
            break
    order = draw(st.permutations(list(data)))
    if isinstance(raw.get("data"), dict):
        raw["data"] = {field: data[field] for field in order}
    return raw


def recorded(raw: Any, identity: str | None = None) -> Landed | str:
    """What the record makes of an event, or the reason why it makes nothing of it."""
    try:
        event = bind(raw, "app", NAMES, identity)
    except Refused as refused:
        return refused.reason
    return Landed(*event.key, event.data.subject, stored_form(event))


def taken(raw: Any, identity: str | None = None) -> Landed | str:
    try:
        return take(raw, "app", NAMES, identity)
    except Refused as refused:
        return refused.reason


@settings(max_examples=1500, deadline=None)
@given(events(), st.sampled_from([None, None, "ana@example.org", ANA, "ben", " "]))
def test_the_record_takes_what_is_taken_without_it_and_stores_the_same_bytes(raw: Any, identity: str | None) -> None:
    found, expected = plain(raw, "app", NAMES.of, identity), recorded(raw, identity)
    assert found is None or found == expected
    assert taken(raw, identity) == expected


@settings(max_examples=700, deadline=None)
@given(events(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " \n:")]), st.booleans())
@example(good("1"), (", ", ": "), False)
def test_a_line_is_taken_as_the_strict_reader_and_the_record_take_it(
    raw: Any, separators: tuple[str, str], escaped: bool
) -> None:
    line = json.dumps(raw, separators=separators, ensure_ascii=escaped).encode()
    found = plain_line(line, "app", NAMES.of)
    try:
        expected: Landed | str = recorded(parse_json(line))
    except Refused as refused:
        expected = refused.reason
    assert found is None or found == expected


def test_ordinary_feedback_of_every_kind_needs_no_record() -> None:
    said: dict[str, dict[str, Any]] = {
        "rating": {"score": 1},
        "rewrite": {"text": 'it "shines", \\ and ü'},
        "comparison": {"preferred": "tie", "rejected": "no", "text": "yes"},
        "report": {"text": ""},
        "comment": {"text": "good", "language": "en", "conversation": "", "subject": ANA, "author": ANA},
    }
    for kind, data in said.items():
        content = {
            "messages": [{"content": "what is a lamp", "role": "user"}],
            "answer": "no",
            "slice": "facts",
            **data,
        }
        raw = {"id": "1", "source": "app", "type": TYPE_PREFIX + kind, "subject": "ana@example.org", "data": content}
        for line in (json.dumps(raw), json.dumps(raw | {"time": "now", "traceparent": "00-a"}, separators=(",", ":"))):
            found = plain_line(line.encode(), "app", NAMES.of)
            assert found is not None and found == recorded(json.loads(line))


@pytest.mark.parametrize(
    "envelope, data",
    [
        ({"subject": " "}, {}),
        ({"subject": "x" * 201}, {}),
        ({"time": "x" * 65}, {}),
        ({"time": None}, {}),
        ({"traceparent": 1}, {}),
        ({}, {"text": " \n"}),
        ({}, {"messages": [{"role": "root", "content": "x"}]}),
        ({}, {"messages": [{"role": "user", "content": 1}]}),
        ({}, {"messages": [{"role": "user", "content": "x", "name": "ana"}]}),
        ({}, {"messages": []}),
        ({}, {"text": None}),
        ({}, {"extra": "x"}),
    ],
)
def test_what_is_nearly_plain_is_left_to_the_record(envelope: dict[str, Any], data: dict[str, Any]) -> None:
    raw = good("1") | {"source": "app", **envelope}
    raw["data"] |= data
    assert plain(raw, "app", NAMES.of) is None
    assert taken(raw) == recorded(raw)


def test_a_key_named_twice_is_found_where_every_value_is_in_order() -> None:
    line = json.dumps(good("1") | {"source": "app"})
    assert plain_line(line.encode(), "app", NAMES.of) is not None
    for key, gap in (("id", ""), ("text", " "), ("role", "\t\r\n "), ("data", "")):
        for said in ('"x"', '"\\""', '"\\":"', "{}", "1"):
            twice = line.replace(f'"{key}"', f'"{key}"{gap}:{said},"{key}"', 1)
            assert plain_line(twice.encode(), "app", NAMES.of) is None, twice


def test_scores_are_written_as_the_record_writes_them() -> None:
    for score in (1.0, -1.0, 0.1, 1e-7, 5e-324, 2.2250738585072014e-308, -0.0, 1 / 3, 0.30000000000000004, 1e-5, 1e-16):
        raw = good("1", score=score) | {"source": "app", "type": TYPE_PREFIX + "rating"}
        assert plain(raw, "app", NAMES.of) == recorded(raw)


def test_no_field_of_the_record_is_forgotten() -> None:
    never_from_outside = {"original", "approved_by"}
    assert set(FeedbackData.model_fields) == set(_RULES) | never_from_outside
    envelope = {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "data"}
    assert set(FeedbackEvent.model_fields) == envelope


def test_a_file_of_hostile_lines_leaves_what_records_would_have_left(house: Any, tmp_path: Path) -> None:
    lines = [one.body.replace(b"\n", b" ").replace(b"\r", b" ") for one in attacks(seed=5, count=3000)]
    (tmp_path / "hostile.jsonl").write_bytes(b"\n".join(lines))
    counts = import_file(house.ledger, house.names, tmp_path / "hostile.jsonl", "console")
    expected: dict[tuple[str, str, str], bytes] = {}
    refused = 0
    for line in lines:
        try:
            if not line.strip():
                continue
            if len(line) > 64 * 1024:
                raise Refused(413, "too_large", "")
            event = bind(parse_json(line), "console", house.names)
            expected.setdefault(event.key, stored_form(event))
        except Refused:
            refused += 1
    stored = house.ledger.inbox.read(1, 10_000)
    assert [stored_form(one.event) for one in stored] == list(expected.values())
    assert (counts.accepted, counts.reasons.total()) == (len(expected), refused)
