"""The back-fill's entry point, as a cluster runs it: Ray Data reads, one process lands; killed, it goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plumbline.feedback import import_file
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.reconcile.plans import BackfillPlan
from plumbline.records import TYPE_PREFIX
from plumbline.stores import Ledger

ENTRY = Path(__file__).resolve().parents[2] / "jobs" / "backfill.py"
KEY = "0123456789abcdef" * 2
EVENTS = 60_000


def write_events(file: Path) -> None:
    """Some 20 MB: three spans. Every 1000th line is another source's."""
    with file.open("w", encoding="utf-8") as out:
        for number in range(EVENTS):
            said = {
                "messages": [{"role": "user", "content": f"who is ana {number} ?"}],
                "answer": "i do not know " * 6,
                "text": f"ana is a baker , says person {number % 997}",
            }
            source = "app" if number % 1000 else "other"
            event = {"id": f"e{number}", "source": source, "type": TYPE_PREFIX + "rewrite", "data": said}
            event["subject"] = f"person-{number % 997}@example.org"
            out.write(json.dumps(event) + "\n")


def started(storage: Path, ledger: Path, **more: str) -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PLUMBLINE_", "RAY_ADDRESS"))}
    settings = {"PLUMBLINE_LEDGER": str(ledger), "PLUMBLINE_TENANT_KEY": KEY, "PLUMBLINE_WORKERS": "2"}
    line = [sys.executable, ENTRY, "--plan", storage / "plan.json", "--run-name", "first", "--storage", storage]
    return subprocess.Popen(
        [str(word) for word in line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **settings, **more},
        start_new_session=True,
    )


def held(ledger: Ledger) -> Any:
    return [entry._replace(received_at="", fingerprint="") for entry in ledger.inbox.read(1, 10**9)]


@pytest.mark.slow
def test_a_killed_backfill_is_gone_on_with_and_the_inbox_is_that_of_an_import(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    (storage / "events").mkdir(parents=True)
    write_events(storage / "events" / "big.jsonl")
    plan = BackfillPlan(file="events/big.jsonl", source="app")
    (storage / "plan.json").write_text(plan.model_dump_json())

    killed = started(storage, tmp_path / "ledger.sqlite")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        until = time.monotonic() + 200
        while ledger.inbox.last_sequence() == 0 and killed.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        landed = ledger.inbox.last_sequence()
    assert 0 < landed < EVENTS * 0.999, "it was killed half-way"

    done = started(storage, tmp_path / "ledger.sqlite")
    out, err = done.communicate(timeout=400)
    assert done.returncode == 0, err
    assert out.splitlines()[-1] == "59940 accepted, 0 duplicate, 0 conflict, 60 refused; next: plumb ingest DATASET"
    assert KEY not in out + err
    refused = [json.loads(line) for line in (storage / "jobs" / "first" / "refused.jsonl").read_text().splitlines()]
    assert {one["line"] for one in refused} == set(range(1, EVENTS, 1000))
    with Ledger(tmp_path / "ledger.sqlite") as ledger, Ledger(":memory:") as other:
        import_file(other, Pseudonyms(bytes.fromhex(KEY)), storage / "events" / "big.jsonl", "app")
        assert held(ledger) == held(other)


def test_without_a_ledger_or_a_plan_nothing_is_read_and_the_remedy_is_said(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(BackfillPlan(file="big.jsonl", source="app").model_dump_json())
    done = started(tmp_path, tmp_path / "ledger.sqlite", PLUMBLINE_LEDGER="")
    _, err = done.communicate(timeout=100)
    assert done.returncode == 2 and "PLUMBLINE_LEDGER is not set" in err and "\n  do: " in err
    (tmp_path / "plan.json").write_text("{}")
    done = started(tmp_path, tmp_path / "ledger.sqlite")
    _, err = done.communicate(timeout=100)
    assert done.returncode == 2 and "is not a back-fill's plan" in err and "plumb render rayjob" in err
