"""The collector over real HTTP: durable before acknowledged, strict, and without ever keeping an identity."""

import base64
import functools
import http.client
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from plumbline.errors import PlumblineError
from plumbline.feedback import CollectorConfig, import_file, start_collector
from plumbline.feedback.collect.access import Source, signature
from plumbline.feedback.collect.collector import BATCH, STRUCTURED
from plumbline.feedback.collect.strict_json import Refused
from plumbline.feedback.collect.writer import PORTION, Writer
from plumbline.metrics import Metrics
from plumbline.records import TYPE_PREFIX
from plumbline.stores import Ledger, Receipt

TOKEN = "token of the console"
MANAGER = Source(TOKEN, may=frozenset({"events", "consent"}))
LIMITS = CollectorConfig(
    sources={"console": MANAGER, "other": "another token"},
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

    def ask(self, path: str, token: str = TOKEN, **headers: str) -> tuple[int, dict[str, Any]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("GET", path, None, named | {"Authorization": f"Bearer {token}"})
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
        (json.dumps(event(data_base64="AA==", data=None)).encode(), 400, "not_json"),
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
    config = CollectorConfig({"console": TOKEN}, source_rate=0.001, source_burst=3)
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
    with start_collector(house.ledger, house.names, CollectorConfig({"console": TOKEN})) as collector:
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
    assert counts.reasons == {"other_source": 1, "not_json": 1}
    assert import_file(house.ledger, house.names, path, "console").duplicate == 3
    with pytest.raises(PlumblineError, match="cannot be read"):
        import_file(house.ledger, house.names, tmp_path / "absent.jsonl", "console")


# --- the forms of a CloudEvent ----------------------------------------------------------------------------------------


def test_data_in_base_64_is_the_same_event(client: Client) -> None:
    raw = event()
    data = base64.b64encode(json.dumps(raw.pop("data")).encode()).decode()
    assert client.event(raw | {"data_base64": data})[0] == 202
    assert client.event(event())[0] == 200
    assert client.event(raw | {"data_base64": "?"})[1]["reason"] == "bad_base64"
    assert client.event(event() | {"data_base64": data})[1]["reason"] == "bad_base64"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.acme+json", ""])
def test_every_media_type_that_is_json_is_taken(client: Client, kind: str) -> None:
    assert client.event(event(datacontenttype=kind or None))[0] == 202


def test_a_plain_text_comment_is_refused_with_what_to_do_instead(client: Client) -> None:
    comment = event(type=TYPE_PREFIX + "comment", datacontenttype="text/plain", data="nice")
    status, answer = client.event(comment)
    assert (status, answer["reason"]) == (415, "not_json_data") and "data.text" in answer["detail"]
    headers = {"ce_id": "1", "ce_source": "console", "ce_specversion": "1.0", "ce_type": TYPE_PREFIX + "comment"}
    assert client.event(b"nice", kind="text/plain", **headers)[1]["reason"] == "not_json_data"


def test_a_key_named_twice_is_refused_and_json_inside_a_text_is_not(client: Client) -> None:
    assert client.event(json.dumps(event()).replace('"answer"', '"answer": "x", "answer"').encode()) == (
        400,
        {"reason": "duplicate_key", "detail": "an object in the JSON names a key twice"},
    )
    assert client.event(event(text='{"a": 1, "a" : 2} ":": "'))[0] == 202


def test_an_approval_is_never_taken_from_outside(house: Any, client: Client) -> None:
    forged = event(type="dev.plumbline.review.approved")
    forged["data"] |= {"original": 1, "approved_by": ["s-" + "0" * 32]}
    assert client.event(forged)[1]["reason"] == "internal_type"
    assert client.event(forged | {"type": TYPE_PREFIX + "rating"})[0] == 400
    assert house.ledger.inbox.last_sequence() == 0


# --- what KServe's logger sends ---------------------------------------------------------------------------------------


def logger_headers(part: str, **more: str) -> dict[str, str]:
    """As the agent beside a KServe predictor sends them: binary mode, the pod as the source, one id for both."""
    return {
        "ce_id": "7f2b",
        "ce_specversion": "1.0",
        "ce_type": f"org.kubeflow.serving.inference.{part}",
        "ce_source": "http://localhost:9081/",
        "ce_time": "2026-01-01T00:00:00Z",
        "ce_inferenceservicename": "assistant-reference",
        "ce_namespace": "default",
        "ce_component": "predictor",
        **more,
    }


ASKED = {"model": "assistant", "messages": [{"role": "developer", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "what is a lamp"}]}], "temperature": 0.2}  # fmt: skip  # noqa: E501
ANSWERED = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "a light"}}]}


