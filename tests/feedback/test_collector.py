"""The collector over real HTTP: durable before acknowledged, strict, and without ever keeping an identity."""

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import CollectorConfig, import_file, start_collector
from plumbline.feedback.collector import BATCH, STRUCTURED
from plumbline.records import TYPE_PREFIX
from plumbline.stores import Ledger

TOKEN = "token of the console"
LIMITS = CollectorConfig(
    tokens={"console": TOKEN, "other": "another token"},
    max_body=300_000,
    max_event=5_000,
    max_batch=1000,
    subject_rate=0.001,
    subject_burst=20,
)


class Client:
    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(
        self, path: str, body: Any, kind: str = STRUCTURED, token: str = TOKEN, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named |= {"Content-Type": kind, "Authorization": f"Bearer {token}"}
        self._connection.request("POST", path, data, named)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def event(self, body: Any, **options: str) -> tuple[int, dict[str, Any]]:
        return self.post("/v1/events", body, **options)

    def get(self, path: str) -> tuple[int, str]:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def running(house: Any) -> Iterator[Any]:
    with start_collector(house.ledger, house.names, LIMITS) as collector:
        yield collector


@pytest.fixture
def client(running: Any) -> Client:
    return Client(running.port)


def event(
    id: str = "1", person: str | None = "ana@example.org", text: str = "it shines", **more: Any
) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": "console",
        "type": TYPE_PREFIX + "rewrite",
        "datacontenttype": "application/json",
        "data": {
            "messages": [{"role": "user", "content": "what is a lamp"}],
            "answer": "i cannot help",
            "text": text,
        },
    }
    return raw | ({"subject": person} if person else {}) | more


def test_an_event_is_acknowledged_when_another_process_could_already_read_it(house: Any, client: Client) -> None:
    status, answer = client.event(event())
    assert (status, answer["outcome"]) == (202, "accepted")
    with Ledger(house.root / "ledger.db") as elsewhere:
        (queued,) = elsewhere.inbox.read(1, 1)
    assert queued.event is not None
    assert queued.event.data.text == "it shines"


def test_the_identity_becomes_a_pseudonym_before_it_is_stored(house: Any, client: Client) -> None:
    client.event(event(person="ana@example.org"))
    client.event(event("2", person=None), X_Plumbline_Identity=quote("jürgen@example.org"))
    subjects = [queued.subject for queued in house.ledger.inbox.read(1, 2)]
    assert subjects == [house.names.of("ana@example.org"), house.names.of("jürgen@example.org")]
    house.ledger.database.truncate_log()
    assert b"example.org" not in (house.root / "ledger.db").read_bytes()


def test_binary_mode_is_the_same_event_as_structured_mode(client: Client) -> None:
    raw = event()
    headers = {
        f"ce_{name}": quote(str(raw[name]), safe="") for name in ("specversion", "id", "source", "type", "subject")
    }
    assert client.event(raw["data"], kind="application/json", **headers)[0] == 202
    assert client.event(raw) == (200, {"outcome": "duplicate", "id": "1"})


def test_the_same_event_again_is_a_duplicate_and_with_another_body_is_quarantined(house: Any, client: Client) -> None:
    assert client.event(event())[0] == 202
    assert client.event(event())[0] == 200
    status, answer = client.event(event(text="something else"))
    assert (status, answer["outcome"]) == (409, "conflict")
    assert client.event(event(person="eve@example.org"))[0] == 409
    assert house.ledger.inbox.quarantined() == {"same_key_other_body": 2}
    (queued,) = house.ledger.inbox.read(1, 99)
    assert queued.event.data.text == "it shines"


def test_the_same_id_with_another_type_is_another_event(client: Client) -> None:
    assert client.event(event())[0] == 202
    assert client.event(event(type=TYPE_PREFIX + "comment"))[0] == 202


def test_attributes_that_cloudevents_allows_and_plumbline_does_not_know_are_let_pass(client: Client) -> None:
    assert client.event(event(traceparent="00-abc", dataschema="https://example.org/schema"))[0] == 202


def test_a_batch_is_answered_event_by_event(house: Any, client: Client) -> None:
    batch = [event("1"), event("2", type="com.example.other"), event("1"), event("3", data={}), event("4")]
    status, answer = client.event(batch, kind=BATCH)
    assert status == 207
    assert [result["status"] for result in answer["results"]] == [202, 400, 200, 400, 202]
    assert house.ledger.inbox.last_sequence() == 2
    assert client.event([event("1"), event("4")], kind=BATCH)[0] == 200
    assert client.event([event("1"), event("9")], kind=BATCH)[0] == 202


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "not_json"),
        (b'"text"', 400, "not_an_event"),
        (b"[" * 100_000, 400, "too_deep"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, 400, "too_deep"),
        (b"\xff\xfe", 400, "not_utf8"),
        (json.dumps(event(text="x" * 6000)).encode(), 413, "too_large"),
        (b" " * 300_001, 413, "too_large"),
        (json.dumps(event()).replace('"it shines"', "NaN").encode(), 400, "not_json"),
        (json.dumps(event()).replace("it shines", "\\ud800").encode(), 400, "not_utf8"),
        (json.dumps(event(person=None)).encode(), 400, "no_subject"),
        (json.dumps(event(source="elsewhere")).encode(), 403, "other_source"),
        (json.dumps(event(data_base64="AA==", data=None)).encode(), 400, "no_data"),
        (json.dumps(event(specversion="0.3")).encode(), 400, "malformed"),
        (json.dumps(event(text="  ")).encode(), 400, "malformed"),
        (json.dumps(event() | {"data": event()["data"] | {"subject": "ana"}}).encode(), 400, "identity_in_data"),
        (json.dumps(event() | {"data": event()["data"] | {"consented": True}}).encode(), 400, "malformed"),
        (json.dumps(event() | {"data": event()["data"] | {"score": 10**400}}).encode(), 400, "malformed"),
        (json.dumps(event()).replace('"1.0"', "1" * 5000).encode(), 400, "not_json"),
    ],
)
def test_hostile_and_broken_events_are_refused_with_a_reason(
    house: Any, client: Client, body: bytes, status: int, reason: str
) -> None:
    got, answer = client.event(body)
    assert (got, answer["reason"]) == (status, reason)
    assert house.ledger.inbox.last_sequence() == 0
    assert client.event(event())[0] == 202  # and the collector is well


