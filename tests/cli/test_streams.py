"""The terminal around a command: closed pipes, full disks, Ctrl-C."""

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("behaviors",), ("behaviors", "--json"), ("--help",)], ids=" ".join)
def test_a_reader_that_leaves_is_no_fault_and_no_verdict(plumb, command):
    """`plumb ... | head -1`: 141, as any program that SIGPIPE ends; never 1, which is REGRESSED."""
    reading, writing = os.pipe()
    os.close(reading)
    process = plumb.start(*command, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_a_full_device_behind_standard_output_is_said(plumb):
    device = Path("/dev/full")
    if not device.is_char_device():
        pytest.skip("this machine has no /dev/full")
    with device.open("w") as full:
        process = plumb.start("behaviors", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "No space left on device" in err and "Traceback" not in err


def test_a_full_disk_publishes_nothing_and_the_same_command_then_succeeds(plumb):
    plumb.import_messages()  # the ledger is there; what comes next does not fit
    lines = [{"messages": [{"role": r, "content": f"{r} {'long ' * 400_000}"} for r in ("user", "assistant")]}]
    file = plumb.write("big.jsonl", "\n".join(map(json.dumps, lines)))
    command = ("dataset", "import", file, "--format", "messages", "--dataset", "big", "--licence", "MIT")

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))

    process = plumb.start(*command, preexec_fn=small_disk)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == "" and "Traceback" not in err
    assert "no space left" in err and "  do: free space" in err
    assert "big" not in plumb("dataset", "list").out
    assert list((plumb.folder / ".plumbline/blobs/tmp").iterdir()) == []
    assert plumb(*command).code == 0
    assert plumb("dataset", "verify", "big").code == 0


@pytest.mark.slow
def test_a_training_stopped_by_ctrl_c_goes_on_to_the_very_policy_it_would_have_been(plumb, tiny_policy):
    plumb.import_messages()
    objective = plumb.objective(tiny_policy, epochs=60, checkpoint_every=20)
    train = ("train", objective, "--in-process", "--name", "p")
    process = plumb.start(*train, "--out", "stopped", stderr=subprocess.PIPE)
    progress = plumb.folder / "stopped.job" / "checkpoint" / "state.json"
    while not progress.exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from the last checkpoint" in err and "Traceback" not in err
    assert not (plumb.folder / "stopped").exists()
    resumed = plumb(*train, "--out", "stopped", "--json").json["policy"]
    assert resumed == plumb(*train, "--out", "whole", "--json").json["policy"]
