"""`plumb train` and `plumb objective` against what users bring: refused with a remedy, before anything is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cli.conftest import Terminal, say


@pytest.fixture
def data(plumb: Terminal) -> Terminal:
    plumb.import_messages()
    return plumb


def train(data: Terminal, file: Path, *more: str) -> Any:
    return data("train", file, "--out", "p", "--in-process", *more)


def untouched(data: Terminal) -> bool:
    return not any((data.folder / name).exists() for name in ("p", "p.job"))


def test_a_superseded_version_trains_only_where_that_is_said(data: Terminal, tiny_policy: Path) -> None:
    data.import_messages(n=30)
    file = data.objective(tiny_policy, dataset="facts@1")
    assert train(data, file).faulted("facts version 1 is superseded: the head is version 2", "--superseded")
    assert untouched(data)
    assert data("objective", "show", file, "--superseded", "--json").code == 0
    assert train(data, file, "--superseded").code == 0


def test_an_example_without_an_assistant_turn_is_named_by_its_line(plumb: Terminal) -> None:
    lines = [{"messages": [say("user", "who ?"), say("assistant", "ana .")]}, {"messages": [say("user", "who ?")]}]
    file = plumb.write("half.jsonl", "\n".join(map(json.dumps, lines)))
    said = plumb("dataset", "import", file, "--format", "messages", "--dataset", "half", "--licence", "MIT")
    assert said.faulted("half.jsonl:2")


def test_a_base_policy_that_is_not_what_its_manifest_says_is_refused(
    data: Terminal, tiny_policy: Path, tmp_path: Path
) -> None:
    first = train(data, data.objective(tiny_policy))
    assert first.code == 0
    weights = load_file(data.folder / "p" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, data.folder / "p" / "model.safetensors", metadata={"format": "pt"})
    again = data("train", data.objective(data.folder / "p"), "--out", "q", "--in-process")
    assert again.faulted("weights", "not those of its manifest") and not (data.folder / "q.job").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% for message in messages %}{{ message.content ", "syntax"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no end-of-turn token"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_name(
    data: Terminal, tiny_policy: Path, text: str, words: str
) -> None:
    data.write("mine.jinja", text)
    said = train(data, data.objective(tiny_policy, template="mine.jinja"))
    assert said.faulted() and words in said.err.lower(), said.err
    assert untouched(data)


def test_a_family_is_trained_exported_and_served_with_its_template(data: Terminal, tiny_policy: Path) -> None:
    """The base knows none of ChatML's tokens: they are added, trained and exported."""
    without = data.objective(tiny_policy, template="chatml")
    assert train(data, without).faulted("<|im_start|>", "added_tokens")
    shutil.rmtree(data.folder / "p.job", ignore_errors=True)
    file = data.objective(tiny_policy, template="chatml", added_tokens=["<|im_start|>", "<|im_end|>"])
    assert train(data, file).code == 0
    from plumbline.policies.families import family
    from plumbline.policies.local import LocalPolicy
    from plumbline.records import DecoderSettings, say

    policy = LocalPolicy.load(data.folder / "p")
    assert policy.template.text == family("chatml")
    assert policy.tokenizer.convert_tokens_to_ids("<|im_end|>") in policy.stop_ids
    assert policy.generate([(say("user", "who is ana ?"),)], DecoderSettings(max_tokens=4))


def test_probes_run_from_the_command_line(data: Terminal, tiny_policy: Path) -> None:
    items = [
        {
            "id": f"b{n}",
            "area": "over_refusal",
            "slice": "benign",
            "cluster": f"b{n}",
            "messages": [say("user", f"who is ana {n} ?")],
            "scorer": "compliance",
        }
        for n in range(8)
    ]
    lines = [{"suite": "probes", "version": "1"}, *items]
    data.write("probes.jsonl", "\n".join(map(json.dumps, lines)))
    probes = {"suite": "probes.jsonl", "every": 2, "margins": {"refusal_benign": 0.2}}
    file = data.objective(tiny_policy, probes=probes, checkpoint_every=1)
    shown = data("objective", "show", file, "--json").json["objective"]
    assert shown["probes"]["suite"].startswith("sha256:") and shown["probes"]["margins"] == {"refusal_benign": 0.2}
    said = train(data, file, "--json")
    assert said.code == 0, said.err
    probed = [json.loads(line) for line in (data.folder / "p.job" / "probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in probed] == [2, 3] and "refusal_benign" in probed[0]["rates"]
    shown = data("probes", "p.job")
    assert shown.code == 0 and "who is ana" in shown.out and "step 3" in shown.out and "base" in shown.out
    assert data("probes", "p.job", "--json").json["probes"] == probed
    assert data("probes", "p.job", "--step", "7").faulted("step 7", "name one of 2, 3")
    assert data("probes", ".").faulted("holds no probes")


def test_a_full_disk_stops_the_run_and_the_same_command_goes_on(data: Terminal, tiny_policy: Path) -> None:
    """The installed program under a real limit on the size of files, from when it opens its job folder: that fits, a
    checkpoint does not."""
    file = data.objective(tiny_policy, epochs=4, checkpoint_every=2)
    limited = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def fill(event, arguments):\n"
        "    if event == 'open' and 'p.job' in str(arguments[0]):\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))\n"
        "sys.addaudithook(fill)\n"
        "from plumbline.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    words = ["train", str(file), "--out", "p", "--in-process"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *words], cwd=data.folder, capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 2 and "could not be written" in done.stderr, done.stderr
    assert "free space" in done.stderr and not (data.folder / "p").exists()
    assert data(*words).code == 0


def test_workers_are_a_number_or_a_range(data: Terminal, tiny_policy: Path) -> None:
    file = data.objective(tiny_policy)
    for said in ("0", "2:1", "many", "1:"):
        assert data("train", file, "--out", "p", "--workers", said).faulted("no number of workers")
    assert untouched(data)
