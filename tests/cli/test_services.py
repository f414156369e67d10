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
from plumbline.shadow import Experiment, ShadowRun, Spool

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
        reference=Answer(text="hello", finish="stop", latency_ms=1.0, tokens=1, policy="sha256:0"),
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
    router = ("router", "--reference", "http://127.0.0.1:1/v1", "--experiment", "e", "--spool", "spool")
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
    ],
)
def test_a_router_that_could_never_work_is_not_started(plumb, change, words):
    plumb.write("sources.json", SOURCES)
    given = {"--reference": "http://127.0.0.1:1/v1", "--experiment": "e", "--spool": "spool", **change}
    assert plumb("router", *(word for pair in given.items() for word in pair)).faulted(words)
    assert not (plumb.folder / "spool").exists()


def test_the_router_gives_its_worker_a_judge_so_that_refusals_are_counted(plumb, monkeypatch):
    started = []
    monkeypatch.setattr(ShadowRun, "serve", lambda run: started.append(run))  # all but the endless part
    urls = ("--reference", "http://127.0.0.1:1/v1", "--aligned", "http://127.0.0.1:2/v1")
    assert plumb("router", *urls, "--experiment", "e", "--spool", "spool", "--port", "0").code == 0
    judge = started[0].worker.judge
    assert (judge("I cannot help with that."), judge("Find its id with ps.")) == ("refuse", "comply")


def test_a_policy_that_is_not_there_is_not_served(plumb):
    assert plumb("serve", "./absent", "--port", "0").faulted("./absent")


def test_a_worker_without_its_ledger_sheds_nothing(plumb, spool):
    """With an empty ledger nobody would consent, and every record would be shed and its content erased."""
    given = ("shadow-worker", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1")
    assert plumb(*given, "--ledger", "elsewhere.sqlite").faulted("there is no ledger at elsewhere.sqlite")
    assert spool.counts().pending == 1
    plumb.import_messages()
    assert plumb("shadow-worker", "--spool", ".", "--aligned", "http://127.0.0.1:1/v1").faulted()


def test_a_worker_accounts_for_every_record_and_asks_consent_again(plumb, spool):
    plumb.import_messages()
    said = plumb("shadow-worker", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1")
    assert (said.code, said.out) == (0, "1 spooled = 0 paired + 0 pending + 1 shed: withdrawn\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_following_worker_stays_for_more_until_it_is_told_to_end(plumb, spool, number):
    plumb.import_messages()
    process = plumb.start("shadow-worker", "--spool", "spool", "--aligned", "http://127.0.0.1:1/v1", "--follow")
    for more in ("r2", "r3"):
        while spool.counts().pending:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        spool.append([record(more)])
    while spool.counts().pending:
        time.sleep(0.02)
    out, _ = ends_well(process, number)
    assert out == "3 spooled = 0 paired + 0 pending + 3 shed: withdrawn\n"
