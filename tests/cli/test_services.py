"""The long-running commands: they say where they answer, refuse what could never work, and end on SIGTERM."""

import contextlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from plumbline.records import Answer, DecoderSettings, SpoolRecord, say
from plumbline.shadow import Experiment, Spool

SOURCES = '{"app": "a token that is long enough"}'


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


def record(request: str) -> SpoolRecord:
    """A request of somebody who is in no ledger."""
    return SpoolRecord(
        request=request,
        experiment="e",
        session="x",
        subject="s-" + "0" * 32,
        messages=(say("user", "hi"),),
        decoder=DecoderSettings(),
        answer=Answer(text="hello", finish="stop", latency_ms=1.0, tokens=1, policy="sha256:0"),
    )


@pytest.fixture
def spool(plumb) -> Iterator[Spool]:
    """A spool with one record that waits for the aligned policy."""
    with contextlib.closing(Spool(plumb.folder / "spool", Experiment(name="e", salt="s"))) as made:
        made.append([record("r1")])
        yield made


def ends_well(process: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> tuple[str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in err, err
    return out, err


@pytest.mark.slow
def test_the_collector_says_where_it_answers_takes_an_event_and_ends_on_sigterm(plumb, wait_for):
    plumb.write("sources.json", SOURCES)
    process = plumb.start("collector", "--sources", "sources.json", "--port", "0")
    try:
        line = wait_for(process, "taking events of app at ")
        url = line.split(" at ")[1].split(";")[0]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(f"{url}/v1/events", data=b"{}", method="POST"))
        assert refused.value.code in (401, 404, 415)
    finally:
        out, err = ends_well(process)
    assert "long enough" not in out + err + line, "a token was printed"


@pytest.mark.parametrize(
    "content", [b"null", b"{}", b"[", b"\xff", b'{"app": 7}', b'{"app": "short"}', b'{"app": {"token": "x"}}']
)
def test_the_collector_takes_no_sources_that_could_not_keep_anybody_out(plumb, content):
    plumb.write("sources.json", content)
    assert plumb("collector", "--sources", "sources.json").faulted("sources.json", "the collector was not started")
    assert "short" not in plumb("collector", "--sources", "sources.json").err
    assert plumb("collector").faulted("no sources are named")
    assert not (plumb.folder / ".plumbline").exists()


@pytest.mark.slow
def test_a_port_in_use_is_named_by_every_service(plumb, taken, tiny_policy):
    plumb.write("sources.json", SOURCES)
    router = ("shadow", "--reference", "http://127.0.0.1:1/v1", "--experiment", "e", "--spool", "spool")
    for command in (("collector", "--sources", "sources.json"), router, ("serve", tiny_policy)):
        assert plumb(*command, "--port", taken).faulted(str(taken), "in use"), command
        assert plumb(*command, "--port", "99999").faulted("--port")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--reference": "notaurl"}, "notaurl"),
        ({"--aligned": "ftp://x"}, "ftp://x"),
        ({"--share": "7"}, "--share"),
        ({"--experiment": "bad name!"}, "bad name!"),
        ({"--experiment": "sources.json"}, "is not a shadow experiment"),
        ({"--experiment": "absent.json"}, "there is no experiment at absent.json"),
        ({"--mode": "ab"}, "ab_share"),
        ({"--mode": "ab", "--ab-share": "0.5"}, "--aligned"),
        ({"--mode": "ab", "--ab-share": "0.5", "--aligned": "http://127.0.0.1:1/v1"}, "no shadow verdict has passed"),
        ({"--ab-share": "0.5"}, "ab_share"),
        ({"--aligned-token-file": "absent"}, "absent"),
        ({"--judge": "sources.json"}, "sources.json"),
    ],
)
def test_a_router_that_could_never_work_is_not_started(plumb, change, words):
    plumb.write("sources.json", SOURCES)
    given = {"--reference": "http://127.0.0.1:1/v1", "--experiment": "e", "--spool": "spool", **change}
    assert plumb("shadow", *(word for pair in given.items() for word in pair)).faulted(words)
    assert not (plumb.folder / "spool").exists()


