"""Pairs from the payload logger's events: whatever is lost, doubled or late, every request is accounted for."""

import base64
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plumbline.errors import PlumblineError
from plumbline.records import DecoderSettings, Pair
from plumbline.shadow import Experiment, Spool
from plumbline.shadow.captured import POLICY, Captured, read_captured
from plumbline.shadow.joining import SPOOLED, Joiner, Yield, in_words
from plumbline.shadow.observed import NEVER_PAIRS

EXPERIMENT = Experiment(name="joined", salt="grain")
PINNED = {"max_tokens": 8, "temperature": 0}
SUBJECT = "s-" + "a" * 32
FATES = {
    "whole": "paired",
    "streamed": "paired",
    "left": "paired",
    "sampled": "paired",
    "unseeded": "decoder_open",
    "open": "decoder_open",
    "other_decoder": "decoder_mismatch",
    "other_prompt": "prompt_mismatch",
    "tools": "unsupported",
    "predict": "not_chat",
    "stranger": "no_consent",
    "nobody": "no_consent",
    "cut": "reference_unreadable",
    "aligned_cut": "aligned_unreadable",
}


def whole(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 3}}).encode()


def streamed(text: str, *, done: bool = True) -> bytes:
    deltas: list[dict[str, Any]] = [{"content": word + " "} for word in text.split()]
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b'data: {"cho')


def exchange(id: str, fate: str = "whole", n: int = 0) -> dict[tuple[str, str], Captured]:
    """The four events of one request, as a gateway's mirror and both loggers make them."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": f"question {id}"}], **PINNED}
    body |= {"streamed": {"stream": True}, "left": {"stream": True}, "tools": {"tools": [{}]}}.get(fate, {})
    body |= {"sampled": {"temperature": 1, "top_p": 1, "seed": 3}, "unseeded": {"temperature": 1, "top_p": 1}}.get(
        fate, {}
    )
    body = {"instances": [1]} if fate == "predict" else body
    body = {name: value for name, value in body.items() if fate != "open" or name not in PINNED}
    other = {"role": "user", "content": "something else"}
    copied = body | {"other_decoder": {"max_tokens": 9}, "other_prompt": {"messages": [other]}}.get(fate, {})
    said = {"streamed": streamed("yes it is"), "left": streamed("yes it", done=False), "cut": whole("yes")[:-9]}
    answers = {"reference": said.get(fate, whole("yes it is")), "aligned": whole("no")}
    answers["aligned"] = answers["aligned"][:20] if fate == "aligned_cut" else answers["aligned"]
    who = {"stranger": "s-" + "b" * 32, "nobody": ""}.get(fate, SUBJECT)
    headers = tuple({"x-plumbline-slice": "benign", "x-plumbline-subject": who}.items())
    events = {}
    for leg, asked in (("reference", body), ("aligned", copied)):
        for kind, content, second in (("request", json.dumps(asked).encode(), 0), ("response", answers[leg], 1)):
            time = f"2026-11-21T10:{n:02d}:0{second}.250000000Z"
            events[leg, kind] = Captured(id, kind, leg, content, "predictor", time, f"sha256:{leg}", headers)
    return events


def consents(subject: str) -> bool:
    return subject == SUBJECT


def joined(
    events: Iterable[Captured | str], consent: Callable[[str], bool] = consents
) -> tuple[Yield, list[Pair], dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        found = Joiner("reference", "aligned").add(events).write(Path(folder) / "s", EXPERIMENT, consent=consent)
        spool = Spool.existing(Path(folder) / "s")
        pairs, counts = list(spool.pairs()), spool.counts()
        spool.close()
        assert [file.name for file in Path(folder).iterdir()] == ["s"], "something was left beside it"
    assert found.balanced and counts.balanced and counts.pending == 0
    assert (counts.spooled, counts.paired) == (found.requests, found.paired) == (found.requests, len(pairs))
    return found, pairs, counts.shed


@pytest.mark.parametrize("fate", FATES)
def test_what_becomes_of_a_request_whose_four_events_are_there(fate: str) -> None:
    found, pairs, shed = joined(exchange("r", fate).values())
    expected = FATES[fate]
    assert (found.requests, found.answered_by_both) == (1, 1)
    if expected == "paired":
        assert found.refused == {} and len(pairs) == 1
    else:
        assert found.refused == {expected: 1} and not pairs
        assert shed == {SPOOLED.get(expected, expected): 1}


def test_a_pair_is_the_same_as_the_routers() -> None:
    _, [pair], _ = joined(exchange("r", "streamed").values())
    assert (pair.spooled.request, pair.spooled.slice, pair.spooled.subject) == ("r", "benign", SUBJECT)
    assert pair.spooled.messages[0].content == "question r" and pair.spooled.streamed
    assert pair.spooled.decoder == DecoderSettings(max_tokens=8)
    assert (pair.reference.text, pair.reference.finish, pair.aligned.text) == ("yes it is ", "stop", "no")
    assert (pair.reference.policy, pair.aligned.policy) == ("sha256:reference", "sha256:aligned")
    assert pair.reference.latency_ms == 1000 and pair.aligned.tokens == 3


def test_a_stream_that_the_user_left_is_an_interrupted_answer() -> None:
    _, [pair], _ = joined(exchange("r", "left").values())
    assert (pair.reference.text, pair.reference.finish) == ("yes it ", "client_abort")


def expected_of(fate: str, lost: frozenset[tuple[str, str]]) -> str:
    """The oracle: what is missing on the reference's side comes first, then what was asked and who, then the rest."""
    for leg in ("reference", "aligned"):
        gone = [kind for kind in ("request", "response") if (leg, kind) in lost]
        if gone:
            reason = (
                f"{leg}_{'never_saw' if len(gone) == 2 else 'no_answer' if gone == ['response'] else 'no_question'}"
            )
            early = FATES[fate] in ("unsupported", "not_chat", "no_consent", "reference_unreadable")
            return FATES[fate] if leg == "aligned" and early else reason
    return FATES[fate]


