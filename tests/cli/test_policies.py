"""Objective, training, evaluation and gate from the command line, with the tiny policy."""

import json
import os

import pytest
import yaml

from plumbline.evaluation import save_suite
from plumbline.records import AREAS, Suite, SuiteItem, say


@pytest.fixture
def data(plumb):
    plumb.import_messages()
    return plumb


def test_an_objective_file_resolves_to_a_record_with_an_id(data, tiny_policy):
    file = data.objective(tiny_policy)
    shown = data("objective", "show", file, "--json").json
    assert shown["objective"]["dataset"] == data("dataset", "show", "facts", "--json").json["digest"]
    printed = data("objective", "show", file).out
    assert shown["id"] in printed and yaml.safe_load(printed) == shown["objective"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "facts@9"}, "no version 9"),
        ({"dataset": "facts@x"}, "no version x"),
        ({"dataset": ["facts"]}, "dataset is not a name"),
        ({"base_policy": 7}, "base_policy is not a name"),
        ({"base_policy": "./nowhere"}, "no policy directory"),
        ({"optimiser": {"learning_rate": "fast"}}, "optimiser.learning_rate"),
        ({"epochs": -1}, "epochs"),
        ({"colour": "red"}, "colour"),
        ({"adapter": "lora"}, "adapter"),
        ({"replay": "absent"}, "replay and replay_share go together"),
        ({"replay": "absent", "replay_share": 0.2}, "absent"),
        ({"slice_weights": {"a": -1}}, "not negative"),
        ({"probes": {"suite": "absent.jsonl"}}, "absent.jsonl"),
        ({"probes": {"margins": {"refusal_benign": 0.1}}}, "need a probes.suite"),
        ({"template": "klingon"}, "klingon"),
        ({"template": "absent.jinja"}, "absent.jinja"),
    ],
)
def test_an_objective_that_means_nothing_says_which_key(data, tiny_policy, change, words):
    assert data("objective", "show", data.objective(tiny_policy, **change)).faulted(words)


@pytest.mark.parametrize("content", [b"a: [", b"text", b"\xff", b"", b"dataset: facts"])
def test_a_file_that_is_no_objective_trains_nothing(data, content):
    file = data.write("o.yaml", content)
    assert data("objective", "show", file).faulted("o.yaml is not an objective")
    assert data("train", file, "--out", "p", "--in-process").faulted()
    assert not (data.folder / "p.job").exists()


def test_choosing_an_adapter_keeps_the_files_other_settings_of_it(data, tiny_policy):
    file = data.objective(tiny_policy, adapter={"kind": "none", "rank": 4})
    assert data("train", file, "--prepare-only", "--job", "job", "--adapter", "lora", "--json").code == 0
    adapter = json.loads((data.folder / "job" / "objective.json").read_text())["adapter"]
    assert (adapter["kind"], adapter["rank"]) == ("lora", 4)


def test_what_cannot_be_trained_here_is_refused_before_anything_starts(data, tiny_policy, monkeypatch):
    file = data.objective(tiny_policy)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert data("train", file).faulted("--out is needed")
    assert data("train", file, "--out", "p", "--workers", "0").faulted("--workers")
    assert data("train", file, "--out", "p", "--workers", len(os.sched_getaffinity(0)) + 1).faulted("processors")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert data("train", file, "--out", "p", "--gpu").faulted("1 workers need 1 GPUs, and this machine has 0")
    (data.folder / "taken").mkdir()
    data.write("taken/thesis.txt", "mine")
    assert data("train", file, "--out", "taken", "--in-process").faulted("taken already holds something else")
    assert not (data.folder / "p").exists() and not list(data.folder.glob("*.job"))


@pytest.mark.slow
def test_train_evaluate_and_gate_end_to_end(data, tiny_policy):
    """The scores of a random policy mean nothing; that the path is whole does."""
    file = data.objective(tiny_policy)
    trained = data("train", file, "--out", "aligned", "--in-process", "--json").json
    assert data("train", file, "--out", "aligned", "--in-process", "--json").json == trained
    assert data("lineage", "policy", trained["policy"], "--json").json["name"] == "aligned"
    other = data.objective(tiny_policy, epochs=2)
    assert data("train", other, "--out", "aligned", "--in-process").faulted("aligned already holds the policy aligned")

    items = tuple(
        SuiteItem(
            id=f"i{n}", area="helpfulness", slice="facts", cluster=f"c{n}", scorer="exact",
            messages=(say("user", f"who is ana {n} ?"),), references=("ana is a baker .",),
        )
        for n in range(8)
    )  # fmt: skip
    save_suite(Suite(name="facts", version="1", items=items), data.folder / "suite.jsonl")
    ask = ("evaluate", "--reference", tiny_policy, "--aligned", "aligned", "--suite", "suite.jsonl", "--out", "out")
    report = data(*ask, "--max-tokens", "8", "--json").json
    assert report["aligned"] == trained["policy"]
    assert {e["area"] for e in report["estimates"]} <= {*AREAS}
    said = data("gate", "out/report.json", "--json")
    assert said.json["verdict"] == "ERROR" and said.code == 2, "nine areas were never measured"
    assert said.err == "" and "ERROR" in data("gate", "out/report.json").out
    assert data(*ask[:4], "./absent", *ask[5:7], "--out", "never").faulted("./absent")
    assert not (data.folder / "never").exists()


POOL = {
    "name": "train-a",
    "purpose": "train",
    "count": 2,
    "minCount": 0,
    "maxCount": 2,
    "gpusPerNode": 4,
    "sharedMemory": "8Gi",
    "resources": {"cpu": "8", "memory": "64Gi"},
}


def test_a_rayjob_is_rendered_for_an_objective_and_a_pool(data, tiny_policy):
    file = data.objective(tiny_policy)
    data.write("values.yaml", yaml.safe_dump({"pools": [POOL]}))
    said = data("render", "rayjob", file, "--values", "values.yaml", "--pool", "train-a", "--image", "i@sha256:0")
    config, job = yaml.safe_load_all(said.out)
    assert (config["kind"], job["kind"]) == ("ConfigMap", "RayJob")
    assert config["metadata"]["name"] in job["spec"]["entrypoint"]


@pytest.mark.parametrize(
    "values",
    [
        b"pools: [",
        b"text",
        b"\xff",
        b"",
        b"pools: 3",
        b"pools: {a: 1}",
        b"pools: [{a: 1}]",
        b"pools: [{name: train-a}]",
    ],
)
def test_values_without_the_pool_render_nothing(data, tiny_policy, values):
    file = data.objective(tiny_policy)
    data.write("values.yaml", values)
    given = ("--values", "values.yaml", "--pool", "train-a", "--image", "i")
    assert data("render", "rayjob", file, *given).faulted("values.yaml", "no manifest was written")


def test_the_doctor_names_what_is_missing(plumb):
    plumb.write("file", "")
    findings = plumb("doctor", "--json").json
    assert any(f["what"].startswith("torch ") and f["level"] == "ok" for f in findings)
    said = plumb("doctor", "--out", "file/run")
    assert said.code == 2 and "MISSING  " in said.out and "do: choose another --out" in said.out
