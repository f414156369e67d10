"""`plumb shadow` as processes, router and worker apart, each killed and started again."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from backends import Backend, backend, ledger  # noqa: F401  (fixtures)

from plumbline.errors import PlumblineError
from plumbline.feedback import ConsentDesk, Pseudonyms
from plumbline.records import ShadowCounts
from plumbline.shadow import Experiment, Spool, replay
from plumbline.stores import Ledger
from shadow.client import ask, chat, until
from shadow.test_spool import record

EXPERIMENT = Experiment(name="e", salt="grain")
ANA = f"s-{1:032x}"
PLUMB = Path(sys.executable).with_name("plumb")


class Shadow:
    """`plumb shadow` as a process, with a ledger in which ana consents."""

    def __init__(self, folder: Path, reference: str, *more: str) -> None:
        self.spool = folder / "spool"
        self.ledger = folder / "ledger.sqlite"
        if not self.ledger.exists():
            with Ledger(self.ledger) as ledger:
                notice = ledger.consent.register_notice("n", "1", "We compare answers to what you write.")
                ConsentDesk(ledger, Pseudonyms(bytes(16))).give(ANA, ["evaluation"], notice)
        command = [str(PLUMB), "shadow", "--experiment", "e", "--salt", "grain", "--reference", reference]
        command += ["--spool", str(self.spool), "--port", "0", "--ledger", str(self.ledger), *more]
        self.log = folder / f"log-{time.monotonic_ns()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, cwd=folder)
        until(lambda: self.process.poll() is not None or "Ctrl-C" in self.log.read_text())
        said = self.log.read_text()
        assert "users ask " in said, said
        self.url = said.split("users ask ")[1].split(";")[0]
        self.monitor = said.split("metrics at ")[1].split(";")[0] if "metrics at" in said else None

    def chat(self, text: str) -> int:
        return ask(self.url, chat(text), x_plumbline_subject=ANA)[0]

    def watched(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.monitor}{path}", timeout=20) as answer:
            return str(answer.read().decode())

    @property
    def worker(self) -> psutil.Process | None:
        """The process that asks the other policy and watches; None while there is none."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return next((one for one in psutil.Process(self.process.pid).children() if alive(one)), None)
        return None

    def counts(self) -> ShadowCounts:
        with contextlib.closing(Spool.existing(self.spool)) as spool:
            return spool.counts()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


Start = Callable[..., Shadow]


@pytest.fixture
def start(tmp_path: Path, reference: Any) -> Iterator[Start]:
    begun: list[Shadow] = []

    def begin(*more: str) -> Shadow:
        begun.append(Shadow(tmp_path, reference.url, *more))
        return begun[-1]

    yield begin
    for shadow in begun:
        if shadow.process.poll() is None:
            shadow.end(signal.SIGKILL)


def test_killed_and_started_again_it_loses_no_record_and_pairs_none_twice(start: Start, aligned: Any) -> None:
    aligned.delay_s = 0.05
    first = start("--aligned", aligned.url)
    assert {first.chat(f"q{i}") for i in range(60)} == {200}
    until(lambda: first.counts().paired >= 10 and first.counts().spooled == 60)
    worker = first.worker
    first.end(signal.SIGKILL)
    assert worker is not None
    until(lambda: not alive(worker))  # it does not outlive its router
    acknowledged = first.counts()
    assert acknowledged.spooled == 60 and acknowledged.balanced

    second = start("--aligned", aligned.url)
    until(lambda: second.counts().paired == 60)
    assert second.end() == 0
    counts = second.counts()
    assert (counts.spooled, counts.paired, counts.pending, counts.shed) == (60, 60, 0, {})
    with contextlib.closing(Spool.existing(second.spool)) as spool:
        texts = Counter(pair.spooled.messages[0].content for pair in spool.pairs())
    assert texts == Counter(f"q{i}" for i in range(60))


def test_a_worker_that_dies_costs_no_user_anything_and_comes_again(start: Start, aligned: Any) -> None:
    run = start("--aligned", aligned.url)
    assert run.chat("before") == 200
    until(lambda: run.counts().paired == 1)
    worker = run.worker
    assert worker is not None and worker.nice() == 10, "users come before their shadow"
    worker.kill()
    assert run.chat("between") == 200
    until(lambda: run.counts().paired == 2)
    until(lambda: json.loads(run.watched("/v1/status"))["counts"]["paired"] == 2)
    assert "a child process ended with code -9" in run.log.read_text()
    assert run.end() == 0


