"""Ten thousand hostile events at both doors: none crashes a door, and each is answered with a reason."""

import http.client
import json
import socket
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hostile_events import STRUCTURED, Attack, attacks, good
from plumbline.feedback import CollectorConfig, import_file, start_collector
from plumbline.feedback.collect.access import Buckets
from plumbline.feedback.collect.collector import BATCH
from plumbline.feedback.collect.strict_json import Refused, parse_json

TOKEN = "token of the console"
OPEN = CollectorConfig({"console": TOKEN}, source_rate=1e6, source_burst=10**6, subject_rate=1e6, subject_burst=10**6)


def post(connection: http.client.HTTPConnection, attack: Attack) -> tuple[int, dict[str, Any]]:
    connection.putrequest("POST", "/v1/events", skip_accept_encoding=True)
    for name, value in {**attack.headers, "Authorization": f"Bearer {TOKEN}".encode()}.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(attack.body)))
    connection.endheaders(attack.body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_six_thousand_hostile_requests_are_answered_one_by_one_with_a_reason(house: Any) -> None:
    outcomes: Counter[str] = Counter()
    longest = 0.0
    with start_collector(house.ledger, house.names, OPEN) as collector:
        connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=30)
        for attack in attacks(seed=1, count=6000):
            started = time.perf_counter()
            status, answer = post(connection, attack)
            longest = max(longest, time.perf_counter() - started)
            outcome = answer.get("outcome")
            assert status in (200, 202, 409) if outcome else 400 <= status < 500, (attack.kind, status, answer)
            assert outcome is None or attack.lawful, (attack.kind, attack.body[:300])
            assert outcome or (answer["reason"] and "shines" not in answer["detail"])
            outcomes[outcome or answer["reason"]] += 1
        assert post(connection, Attack("good", json.dumps(good("last")).encode()))[0] == 202  # and it is well
    assert outcomes["accepted"] < 600 and len(outcomes) > 15, outcomes
    assert longest < 5.0
    refused = Counter({reason: n for (_, reason), n in house.ledger.inbox.refused().items()})
    assert refused == Counter(
        {name: n for name, n in outcomes.items() if name not in ("accepted", "duplicate", "conflict")}
    )


def readable(body: bytes) -> bool:
    """Whether it is JSON that can stand in a batch: what is no JSON spoils the batch as a whole."""
    try:
        parse_json(b"[" + body + b"]")
    except Refused:
        return False
    return len(body) < 20_000


def test_two_thousand_hostile_events_in_batches_leave_the_good_ones_in_place(house: Any) -> None:
    bodies = [attack.body for attack in attacks(seed=2, count=9000) if readable(attack.body)][:2000]
    assert len(bodies) == 2000
    with start_collector(house.ledger, house.names, OPEN) as collector:
        connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=60)
        for start in range(0, 2000, 100):
            batch = [*bodies[start : start + 100], json.dumps(good(f"good-{start}")).encode()]
            attack = Attack("batch", b"[" + b",".join(batch) + b"]", {"Content-Type": BATCH.encode()})
            status, answer = post(connection, attack)
            assert status == 207 and answer["results"][-1]["status"] == 202
            assert len(answer["results"]) == 101
            assert all(result.get("outcome") or result["reason"] for result in answer["results"])
    ids = {queued.event.id for queued in house.ledger.inbox.read(1, 10_000)}
    assert {f"good-{start}" for start in range(0, 2000, 100)} <= ids


def test_two_thousand_hostile_lines_of_a_file_are_refused_by_number_and_reason(house: Any, tmp_path: Path) -> None:
    made = list(attacks(seed=3, count=2000))
    path = tmp_path / "hostile.jsonl"
    lines = [attack.body.replace(b"\n", b" ").replace(b"\r", b" ") for attack in made]
    path.write_bytes(b"\n".join([*lines, json.dumps(good("last")).encode()]))
    counts = import_file(house.ledger, house.names, path, "console")
    blank = sum(not line.strip() for line in lines)
    assert counts.taken + counts.reasons.total() + blank == 2001
    assert counts.reasons.total() > 1500 and len(counts.refused) == 1000
    assert counts.accepted >= 1 and house.ledger.inbox.last_sequence() == counts.accepted
    assert {r for (_, r) in house.ledger.inbox.refused()} == set(counts.reasons)


