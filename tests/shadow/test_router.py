"""What users see through the router, and what the router keeps of it."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import DecoderSettings
from plumbline.shadow import Experiment, ShadowRun, session_pseudonym, start_shadow
from plumbline.shadow.recorder import Served, read_served
from shadow.client import ask, chat

EXPERIMENT = Experiment(name="e", salt="grain", max_body=20_000, max_record=8_000)
Start = Callable[..., ShadowRun]


@pytest.fixture
def start(reference: Any, aligned: Any, tmp_path: Path) -> Iterator[Start]:
    runs: list[ShadowRun] = []

    def begin(experiment: Experiment = EXPERIMENT, *, shadow: bool = True, **more: Any) -> ShadowRun:
        settings: dict[str, Any] = {"consent": lambda subject: subject.startswith("yes"), "deadline_s": 5.0} | more
        runs.append(start_shadow(reference.url, aligned.url if shadow else None, tmp_path, experiment, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        run.close()


def test_users_get_the_references_bytes_and_headers(start: Start, reference: Any) -> None:
    run = start()
    for body in (chat(), chat(stream=True)):
        pinned = body | {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": 0}
        direct = ask(reference.url, pinned)
        through = ask(run.openai_url, body, x_plumbline_subject="yes1", x_request_id="req-1")
        assert through[0] == direct[0] == 200
        assert through[2] == direct[2]
        assert through[1]["content-type"] == direct[1]["content-type"]
        assert through[1]["x-of-the-policy"] == "kept"
        assert through[1]["x-request-id"] == "req-1"


def test_a_pair_holds_both_answers_to_the_same_request(start: Start, reference: Any, aligned: Any) -> None:
    run = start()
    headers = {"x_plumbline_subject": "yes1", "x_plumbline_session": "s1", "x_plumbline_slice": "benign"}
    ask(run.openai_url, chat(temperature=0.7), **headers)
    assert run.drain()
    (pair,) = run.pairs()
    assert pair.reference.text.startswith("reference says")
    assert pair.aligned.text.startswith("aligned says")
    assert pair.aligned.text.split()[-1] == pair.reference.text.split()[-1]
    assert (pair.spooled.slice, pair.spooled.subject) == ("benign", "yes1")
    assert pair.spooled.session == session_pseudonym("grain", "s1")
    shared = ("messages", "max_tokens", "temperature", "top_p", "seed")
    (_, first), (_, second) = reference.seen[0], aligned.seen[0]
    assert {k: first[k] for k in shared} == {k: second[k] for k in shared}
    assert pair.spooled.decoder == DecoderSettings(temperature=0.7, seed=first["seed"])
    assert first["seed"] != 0, "a request that samples and names no seed gets its own"
    assert (first["model"], second["model"]) == ("reference", "aligned")


def test_credentials_go_to_the_reference_and_nowhere_else(
    start: Start, reference: Any, aligned: Any, tmp_path: Path
) -> None:
    run = start()
    ask(run.openai_url, chat(), authorization="Bearer sk-secret", cookie="c=secret", x_plumbline_subject="yes1")
    assert run.drain()
    assert reference.seen[0][0]["authorization"] == "Bearer sk-secret"
    assert "x-plumbline-subject" not in reference.seen[0][0]
    shadow = aligned.seen[0][0]
    assert "authorization" not in shadow and "cookie" not in shadow
    assert shadow["x-plumbline-leg"] == "aligned-shadow"
    assert shadow["ce-id"] == reference.seen[0][0]["ce-id"]
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_stream_passes_as_it_comes_and_is_recorded_whole(start: Start, reference: Any) -> None:
    reference.answer = lambda body: "one two three four five"
    reference.delay_s = 0.1
    run = start()
    connection = http.client.HTTPConnection("127.0.0.1", run.port, timeout=20)
    headers = {"x-plumbline-subject": "yes1"}
    begun = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(chat(stream=True)), headers)
    response = connection.getresponse()
    response.readline()
    first = time.monotonic() - begun
    response.read()
    last = time.monotonic() - begun
    connection.close()
    assert last - first > 0.25, "the first piece waited for the last"
    assert run.drain()
    (pair,) = run.pairs()
    assert pair.reference.text == "one two three four five"
    assert (pair.reference.finish, pair.reference.tokens) == ("stop", 5)


@pytest.mark.parametrize("mode", ["error", "wrong", "hang", "garbage", "dead"])
def test_a_failing_aligned_policy_changes_nothing_for_users_and_loses_no_record(
    start: Start, reference: Any, aligned: Any, mode: str
) -> None:
    if mode == "dead":
        aligned.stop()
    aligned.mode = mode
    run = start(deadline_s=0.5)
    answers = [ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="yes1") for i in range(6)]
    assert {status for status, _, _ in answers} == {200}
    assert all(json.loads(body)["choices"][0]["message"]["content"] for _, _, body in answers)
    run.drain(2.0)
    counts = run.counts()
    assert counts.balanced and counts.spooled == 6 and counts.paired == 0
    expected = {"hang": "deadline", "dead": None}.get(mode, "error")
    if expected is None:
        assert counts.pending == 6
        aligned.mode = "ok"
        aligned.start()  # the same port: the candidate comes back
        assert run.drain(20)
        assert run.counts().paired == 6
    else:
        assert counts.shed == {expected: 6}


def test_nobody_is_recorded_without_consent(start: Start, tmp_path: Path) -> None:
    def consent(subject: str) -> bool:
        if subject == "broken":
            raise OSError("the ledger is unreachable")
        return subject == "yes1"

    run = start(consent=consent)
    for subject in ("no1", "", "broken", "yes1"):
        ask(run.openai_url, chat(f"words of <{subject}>"), x_plumbline_subject=subject)
    assert run.drain()
    counts = run.counts()
    assert counts.shed == {"consent_unavailable": 1, "no_consent": 2}
    assert (counts.spooled, counts.paired) == (4, 1)
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"words of <yes1>" in kept and b"words of <no1>" not in kept and b"words of <broken>" not in kept


def test_consent_is_denied_by_default(reference: Any, aligned: Any, tmp_path: Path) -> None:
    with start_shadow(reference.url, aligned.url, tmp_path, EXPERIMENT) as run:
        assert ask(run.openai_url, chat(), x_plumbline_subject="yes1")[0] == 200
        assert run.drain()
        assert run.counts().shed == {"no_consent": 1} and not aligned.seen


def test_consent_that_is_gone_at_pairing_erases_the_record(start: Start, aligned: Any, tmp_path: Path) -> None:
    asked: list[str] = []

    def consent(subject: str) -> bool:
        asked.append(subject)
        return len(asked) == 1

    run = start(consent=consent)
    ask(run.openai_url, chat("soon regretted"), x_plumbline_subject="yes1")
    assert run.drain()
    assert run.counts().shed == {"withdrawn": 1} and not aligned.seen
    assert not run.pairs()


def test_only_sampled_sessions_are_recorded_and_all_are_served(start: Start) -> None:
    run = start(EXPERIMENT.model_copy(update={"share": 0.5}))
    for i in range(40):
        headers = {"x_plumbline_subject": "yes1", "x_plumbline_session": f"s{i % 20}"}
        assert ask(run.openai_url, chat(f"q{i}"), **headers)[0] == 200
    assert run.drain()
    sessions = [pair.spooled.session for pair in run.pairs()]
    assert 0 < len(sessions) < 40
    assert all(sessions.count(session) == 2 for session in sessions), "a session was sampled in part"


def test_a_client_that_leaves_mid_stream_is_kept_as_such_and_frees_the_reference(start: Start, reference: Any) -> None:
    reference.answer = lambda body: " ".join(["word"] * 200)
    reference.delay_s = 0.02
    run = start()
    body = json.dumps(chat(stream=True)).encode()
    with socket.create_connection(("127.0.0.1", run.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-plumbline-subject: yes1\r\ncontent-length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )  # fmt: skip
        seen = b""
        while seen.count(b"word") < 3:
            seen += raw.recv(4096)
    assert run.drain()
    (pair,) = run.pairs()
    assert pair.reference.finish == "client_abort"
    assert 3 <= pair.reference.text.count("word") < 100
    assert reference.left == 1


def test_a_client_that_leaves_before_any_answer_is_counted(start: Start, reference: Any) -> None:
    reference.delay_s = 2.0
    run = start()
    body = json.dumps(chat()).encode()
    with socket.create_connection(("127.0.0.1", run.port)) as raw:
        raw.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-plumbline-subject: yes1\r\ncontent-length: "
            + str(len(body)).encode() + b"\r\n\r\n" + body
        )  # fmt: skip
        time.sleep(0.3)
    time.sleep(0.2)
    assert run.drain()
    assert run.counts().shed == {"client_abort": 1}
    assert b'status="client_abort"} 1.0' in scrape(run)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "user", "content": "x", "name": "ana"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
    ],
)
def test_what_a_pair_cannot_hold_is_served_and_counted(start: Start, reference: Any, more: dict[str, Any]) -> None:
    reference.answer = lambda body: "served"
    run = start()
    assert ask(run.openai_url, chat() | more, x_plumbline_subject="yes1")[0] == 200
    assert all(reference.seen[0][1][name] == value for name, value in more.items())
    assert run.drain()
    assert run.counts().shed == {"unsupported": 1}


def test_a_record_over_the_size_limit_is_served_and_counted(start: Start) -> None:
    run = start()
    assert ask(run.openai_url, chat("x" * 9000), x_plumbline_subject="yes1")[0] == 200
    assert run.drain()
    assert run.counts().shed == {"oversize": 1}


def test_a_full_spool_serves_and_counts(start: Start) -> None:
    run = start(EXPERIMENT.model_copy(update={"max_pending": 3}), shadow=False)
    for i in range(8):
        assert ask(run.openai_url, chat(f"q{i}"), x_plumbline_subject="yes1")[0] == 200
    assert run.drain()
    counts = run.counts()
    assert (counts.spooled, counts.pending, counts.shed) == (8, 3, {"spool_full": 5})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, None),
        (b"[1]", 400, None),
        (b"[" * 19_000, 400, None),
        (b"x" * 20_001, 413, "body_too_large"),
        (json.dumps(chat() | {"model": "aligned"}).encode(), 404, "model_not_found"),
    ],
)
def test_bad_requests_get_openais_error_shape(
    start: Start, reference: Any, body: bytes, status: int, code: str | None
) -> None:
    run = start()
    seen, headers, answer = ask(run.openai_url, body)
    assert seen == status and headers["x-request-id"]
    assert json.loads(answer)["error"]["code"] == code
    assert not reference.seen and run.counts().spooled == 0


def test_the_references_own_errors_pass_unchanged_and_are_not_compared(start: Start, reference: Any) -> None:
    run = start()
    for mode, status in (("error", 500), ("wrong", 400)):
        reference.mode = mode
        direct = ask(reference.url, chat())
        through = ask(run.openai_url, chat(), x_plumbline_subject="yes1")
        assert (through[0], through[2]) == (status, direct[2])
    assert run.drain() and run.counts().spooled == 0
    assert ask(run.openai_url, chat(temperature=99))[0] == 400


def test_a_redirect_of_the_reference_is_the_users_to_follow(start: Start, reference: Any, aligned: Any) -> None:
    reference.mode, reference.elsewhere = "moved", aligned.url
    run = start(worker=False)
    status, headers, _ = ask(run.openai_url, chat(), x_plumbline_subject="ana", authorization="Bearer secret")
    assert (status, headers["location"]) == (307, f"{aligned.url}/chat/completions")
    assert not aligned.seen


def test_an_answer_too_deep_to_read_is_no_answer(start: Start, reference: Any) -> None:
    run = start(worker=False)
    reference.mode = "nested"
    assert ask(run.openai_url, chat(), x_plumbline_subject="yes1")[0] == 200
    assert run.drain() and run.counts().shed == {"reference_error": 1}


def test_a_dead_reference_is_a_502_and_comes_back(start: Start, reference: Any) -> None:
    run = start()
    assert ask(run.openai_url, chat())[0] == 200
    reference.stop()
    status, _, body = ask(run.openai_url, chat())
    assert status == 502 and json.loads(body)["error"]["code"] == "unreachable"
    reference.start()
    assert ask(run.openai_url, chat())[0] == 200


def test_a_stream_that_the_reference_breaks_is_broken_for_the_user_and_shed(start: Start, reference: Any) -> None:
    reference.mode = "cut"
    reference.answer = lambda body: "one two three"
    run = start()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(run.openai_url, chat(stream=True), x_plumbline_subject="yes1")
    assert run.drain()
    assert run.counts().shed == {"reference_error": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"data: ",
        b'{"choices": 3}',
        b'{"choices": [{"message": {"content": "\\ud800"}}]}',
        b"data: []",
        b"\xff\xfe",
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_bytes_that_hold_no_answer_are_no_answer(body: bytes, streamed: bool) -> None:
    served = Served("r", "s", "ana", "a", (), DecoderSettings(), body, streamed, False, 1.0, "")
    assert read_served(served) is None


def test_other_paths_do_not_reach_the_reference(start: Start, reference: Any) -> None:
    run = start()
    for path in ("/v2/repository/models/reference/unload", "/v1/models/reference:predict", "/v1/chat/completions/x"):
        status, _, _ = ask(run.url + "/", chat(), path=path[1:])
        assert status == 404
    connection = http.client.HTTPConnection("127.0.0.1", run.port)
    connection.request("GET", "/v1/chat/completions")
    assert connection.getresponse().status == 405
    connection.close()
    assert not reference.seen


def scrape(run: ShadowRun, path: str = "/metrics") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", run.port)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body


def test_health_models_and_metrics_are_the_routers_own(start: Start) -> None:
    judged: list[str] = []

    def judge(text: str) -> str:
        judged.append(text)
        return "refuse" if text.startswith("aligned") else "comply"

    run = start(judge=judge)
    ask(run.openai_url, chat(), x_plumbline_subject="yes1", x_plumbline_slice="benign")
    assert run.drain()
    assert json.loads(scrape(run, "/healthz")) == {"status": "ok"}
    assert [model["id"] for model in json.loads(scrape(run, "/v1/models"))["data"]] == ["reference"]
    assert json.loads(scrape(run, "/openai/v1/models/reference"))["id"] == "reference"
    assert json.loads(scrape(run, "/v1/models/aligned"))["error"]["code"] == "model_not_found"
    lines = scrape(run)
    for line in (
        b'plumbline_router_requests_total{experiment="e",status="2xx"} ',
        b'plumbline_shadow_spooled_total{experiment="e"} 1.0',
        b'plumbline_shadow_pairs_total{experiment="e"} 1.0',
        b'plumbline_shadow_pending{experiment="e"} 0.0',
        b'plumbline_shadow_refusals_total{experiment="e",leg="aligned",slice="benign"} 1.0',
        b'plumbline_shadow_refusals_total{experiment="e",leg="reference",slice="benign"} 0.0',
    ):
        assert line in lines
    assert len(judged) == 2


def test_a_port_in_use_is_an_error_with_a_remedy(reference: Any, tmp_path: Path) -> None:
    with pytest.raises(PlumblineError, match="cannot be taken") as refused:
        start_shadow(reference.url, None, tmp_path, EXPERIMENT, port=reference.port)
    assert "another --port" in refused.value.remedy