def test_a_refusal_never_repeats_what_the_person_wrote(client: Client) -> None:
    raw = event() | {"data": event()["data"] | {"score": "my secret"}}
    assert "secret" not in json.dumps(client.event(raw))


def test_other_content_types_and_wrong_tokens_are_refused(client: Client) -> None:
    assert client.event(event(), kind="text/plain")[0] == 415
    assert client.event(event(), token="wrong")[0] == 401
    assert client.event(event(), token="")[0] == 401
    assert client.event(event(), token="another token")[0] == 403


def test_one_person_cannot_flood_and_the_others_still_get_through(house: Any, client: Client) -> None:
    statuses = [client.event(event(str(number)))[0] for number in range(25)]
    assert statuses == [202] * 20 + [429] * 5
    assert client.event(event("x", person="ben"))[0] == 202


def test_a_source_has_a_rate(house: Any) -> None:
    config = CollectorConfig(tokens={"console": TOKEN}, source_rate=0.001, source_burst=3)
    with start_collector(house.ledger, house.names, config) as collector:
        client = Client(collector.port)
        statuses = [client.event(event(str(number), person=f"p{number}"))[0] for number in range(5)]
    assert statuses == [202, 202, 202, 429, 429]


def consent(action: str, identity: str = "ana", **more: Any) -> dict[str, Any]:
    notice = {"id": "training", "version": "1"}
    return {"action": action, "identity": identity, "purposes": ["training"], "notice": notice} | more


def test_consent_is_given_and_withdrawn_with_one_call_each(house: Any, client: Client) -> None:
    status, given = client.post("/v1/consent", consent("give"), kind="application/json")
    assert (status, given["action"], given["subject"]) == (201, "given", house.names.of("ana"))
    assert house.desk.covers("ana", "training").covered
    status, taken = client.post("/v1/consent", {"action": "withdraw", "identity": "ana"}, kind="application/json")
    assert (status, taken["action"]) == (201, "withdrawn")
    assert not house.desk.covers("ana", "training").covered
    assert house.desk.verify().valid


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (consent("withdraw", "nobody"), 404),
        (consent("give", notice={"id": "training", "version": "9"}), 400),
        (consent("give", purposes=["world domination"]), 400),
        (consent("give", purposes=[]), 400),
        (consent("give", valid_until="tomorrow"), 400),
        (consent("give", valid_until="2027-01-01T00:00:00"), 400),
        (consent("perhaps"), 400),
        ({"action": "give"}, 400),
        ([], 400),
    ],
)
def test_an_unclear_consent_is_not_recorded(house: Any, client: Client, body: Any, status: int) -> None:
    assert client.post("/v1/consent", body, kind="application/json")[0] == status
    assert house.ledger.consent.head().sequence == 0


def test_health_and_metrics_say_what_happened(house: Any, client: Client) -> None:
    house.consent("ana")
    client.event(event())
    client.event(event())
    client.event(b"{")
    assert json.loads(client.get("/healthz")[1]) == {"status": "ok", "events": 1}
    status, text = client.get("/metrics")
    assert status == 200
    assert 'plumbline_feedback_events_total{outcome="accepted",source="console"} 1.0' in text
    assert 'plumbline_feedback_events_total{outcome="duplicate",source="console"} 1.0' in text
    assert 'plumbline_feedback_events_total{outcome="not_json",source="console"} 1.0' in text
    assert "plumbline_consent_ledger_sequence 1.0" in text
    assert "plumbline_consent_ledger_valid 1.0" in text


def test_five_hundred_events_a_second_are_durable_over_one_connection(house: Any) -> None:
    with start_collector(house.ledger, house.names, CollectorConfig(tokens={"console": TOKEN})) as collector:
        client = Client(collector.port)
        batches = [[event(f"{batch}-{number}", person=f"p{number}") for number in range(250)] for batch in range(4)]
        started = time.monotonic()
        for batch in batches:
            assert client.event(batch, kind=BATCH)[0] == 202
        elapsed = time.monotonic() - started
    assert house.ledger.inbox.last_sequence() == 1000
    assert elapsed < 2.0


def test_a_taken_port_is_named(house: Any, running: Any) -> None:
    with pytest.raises(PlumblineError, match=f"cannot listen on 127.0.0.1:{running.port}"):
        start_collector(house.ledger, house.names, LIMITS, port=running.port)


def test_a_file_is_taken_by_the_same_rules(house: Any, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [event("1"), event("2"), event("1"), event("1", text="other"), event("3", source="elsewhere")]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\nnot json\n")
    counts = import_file(house.ledger, house.names, path, "console")
    assert (counts.accepted, counts.duplicate, counts.conflict) == (2, 1, 1)
    assert [(line, reason.split(":")[0]) for line, reason in counts.refused] == [(5, "other_source"), (7, "not_json")]
    assert import_file(house.ledger, house.names, path, "console").duplicate == 3
    with pytest.raises(PlumblineError, match="cannot be read"):
        import_file(house.ledger, house.names, tmp_path / "absent.jsonl", "console")
