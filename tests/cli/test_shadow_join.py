"""`plumb shadow join`: from the payload logger's events to pairs, by the ledger's consent, with the yield stated."""

import base64
import json

import pytest

from plumbline.shadow import Spool


@pytest.fixture
def asked(plumb):
    """Ana consents and ben does not; both asked once. The logger's four events of each, as CloudEvents a line each."""
    plumb.write("notice.txt", "we compare answers to what you write")
    assert plumb("consent", "notice", "add", "n@1", "notice.txt").code == 0
    assert plumb("consent", "give", "ana", "--notice", "n@1").code == 0
    for leg in ("reference", "aligned"):
        plumb.write(f"{leg}.jsonl", "\n".join(json.dumps(one) for who in ("ana", "ben") for one in events(leg, who)))
    return plumb


def events(leg, who):
    pinned = {"max_tokens": 4, "temperature": 0}
    asked = {"model": leg, "messages": [{"role": "user", "content": f"{who} asks"}], **pinned}
    message = {"role": "assistant", "content": f"{leg} says"}
    said = {"model": leg, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    for kind, body in (("request", asked), ("response", said)):
        yield {
            "specversion": "1.0",
            "id": f"id-{who}",
            "source": "http://localhost:9081/",
            "type": f"org.kubeflow.serving.inference.{kind}",
            "inferenceservicename": f"chat-{leg}",
            "metadata": json.dumps({"X-Plumbline-Identity": [who]}),
            "data_base64": base64.b64encode(json.dumps(body).encode()).decode(),
        }


def join(plumb, *more):
    return plumb("shadow", "join", *more, "--spool", "joined")


def test_files_of_both_services_give_the_pairs_of_those_who_consent(asked):
    legs = ("--reference", "chat-reference", "--aligned", "chat-aligned")
    found = join(asked, "reference.jsonl", "aligned.jsonl", *legs)
    assert found.code == 0, found.err
    assert found.out.splitlines() == [
        "8 events = 8 used + 0 duplicates",
        "2 requests seen = 1 paired + 1 no_consent",
        "pair yield 50.0%; of 2 requests all four events are there",
    ]
    spool = Spool.existing(asked.folder / "joined")
    (pair,) = spool.pairs()
    assert (pair.reference.text, pair.aligned.text) == ("reference says", "aligned says")
    assert pair.spooled.messages[0].content == "ana asks" and pair.spooled.subject.startswith("s-")
    assert spool.counts().shed == {"no_consent": 1}
    spool.close()
    assert "ben" not in (asked.folder / "joined" / "spool.sqlite").read_bytes().decode("latin-1")


def test_the_inbox_gives_them_too_where_the_settings_may_be_assumed(asked):
    for leg in ("reference", "aligned"):
        assert asked("feedback", "import", f"{leg}.jsonl", "--source", f"{leg}-logger").code == 0
    names = ("--inbox", "--reference", "reference-logger", "--aligned", "aligned-logger", "--json")
    refused = join(asked, *names).json
    assert refused["refused"] == {"decoder_open": 1, "no_consent": 1} and refused["share"] == 0
    found = asked("shadow", "join", *names, "--assume-decoder", "--spool", "again").json
    assert (found["requests"], found["paired"], found["refused"]) == (2, 1, {"no_consent": 1})


def test_what_cannot_be_joined_is_a_fault_with_a_remedy(asked):
    legs = ("--reference", "chat-reference", "--aligned", "chat-aligned")
    assert join(asked, *legs).faulted("either FILES or --inbox")
    assert join(asked, "away.jsonl", *legs).faulted("cannot be read")
    assert join(asked, "aligned.jsonl", "--reference", "a", "--aligned", "b").faulted("none of 4 events")
    assert join(asked, "aligned.jsonl", "--reference", "a", "--aligned", "a").faulted("both legs")
    assert join(asked, "aligned.jsonl", *legs, "--experiment", "no name").faulted("no experiment")
    assert not (asked.folder / "joined").exists()
    assert join(asked, "aligned.jsonl", *legs).code == 0
    assert join(asked, "aligned.jsonl", *legs).faulted("already")
