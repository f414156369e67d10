"""The standalone router and worker, killed and started again."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from plumbline.errors import PlumblineError
from plumbline.records import ShadowCounts
from plumbline.shadow import Experiment, Spool, replay
from plumbline.shadow.__main__ import consent_list, main

EXPERIMENT = Experiment(name="e", salt="grain")


class Standalone:
    """`python -m plumbline.shadow` as a process."""

    def __init__(self, folder: Path, reference: str, aligned: str | None, port: int) -> None:
        self.port = port
        self.spool = folder / "spool"
        (folder / "experiment.json").write_text(EXPERIMENT.model_dump_json())
        (folder / "consent").write_text("ana\n")
        command = [sys.executable, "-m", "plumbline.shadow", "--experiment", str(folder / "experiment.json")]
        command += ["--reference", reference, "--spool", str(self.spool), "--port", str(port)]
        command += ["--consent", str(folder / "consent"), *(["--aligned", aligned] if aligned else [])]
        self.process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while self.get("/healthz") is None:
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def get(self, path: str) -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except OSError:
            return None
        finally:
            connection.close()

    def chat(self, text: str) -> int:
        body = {"model": "reference", "messages": [{"role": "user", "content": text}]}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"x-plumbline-subject": "ana"})
        status = connection.getresponse().status
        connection.close()
        return status

    def counts(self) -> ShadowCounts:
        spool = Spool.existing(self.spool)
        try:
            return spool.counts()
        finally:
            spool.close()

    def wait_for(self, paired: int) -> None:
        deadline = time.monotonic() + 30
        while self.counts().paired < paired:
            assert time.monotonic() < deadline, self.counts()
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@pytest.fixture
def port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_killed_and_started_again_it_loses_no_record_and_pairs_none_twice(
    tmp_path: Path, reference: Any, aligned: Any, port: int
) -> None:
    aligned.delay_s = 0.05
    first = Standalone(tmp_path, reference.url, aligned.url, port)
    assert {first.chat(f"q{i}") for i in range(60)} == {200}
    first.wait_for(10)
    deadline = time.monotonic() + 10
    while first.counts().spooled < 60 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.kill()
    acknowledged = first.counts()
    assert acknowledged.spooled == 60 and acknowledged.balanced

    second = Standalone(tmp_path, reference.url, aligned.url, port)
    second.wait_for(60)
    assert second.stop() == 0
    counts = second.counts()
    assert (counts.spooled, counts.paired, counts.pending, counts.shed) == (60, 60, 0, {})
    spool = Spool.existing(second.spool)
    texts = Counter(pair.spooled.messages[0].content for pair in spool.pairs())
    spool.close()
    assert texts == Counter(f"q{i}" for i in range(60))


def test_a_router_alone_fills_the_spool_and_a_replay_drains_it_later(
    tmp_path: Path, reference: Any, aligned: Any, port: int
) -> None:
    router = Standalone(tmp_path, reference.url, None, port)
    for i in range(5):
        assert router.chat(f"q{i}") == 200
    assert router.stop() == 0
    assert router.counts().pending == 5
    spool = Spool.existing(router.spool)
    replay(spool, aligned.url, consent=lambda subject: True)
    assert spool.counts().paired == 5
    spool.close()


def test_what_is_wrong_with_the_command_is_said_with_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.json").write_text('{"name": "e"}')
    arguments = ["--experiment", str(tmp_path / "e.json"), "--reference", "http://x/v1", "--spool", str(tmp_path / "s")]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "is not a shadow experiment" in capsys.readouterr().err


def test_a_consent_file_is_read_anew_and_its_loss_is_no_consent(tmp_path: Path) -> None:
    import os

    file = tmp_path / "consent"
    file.write_text("ana\n")
    consents = consent_list(file)
    assert consents("ana") and not consents("ben")
    file.write_text("ben\n")
    os.utime(file, (1, 1))
    assert consents("ben") and not consents("ana")
    file.unlink()
    with pytest.raises(OSError):
        consents("ben")
    assert not consent_list(None)("ana")


def test_a_spool_of_another_experiment_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path, EXPERIMENT).close()
    from plumbline.shadow import start_shadow

    with pytest.raises(PlumblineError, match="another experiment"):
        start_shadow("http://x/v1", None, tmp_path, EXPERIMENT.model_copy(update={"name": "f"}))