KEYS = [(leg, kind) for leg in ("reference", "aligned") for kind in ("request", "response")]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FATES)), st.frozensets(st.sampled_from(KEYS), max_size=3)),
        min_size=1,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_in_any_order_with_losses_and_duplicates_the_accounting_balances(
    requests: list[tuple[str, frozenset[tuple[str, str]]]], draw: Any
) -> None:
    kept = [
        event
        for n, (fate, lost) in enumerate(requests)
        for key, event in exchange(f"r{n}", fate, n).items()
        if key not in lost
    ]
    copies = [draw.choice(kept) for _ in range(draw.randrange(4))]
    noise: list[Captured | str] = ["not_an_event", replace(kept[0], service="another")]
    shuffled = [*kept, *copies, *noise]
    draw.shuffle(shuffled)

    found, pairs, _ = joined(shuffled)
    expected = Counter(expected_of(fate, lost) for fate, lost in requests)
    assert found.requests == len(requests)
    assert found.paired == expected.pop("paired", 0) and found.refused == dict(expected)
    assert found.duplicates == len(copies) and found.ignored == {"not_an_event": 1, "other_service": 1}
    in_order, as_sent, _ = joined([*kept, *copies, *noise])
    assert (found, pairs) == (in_order, as_sent)


def test_one_event_with_two_bodies_makes_no_pair_whichever_came_first() -> None:
    events = list(exchange("r").values())
    twin = replace(events[1], body=whole("something else"))
    for order in ([*events, twin], [twin, *events]):
        found, pairs, _ = joined(order)
        assert found.refused == {"conflict": 1} and not pairs and found.duplicates == 0


def test_a_consent_check_that_fails_is_no_consent() -> None:
    def broken(subject: str) -> bool:
        raise OSError("the ledger is away")

    found, pairs, _ = joined(exchange("r").values(), broken)
    assert found.refused == {"consent_unavailable": 1} and not pairs


def test_what_the_aligned_side_lacks_counts_against_it_and_what_the_reference_lacks_against_nobody() -> None:
    for leg, reason in (("aligned", "error"), ("reference", "reference_error")):
        events = [event for key, event in exchange("r").items() if key != (leg, "response")]
        found, _, shed = joined(events)
        assert found.refused == {f"{leg}_no_answer": 1} and shed == {reason: 1}
        assert (reason in NEVER_PAIRS) == (leg == "reference"), "what the worst-case bounds are made of"


def test_two_people_in_one_exchange_are_nobody() -> None:
    events = exchange("r")
    other = (("x-plumbline-subject", "s-" + "c" * 32),)
    events["aligned", "request"] = replace(events["aligned", "request"], headers=other)
    assert joined(events.values())[0].refused == {"no_consent": 1}


def test_open_settings_count_as_the_experiments_only_when_that_is_said(tmp_path: Path) -> None:
    joiner = Joiner("reference", "aligned").add(exchange("r", "open").values())
    found = joiner.write(tmp_path / "s", EXPERIMENT, consent=consents, assume_decoder=True)
    assert found.paired == 1
    with pytest.raises(PlumblineError, match="a spool in"):
        joiner.write(tmp_path / "s", EXPERIMENT, consent=consents)
    with pytest.raises(PlumblineError, match="mode ab"):
        assigned = Experiment(name="joined", salt="grain", mode="ab", ab_share=0.5)
        joiner.write(tmp_path / "ab", assigned, consent=consents)
    with pytest.raises(PlumblineError, match="both legs"):
        Joiner("one", "one")