def test_logged_traffic_is_kept_as_context_under_the_consent_of_whom_the_header_names(
    house: Any, client: Client
) -> None:
    said = {"ce_metadata": json.dumps({"X-Plumbline-Identity": [quote("jürgen@example.org")]})}
    for part, body in (("request", ASKED), ("response", ANSWERED)):
        assert client.event(body, kind="application/json", **logger_headers(part, **said))[0] == 202
    asked, answered = (queued.event for queued in house.ledger.inbox.read(1, 2))
    assert (asked.kind, answered.kind) == ("request", "response")
    assert asked.id == answered.id and asked.source == answered.source == "console"
    assert [(m.role, m.content) for m in asked.data.messages] == [("system", "be kind"), ("user", "what is a lamp")]
    assert answered.data.answer == "a light" and asked.data.policy == "assistant"
    assert asked.data.subject == answered.data.subject == house.names.of("jürgen@example.org")


def test_logged_traffic_of_nobody_is_refused(client: Client) -> None:
    assert client.event(ASKED, kind="application/json", **logger_headers("request"))[1]["reason"] == "no_subject"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"instances": [[1, 2]]}', "predict_body"),
        (b'{"inputs": [{"name": "x", "data": [1]}]}', "predict_body"),
        (b'{"outputs": []}', "predict_body"),
        (b'data: {"choices": []}\n\ndata: [DONE]\n\n', "streamed_body"),
        (b'{"choices": [{"text": "completion"}]}', "not_chat"),
        (b'{"choices": [{"message": {"role": "assistant", "content": null, "tool_calls": []}}]}', "not_text"),
    ],
)
def test_logged_bodies_that_hold_no_conversation_are_refused(client: Client, body: bytes, reason: str) -> None:
    named = logger_headers("response", ce_subject="ana")
    assert client.event(body, kind="application/json", **named)[1]["reason"] == reason


def test_a_logger_that_knows_only_urls_signs_in_by_basic_authentication(client: Client) -> None:
    def basic(who: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(who.encode()).decode()}

    connection = client._connection
    for who, status in ((f"console:{TOKEN}", 202), (f"other:{TOKEN}", 401), ("console:wrong", 401), ("console", 401)):
        connection.request("POST", "/v1/events", json.dumps(event()), basic(who) | {"Content-Type": STRUCTURED})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status, who


# --- signatures -------------------------------------------------------------------------------------------------------

SECRET = "a secret that is long enough"


@pytest.fixture
def signing(house: Any) -> Iterator[Client]:
    config = CollectorConfig({"console": Source(TOKEN, SECRET, frozenset({"events", "consent"}))})
    with start_collector(house.ledger, house.names, config) as collector:
        yield Client(collector.port)