def test_a_line_of_a_hundred_megabytes_is_passed_over_without_being_held(house: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(good("before")).encode() + b"\n" + b'{"id": "')
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + json.dumps(good("after")).encode() + b"\n")
    tracemalloc.start()
    counts = import_file(house.ledger, house.names, path, "console")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (counts.accepted, counts.refused) == (2, [(2, "too_large: an event has at most 65536 bytes")])
    assert peak < 5 * 2**20


def raw(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        connection.settimeout(10)
        return connection.recv(65536)


def test_requests_that_smuggle_or_inject_at_the_level_of_http_get_an_error_and_nothing_else(house: Any) -> None:
    body = json.dumps(good("x")).encode()
    token = f"Authorization: Bearer {TOKEN}\r\n".encode()
    head = b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: " + STRUCTURED.encode() + b"\r\n"
    size = f"Content-Length: {len(body)}\r\n".encode()
    attempts = [
        head + size + token + b"X-Plumbline-Identity: a\nX-Evil: 1\r\n\r\n" + body,
        head + token + b"Content-Length: -1\r\n\r\n" + body,
        head + token + size + b"Content-Length: 3\r\n\r\n" + body,
        head + token + size + b"Transfer-Encoding: chunked\r\n\r\n" + body,
        head + token + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n" + body,
        head + token + size + b"X: " + b"y" * 100_000 + b"\r\n\r\n" + body,
        head + size + b"Authorization: Bearer \xff\xfe\r\n\r\n" + body,
        head + size + b"Authorization: Basic !!!!\r\n\r\n" + body,
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"GET /v1/events HTTP/9.9\r\n\r\n",
    ]
    with start_collector(house.ledger, house.names, OPEN) as collector:
        for attempt in attempts:
            answer = raw(collector.port, attempt)
            assert answer[9:10] == b"4", (attempt[:80], answer[:200])
            assert b"X-Evil" not in answer.split(b"\r\n\r\n")[0]
        connection = http.client.HTTPConnection("127.0.0.1", collector.port, timeout=30)
        assert post(connection, Attack("good", body))[0] == 202
    assert house.ledger.inbox.last_sequence() == 1


def test_a_crowd_of_strangers_does_not_slow_the_rates_down() -> None:
    now = 0.0
    buckets = Buckets(50.0, 1000, clock=lambda: now)
    started = time.perf_counter()
    for number in range(200_000):
        now += 0.0001
        assert buckets.take(f"person {number}")
    assert time.perf_counter() - started < 4.0
    assert len(buckets._new) + len(buckets._old) <= 200_000
    now += 1000.0
    buckets.take("somebody")
    assert len(buckets._new) + len(buckets._old) == 1


def test_a_bucket_that_was_emptied_stays_empty_when_names_are_forgotten() -> None:
    now = 0.0
    buckets = Buckets(1.0, 10, clock=lambda: now)
    taken = 0
    for _ in range(400):
        now += 0.1
        taken += buckets.take("flood")
    assert taken == 10 + 40 - 1 or taken == 10 + 40


@pytest.mark.parametrize(
    "head",
    [f"GET /v1/consent HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {TOKEN}{'a' * 9000}",
     f"GET /v1/consent HTTP/1.1\r\nHost: c\r\nAuthorization: Bearer {TOKEN}\x01",
     f"GET /{TOKEN} x HTTP/1.1"],
    ids=["a long header", "a damaged header", "a damaged line"],
)  # fmt: skip
def test_the_log_does_not_repeat_the_token_of_a_request_that_cannot_be_read(
    house: Any, caplog: pytest.LogCaptureFixture, head: str
) -> None:
    with (
        start_collector(house.ledger, house.names, OPEN) as collector,
        socket.create_connection(("127.0.0.1", collector.port), timeout=20) as connection,
    ):
        connection.sendall(head.encode("latin-1") + b"\r\n\r\n")
        while connection.recv(65536):  # until it closes: by then it has written its log
            pass
    assert "a request was refused as malformed" in caplog.text
    assert TOKEN not in caplog.text and "127.0.0.1" not in caplog.text