def test_what_a_shadow_needs_is_asked_for_and_what_goes_elsewhere_is_said(plumb):
    assert plumb("shadow", "--experiment", "e", "--spool", "spool").faulted("Missing option '--reference'")
    assert plumb("shadow", "--spool", "spool", "status", "spool").faulted("--spool must stand behind `status`")
    assert plumb("shadow", "nope").faulted("No such command 'nope'")
    said = plumb("shadow", "replay", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1", "--mode", "aa")
    assert said.faulted("--mode goes with --requests")


def test_a_spool_from_another_version_is_refused_by_every_command(plumb):
    import sqlite3

    (plumb.folder / "spool").mkdir()
    with contextlib.closing(sqlite3.connect(plumb.folder / "spool" / "spool.sqlite")) as old, old:
        old.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        old.execute("INSERT INTO meta VALUES ('format', '1')")
    plumb.import_messages()
    asked = ("--reference", "http://127.0.0.1:1/v1", "--experiment", "e", "--spool", "spool")
    for command in (asked, ("trip", "spool", "--reason", "x", "--actor", "ana"), ("status", "spool")):
        assert plumb("shadow", *command).faulted("another version of Plumbline (format 1, not 2)"), command


@pytest.mark.slow
def test_a_shadow_says_where_users_ask_and_where_to_look_and_ends_on_sigterm(plumb, wait_for):
    urls = ("--reference", "http://127.0.0.1:1/v1", "--aligned", "http://127.0.0.1:2/v1")
    process = plumb.start("shadow", *urls, "--experiment", "e", "--spool", "spool", "--port", "0")
    try:
        line = wait_for(process, "users ask ")
        router, monitor = line.split("users ask ")[1].split(";")[0], line.split("metrics at ")[1].split(";")[0]
        assert line.startswith("experiment e (shadow)")
        with urllib.request.urlopen(f"{router}/models", timeout=10) as answer:
            assert b'"reference"' in answer.read()
        while True:
            with contextlib.suppress(urllib.error.URLError):
                assert b'"pending":0' in urllib.request.urlopen(f"{monitor}/v1/status", timeout=10).read()
                break
            time.sleep(0.05)
        with pytest.raises(urllib.error.HTTPError) as down:
            urllib.request.urlopen(f"{router}/chat/completions", data=b'{"messages": []}', timeout=10)
        assert down.value.code == 502 and b'"unreachable"' in down.value.read()
    finally:
        ends_well(process)


def test_a_policy_that_is_not_there_is_not_served(plumb):
    assert plumb("serve", "./absent", "--port", "0").faulted("./absent")


def test_a_worker_without_its_ledger_sheds_nothing(plumb, spool):
    """With an empty ledger nobody would consent, and every record would be shed and its content erased."""
    given = ("shadow", "replay", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1")
    assert plumb(*given, "--ledger", "elsewhere.sqlite").faulted("there is no ledger at elsewhere.sqlite")
    assert spool.counts().pending == 1
    plumb.import_messages()
    assert plumb("shadow", "replay", "--spool", ".", "--aligned", "http://127.0.0.1:1/v1").faulted()


def test_a_worker_accounts_for_every_record_and_asks_consent_again(plumb, spool):
    plumb.import_messages()
    said = plumb("shadow", "replay", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1")
    assert (said.code, said.out) == (0, "1 spooled = 0 paired + 0 pending + 1 shed: withdrawn\n")


@pytest.mark.slow
def test_a_following_worker_waits_for_the_router_that_makes_its_spool_and_serves_the_monitor(plumb, wait_for):
    plumb.import_messages()
    asked = ("shadow", "replay", "--spool", "later", "--aligned", "http://127.0.0.1:1/v1")
    assert plumb(*asked, "--monitor-port", "0").faulted("--monitor-port goes with --follow")
    process = plumb.start(*asked, "--follow", "--monitor-port", "0")
    try:
        assert "waiting for a router" in wait_for(process, "waiting")
        Spool(plumb.folder / "later", Experiment(name="e", salt="grain")).close()
        monitor = wait_for(process, "metrics at").split("metrics at ")[1].strip()
        while True:
            assert process.poll() is None
            with contextlib.suppress(urllib.error.URLError):
                assert b'"pending":0' in urllib.request.urlopen(f"{monitor}/v1/status", timeout=10).read()
                break
            time.sleep(0.05)
    finally:
        ends_well(process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_following_worker_stays_for_more_until_it_is_told_to_end(plumb, spool, number):
    plumb.import_messages()
    process = plumb.start("shadow", "replay", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1", "--follow")
    for more in ("r2", "r3"):
        while spool.counts().pending:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        spool.append([record(more)])
    while spool.counts().pending:
        time.sleep(0.02)
    out, _ = ends_well(process, number)
    assert out == "3 spooled = 0 paired + 0 pending + 3 shed: withdrawn\n"


REQUESTS = ("--requests", "requests.jsonl", "--spool", "spool", "--experiment", "e", "--consented-by", "the owner")
NOWHERE = ("--reference", "http://127.0.0.1:1/v1", "--aligned", "http://127.0.0.1:2/v1")


def test_a_file_of_requests_is_refused_with_the_numbers_of_its_malformed_lines(plumb):
    plumb.write("requests.jsonl", '{"messages": [{"role": "user", "content": "hi"}]}\n{"messages": 7}\n{\n')
    said = plumb("shadow", "replay", *REQUESTS, *NOWHERE)
    assert said.faulted("holds 2 malformed lines: line 2: ", "line 3: it is not JSON", "nobody was asked")
    assert not (plumb.folder / "spool").exists()
    assert plumb("shadow", "replay", *REQUESTS).faulted("Missing option '--reference'")
    assert plumb("shadow", "replay", *REQUESTS, *NOWHERE, "--mode", "ab").faulted("ab_share")
    assert plumb("shadow", "replay", *REQUESTS, *NOWHERE, "--follow").faulted("leave --follow out")


def test_what_a_person_said_is_erased_from_a_spool_by_name_or_by_withdrawal(plumb, spool):
    plumb.import_messages()
    spool.append([record("r2").model_copy(update={"subject": "s-" + "1" * 32})])
    assert plumb("shadow", "forget", "spool").faulted("name one IDENTITY, or pass --withdrawn")
    assert plumb("shadow", "forget", "spool", "s-" + "0" * 32).out == "1 records of 1 person erased; counts stay\n"
    assert [subject[:4] for subject in spool.subjects()] == ["s-11"]
    assert plumb("shadow", "forget", "spool", "--withdrawn").out == "1 records of 1 person erased; counts stay\n"
    counts = spool.counts()
    assert spool.subjects() == [] and (counts.spooled, counts.shed) == (2, {"withdrawn": 2})


def test_the_kill_switch_is_thrown_and_taken_back_by_hand_with_names_and_reasons(plumb, spool):
    assert plumb("shadow", "trip", "spool", "--reason", "complaints", "--actor", "ana").code == 0
    assert spool.tripped() == "ana: complaints"
    plumb.import_messages()
    asked = plumb("shadow", "replay", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1")
    assert asked.faulted("kill switch", "ana: complaints") and spool.counts().pending == 1
    assert plumb("shadow", "reset", "spool", "--reason", "no harm seen", "--actor", "ben").code == 0
    assert spool.tripped() is None and [one.tripped for one in spool.switched()] == [True, False]