def test_a_plan_that_was_made_before_stays_beside_the_pairs(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    Joiner("reference", "aligned").add(exchange("r").values()).write(tmp_path, EXPERIMENT, consent=consents)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.json", "spool.sqlite"]
    assert len(list(Spool.existing(tmp_path).pairs())) == 1


def test_the_yield_is_said_in_words() -> None:
    events = [*exchange("a").values(), *exchange("b", "open").values(), "no_id"]
    assert list(in_words(joined(events)[0])) == [
        "9 events = 8 used + 0 duplicates + 1 ignored: no_id",
        "2 requests seen = 1 paired + 1 decoder_open",
        "pair yield 50.0%; of 2 requests all four events are there",
    ]


def attributes(event: Captured) -> dict[str, Any]:
    forwarded = {name.title(): [value] for name, value in event.headers}
    return {
        "specversion": "1.0",
        "id": event.id,
        "source": "http://localhost:9081/",
        "type": f"org.kubeflow.serving.inference.{event.kind}",
        "time": event.time,
        "inferenceservicename": event.service,
        "component": event.component,
        "metadata": json.dumps(forwarded),
        "annotations": json.dumps({POLICY: event.policy}),
    }


def structured(event: Captured) -> bytes:
    """The label is the request's, whatever the body is."""
    data: dict[str, Any] = {"data_base64": base64.b64encode(event.body).decode()}
    if event.body.startswith(b"{"):
        data = {"data": json.loads(event.body)}
    return json.dumps({**attributes(event), "datacontenttype": "application/json", **data}).encode() + b"\n"


def binary(event: Captured) -> bytes:
    headers = {f"Ce-{name.title()}": value for name, value in attributes(event).items()}
    return json.dumps({"headers": headers, "body": event.body.decode()}).encode() + b"\n"


def stored(event: Captured) -> bytes:
    one = {
        "Id": event.id,
        "ReqType": f"org.kubeflow.serving.inference.{event.kind}",
        "Bytes": base64.b64encode(event.body).decode(),
        "InferenceService": event.service,
        "Component": event.component,
        "Metadata": {name.title(): [value] for name, value in event.headers},
        "Annotations": {POLICY: event.policy},
    }
    return json.dumps([one]).encode() + b"\n"


def wire(event: Captured) -> bytes:
    headers = {f"Ce-{name.title()}": value for name, value in attributes(event).items()}
    headers |= {"Content-Type": "application/json", "Content-Length": str(len(event.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /events HTTP/1.1\r\n{head}\r\n".encode() + event.body + b"\n"


@pytest.mark.parametrize("written", [structured, binary, stored, wire])
def test_every_form_of_capture_gives_the_same_pairs(tmp_path: Path, written: Callable[[Captured], bytes]) -> None:
    events = [event for fate in ("whole", "streamed", "left") for event in exchange(fate, fate).values()]
    (tmp_path / "deep").mkdir()
    for number, event in enumerate(events):
        (tmp_path / "deep" / f"{number}.log").write_bytes(written(event))
    found, pairs, _ = joined(read_captured([tmp_path]))
    direct = joined(events)[1]
    assert found.ignored == {} and found.paired == 3
    assert {pair.spooled.request: pair.reference.text for pair in pairs} == {
        pair.spooled.request: pair.reference.text for pair in direct
    }
    if written is not stored:  # which keeps no time
        assert pairs == direct


def test_what_is_no_event_is_counted_by_reason(tmp_path: Path) -> None:
    good = [*exchange("r").values()]
    file = tmp_path / "events.jsonl"
    foreign = {**attributes(good[0]), "type": "dev.plumbline.feedback.rating", "data": {}}
    lines = [b"{", b"[1]", b'{"data": {}, "id": 3}', json.dumps(foreign).encode(), b"", b'{"Bytes": "?", "ReqType": 1}']
    nameless = json.dumps({**attributes(good[0]), "id": "", "data": {}}).encode()
    cut_off = wire(good[3])[:-4]
    file.write_bytes(b"\n".join([*lines, nameless]) + b"\n" + b"".join(structured(one) for one in good[:3]) + cut_off)
    found, pairs, _ = joined(read_captured([file]))
    assert found.ignored == {"cut_off": 1, "no_id": 1, "not_an_event": 3, "other_type": 2}
    assert (found.events, found.used, found.refused) == (10, 3, {"aligned_no_answer": 1}) and not pairs
    with pytest.raises(PlumblineError, match="cannot be read"):
        joined(read_captured([tmp_path / "away"]))