def test_the_worker_counts_refusals_for_the_monitor_and_a_ledgers_address_is_in_no_command_line(
    start: Start, aligned: Any
) -> None:
    aligned.answer = lambda body: "I cannot help with that."
    run = start("--aligned", aligned.url)
    assert run.chat("who is ana?") == 200
    until(lambda: run.counts().paired == 1)
    refused = 'plumbline_shadow_refusals_total{experiment="e",leg="aligned",slice="unlabelled"} 1.0'
    assert refused in run.watched("/metrics")
    assert run.worker is not None and not any(str(run.ledger) in word for word in run.worker.cmdline())
    assert run.end(signal.SIGINT) == 0


def test_users_are_served_by_a_router_that_starts_while_candidate_and_ledger_are_away(start: Start) -> None:
    away = ("--mode", "ab", "--ab-share", "0.5", "--aligned", "http://127.0.0.1:1/v1", "--no-worker")
    router = start(*away, "--users-first", "--ledger", "postgresql://nobody@127.0.0.1:1/none")
    assert (
        "no shadow verdict has passed" in router.log.read_text() and "users get the reference" in router.log.read_text()
    )
    assert {router.chat(f"q{i}") for i in range(5)} == {200}
    until(lambda: router.counts().shed == {"consent_unavailable": 5})
    assert router.end() == 0


def test_a_router_alone_fills_the_spool_and_a_replay_drains_it_later(start: Start, aligned: Any) -> None:
    router = start("--aligned", aligned.url, "--no-worker")
    for i in range(5):
        assert router.chat(f"q{i}") == 200
    assert router.worker is None and router.monitor is None
    assert router.end() == 0
    assert router.counts().pending == 5
    with contextlib.closing(Spool.existing(router.spool)) as spool:
        replay(spool, aligned.url, consent=lambda subject: True)
        assert spool.counts().paired == 5


def test_a_withdrawal_reaches_a_routers_spool_through_the_worker_that_comes_up_again(
    start: Start, aligned: Any
) -> None:
    run = start("--aligned", aligned.url)
    assert run.chat("my secret is blue") == 200
    until(lambda: run.counts().paired == 1)
    with Ledger(run.ledger) as opened:
        ConsentDesk(opened, Pseudonyms(bytes(16))).withdraw(ANA)
    assert run.worker is not None
    run.worker.kill()
    until(lambda: run.counts().shed == {"withdrawn": 1})
    until(lambda: "1 records were erased" in run.log.read_text())
    until(lambda: not any(b"secret is blue" in file.read_bytes() for file in run.spool.iterdir()), seconds=60)
    until(lambda: json.loads(run.watched("/v1/status"))["counts"]["paired"] == 0)  # it shows a look that is young
    seen = json.loads(run.watched("/v1/status"))
    assert seen["swept"] > 0 and seen["counts"]["paired"] == 0
    scraped = urllib.request.urlopen(run.url.replace("/openai/v1", "/metrics"), timeout=20).read().decode()
    (when,) = re.findall(r'plumbline_shadow_swept_timestamp_seconds\{experiment="e"\} (\S+)', scraped)
    assert float(when) >= seen["swept"]
    assert 'plumbline_shadow_pairs_total{experiment="e"} 1.0' in scraped, "a counter does not fall"
    assert run.end() == 0


def test_a_worker_of_its_own_sweeps_all_spools_of_its_volume_by_the_ledger_on_a_server(
    ledger: Ledger,  # noqa: F811
    backend: Backend,  # noqa: F811
    tmp_path: Path,
    aligned: Any,
) -> None:
    """As the chart's container does, which comes up after the withdrawal, beside the spool of an A/A run of before."""
    desk = ConsentDesk(ledger, Pseudonyms(bytes(16)))
    desk.give(ANA, ["evaluation"], ledger.consent.register_notice("n", "1", "We compare answers to what you write."))
    folders = [tmp_path / "volume" / name for name in ("e-shadow", "e-aa")]
    for folder, mode in zip(folders, ("shadow", "aa"), strict=True):
        with contextlib.closing(Spool(folder, EXPERIMENT.model_copy(update={"mode": mode}))) as spool:
            spool.append([record("r1", "my secret is blue", ANA)], consented=1)
    desk.withdraw(ANA)
    command = [str(PLUMB), "shadow", "replay", "--follow", "--spool", str(folders[0]), "--aligned", aligned.url]
    command += ["--spools-below", str(tmp_path / "volume"), "--ledger", str(backend.ledger)]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for folder in folders:
            with contextlib.closing(Spool.existing(folder)) as spool:
                until(lambda: spool.counts().shed == {"withdrawn": 1})
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert not aligned.seen
    for folder in folders:
        assert not any(b"secret is blue" in file.read_bytes() for file in folder.iterdir())


def test_a_spool_of_another_experiment_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path, EXPERIMENT).close()
    from plumbline.shadow import start_shadow

    with pytest.raises(PlumblineError, match="another experiment"):
        start_shadow("http://x/v1", None, tmp_path, EXPERIMENT.model_copy(update={"name": "f"}))