def signed(body: bytes, *, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    stamp = f"{time.time() if at is None else at:.6f}"
    return {"X_Plumbline_Timestamp": stamp, "X_Plumbline_Signature": signature(secret, stamp, body)}


def test_a_source_with_a_secret_must_sign_body_and_time(signing: Client) -> None:
    body = json.dumps(event()).encode()
    assert signing.event(body)[1]["reason"] == "unsigned"
    assert signing.event(body, **signed(body, secret="some other secret!"))[1]["reason"] == "bad_signature"
    assert signing.event(body + b" ", **signed(body))[1]["reason"] == "bad_signature"
    assert signing.event(body, **signed(body, at=time.time() - 301))[1]["reason"] == "stale_signature"
    assert signing.event(body, **signed(body, at=time.time() + 301))[1]["reason"] == "stale_signature"
    for stamp in ("nan", "inf", "-1e999", "soon", "9" * 40):
        odd = {"X_Plumbline_Timestamp": stamp, "X_Plumbline_Signature": signature(SECRET, stamp, body)}
        assert signing.event(body, **odd)[0] == 401, stamp
    named = signed(body)
    assert signing.event(body, **named)[0] == 202
    assert signing.event(body, **named)[0] == 200, "who repeats it changes nothing"


def test_what_the_signature_does_not_cover_is_not_believed(signing: Client) -> None:
    body = json.dumps(event()["data"]).encode()
    binary = {"ce_id": "1", "ce_source": "console", "ce_specversion": "1.0", "ce_type": TYPE_PREFIX + "rewrite"}
    assert signing.event(body, kind="application/json", **binary, **signed(body))[1]["reason"] == "unsigned_headers"
    body = json.dumps(event()).encode()
    assert signing.event(body, X_Plumbline_Identity="eve", **signed(body))[1]["reason"] == "unsigned_headers"


def test_consent_that_somebody_overheard_and_repeats_after_the_withdrawal_is_stale(house: Any, signing: Client) -> None:
    house.now = datetime.now(UTC)
    give, leave = (json.dumps(consent(action)).encode() for action in ("give", "withdraw"))
    overheard = signed(give)
    post = functools.partial(signing.post, "/v1/consent", kind="application/json")
    assert post(give, **overheard)[0] == 201
    house.now = datetime.now(UTC)
    assert post(leave, **signed(leave))[0] == 201
    assert post(give, **overheard)[1]["reason"] == "stale_consent"
    assert not house.desk.covers("ana", "training").covered
    assert post(give, **signed(give))[0] == 201
    ask = json.dumps({"action": "show", "identity": "ana"}).encode()
    assert len(post(ask, **signed(ask))[1]["entries"]) == 3


def test_secrets_show_in_no_representation() -> None:
    shown = repr(CollectorConfig({"console": Source(TOKEN, SECRET)}))
    assert TOKEN not in shown and SECRET not in shown


# --- consent, and who may manage it -----------------------------------------------------------------------------------


@pytest.fixture
def three(house: Any) -> Iterator[Client]:
    """A source for its own people, one for anybody's, one for events only."""
    both: Any = frozenset({"events", "consent"})
    config = CollectorConfig(
        {"console": Source(TOKEN, may=both), "desk": Source("d" * 20, may=both, consent_for="any"), "plain": "p" * 20}
    )
    with start_collector(house.ledger, house.names, config) as collector:
        yield Client(collector.port)


def manage(client: Client, action: str, who: str, token: str = TOKEN) -> tuple[int, str]:
    status, answer = client.post("/v1/consent", consent(action, who), kind="application/json", token=token)
    return status, answer.get("action") or answer["reason"]


def test_a_source_that_may_not_manage_consent_gets_403_everywhere(three: Client) -> None:
    assert manage(three, "give", "ana", "p" * 20) == (403, "may_not_send_consent")
    for path in ("/v1/consent", "/v1/consent/head", "/v1/consent/verify"):
        assert three.ask(path, "p" * 20)[0] == 403
        assert three.ask(path, "nobody's token")[0] == 401


def test_a_source_manages_its_own_people_and_nobody_elses(house: Any, three: Client) -> None:
    three.event(event(person="ana"))
    three.event(event(source="plain", person="ben"), token="p" * 20)
    house.consent("cem")
    assert manage(three, "give", "ana") == (201, "given")
    assert manage(three, "give", "new") == (201, "given"), "it is the first to speak of them"
    assert manage(three, "give", "ben") == (403, "not_yours")
    assert manage(three, "withdraw", "cem") == (403, "not_yours")
    assert manage(three, "give", "cem") == (403, "not_yours")
    assert three.ask("/v1/consent", X_Plumbline_Identity="cem")[1]["reason"] == "not_yours"
    three.event(event("9", person="cem"))
    assert manage(three, "withdraw", "cem") == (403, "not_yours"), "an event does not take over who was known before"
    assert house.desk.covers("cem", "training").covered
    for who in ("ana", "new", "cem"):
        assert manage(three, "withdraw", who, "d" * 20) == (201, "withdrawn"), "consent_for any"
    assert house.desk.verify().valid


def test_an_event_about_somebody_elses_person_makes_them_nobody_elses(three: Client) -> None:
    three.event(event(source="plain", person="ben"), token="p" * 20)
    assert three.event(event("mine", person="ben"))[0] == 202
    assert manage(three, "withdraw", "ben") == (403, "not_yours")


def test_consent_is_shown_refused_reaffirmed_and_withdrawn_twice_over_http(house: Any, three: Client) -> None:
    assert manage(three, "refuse", "ana") == (201, "refused")
    assert manage(three, "reaffirm", "ana") == (400, "consent_refused")
    assert manage(three, "give", "ana") == (201, "given")
    assert manage(three, "reaffirm", "ana") == (201, "reaffirmed")
    assert manage(three, "withdraw", "ana") == (201, "withdrawn")
    assert manage(three, "withdraw", "ana") == (200, "withdrawn")
    shown = three.ask("/v1/consent", X_Plumbline_Identity="ana")[1]
    assert [entry["action"] for entry in shown["entries"]] == ["refused", "given", "reaffirmed", "withdrawn"]
    assert three.ask("/v1/consent", X_Plumbline_Identity="stranger") == (200, {"entries": []})
    assert three.ask("/v1/consent")[0] == 400
    assert three.ask("/v1/consent", X_Plumbline_Identity="%20")[0] == 400


def test_a_minors_consent_is_recorded_and_covers_only_with_a_guardian(house: Any, three: Client) -> None:
    minor = consent("give", "kid", terms={"age_band": "minor", "jurisdiction": "DE"})
    assert three.post("/v1/consent", minor, kind="application/json")[0] == 201
    assert house.desk.covers("kid", "training").reason == "minor_without_guardian"
    assert three.post("/v1/consent", minor | {"guardian": "mum"}, kind="application/json")[0] == 201
    assert house.desk.covers("kid", "training").covered
    assert house.desk.show("kid")[-1].terms.guardian == house.names.of("mum")
    assert three.post("/v1/consent", minor | {"terms": {"jurisdiction": "Germany!"}}, kind="application/json")[0] == 400


def test_head_and_verification_are_asked_over_http_and_a_pin_is_checked(house: Any, three: Client) -> None:
    manage(three, "give", "ana")
    head = three.ask("/v1/consent/head")[1]
    assert head == {"sequence": 1, "digest": house.ledger.consent.head().digest}
    pin = f"?sequence=1&digest={head['digest']}"
    assert three.ask(f"/v1/consent/verify{pin}")[1]["valid"]
    manage(three, "withdraw", "ana")
    found = three.ask(f"/v1/consent/verify{pin}")[1]
    assert (found["valid"], found["sequence"]) == (True, 2) and found["last_full"]
    assert not three.ask("/v1/consent/verify?sequence=2&digest=sha256:0")[1]["valid"]
    assert three.ask("/v1/consent/verify?sequence=x")[0] == 400
    for trigger in ("consent_no_update",):
        house.ledger.database.execute(f"DROP TRIGGER {trigger}")
    house.ledger.database.execute("UPDATE consent SET subject = 's-eve' WHERE sequence = 2")
    assert three.ask("/v1/consent/verify")[1]["problem"] == "entry 2 was altered"


# --- under load -------------------------------------------------------------------------------------------------------


def test_the_writer_puts_what_is_urgent_between_two_portions_of_a_batch(house: Any) -> None:
    order: list[str] = []

    class Slow:
        """An inbox that notes when it is written to; the real one is tested everywhere else."""

        def append(self, events: Any) -> list[Receipt]:
            order.append(f"{len(events)} events")
            time.sleep(0.01)
            return [Receipt("accepted", 1) for _ in events]

    writer = Writer(Slow(), Metrics())  # type: ignore[arg-type]
    one = house.rewrite("ana", "what", "that")
    batch = writer.events([one] * (4 * PORTION))
    time.sleep(0.005)
    leaves = writer.urgent(lambda: order.append("withdrawal"))
    leaves.result(timeout=5)
    assert len(batch.result(timeout=5)) == 4 * PORTION
    assert order.index("withdrawal") <= 2 and order.count(f"{PORTION} events") == 4
    writer.close()


def test_a_full_ledger_is_said_to_each_sender_and_the_collector_goes_on(house: Any, client: Client) -> None:
    house.ledger.database.execute("CREATE TRIGGER full BEFORE INSERT ON inbox BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert client.event(event())[0] == 503
    house.ledger.database.execute("DROP TRIGGER full")
    assert client.event(event())[0] == 202


def test_too_much_that_waits_is_refused_and_not_held_in_memory(house: Any) -> None:
    held = threading.Event()
    writer = Writer(house.ledger.inbox, Metrics())
    writer.urgent(held.wait)
    one = house.rewrite("ana", "what", "that")
    waiting = [writer.events([one] * 5000) for _ in range(4)]
    with pytest.raises(Refused, match="wait to be written"):
        writer.events([one])
    held.set()
    assert {len(done.result(timeout=30)) for done in waiting} == {5000}
    writer.events([one]).result(timeout=5)
    writer.close()


def test_refusals_are_counted_in_the_ledger_with_their_reason_and_without_their_words(
    house: Any, client: Client
) -> None:
    client.event(b"{ my secret")
    client.event(event(), token="wrong")
    deadline = time.monotonic() + 60
    while len(house.ledger.inbox.refused()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert house.ledger.inbox.refused() == {("console", "not_json"): 1, ("unknown", "unauthenticated"): 1}
